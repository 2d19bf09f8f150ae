package armsim

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Account is Azurite's storage account; its key is public.
const Account = "devstoreaccount1"

const (
	accountKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==" //nolint:gosec // Azurite's documented key
	storageVersion = "2023-11-03"
)

// azuriteVersion is what build/deps installs.
const azuriteVersion = "3.37.0"

// Azurite is a running Azurite blob service that keeps its bytes in memory.
type Azurite struct {
	URL  string // http://127.0.0.1:port
	cmd  *exec.Cmd
	done chan error
	http *http.Client
}

// AzuriteProgram is where build/deps installs Azurite.
func AzuriteProgram() (string, error) {
	if p := os.Getenv("ASCEND_AZURITE"); p != "" {
		return p, nil
	}
	cache, err := os.UserCacheDir()
	if err == nil {
		p := filepath.Join(cache, "ascend", "azurite-"+azuriteVersion, "node_modules", ".bin", "azurite-blob")
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	if p, err := exec.LookPath("azurite-blob"); err == nil {
		return p, nil
	}
	return "", fmt.Errorf("the npm package azurite %s is needed: run build/deps", azuriteVersion)
}

// StartAzurite starts an Azurite on a free port.
func StartAzurite() (*Azurite, error) {
	program, err := AzuriteProgram()
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return nil, err
	}
	a := &Azurite{
		URL: fmt.Sprintf("http://127.0.0.1:%d", port), done: make(chan error, 1),
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	var out bytes.Buffer
	a.cmd = exec.CommandContext(context.Background(), program, "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent",
		"--blobHost", "127.0.0.1", "--blobPort", strconv.Itoa(port))
	a.cmd.Stdout, a.cmd.Stderr = &out, &out
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start Azurite: %w", err)
	}
	go func() { a.done <- a.cmd.Wait() }()
	for start := time.Now(); ; {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", strings.TrimPrefix(a.URL, "http://"))
		if err == nil {
			return a, c.Close()
		}
		select {
		case err := <-a.done:
			return nil, fmt.Errorf("cannot start Azurite: it ended: %w: %s", err, out.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Since(start) > time.Minute {
			return nil, errors.Join(errors.New("cannot start Azurite: it does not listen"), a.Close())
		}
	}
}

// Close ends Azurite; its bytes are gone.
func (a *Azurite) Close() error {
	a.http.CloseIdleConnections()
	if err := a.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-a.done
	return nil
}

// do makes one request signed with the account's key ("Authorize with Shared
// Key", Azure Storage REST API).
func (a *Azurite) do(method, path string, query url.Values, headers map[string]string, body []byte) ([]byte, error) {
	u := a.URL + "/" + Account + "/" + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(context.Background(), method, u, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("x-ms-version", storageVersion)
	req.Header.Set("x-ms-date", time.Now().UTC().Format(http.TimeFormat))
	for k, v := range headers {
		req.Header.Set(k, v)
	}
	var ms []string
	for k := range req.Header {
		if k = strings.ToLower(k); strings.HasPrefix(k, "x-ms-") {
			ms = append(ms, k+":"+req.Header.Get(k))
		}
	}
	sort.Strings(ms)
	length := ""
	if len(body) > 0 {
		length = strconv.Itoa(len(body))
	}
	resource := "/" + Account + "/" + Account + "/" + path
	var keys []string
	for k := range query {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		resource += "\n" + k + ":" + query.Get(k)
	}
	text := strings.Join([]string{
		method, "", "", length, "", req.Header.Get("Content-Type"), "", "", "", "", "", "", strings.Join(ms, "\n"), resource,
	}, "\n")
	req.Header.Set("Authorization", "SharedKey "+Account+":"+sign(text))
	res, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode/100 != 2 {
		err = fmt.Errorf("azurite answers %s %s with %s: %s", method, path, res.Status, b)
	}
	return b, err
}

func sign(text string) string {
	key, _ := base64.StdEncoding.DecodeString(accountKey) // a constant
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// create makes the page blob of a disk, in a container of its own: a container
// has at most five access policies.
func (a *Azurite) create(container string, size int64) error {
	if _, err := a.do(http.MethodPut, container, url.Values{"restype": {"container"}}, nil, nil); err != nil {
		return err
	}
	_, err := a.do(http.MethodPut, container+"/abcd", nil, map[string]string{
		"x-ms-blob-type": "PageBlob", "x-ms-blob-content-length": strconv.FormatInt(size, 10),
	}, nil)
	return err
}

func (a *Azurite) remove(container string) error {
	_, err := a.do(http.MethodDelete, container, url.Values{"restype": {"container"}}, nil, nil)
	return err
}

// allow sets the container's access policies: all earlier signatures that name
// another are void (403).
func (a *Azurite) allow(container string, policies []policy) error {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="utf-8"?><SignedIdentifiers>`)
	for _, p := range policies {
		fmt.Fprintf(&b, "<SignedIdentifier><Id>%s</Id><AccessPolicy><Start></Start><Expiry>%s</Expiry><Permission>%s</Permission></AccessPolicy></SignedIdentifier>",
			p.id, p.ends.UTC().Format("2006-01-02T15:04:05Z"), p.permissions)
	}
	b.WriteString("</SignedIdentifiers>")
	_, err := a.do(http.MethodPut, container, url.Values{"restype": {"container"}, "comp": {"acl"}},
		map[string]string{"Content-Type": "application/xml"}, []byte(b.String()))
	return err
}

// policy is a stored access policy.
type policy struct {
	id          string
	permissions string
	ends        time.Time
}

// signature is the query of a service SAS that names a stored policy ("Create a
// service SAS", version 2020-12-06 and later).
func signature(container, id string) string {
	text := strings.Join([]string{
		"", "", "", "/blob/" + Account + "/" + container + "/abcd", id, "", "", storageVersion, "b", "", "", "", "", "", "", "",
	}, "\n")
	return url.Values{"sv": {storageVersion}, "sr": {"b"}, "si": {id}, "sig": {sign(text)}}.Encode()
}

// pages gives the runs of pages that were written, as [start, end) pairs.
func (a *Azurite) pages(container string) ([][2]int64, error) {
	b, err := a.do(http.MethodGet, container+"/abcd", url.Values{"comp": {"pagelist"}}, nil, nil)
	if err != nil {
		return nil, err
	}
	return parsePages(b)
}

// read gives the whole file, reading only what was written.
func (a *Azurite) read(container string, size int64) ([]byte, error) {
	runs, err := a.pages(container)
	if err != nil {
		return nil, err
	}
	out := make([]byte, size)
	for _, r := range runs {
		b, err := a.do(http.MethodGet, container+"/abcd", nil, map[string]string{"x-ms-range": fmt.Sprintf("bytes=%d-%d", r[0], r[1]-1)}, nil)
		if err != nil {
			return nil, err
		}
		copy(out[r[0]:], b)
	}
	return out, nil
}

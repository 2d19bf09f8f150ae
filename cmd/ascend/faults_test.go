package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"crypto/tls"

	"ascend/internal/client"
	"ascend/internal/server/api"
	"ascend/internal/store"
	"ascend/internal/store/storetest"
	"ascend/internal/target/vmware/vcsimtest"
)

// The tests of this file run the real server and take something away from it in
// mid-transfer. How long it stays away is seconds here and, by make soak, what
// ASCEND_FAULT_SECONDS says.

func away(t *testing.T) time.Duration {
	v := os.Getenv("ASCEND_FAULT_SECONDS")
	if v == "" {
		return 2 * time.Second
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("ASCEND_FAULT_SECONDS: %v", err)
	}
	return time.Duration(n) * time.Second
}

// health is what the server says of itself.
func (s *serving) health() (int, string) {
	resp, err := http.Get("http://" + s.addr + "/readyz") //nolint:noctx // the test's end bounds it
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestServeDatabaseGone: the database server dies as by a power failure.
func TestServeDatabaseGone(t *testing.T) {
	s := newServing(t, 16<<20)
	dsn := filepath.Join(s.dir, "dsn")
	if err := os.WriteFile(dsn, []byte(storetest.DSN(t, store.Postgres)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.flags = []string{"--database-file", dsn}
	s.begin()
	s.signIn()
	s.scan()
	j := s.submit("loc", map[string]any{"format": "raw"}, 6<<20)
	s.reach(&j, 3<<20)
	storetest.Stop(t, store.Postgres)
	until(t, "the server says that its database is gone", func() bool {
		status, body := s.health()
		return status == http.StatusServiceUnavailable && strings.Contains(body, "database")
	})
	time.Sleep(away(t)) // it stays away
	storetest.Start(t, store.Postgres)
	s.rest(&j)
	if j.Status != "completed" {
		t.Fatalf("%+v: %s", j, s.log.String())
	}
	s.landed()
	if !strings.Contains(s.log.String(), "the database does not answer") {
		t.Errorf("nothing is said of it: %s", s.log.String())
	}
	if err := s.end(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// TestServeDiskFull: the file system of the data folder fills up, and has room
// again later.
func TestServeDiskFull(t *testing.T) {
	s := newServing(t, 16<<20)
	if err := os.Mkdir(s.data, 0o700); err != nil {
		t.Fatal(err)
	}
	s.wrap = []string{"unshare", "-m", "sh", "-c", `mount -t tmpfs -o size=32m,mode=700 none "$0" && exec "$@"`, s.data}
	if os.Getuid() != 0 {
		s.wrap[1] = "-rm"
	}
	s.begin()
	inside := func(name string) string {
		return filepath.Join("/proc", fmt.Sprint(s.cmd.Process.Pid), "root", s.data, name)
	}
	// The command that makes users must see the same folder.
	enter := []string{"nsenter", "-t", fmt.Sprint(s.cmd.Process.Pid), "-m", "--"}
	if os.Getuid() != 0 {
		enter = []string{"nsenter", "-t", fmt.Sprint(s.cmd.Process.Pid), "-U", "--preserve-credentials", "-m", "--"}
	}
	s.enter = enter
	s.signIn()
	s.scan()
	j := s.submit("loc", map[string]any{"format": "raw"}, 6<<20)
	s.reach(&j, 3<<20)
	filler := inside("filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil { // what others free meanwhile is filled, too
		_, err = f.Write(make([]byte, 1<<20))
	}
	for n := 1 << 19; n > 0; n /= 2 {
		_, _ = f.Write(make([]byte, n))
	}
	_ = f.Close()
	until(t, "it is said that there is no space", func() bool {
		_, body := s.health()
		return strings.Contains(body, "space") || strings.Contains(s.log.String(), "no space left")
	})
	time.Sleep(away(t))
	if err := s.try(client.GetJob, j.ID, nil, &j); err == nil && j.Status == "completed" {
		t.Errorf("completed, with no room to write that down: %+v", j)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.rest(&j)
	if j.Status == "failed" { // said in words, and nothing is lost: retry goes on
		if !strings.Contains(j.Error, "space") {
			t.Errorf("%+v", j)
		}
		s.post(client.RetryJob, j.ID, nil, nil)
		j.Status = "running"
		s.rest(&j)
	}
	if j.Status != "completed" {
		t.Fatalf("%+v: %s", j, s.log.String())
	}
	s.landed()
}

// TestServeTargetAway: everything of a vCenter answers 503, in mid-transfer.
func TestServeTargetAway(t *testing.T) {
	s := newServing(t, 8<<20)
	v := vcsimtest.New(t, vcsimtest.Bare())
	var gone atomic.Bool
	refuse := func(w http.ResponseWriter) { http.Error(w, "Service Unavailable", http.StatusServiceUnavailable) }
	v.Handle(func(w http.ResponseWriter, _ *http.Request) bool {
		if gone.Load() {
			refuse(w)
		}
		return gone.Load()
	})
	cert, err := vcsimtest.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: v.Host})
	proxy.Transport = v.Server.Client().Transport
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if gone.Load() {
			refuse(w)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	front.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	front.StartTLS()
	t.Cleanup(front.Close)
	s.begin()
	s.signIn()
	s.scan()
	s.post(client.AddTarget, "", map[string]any{"id": "vc", "platform": "vmware",
		"settings": map[string]string{"url": strings.TrimPrefix(front.URL, "https://"), "username": vcsimtest.Username, "ca_file": v.CAFile},
		"secrets":  map[string]string{"password": vcsimtest.Password}}, nil)
	j := s.submit("vc", map[string]any{"mapping": map[string]any{"fields": map[string]string{"datastore": "LocalDS_0"}}}, 4<<20)
	s.reach(&j, 2<<20)
	gone.Store(true)
	front.CloseClientConnections()
	v.Server.CloseClientConnections()
	time.Sleep(away(t))
	gone.Store(false)
	s.rest(&j)
	if j.Status != "completed" {
		t.Fatalf("%+v: %s", j, s.log.String())
	}
	m := v.Machine(t, "web01")
	for _, d := range vcsimtest.Disks(m) {
		if got := v.Disk(t, d); !bytes.Equal(got, s.disk) {
			t.Error("what landed is not the backup")
		}
	}
	if n := len(v.Machines(t)); n != 1 {
		t.Errorf("%d machines", n)
	}
	var d api.JobDetails
	s.post(client.GetJob, j.ID, nil, &d)
	if !s.says(j.ID, "503") && !s.says(j.ID, "broke") && !s.says(j.ID, "EOF") {
		t.Errorf("nothing says what happened: %+v", d.Steps)
	}
}

package notify

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ascend/internal/secret"
)

// TestMain makes a certificate that this process trusts: the roots are read once.
func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "ascend-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		mailCert, mailKey = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
		out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
			"-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", mailKey, "-out", mailCert).CombinedOutput()
		if err != nil {
			fmt.Fprintf(os.Stderr, "%v: %s\n", err, out)
			return 1
		}
		os.Setenv("SSL_CERT_FILE", mailCert)
		return m.Run()
	}())
}

var mailCert, mailKey string

// TestMail sends to a mail server that is not ours.
func TestMail(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	mailTime = 3 * time.Second
	const password = "mail s3cret é"
	cmd := exec.CommandContext(t.Context(), "python3", "testdata/smtpd.py", fmt.Sprint(port), mailCert, mailKey, "ascend", password)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatal("no mail server (pip: aiosmtpd)")
	}
	c := Channel{Kind: Email, Host: "127.0.0.1", Port: port, User: "ascend", From: "restore@example.org", To: []string{"ann@example.org", "bob@example.org"}, Secrets: Secrets{Password: secret.New(password)}}
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	m := &Message{ID: "j1.2.failed", Event: Failed, Time: time.Now(), Job: "j1", VM: "wéb 01\r\nBcc: x@y.z", Target: "vc1", Error: "the datastore is full", Text: "The restore failed."}
	if err := c.Send(t.Context(), Guard{}, m); err != nil {
		t.Fatal(err)
	}
	if !lines.Scan() {
		t.Fatal("no mail came")
	}
	var got struct {
		From    string
		To      []string
		TLS     bool
		Signed  bool `json:"signed_in"`
		Content string
	}
	if err := json.Unmarshal(lines.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.From != c.From || len(got.To) != 2 || !got.TLS || !got.Signed {
		t.Errorf("%+v", got)
	}
	head, body, _ := strings.Cut(got.Content, "\r\n\r\n")
	if strings.Contains(head, "\nBcc:") || !strings.Contains(body, "the datastore is full") {
		t.Errorf("%s", got.Content)
	}
	c.Secrets.Password = secret.New("wrong")
	if err := c.Send(t.Context(), Guard{}, m); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("a wrong password: %v", err)
	}
	c.TLS = "none" // the server wants it
	if err := c.Send(t.Context(), Guard{}, m); err == nil {
		t.Error("mail went in clear")
	}
}

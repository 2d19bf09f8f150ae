package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ascend/internal/client"
	"ascend/internal/target/vmware/vcsimtest"
)

// TestServeSecrets restores to a vCenter by the real server, over TLS and telling
// everything, changes the key of secrets at rest, restores again, and looks for
// the vCenter's password, ann's and her token in every file that was written, in
// what was said and answered, and in the arguments of processes.
func TestServeSecrets(t *testing.T) {
	s := newServing(t, 2<<20)
	v := vcsimtest.New(t, vcsimtest.Bare())
	s.flags = []string{"--key", "file:" + filepath.Join(s.dir, "key")}
	s.serve = []string{"--log-level", "debug", "--tls-self-signed", "--tls-host", "127.0.0.1"}
	s.secure(filepath.Join(s.data, "tls.crt"))
	s.begin()
	s.signIn()
	s.scan()
	s.post(client.AddTarget, "", map[string]any{"id": "vc", "platform": "vmware",
		"settings": map[string]string{"url": v.Host, "username": vcsimtest.Username, "ca_file": v.CAFile},
		"secrets":  map[string]string{"password": vcsimtest.Password}}, nil)
	var said bytes.Buffer
	restore := func(name string) {
		j := s.submit("vc", map[string]any{"name": name, "mapping": map[string]any{"fields": map[string]string{"datastore": "LocalDS_0"}}}, 0)
		s.arguments(&said)
		s.rest(&j)
		if j.Status != "completed" {
			t.Fatalf("%+v: %s", j, s.log.String())
		}
		for _, call := range []client.Call{client.GetJob, client.JobLog, client.JobReceipt} {
			b, err := s.c.Bytes(s.ctx, call, client.Request{ID: j.ID})
			if err != nil {
				t.Fatal(err)
			}
			said.Write(b)
		}
	}
	restore("first")
	for _, call := range []client.Call{client.ListTargets, client.ListJobs, client.Platforms, client.Me, client.ListRepos} {
		b, err := s.c.Bytes(s.ctx, call, client.Request{})
		if err != nil {
			t.Fatal(err)
		}
		said.Write(b)
	}
	if err := s.end(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	old, err := os.ReadFile(filepath.Join(s.dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	s.tool("", "rotate-key")
	if fresh, err := os.ReadFile(filepath.Join(s.dir, "key")); err != nil || bytes.Contains(fresh, bytes.TrimSpace(old)) {
		t.Errorf("the old key is still there: %v", err)
	}
	s.begin()
	restore("second")
	if n := len(v.Machines(t)); n != 2 {
		t.Errorf("%d machines", n)
	}
	if err := s.end(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	said.WriteString(s.log.String())
	files := 0
	err = filepath.WalkDir(s.data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		said.Write(b)
		files++
		return err
	})
	if err != nil || files < 2 {
		t.Fatal(files, err)
	}
	for what, secret := range map[string]string{"the vCenter's password": vcsimtest.Password, "ann's password": password, "ann's token": s.token, "the old key": string(bytes.TrimSpace(old))} {
		for _, form := range []string{secret, strings.NewReplacer("%", "%25", "/", "%2F").Replace(secret)} {
			if at := bytes.Index(said.Bytes(), []byte(form)); at >= 0 {
				t.Errorf("%s stands in clear, after %q", what, said.Bytes()[max(0, at-80):at])
			}
		}
	}
}

// arguments adds the arguments of every process of this machine.
func (s *serving) arguments(to *bytes.Buffer) {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(names) < 2 {
		s.t.Fatal(names, err)
	}
	for _, n := range names {
		if b, err := os.ReadFile(n); err == nil { // else it has ended
			to.Write(b)
		}
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ascend/internal/client"
	"ascend/internal/secret"
	"ascend/internal/server/api"
	apijobs "ascend/internal/server/jobs"
)

// serving is a real server in a process of its own, and a client of it.
type serving struct {
	t        *testing.T
	ctx      context.Context
	bin, dir string
	addr     string
	data     string   // the data folder
	out      string   // of the local target "loc"
	disk     []byte   // of the only backup
	flags    []string // of serve and of server
	serve    []string // of serve
	token    string
	wrap     []string // put before the command
	enter    []string // put before commands that must see what the server sees
	log      logBuffer
	cmd      *exec.Cmd
	server   client.Config
	c        *client.Client
	backup   string
}

// logBuffer takes a process's words and can be read meanwhile.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var program = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(programDir, "ascend")
	out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return bin, err
})

// programDir is where the program is built, for all tests.
var programDir string

// password is ann's.
const password = "correct horse battery"

// newServing makes a repository of one backup of size random bytes; begin starts
// the server.
func newServing(t *testing.T, size int) *serving {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &serving{t: t, bin: bin, dir: dir, data: filepath.Join(dir, "data"), out: filepath.Join(dir, "out"), disk: make([]byte, size)}
	_, _ = rand.NewChaCha8([32]byte{7}).Read(s.disk)
	repo := filepath.Join(dir, "repo")
	for _, d := range []string{repo, s.out} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(repo, "web01.raw"), s.disk, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	_ = l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	s.ctx = ctx
	s.server.URL = "http://" + s.addr
	return s
}

// secure has the client ask by TLS and trust a certificate.
func (s *serving) secure(ca string) { s.server = client.Config{URL: "https://" + s.addr, CAFile: ca} }

// begin starts the server and returns when it answers.
func (s *serving) begin() {
	s.t.Helper()
	args := append(slices.Clone(s.wrap), s.bin, "serve", "--data", s.data, "--listen", s.addr, "--log-format", "json")
	args = append(append(args, s.flags...), s.serve...)
	c := exec.Command(args[0], args[1:]...)
	c.Stderr = &s.log
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.cmd = c
	s.t.Cleanup(func() { _ = c.Process.Kill() })
	for s.ctx.Err() == nil {
		anybody, err := client.New(s.server) // there is no certificate before the server has made it
		if err == nil {
			_, err = client.Do[api.Version](s.ctx, anybody, client.Version, client.Request{})
		}
		if err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.t.Fatalf("the server does not answer: %s", s.log.String())
}

// end signals the server and waits for its end.
func (s *serving) end(sig syscall.Signal) error {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
	return s.cmd.Wait()
}

func (s *serving) tool(stdin string, args ...string) string {
	s.t.Helper()
	args = append(append(slices.Clone(s.enter), s.bin, "server", "--data", s.data), append(args, s.flags...)...)
	c := exec.CommandContext(s.ctx, args[0], args[1:]...)
	c.Stdin = strings.NewReader(stdin)
	b, err := c.Output()
	if err != nil {
		s.t.Fatalf("%v: %v %s", args, err, s.log.String())
	}
	return strings.TrimSpace(string(b))
}

// signIn makes the user ann and a token of hers.
func (s *serving) signIn() {
	s.t.Helper()
	s.tool(password+"\n", "user", "add", "ann")
	s.token = s.tool("", "token", "--user", "ann")
	known := s.server
	known.Token = secret.New(s.token)
	var err error
	if s.c, err = client.New(known); err != nil {
		s.t.Fatal(err)
	}
}

func (s *serving) post(call client.Call, id string, body any, out any) {
	s.t.Helper()
	if err := s.try(call, id, body, out); err != nil {
		s.t.Fatalf("%v: %v: %s", call, err, s.log.String())
	}
}

func (s *serving) try(call client.Call, id string, body any, out any) error {
	b, err := s.c.Bytes(s.ctx, call, client.Request{ID: id, Body: body})
	if err == nil && out != nil {
		err = json.Unmarshal(b, out)
	}
	return err
}

// scan adds the repository and waits for its backup.
func (s *serving) scan() {
	s.t.Helper()
	s.post(client.AddRepo, "", map[string]string{"id": "main", "path": filepath.Join(s.dir, "repo")}, nil)
	s.post(client.AddTarget, "", map[string]any{"id": "loc", "platform": "local", "settings": map[string]string{"dir": s.out}}, nil)
	var list api.Page[api.BackupRow]
	for len(list.Items) == 0 && s.ctx.Err() == nil {
		s.post(client.ListBackups, "", nil, &list)
		time.Sleep(20 * time.Millisecond)
	}
	s.backup = list.Items[0].ID
}

// submit restores the backup to a target, slowly.
func (s *serving) submit(target string, wish map[string]any, bandwidth int64) apijobs.Job {
	s.t.Helper()
	wish["memory"], wish["cpu"] = 1<<30, map[string]int{"sockets": 1}
	var p api.Plan
	s.post(client.MakePlan, "", map[string]any{"backup": s.backup, "target": target, "wish": wish}, &p)
	var j apijobs.Job
	s.post(client.SubmitJob, "", api.NewJob{Plan: p.ID, Accept: p.Consent, Options: apijobs.Options{Bandwidth: bandwidth}}, &j)
	return j
}

// reach waits until a job has moved so much; it must not rest before.
func (s *serving) reach(j *apijobs.Job, done int64) {
	s.t.Helper()
	for j.Done < done && !apijobs.Resting(j.Status) && s.ctx.Err() == nil {
		s.post(client.GetJob, j.ID, nil, j)
		time.Sleep(20 * time.Millisecond)
	}
	if apijobs.Resting(j.Status) {
		s.t.Fatalf("the job was too quick to be interrupted: %+v", *j)
	}
}

// rest waits until a job rests, asking on while the server cannot answer.
func (s *serving) rest(j *apijobs.Job) {
	s.t.Helper()
	for !apijobs.Resting(j.Status) && s.ctx.Err() == nil {
		_ = s.try(client.GetJob, j.ID, nil, j)
		time.Sleep(20 * time.Millisecond)
	}
	if s.ctx.Err() != nil {
		s.t.Fatalf("the job does not come to rest: %+v: %s", *j, s.log.String())
	}
}

// landed compares the only file of the local target with the backup.
func (s *serving) landed() {
	s.t.Helper()
	names, _ := filepath.Glob(filepath.Join(s.out, "*", "*.raw"))
	if len(names) != 1 {
		names, _ = filepath.Glob(filepath.Join(s.out, "*", "*"))
		s.t.Fatalf("%v", names)
	}
	if got, err := os.ReadFile(names[0]); err != nil || !bytes.Equal(got, s.disk) {
		s.t.Errorf("what landed is not the backup: %v", err)
	}
}

// says tells whether the job's log has a text.
func (s *serving) says(id, text string) bool {
	s.t.Helper()
	b, err := s.c.Bytes(s.ctx, client.JobLog, client.Request{ID: id})
	if err != nil {
		s.t.Fatal(err)
	}
	return bytes.Contains(b, []byte(text))
}

// TestServeResumes stops the real server in mid-transfer, by SIGTERM and by
// SIGKILL, and starts it again: the job goes on and what landed is the backup.
func TestServeResumes(t *testing.T) {
	s := newServing(t, 24<<20)
	s.begin()
	s.signIn()
	s.scan()
	j := s.submit("loc", map[string]any{"format": "raw"}, 4<<20)
	for i, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		s.reach(&j, int64(i+1)*4<<20)
		if err := s.end(sig); sig == syscall.SIGTERM && err != nil {
			t.Errorf("%v: %s", err, s.log.String())
		}
		s.begin()
	}
	s.rest(&j)
	if j.Status != "completed" {
		t.Fatalf("%+v: %s", j, s.log.String())
	}
	s.landed()
	var steps api.JobDetails
	s.post(client.GetJob, j.ID, nil, &steps)
	attempts := ""
	for _, s := range steps.Steps {
		if s.Kind == "transfer" {
			attempts = fmt.Sprint(s.Attempt)
		}
	}
	if attempts != "3" {
		t.Errorf("%s attempts of the transfer, not 3: it did not go on", attempts)
	}
	if err := s.end(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

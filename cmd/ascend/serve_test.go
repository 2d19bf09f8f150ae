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
	"strings"
	"syscall"
	"testing"
	"time"

	"ascend/internal/client"
	"ascend/internal/secret"
	"ascend/internal/server/api"
	apijobs "ascend/internal/server/jobs"
)

// TestServeResumes stops the real server in mid-transfer, by SIGTERM and by
// SIGKILL, and starts it again: the job goes on and what landed is the backup.
func TestServeResumes(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "ascend")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	repo, out, data := filepath.Join(dir, "repo"), filepath.Join(dir, "out"), filepath.Join(dir, "data")
	disk := make([]byte, 24<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(disk)
	for _, d := range []string{repo, out} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(repo, "web01.raw"), disk, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	var log bytes.Buffer
	begin := func() *exec.Cmd {
		c := exec.Command(bin, "serve", "--data", data, "--listen", addr, "--log-format", "json")
		c.Stderr = &log
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill() })
		return c
	}
	server := begin()
	tool := func(stdin string, args ...string) string {
		c := exec.CommandContext(t.Context(), bin, append([]string{"server", "--data", data}, args...)...)
		c.Stdin = strings.NewReader(stdin)
		b, err := c.Output()
		if err != nil {
			t.Fatalf("%v: %v %s", args, err, log.String())
		}
		return strings.TrimSpace(string(b))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	up := func(c *client.Client) {
		for ctx.Err() == nil {
			if _, err := client.Do[api.Version](ctx, c, client.Version, client.Request{}); err == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatalf("the server does not answer: %s", log.String())
	}
	anybody, err := client.New(client.Config{URL: "http://" + addr})
	if err != nil {
		t.Fatal(err)
	}
	up(anybody)
	tool("correct horse battery\n", "user", "add", "ann")
	c, err := client.New(client.Config{URL: "http://" + addr, Token: secret.New(tool("", "token", "--user", "ann"))})
	if err != nil {
		t.Fatal(err)
	}
	post := func(call client.Call, id string, body any, out any) {
		b, err := c.Bytes(ctx, call, client.Request{ID: id, Body: body})
		if err == nil && out != nil {
			err = json.Unmarshal(b, out)
		}
		if err != nil {
			t.Fatalf("%v: %v", call, err)
		}
	}
	post(client.AddRepo, "", map[string]string{"id": "main", "path": repo}, nil)
	post(client.AddTarget, "", map[string]any{"id": "loc", "platform": "local", "settings": map[string]string{"dir": out}}, nil)
	var list api.Page[api.BackupRow]
	for len(list.Items) == 0 && ctx.Err() == nil {
		post(client.ListBackups, "", nil, &list)
		time.Sleep(20 * time.Millisecond)
	}
	var p api.Plan
	post(client.MakePlan, "", map[string]any{"backup": list.Items[0].ID, "target": "loc", "wish": map[string]any{"format": "raw", "memory": 1 << 30, "cpu": map[string]int{"sockets": 1}}}, &p)
	var j apijobs.Job
	post(client.SubmitJob, "", api.NewJob{Plan: p.ID, Accept: p.Consent, Options: apijobs.Options{Bandwidth: 4 << 20}}, &j)
	for i, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		for want := int64(i+1) * 4 << 20; j.Done < want && !apijobs.Resting(j.Status) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			post(client.GetJob, j.ID, nil, &j)
		}
		if apijobs.Resting(j.Status) {
			t.Fatalf("the job was too quick to be interrupted: %+v", j)
		}
		if err := server.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := server.Wait(); sig == syscall.SIGTERM && err != nil {
			t.Errorf("%v: %s", err, log.String())
		}
		server = begin()
		up(anybody)
	}
	for !apijobs.Resting(j.Status) && ctx.Err() == nil {
		post(client.GetJob, j.ID, nil, &j)
		time.Sleep(20 * time.Millisecond)
	}
	if j.Status != "completed" {
		t.Fatalf("%+v: %s", j, log.String())
	}
	names, _ := filepath.Glob(filepath.Join(out, "*", "*.raw"))
	if len(names) != 1 {
		names, _ = filepath.Glob(filepath.Join(out, "*", "*"))
		t.Fatalf("%v", names)
	}
	if got, err := os.ReadFile(names[0]); err != nil || !bytes.Equal(got, disk) {
		t.Errorf("what landed is not the backup: %v", err)
	}
	var steps api.JobDetails
	post(client.GetJob, j.ID, nil, &steps)
	attempts := ""
	for _, s := range steps.Steps {
		if s.Kind == "transfer" {
			attempts = fmt.Sprint(s.Attempt)
		}
	}
	if attempts != "3" {
		t.Errorf("%s attempts of the transfer, not 3: it did not go on", attempts)
	}
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(); err != nil {
		t.Error(err)
	}
}

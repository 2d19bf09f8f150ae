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
	"ascend/internal/runbook"
	"ascend/internal/secret"
	"ascend/internal/server/api"
)

// TestRunbookKilled restores five machines by a runbook through the command line;
// the server is killed again and again meanwhile. Every machine is restored once,
// what landed is its backup, and no group began before the one before it ended. A
// backup that is broken after the plan fails its machine and holds the last group
// back, until a retry.
func TestRunbookKilled(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable() // is the program when it is called so; see TestMain
	if err != nil {
		t.Fatal(err)
	}
	program := func(ctx context.Context, args ...string) *exec.Cmd {
		c := exec.CommandContext(ctx, self, args...)
		c.Args[0] = "ascend"
		return c
	}
	repo, out, data := filepath.Join(dir, "repo"), filepath.Join(dir, "out"), filepath.Join(dir, "data")
	disks := map[string][]byte{}
	for _, d := range []string{repo, out} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		b := make([]byte, 4<<20)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(b)
		name := fmt.Sprintf("vm%d", i)
		disks[name] = b
		if err := os.WriteFile(filepath.Join(repo, name+".raw"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		machine := fmt.Sprintf(`{"name":%q,"cpu":{"sockets":2},"memory":1073741824,"firmware":"bios","guest":{},"disks":[{"index":0,"size":%d}]}`, name, len(b))
		if err := os.WriteFile(filepath.Join(repo, name+".vm.json"), []byte(machine), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	book := filepath.Join(dir, "book.yaml")
	if err := os.WriteFile(book, []byte(`version: 1
name: a site
defaults: {target: loc, format: raw}
limits: {concurrency: 2, bandwidth: 2MiB}
groups:
  - name: first
    machines: [{vm: vm0}, {vm: vm1}]
  - name: second
    machines: [{vm: vm2}, {vm: vm3}]
    wait: 1s
  - name: third
    machines: [{vm: vm4, name: last one}]
`), 0o600); err != nil {
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
		c := program(context.Background(), "serve", "--data", data, "--listen", addr, "--log-format", "json")
		c.Stderr = &log
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill() })
		return c
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	anybody, err := client.New(client.Config{URL: "http://" + addr})
	if err != nil {
		t.Fatal(err)
	}
	up := func() {
		for ctx.Err() == nil {
			if _, err := client.Do[api.Version](ctx, anybody, client.Version, client.Request{}); err == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatalf("the server does not answer: %s", log.String())
	}
	token := filepath.Join(dir, "token")
	tool := func(want int, stdin string, args ...string) string {
		t.Helper()
		c := program(ctx, args...)
		c.Stdin = strings.NewReader(stdin)
		c.Env = append(os.Environ(), "ASCEND_SERVER=http://"+addr, "HOME="+dir)
		var said bytes.Buffer
		c.Stderr = &said
		b, err := c.Output()
		if c.ProcessState.ExitCode() != want {
			t.Fatalf("%v: %v, %s %s", args, err, b, said.String())
		}
		return strings.TrimSpace(string(b))
	}
	tool(0, "", "server", "--data", data, "folder", "repository", "main", repo)
	tool(0, "", "server", "--data", data, "folder", "target", "loc", out)
	tool(1, "", "server", "--data", data, "folder", "target", "loc", out)
	tool(1, "", "server", "--data", data, "folder", "repository", "none", filepath.Join(dir, "none"))
	server := begin()
	up()
	tool(0, "correct horse battery\n", "server", "--data", data, "user", "add", "ann")
	tool(0, "", "server", "--data", data, "token", "--user", "ann", "--out", token)
	text, err := os.ReadFile(token)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{URL: "http://" + addr, Token: secret.New(strings.TrimSpace(string(text)))})
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < 5 && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		list, err := client.Do[api.Page[api.BackupRow]](ctx, c, client.ListBackups, client.Request{})
		if err != nil {
			t.Fatal(err)
		}
		n = len(list.Items)
	}
	tool(0, "", "runbook", "check", book)
	tool(3, "version: 1\nname: x\ngroups: []\n", "runbook", "check", "-")
	var r api.RunReport
	if err := json.Unmarshal([]byte(tool(0, "", "runbook", "plan", book, "--json", "--token-file", token)), &r); err != nil || r.Status != runbook.Planned || r.Summary.Planned != 5 || r.Summary.Bytes != 20<<20 {
		t.Fatalf("%v %+v", err, r.Summary)
	}
	look := func() {
		t.Helper()
		if r, err = client.Do[api.RunReport](ctx, c, client.GetRun, client.Request{ID: r.ID}); err != nil {
			t.Fatal(err)
		}
		// The order of groups holds at every moment.
		for i := 1; i < len(r.Groups); i++ {
			for _, m := range r.Groups[i].Machines {
				if m.Attempt > 0 && r.Groups[i-1].Status != runbook.Completed {
					t.Fatalf("group %d began before the one before it ended: %s", i, r.Markdown())
				}
			}
		}
	}
	// The last backup is broken after the plan: it can not be read any more.
	last := filepath.Join(repo, "vm4.raw")
	if err := os.Rename(last, last+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Bytes(ctx, client.ApplyRun, client.Request{ID: r.ID, Body: map[string]any{"accept": r.Summary.Consent}}); err != nil {
		t.Fatal(err)
	}
	kills := 0
	for look(); !r.Status.AtRest() && ctx.Err() == nil; look() {
		time.Sleep(50 * time.Millisecond)
		if want := r.Counts.Completed + 1; kills < want && r.Counts.Active > 0 && kills < 4 {
			kills++
			_ = server.Process.Signal(syscall.SIGKILL)
			_ = server.Wait()
			server = begin()
			up()
		}
	}
	if r.Status != runbook.Failed || r.Counts.Completed != 4 || r.Counts.Failed != 1 || kills < 3 {
		t.Fatalf("killed %d times: %s\n%s", kills, r.Markdown(), log.String())
	}
	tool(1, "", "runbook", "watch", r.ID, "--token-file", token)
	if err := os.Rename(last+".away", last); err != nil {
		t.Fatal(err)
	}
	tool(0, "", "runbook", "retry", r.ID, "--token-file", token)
	look()
	jobs, err := client.Do[api.Page[map[string]any]](ctx, c, client.ListJobs, client.Request{})
	if err != nil || len(jobs.Items) != 5 {
		t.Errorf("%d jobs, not one for each machine: %v", len(jobs.Items), err)
	}
	for name, want := range disks {
		dest := map[bool]string{true: "last one", false: name}[name == "vm4"]
		files, _ := filepath.Glob(filepath.Join(out, dest, "*.raw"))
		if len(files) != 1 {
			t.Errorf("%s: %v", name, files)
			continue
		}
		if got, err := os.ReadFile(files[0]); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: what landed is not the backup: %v", name, err)
		}
	}
	if md := tool(0, "", "runbook", "report", r.ID, "--token-file", token); r.Status != runbook.Completed || !strings.Contains(md, "| vm4 as last one | loc | completed |") || !strings.Contains(md, "1 of 1") {
		t.Errorf("%s", md)
	}
	_ = server.Process.Signal(syscall.SIGTERM)
	if err := server.Wait(); err != nil {
		t.Error(err)
	}
}

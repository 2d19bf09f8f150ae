package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"ascend/internal/client"
	"ascend/internal/secret"
	"ascend/internal/server/api"
	"ascend/internal/server/jobs"
)

// restoresAtOnce is how many jobs the part serve has the server carry out.
const restoresAtOnce = 8

// serve has a server restore one backup eight times at once to a folder, asks its
// API all the while, and compares what landed. Files lie in the bench's folder,
// not on tmpfs: eight times the corpus.
func (b *bench) serve(ctx context.Context, c *corpus) (err error) {
	src, err := c.get(ctx, "qcow2")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(b.dir, "serve-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := b.server(ctx, dir, src.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	begin := time.Now()
	var ids []string
	for i := range restoresAtOnce {
		id, err := s.submit(ctx, fmt.Sprint("copy", i))
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	ask, asked := context.WithCancel(ctx)
	defer asked()
	var mu sync.Mutex
	var took []time.Duration
	var g errgroup.Group
	for range 4 { // four pages that are open, each asking ten times a second
		g.Go(func() error {
			for n := 0; ask.Err() == nil; n++ {
				call, id := client.GetJob, ids[n%len(ids)]
				if n%2 == 0 {
					call, id = client.ListJobs, ""
				}
				at := time.Now()
				_, err := s.c.Bytes(ctx, call, client.Request{ID: id})
				if err != nil {
					return err
				}
				mu.Lock()
				took = append(took, time.Since(at))
				mu.Unlock()
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		})
	}
	spread, err := s.wait(ctx, ids)
	asked()
	if err := errors.Join(err, g.Wait()); err != nil {
		return err
	}
	wall := time.Since(begin).Seconds()
	peak, err := s.peak()
	if err != nil {
		return err
	}
	for i := range ids {
		made, _ := filepath.Glob(filepath.Join(dir, "out", fmt.Sprint("copy", i), "*.vhdx"))
		if len(made) != 1 {
			return fmt.Errorf("restore %d made %v", i, made)
		}
		if err := command(ctx, "qemu-img", "compare", "-f", "qcow2", "-F", "vhdx", src.path, made[0]); err != nil {
			return err
		}
	}
	slices.Sort(took)
	quantile := func(q float64) float64 {
		return took[min(int(math.Ceil(q*float64(len(took)))), len(took)-1)].Seconds() * 1000
	}
	total := float64(restoresAtOnce) * float64(c.data) / (1 << 20)
	fmt.Printf("\n## %d restores at once by one server, qcow2 → VHDX into a folder, read back and compared\n\n", restoresAtOnce)
	fmt.Printf("| s | MiB a second | server's peak, MiB | slowest to fastest at half-way | requests | p50 ms | p99 ms |\n|---|---|---|---|---|---|---|\n")
	fmt.Printf("| %.1f | %.0f | %.0f | %.2f | %d | %.1f | %.1f |\n", wall, total/wall, peak, spread, len(took), quantile(0.5), quantile(0.99))
	book.begin("restores at once by one server", "")
	book.add(entry{Name: fmt.Sprintf("%d at once", restoresAtOnce), Ours: measured{Wall: wall, Memory: peak},
		Extra: []quantity{{"spread", spread}, {"api_p50_ms", quantile(0.5)}, {"api_p99_ms", quantile(0.99)}, {"requests", float64(len(took))}}})
	return nil
}

// served is a server that runs, signed in to, with a repository and a target.
type served struct {
	cmd    *exec.Cmd
	log    bytes.Buffer
	c      *client.Client
	backup string
}

func (b *bench) server(ctx context.Context, dir, image string) (_ *served, err error) {
	repo, out, data := filepath.Join(dir, "repo"), filepath.Join(dir, "out"), filepath.Join(dir, "data")
	for _, d := range []string{repo, out} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.Link(image, filepath.Join(repo, "vm.qcow2")); err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	_ = l.Close()
	s := &served{cmd: exec.CommandContext(ctx, b.ascend, "serve", "--data", data, "--listen", addr)}
	s.cmd.Stderr = &s.log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	cfg := client.Config{URL: "http://" + addr}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		anybody, err := client.New(cfg)
		if err == nil {
			_, err = client.Do[api.Version](ctx, anybody, client.Version, client.Request{})
		}
		if err == nil {
			break
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return nil, fmt.Errorf("the server does not answer: %w", err)
		}
	}
	tool := func(stdin string, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, b.ascend, append([]string{"server", "--data", data}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	if _, err := tool("correct horse battery\n", "user", "add", "bench"); err != nil {
		return nil, err
	}
	token, err := tool("", "token", "--user", "bench")
	if err != nil {
		return nil, err
	}
	cfg.Token = secret.New(token)
	if s.c, err = client.New(cfg); err != nil {
		return nil, err
	}
	for call, body := range map[client.Call]any{
		client.AddRepo:                       map[string]string{"id": "main", "path": repo},
		client.AddTarget:                     map[string]any{"id": "loc", "platform": "local", "settings": map[string]string{"dir": out}},
		{Method: "PATCH", Path: "/settings"}: map[string]any{"limits": jobs.Limits{Jobs: restoresAtOnce}},
	} {
		if _, err := s.c.Bytes(ctx, call, client.Request{Body: body}); err != nil {
			return nil, err
		}
	}
	for s.backup == "" {
		list, err := client.Do[api.Page[api.BackupRow]](ctx, s.c, client.ListBackups, client.Request{})
		if err != nil {
			return nil, err
		}
		if len(list.Items) > 0 {
			s.backup = list.Items[0].ID
		}
		time.Sleep(50 * time.Millisecond)
	}
	return s, nil
}

func (s *served) submit(ctx context.Context, name string) (string, error) {
	wish := map[string]any{"name": name, "format": "vhdx", "memory": 1 << 30, "cpu": map[string]int{"sockets": 1}}
	p, err := client.Do[api.Plan](ctx, s.c, client.MakePlan, client.Request{Body: map[string]any{"backup": s.backup, "target": "loc", "wish": wish}})
	if err != nil {
		return "", err
	}
	j, err := client.Do[jobs.Job](ctx, s.c, client.SubmitJob, client.Request{Body: api.NewJob{Plan: p.ID, Accept: p.Consent}})
	return j.ID, err
}

// wait waits until all jobs are completed. spread is the least that a job had
// moved by the most, when half of all had been moved.
func (s *served) wait(ctx context.Context, ids []string) (spread float64, err error) {
	for {
		var done, total, least, most int64
		least = math.MaxInt64
		left := 0
		for _, id := range ids {
			j, err := client.Do[jobs.Job](ctx, s.c, client.GetJob, client.Request{ID: id})
			if err != nil {
				return 0, err
			}
			if jobs.Resting(j.Status) {
				if j.Status != "completed" {
					return 0, fmt.Errorf("a job is %s: %s", j.Status, j.Error)
				}
			} else {
				left++
			}
			done, total = done+j.Done, total+j.Total
			least, most = min(least, j.Done), max(most, j.Done)
		}
		if spread == 0 && total > 0 && 2*done >= total && most > 0 {
			spread = float64(least) / float64(most)
		}
		if left == 0 {
			return spread, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// peak is the server's highest resident memory, in MiB.
func (s *served) peak() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("the system tells no peak of memory")
}

func (s *served) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("the server: %w: %s", err, s.log.String())
	}
	return nil
}

//go:build distributed

// Package distributed tests Ascend on many machines: see README.md.
package distributed

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ascend/internal/client"
	"ascend/internal/plan"
	"ascend/internal/qemu"
	"ascend/internal/secret"
	"ascend/internal/server/api"
	"ascend/internal/server/jobs"
	"ascend/internal/store"
	"ascend/internal/store/storetest"
)

func TestMain(m *testing.M) {
	qemu.Main()
	os.Exit(storetest.Main(m))
}

// house is an installation: the database, the Temporal server and the control
// plane.
type house struct {
	t                  *testing.T
	dir, bin           string
	repo, out, data    string
	dsn                string // over the socket of this machine
	cluster, namespace string
	addr               string
	server             *process
	c                  *client.Client
}

// process is a program that is started and its log.
type process struct {
	*exec.Cmd
	log   *logged
	ended chan struct{}
	err   error
}

type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// within bounds what is waited for.
const within = 4 * time.Minute

// until waits for something that another process does.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// newHouse starts the database and the cluster; the server is not started yet.
func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir(), bin: os.Getenv("ASCEND_BIN"), dsn: storetest.DSN(t, store.Postgres)}
	if h.bin == "" || os.Getenv("ASCEND_TEMPORAL") == "" {
		t.Fatal("make test-distributed builds what this needs: $ASCEND_BIN, $ASCEND_TEMPORAL")
	}
	h.repo, h.out, h.data = filepath.Join(h.dir, "repo"), filepath.Join(h.dir, "out"), filepath.Join(h.dir, "server")
	for _, d := range []string{h.repo, h.out, h.data} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cluster := exec.Command(os.Getenv("ASCEND_TEMPORAL"))
	in, err := cluster.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cluster.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // the order to stop
		_ = cluster.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	h.cluster, h.namespace, _ = strings.Cut(strings.TrimSpace(line), " ")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	_ = l.Close()
	return h
}

func (h *house) key() string { return "file:" + filepath.Join(h.data, "server.key") }

// run starts the program; at is where, nil: where the test is.
func (h *house) run(at *place, database string, args ...string) *process {
	h.t.Helper()
	p := &process{Cmd: exec.Command(h.bin, args...), log: &logged{}, ended: make(chan struct{})}
	p.Env = append(os.Environ(), "ASCEND_DATABASE="+database, "ASCEND_STATE_DIR="+filepath.Join(h.dir, "state"))
	p.Stderr = p.log
	var err error
	if at != nil {
		err = at.in(p.Start)
	} else {
		err = p.Start()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	go func() {
		p.err = p.Wait()
		close(p.ended)
	}()
	h.t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.ended
		if h.t.Failed() {
			s := p.log.String()
			h.t.Logf("%v:\n%s", args, s[max(0, len(s)-6000):])
		}
	})
	return p
}

// serve starts the control plane.
func (h *house) serve(database, engine string) {
	h.t.Helper()
	h.server = h.run(nil, database, "serve", "--engine", engine, "--temporal", h.cluster, "--temporal-namespace", h.namespace,
		"--data", h.data, "--key", h.key(), "--listen", h.addr, "--log-format", "json", "--log-level", "debug")
	anybody, err := client.New(client.Config{URL: "http://" + h.addr})
	if err != nil {
		h.t.Fatal(err)
	}
	until(h.t, "the server answers", func() bool {
		select {
		case <-h.server.ended:
			h.t.Fatalf("the server ended: %v", h.server.err)
		default:
		}
		_, err := client.Do[api.Version](h.t.Context(), anybody, client.Version, client.Request{})
		return err == nil
	})
	if h.c != nil {
		return
	}
	h.tool(database, "correct horse battery\n", "user", "add", "ann")
	token := h.tool(database, "", "token", "--user", "ann")
	if h.c, err = client.New(client.Config{URL: "http://" + h.addr, Token: secret.New(token)}); err != nil {
		h.t.Fatal(err)
	}
}

// tool runs "ascend server" and returns what it prints.
func (h *house) tool(database, stdin string, args ...string) string {
	h.t.Helper()
	return h.command(database, stdin, append([]string{"server", "--data", h.data, "--key", h.key()}, args...)...)
}

func (h *house) command(database, stdin string, args ...string) string {
	h.t.Helper()
	c := exec.CommandContext(h.t.Context(), h.bin, args...)
	c.Env = append(os.Environ(), "ASCEND_DATABASE="+database, "ASCEND_STATE_DIR="+filepath.Join(h.dir, "state"))
	c.Stdin = strings.NewReader(stdin)
	var complaint bytes.Buffer
	c.Stderr = &complaint
	b, err := c.Output()
	if err != nil {
		h.t.Fatalf("%v: %v: %s", args, err, complaint.String())
	}
	return strings.TrimSpace(string(b))
}

// worker is a worker's process and where it is.
type worker struct {
	*process
	id   string
	site string
	data string
	at   *place
}

// liveness of workers in these tests, in seconds: long enough for a busy machine.
const liveness = "4s"

// worker starts one with a folder of its own, in a network of its own, unless at
// says where.
func (h *house) worker(name, site string, at *place, more ...string) *worker {
	h.t.Helper()
	database := h.dsn
	if at != nil {
		database = at.database(h.dsn)
	}
	w := &worker{site: site, data: filepath.Join(h.dir, name), at: at}
	w.process = h.run(at, database, append([]string{"worker", "--site", site, "--data", w.data, "--key", h.key(), "--temporal", h.cluster, "--temporal-namespace", h.namespace,
		"--liveness", liveness, "--log-format", "json", "--log-level", "debug"}, more...)...)
	until(h.t, "the worker works", func() bool {
		select {
		case <-w.ended:
			h.t.Fatalf("the worker ended: %v: %s", w.err, w.log.String())
		default:
		}
		w.id = w.said("working", "worker")
		return w.id != ""
	})
	return w
}

// said is an attribute of the first line of a process's log with a message.
func (p *process) said(msg, attr string) string {
	for line := range strings.Lines(p.log.String()) {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) == nil && m["msg"] == msg {
			return fmt.Sprint(m[attr])
		}
	}
	return ""
}

// machine makes a place that reaches the database, the cluster and other addresses
// of this machine.
func (h *house) machine(others ...string) *place {
	h.t.Helper()
	p := newPlace(h.t)
	u, err := url.Parse(h.dsn)
	if err != nil {
		h.t.Fatal(err)
	}
	p.reach(databasePort, "unix", filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432"))
	for _, a := range append(others, h.cluster) {
		_, port, err := net.SplitHostPort(a)
		if err != nil {
			h.t.Fatal(err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			h.t.Fatal(err)
		}
		p.reach(n, "tcp", a)
	}
	return p
}

const databasePort = 5432

// database is the database as the place reaches it.
func (p *place) database(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		p.t.Fatal(err)
	}
	u.Host, u.RawQuery = fmt.Sprintf("127.0.0.1:%d", databasePort), "sslmode=disable"
	return u.String()
}

// call asks the server.
func (h *house) call(c client.Call, id string, body, out any) {
	h.t.Helper()
	b, err := h.c.Bytes(h.t.Context(), c, client.Request{ID: id, Body: body})
	if err == nil && out != nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil {
		h.t.Fatalf("%v %s: %v", c, id, err)
	}
}

// backup writes a bare disk of random bytes into the repository and returns them.
func (h *house) backup(name string, size int) []byte {
	h.t.Helper()
	disk := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", name)))).Read(disk)
	if err := os.WriteFile(filepath.Join(h.repo, name+".raw"), disk, 0o600); err != nil {
		h.t.Fatal(err)
	}
	return disk
}

// catalog makes the server know the repository and returns the ids of its
// backups by their machine's name.
func (h *house) catalog(want int) map[string]string {
	h.t.Helper()
	h.call(client.AddRepo, "", map[string]string{"id": "main", "path": h.repo}, nil)
	ids := map[string]string{}
	until(h.t, "the repository is scanned", func() bool {
		var list api.Page[api.BackupRow]
		h.call(client.ListBackups, "", nil, &list)
		for _, b := range list.Items {
			ids[b.VM] = b.ID
		}
		return len(ids) == want
	})
	return ids
}

// known waits until so many workers of a site reach the repository.
func (h *house) known(n int) {
	h.t.Helper()
	until(h.t, "the workers are known", func() bool {
		alive := 0
		for _, w := range h.workers() {
			if w.Alive && len(w.Repositories) == 1 {
				alive++
			}
		}
		return alive == n
	})
}

// restore plans and submits one.
func (h *house) restore(backup, target string, wish map[string]any, o jobs.Options) jobs.Job {
	h.t.Helper()
	wish["memory"], wish["cpu"] = 1<<30, map[string]int{"sockets": 1}
	var p api.Plan
	h.call(client.MakePlan, "", map[string]any{"backup": backup, "target": target, "wish": wish}, &p)
	for _, f := range p.Plan.Findings {
		if f.Severity == plan.Critical {
			h.t.Fatalf("%+v", f)
		}
	}
	var j jobs.Job
	h.call(client.SubmitJob, "", api.NewJob{Plan: p.ID, Accept: p.Consent, Options: o}, &j)
	return j
}

func (h *house) job(id string) api.JobDetails {
	h.t.Helper()
	var d api.JobDetails
	h.call(client.GetJob, id, nil, &d)
	return d
}

// uploading waits until a job's disk is under way, and returns the worker that
// sends it.
func (h *house) uploading(id string, atLeast int64) string {
	h.t.Helper()
	w := ""
	until(h.t, "the disk is under way", func() bool {
		d := h.job(id)
		if jobs.Resting(d.Status) {
			h.t.Fatalf("the job was too quick: %s: %s", d.Status, d.Error)
		}
		for _, s := range d.Steps {
			if s.Kind == "transfer" && s.Status == "running" && s.Done >= atLeast {
				w = s.Worker
			}
		}
		return w != ""
	})
	return w
}

// rest waits until a job is at rest.
func (h *house) rest(id, want string) api.JobDetails {
	h.t.Helper()
	var d api.JobDetails
	until(h.t, "the job is at rest", func() bool {
		d = h.job(id)
		return jobs.Resting(d.Status)
	})
	if d.Status != want {
		h.t.Fatalf("job %s is %s, not %s: %s", id, d.Status, want, d.Error)
	}
	return d
}

// files are those under a folder with their bytes.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		rel, _ := filepath.Rel(dir, path)
		out[rel], err = io.ReadAll(f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// ended waits until a process has ended and returns how.
func (p *process) end(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	select {
	case <-p.ended:
		return p.err
	case <-ctx.Done():
		t.Fatal("the process does not end")
		return nil
	}
}

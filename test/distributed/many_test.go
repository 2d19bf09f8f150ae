//go:build distributed

package distributed

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"ascend/internal/client"
	"ascend/internal/restore"
	"ascend/internal/server/jobs"
)

// TestManyRestores spreads 20 restores over two workers. One is killed and comes
// back, the other is cut off the network for a minute; every job completes once,
// with the backup's bytes, and nothing else is left anywhere.
func TestManyRestores(t *testing.T) {
	const many, size = 20, 6 << 20
	h := newHouse(t)
	disks := map[string][]byte{}
	for i := range many {
		name := fmt.Sprintf("web%02d", i)
		disks[name] = h.backup(name, size)
	}
	h.serve(h.dsn, "temporal")
	h.call(client.AddTarget, "", map[string]any{"id": "loc", "platform": "local", "settings": map[string]string{"dir": h.out}}, nil)
	backups := h.catalog(many)
	one, two := h.machine(), h.machine()
	workers := []*worker{h.worker("one", "north", one), h.worker("two", "north", two)}
	h.known(2)
	ids := map[string]string{}
	for name, b := range backups {
		ids[h.restore(b, "loc", map[string]any{"format": "raw"}, jobs.Options{Bandwidth: 1 << 20}).ID] = name
	}
	sending := func() map[string]int {
		n := map[string]int{}
		for id := range ids {
			for _, s := range h.job(id).Steps {
				if s.Kind == "transfer" && s.Status == "running" && s.Done > 0 {
					n[s.Worker]++
				}
			}
		}
		return n
	}
	until(t, "both send", func() bool { n := sending(); return n[workers[0].id] > 0 && n[workers[1].id] > 0 })

	if err := workers[0].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = workers[0].end(t)
	workers = append(workers, h.worker("one", "north", one)) // as its init system would
	until(t, "the one that came back sends", func() bool { return sending()[workers[2].id] > 0 })
	two.link(false)
	cut := time.Now()
	lost := func() bool {
		for _, w := range h.workers() {
			if w.ID == workers[1].id {
				return !w.Alive
			}
		}
		return false
	}
	until(t, "the server misses the one that was cut off", lost)
	// The minute is what is tested.
	ctx, cancel := context.WithDeadline(t.Context(), cut.Add(time.Minute))
	<-ctx.Done()
	cancel()
	two.link(true)

	by := map[string]int{}
	for id, name := range ids {
		d := h.rest(id, "completed")
		for _, s := range d.Steps {
			if s.Kind == "finish" {
				by[s.Worker]++
				if s.Attempt > 4 {
					t.Errorf("%s: %d attempts of %s", name, s.Attempt, s.Name)
				}
			}
		}
		var rc restore.Receipt
		b, err := h.c.Bytes(t.Context(), client.JobReceipt, client.Request{ID: id})
		if err == nil {
			err = json.Unmarshal(b, &rc)
		}
		if err != nil || len(rc.Disks) != 1 || rc.Disks[0].Verified == "" {
			t.Errorf("%s: %+v %v", name, rc, err)
		}
		events, err := h.c.Bytes(t.Context(), client.JobLog, client.Request{ID: id})
		if n := bytes.Count(events, []byte("job completed")); err != nil || n != 1 {
			t.Errorf("%s completed %d times: %v", name, n, err)
		}
	}
	t.Logf("machines made by each worker: %v", by)
	until(t, "the one that was cut off is back", func() bool {
		for _, w := range h.workers() {
			if w.ID == workers[1].id {
				return w.Alive && w.Jobs == 0
			}
		}
		return false
	})
	raw := 0
	for path, b := range files(t, h.out) {
		name, ok := strings.CutSuffix(path[strings.LastIndexByte(path, '/')+1:], ".raw")
		if !ok {
			continue
		}
		raw++
		found := false
		for vm, disk := range disks {
			found = found || strings.HasPrefix(name, vm) && bytes.Equal(b, disk)
		}
		if !found {
			t.Errorf("%s is none of the backups", path)
		}
	}
	if raw != many {
		t.Errorf("%d disks have landed", raw)
	}
	for _, w := range workers[1:] {
		if err := w.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := w.end(t); err != nil {
			t.Errorf("%s: %v", w.id, err)
		}
		for name := range files(t, w.data) {
			if strings.Contains(name, "journal") {
				t.Errorf("left in the data of %s: %s", w.id, name)
			}
		}
	}
	// Undone, nothing of any of them is left.
	h.worker("one", "north", one)
	for id := range ids {
		h.call(client.UndoJob, id, nil, nil)
	}
	for id := range ids {
		h.rest(id, "undone")
	}
	for path := range files(t, h.out) {
		t.Errorf("left after undo: %s", path)
	}
}

// TestDrain sends a worker home in the middle of a job: it ends the job, takes no
// other, and goes; the next job goes to the worker that is left, and to the site
// that is asked for.
func TestDrain(t *testing.T) {
	h := newHouse(t)
	h.backup("web01", 24<<20)
	h.serve(h.dsn, "temporal")
	h.call(client.AddTarget, "", map[string]any{"id": "loc", "platform": "local", "settings": map[string]string{"dir": h.out}}, nil)
	backup := h.catalog(1)["web01"]
	north, south := h.worker("one", "north", h.machine()), h.worker("two", "south", h.machine())
	h.known(2)
	j := h.restore(backup, "loc", map[string]any{"format": "raw", "name": "first"}, jobs.Options{Bandwidth: 1 << 20, Site: "north"}) // long enough for two commands
	if by := h.uploading(j.ID, 1<<20); by != north.id {
		t.Errorf("the job of the site north is sent by %s, not %s", by, north.id)
	}
	token := h.tool(h.dsn, "", "token", "--user", "ann")
	cli := func(args ...string) string {
		t.Helper()
		t.Setenv("ASCEND_TOKEN", token)
		return h.command(h.dsn, "", append(args, "--server", "http://"+h.addr)...)
	}
	until(t, "both are listed, and the one with its job", func() bool {
		list := cli("workers", "ls")
		return strings.Contains(list, north.id) && strings.Contains(list, south.id) && strings.Contains(list, "1/4")
	})
	cli("workers", "drain", north.id)
	until(t, "the worker is draining", func() bool {
		for _, w := range h.workers() {
			if w.ID == north.id {
				return w.Draining && w.State() == "draining"
			}
		}
		return false
	})
	second := h.restore(backup, "loc", map[string]any{"format": "raw", "name": "second"}, jobs.Options{})
	if second.Site != "south" {
		t.Errorf("the second job went to the site %q", second.Site)
	}
	var p struct{ ID string }
	h.call(client.MakePlan, "", map[string]any{"backup": backup, "target": "loc", "wish": map[string]any{"format": "raw", "memory": 1 << 30, "cpu": map[string]int{"sockets": 1}}}, &p)
	_, err := h.c.Bytes(t.Context(), client.SubmitJob, client.Request{Body: map[string]any{"plan": p.ID, "options": map[string]any{"site": "north"}}})
	if err == nil || !strings.Contains(err.Error(), "draining") {
		t.Errorf("a job for a site that is draining: %v", err)
	}
	d := h.rest(j.ID, "completed")
	for _, s := range d.Steps {
		if s.Worker != north.id || s.Attempt != 1 {
			t.Errorf("%s was attempt %d by %s", s.Name, s.Attempt, s.Worker)
		}
	}
	if err := north.end(t); err != nil {
		t.Errorf("the drained worker: %v", err)
	}
	h.rest(second.ID, "completed")
	if ws := h.workers(); len(ws) != 1 || ws[0].ID != south.id {
		t.Errorf("%+v", ws)
	}
}

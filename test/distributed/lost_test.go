//go:build distributed

package distributed

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ascend/internal/client"
	"ascend/internal/restore"
	"ascend/internal/server/api"
	"ascend/internal/server/fleet"
	"ascend/internal/server/jobs"
	"ascend/internal/target/vmware/vcsimtest"
)

// workers are those that the server knows.
func (h *house) workers() []fleet.Listed {
	h.t.Helper()
	var list api.Page[fleet.Listed]
	h.call(client.ListWorkers, "", nil, &list)
	return list.Items
}

// TestWorkerIsLost loses the worker that sends a disk, in the middle of it: killed,
// and stopped for so long that another one has gone on when it wakes up.
func TestWorkerIsLost(t *testing.T) {
	vc, err := vcsimtest.Start(vcsimtest.Small())
	if err != nil {
		t.Fatal(err)
	}
	defer vc.Close()
	h := newHouse(t)
	const size = 24 << 20
	disk := h.backup("web01", size)
	h.serve(h.dsn, "temporal")
	h.call(client.AddTarget, "", map[string]any{"id": "loc", "platform": "local", "settings": map[string]string{"dir": h.out}}, nil)
	h.call(client.AddTarget, "", map[string]any{"id": "vc", "platform": "vmware", "settings": map[string]string{"url": vc.Host, "username": vcsimtest.Username, "ca_file": vc.CAFile},
		"secrets": map[string]string{"password": vcsimtest.Password}}, nil)
	backup := h.catalog(1)["web01"]
	machines := map[string]*place{"one": h.machine(vc.Host), "two": h.machine(vc.Host)}
	empty := vc.Inventory(t)

	for _, c := range []struct {
		target string
		wish   map[string]any
		sig    syscall.Signal
	}{
		{"loc", map[string]any{"format": "raw"}, syscall.SIGKILL},
		{"loc", map[string]any{"format": "vhdx"}, syscall.SIGSTOP},
		{"vc", map[string]any{"firmware": "bios", "mapping": map[string]any{"fields": map[string]string{"datastore": "LocalDS_0"}}}, syscall.SIGKILL},
		{"vc", map[string]any{"firmware": "bios", "mapping": map[string]any{"fields": map[string]string{"datastore": "LocalDS_0"}}}, syscall.SIGSTOP},
	} {
		t.Run(c.target+" "+c.sig.String(), func(t *testing.T) {
			h.t = t
			by := map[string]*worker{}
			for name, m := range machines {
				w := h.worker(name, "north", m)
				by[w.id] = w
			}
			h.known(2)
			j := h.restore(backup, c.target, c.wish, jobs.Options{Bandwidth: 4 << 20})
			if j.Site != "north" {
				t.Errorf("the job went to the site %q", j.Site)
			}
			first := h.uploading(j.ID, 4<<20)
			lost := by[first]
			if lost == nil {
				t.Fatalf("the disk is sent by %q, which is none of %v", first, by)
			}
			if err := lost.Process.Signal(c.sig); err != nil {
				t.Fatal(err)
			}
			if c.sig == syscall.SIGKILL {
				_ = lost.end(t)
			}
			d := h.rest(j.ID, "completed")
			if c.sig == syscall.SIGSTOP {
				if err := lost.Process.Signal(syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
				// It has come to itself when it gives a sign of life again; what it held it has
				// tried to go on with by then.
				until(t, "the worker that was stopped is back", func() bool {
					return slices.ContainsFunc(h.workers(), func(w fleet.Listed) bool { return w.ID == lost.id && w.Alive && w.Jobs == 0 })
				})
			}
			after := h.job(j.ID)
			for i, s := range after.Steps {
				was := d.Steps[i]
				if s.Status != "completed" || s.Worker != was.Worker || s.Attempt != was.Attempt {
					t.Errorf("%+v, and before the lost worker woke up %+v", s, was)
				}
				if s.Kind != "validate" && s.Kind != "reserve" && s.Kind != "source" && s.Kind != "begin" && s.Worker == first {
					t.Errorf("%s was ended by the worker that was lost", s.Name)
				}
			}
			var rc restore.Receipt
			b, err := h.c.Bytes(t.Context(), client.JobReceipt, client.Request{ID: j.ID})
			if err == nil {
				err = json.Unmarshal(b, &rc)
			}
			if err != nil || len(rc.Disks) != 1 || rc.Disks[0].Verified == "" {
				t.Fatalf("%+v %v", rc, err)
			}
			if c.target == "loc" && rc.Disks[0].Sent >= rc.Disks[0].Bytes {
				t.Errorf("all of %d bytes were sent again", rc.Disks[0].Bytes)
			}
			switch {
			case c.target == "vc":
				m := vc.Machine(t, d.VM.Name)
				if got := vc.Disk(t, vcsimtest.Disks(m)[0]); !bytes.Equal(got[:size], disk) {
					t.Error("what landed is not the backup")
				}
			case c.wish["format"] == "raw":
				ok := false
				for name, b := range files(t, h.out) {
					ok = ok || strings.HasSuffix(name, ".raw") && bytes.Equal(b, disk)
				}
				if !ok {
					t.Error("what landed is not the backup")
				}
			}
			h.call(client.UndoJob, j.ID, nil, nil)
			h.rest(j.ID, "undone")
			if left := files(t, h.out); len(left) != 0 {
				t.Errorf("%d files are left of what was undone", len(left))
			}
			if left := vc.Inventory(t); !slices.Equal(left, empty) {
				t.Errorf("left on the vCenter: %v, and before there was %v", left, empty)
			}
			for _, w := range by {
				_ = w.Process.Signal(syscall.SIGTERM)
				if err := w.end(t); err != nil && w != lost {
					t.Errorf("%s: %v", w.id, err)
				}
				for name := range files(t, w.data) {
					if strings.Contains(name, "journal") && (w != lost || c.sig != syscall.SIGKILL) && filepath.Ext(name) != ".lock" {
						t.Errorf("left in the data of %s: %s", w.id, name)
					}
				}
			}
			until(t, "only the lost worker is still known", func() bool {
				n := 0
				for _, w := range h.workers() {
					if w.Alive && by[w.ID] != nil && by[w.ID] != lost {
						n++
					}
				}
				return n == 0
			})
		})
	}
}

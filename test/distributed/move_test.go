//go:build distributed

package distributed

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ascend/internal/client"
	"ascend/internal/restore"
	"ascend/internal/server/api"
	"ascend/internal/server/jobs"
)

// TestMove takes an installation with a job under way from SQLite on one machine to
// PostgreSQL and workers: the job goes on where it stopped, accounts and past jobs
// are there, and the way back is open.
func TestMove(t *testing.T) {
	h := newHouse(t)
	disk := h.backup("web01", 16<<20)
	lite := "sqlite:" + filepath.Join(h.data, "ascend.db")
	h.serve(lite, "local")
	h.call(client.AddTarget, "", map[string]any{"id": "loc", "platform": "local", "settings": map[string]string{"dir": h.out}}, nil)
	backup := h.catalog(1)["web01"]
	past := h.restore(backup, "loc", map[string]any{"format": "vmdk", "name": "past"}, jobs.Options{})
	h.rest(past.ID, "completed")
	j := h.restore(backup, "loc", map[string]any{"format": "raw", "name": "moves"}, jobs.Options{Bandwidth: 3 << 20})
	h.uploading(j.ID, 6<<20)

	// Nothing is copied under a server that runs.
	file := filepath.Join(h.dir, "database")
	if err := os.WriteFile(file, []byte(h.dsn+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hasty := h.run(nil, "", "store", "copy", "--from", lite, "--to", file)
	if err := hasty.end(t); err == nil || !strings.Contains(hasty.log.String(), "stop the server") {
		t.Fatalf("copied while the server ran: %s", hasty.log)
	}
	if err := h.server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := h.server.end(t); err != nil {
		t.Fatal(err)
	}
	if out := h.command("", "", "store", "copy", "--from", lite, "--to", file); !strings.Contains(out, "restore_jobs") {
		t.Errorf("%s", out)
	}

	h.serve(h.dsn, "temporal") // the token is still good
	if d := h.job(j.ID); jobs.Resting(d.Status) || d.Site != "" {
		t.Fatalf("%+v", d)
	}
	w := h.run(nil, h.dsn, "worker", "--site", "here", "--data", h.data, "--key", h.key(), "--temporal", h.cluster, "--temporal-namespace", h.namespace, "--liveness", liveness, "--log-format", "json")
	d := h.rest(j.ID, "completed")
	if d.Site != "here" {
		t.Errorf("it went to the site %q", d.Site)
	}
	var rc restore.Receipt
	b, err := h.c.Bytes(t.Context(), client.JobReceipt, client.Request{ID: j.ID})
	if err == nil {
		err = json.Unmarshal(b, &rc)
	}
	if err != nil || len(rc.Disks) != 1 || rc.Disks[0].Verified == "" || rc.Disks[0].Sent > rc.Disks[0].Bytes/2+(4<<20) {
		t.Errorf("%+v %v: it did not go on from its journal", rc.Disks[0], err)
	}
	raw := 0
	for name, b := range files(t, h.out) {
		if strings.HasSuffix(name, ".raw") {
			raw++
			if !bytes.Equal(b, disk) {
				t.Errorf("%s is not the backup", name)
			}
		}
	}
	if raw != 1 {
		t.Errorf("%d disks", raw)
	}
	// What came before can be undone from here.
	h.call(client.UndoJob, past.ID, nil, nil)
	if d := h.job(past.ID); jobs.Resting(d.Status) && d.Status != "undone" {
		t.Errorf("%s", d.Status)
	}
	h.rest(past.ID, "undone")

	// And back.
	for _, p := range []*process{w, h.server} {
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := p.end(t); err != nil {
			t.Error(err)
		}
	}
	again := "sqlite:" + filepath.Join(h.dir, "again.db")
	h.command("", "", "store", "copy", "--from", file, "--to", again)
	h.serve(again, "local")
	var list api.Page[jobs.Job]
	h.call(client.ListJobs, "", nil, &list)
	if len(list.Items) != 2 || list.Items[0].ID != j.ID || list.Items[0].Status != "completed" || list.Items[1].Status != "undone" {
		t.Errorf("%+v", list.Items)
	}
	h.call(client.UndoJob, j.ID, nil, nil)
	h.rest(j.ID, "undone")
	if left := files(t, h.out); len(left) != 0 {
		t.Errorf("%d files are left", len(left))
	}
}

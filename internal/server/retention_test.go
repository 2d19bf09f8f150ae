package server_test

import (
	"testing"
	"time"

	"ascend/internal/server/api"
	"ascend/internal/server/records"
	"ascend/internal/store"
)

// TestRetention removes what is old, and never the record of what still stands on a
// target.
func TestRetention(t *testing.T) {
	m := start(t)
	m.want(422, "PATCH", "/settings", m.admin, map[string]any{"retention": map[string]int{"job_days": -1}}, nil)
	m.want(200, "PATCH", "/settings", m.admin, map[string]any{"retention": map[string]int{"job_days": 30, "event_days": 7}}, nil)
	var s api.Settings
	m.want(200, "GET", "/settings", m.admin, nil, &s)
	if s.Retention != (records.Retention{Jobs: 30, Events: 7}) {
		t.Fatalf("%+v", s.Retention)
	}
	ctx := t.Context()
	ids := map[string]string{}
	for what, gone := range map[string]bool{"left nothing": true, "its machine stands": false} {
		j := &store.Job{VMName: what}
		if _, err := m.db.CreateJob(ctx, j, []store.Step{{Name: "s", Kind: "s", MaxAttempts: 1}}); err != nil {
			t.Fatal(err)
		}
		ids[what] = j.ID
		if err := m.db.RecordResource(ctx, &store.Resource{Job: j.ID, Kind: "vm", Name: "web01", ExternalID: "vm-1", Done: true, Gone: gone}); err != nil {
			t.Fatal(err)
		}
		d, err := m.db.TakeDrive(ctx, j.ID, "test")
		if err == nil {
			err = m.db.Settle(ctx, j.ID, d.Drive, store.Completed, "", false)
		}
		if err == nil {
			err = m.db.AppendEvent(ctx, &store.Event{Job: j.ID, Level: "info", Kind: store.EventNote, Message: "a line"})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(5 * time.Millisecond) // they are older than that now
	p, err := m.db.Prune(ctx, store.Retention{Jobs: time.Millisecond, Events: time.Millisecond})
	if err != nil || p.Jobs != 1 || p.Events == 0 {
		t.Fatalf("%+v %v", p, err)
	}
	if _, err := m.db.Job(ctx, ids["left nothing"]); err == nil {
		t.Error("a job that left nothing is still there")
	}
	if _, err := m.db.Job(ctx, ids["its machine stands"]); err != nil {
		t.Errorf("the record that undo needs is gone: %v", err)
	}
	if list, err := m.db.Events(ctx, ids["its machine stands"], 0, 10); err != nil || len(list) > 0 {
		t.Errorf("%d lines are kept: %v", len(list), err)
	}
	if p, err := m.store.Prune(ctx, s.Retention); err != nil || p.Jobs > 0 {
		t.Errorf("%+v %v", p, err)
	}
}

// TestGuestAndReceipt: what is on a backup's disks, and what a receipt proves.
func TestGuestAndReceipt(t *testing.T) {
	m := start(t)
	backup := m.repository("main")
	var g api.Guest
	m.want(200, "GET", "/backups/"+backup+"/guest", m.admin, nil, &g)
	if len(g.Systems) > 0 || len(g.Volumes) == 0 && len(g.Unread) == 0 {
		t.Errorf("random bytes are a system: %+v", g)
	}
	m.want(404, "GET", "/backups/none/guest", m.admin, nil, nil)
	var c api.ReceiptCheck
	m.want(200, "POST", "/receipts/verify", m.admin, map[string]string{"receipt": `{"version":1,"job":"x"}`}, &c)
	if c.Valid || c.Error == "" {
		t.Errorf("%+v", c)
	}
}

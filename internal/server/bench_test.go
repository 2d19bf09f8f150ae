package server_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"ascend/internal/backup"
	"ascend/internal/plan"
	"ascend/internal/server/jobs"
	"ascend/internal/server/records"
	"ascend/internal/server/restores"
	"ascend/internal/store"
	"ascend/internal/vm"
)

// shelf is a Driver that carries nothing out: the lists are measured.
type shelf struct{ restores.Driver }

func (shelf) Live(string, []jobs.Step)                 {}
func (shelf) SetLimits(jobs.Limits)                    {}
func (shelf) Plan(json.RawMessage) (*plan.Plan, error) { return nil, nil }

// BenchmarkLists asks over HTTP, from a real database, for pages of 10,000 jobs
// and 10,000 backups; p99 is the slowest of a hundred.
func BenchmarkLists(b *testing.B) {
	m := startWith(b, func(db *store.Store) jobs.Service { return restores.New(db, shelf{}) })
	if _, err := m.store.PutRecord(b.Context(), records.Record{Kind: "repository", ID: "r", Data: []byte(`{"path":"/r","scanned":"2026-01-01T00:00:00Z"}`)}, 0); err != nil {
		b.Fatal(err)
	}
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var list []records.Backup
	for i := range 10_000 {
		list = append(list, records.Backup{Backup: backup.Backup{
			ID: fmt.Sprint("id", i), VM: fmt.Sprintf("web%03d", i%500), Origin: vm.Platforms()[i%6], Type: backup.Full, Created: begin.Add(time.Duration(i) * time.Minute),
			Machine: &vm.Machine{Name: "web", Disks: make([]vm.Disk, 2)}, Disks: make([]backup.Disk, 2),
		}})
	}
	if err := m.store.ReplaceBackups(b.Context(), "r", list); err != nil {
		b.Fatal(err)
	}
	for i := range 10_000 {
		j := &store.Job{VMName: fmt.Sprintf("web%03d", i%500), TargetName: fmt.Sprint("t", i%7), TargetPlatform: vm.Platforms()[i%6], Spec: json.RawMessage("{}")}
		if _, err := m.db.CreateJob(b.Context(), j, []store.Step{{Name: "transfer disk 0", Kind: "transfer", MaxAttempts: 1}}); err != nil {
			b.Fatal(err)
		}
		if i < 9_992 {
			if d, err := m.db.TakeDrive(b.Context(), j.ID, "bench"); err != nil {
				b.Fatal(err)
			} else if err := m.db.Settle(b.Context(), j.ID, d.Drive, store.Completed, "", false); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, path := range []string{"/jobs", "/jobs?q=web123", "/jobs?status=completed&target=t3", "/jobs?active=true", "/backups", "/backups?q=web123", "/backups?origin=aws&state=good", "/backups?vm=web042"} {
		b.Run(path, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				at := time.Now()
				m.want(200, "GET", path, m.admin, nil, nil)
				took = append(took, time.Since(at))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}

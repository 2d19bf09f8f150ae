package store_test

import (
	"fmt"
	"testing"
	"time"

	"ascend/internal/store"
	"ascend/internal/store/storetest"
	"ascend/internal/vm"
)

// BenchmarkLists lists, filters and pages 10,000 jobs and 10,000 backups on
// each database; each operation is one page of 50.
func BenchmarkLists(b *testing.B) {
	for _, k := range storetest.Kinds() {
		s := storetest.Open(b, k, store.Options{})
		repo := &store.Repository{Name: "r", RepoKind: "folder"}
		must(b, s.CreateRepository(b.Context(), repo))
		platforms := vm.Platforms()
		statuses := []store.Status{store.Completed, store.Failed, store.Cancelled}
		const n = 10000
		var found []*store.Backup
		for i := range n {
			found = append(found, &store.Backup{ExternalID: fmt.Sprint("b", i), VMName: fmt.Sprintf("Server %d", i%500), SourcePlatform: platforms[i%len(platforms)],
				TakenAt: time.Now().Add(-time.Duration(i) * time.Minute), Detail: []byte(`{"disks":[{"size":123456789}]}`)})
		}
		must(b, s.PutBackups(b.Context(), repo.ID, found))
		for at := 0; at < n; at += 500 {
			must(b, s.Tx(b.Context(), func(t *store.Store) error {
				for i := at; i < at+500; i++ {
					j := &store.Job{VMName: fmt.Sprintf("Server %d", i%500), SourcePlatform: platforms[i%7], TargetPlatform: platforms[i%6],
						TargetName: fmt.Sprint("target ", i%9), TargetConfig: []byte(`{"cluster":"one","datastore":"two"}`)}
					if _, err := t.CreateJob(b.Context(), j, nil); err != nil {
						return err
					}
					if i%100 != 0 {
						j, err := t.TakeDrive(b.Context(), j.ID, j.ID)
						if err == nil {
							err = t.Settle(b.Context(), j.ID, j.Drive, statuses[i%3], "it went so", true)
						}
						if err != nil {
							return err
						}
					}
				}
				return nil
			}))
		}
		deep, err := s.Jobs(b.Context(), store.JobFilter{}, store.Page{Limit: 1000})
		must(b, err)
		for name, f := range map[string]store.JobFilter{
			"newest": {}, "status": {Status: []store.Status{store.Pending}}, "platform": {Platform: vm.AWS}, "vm": {VM: "Server 77"},
			"time": {Since: time.Now().Add(-time.Hour), Until: time.Now()}, "text": {Text: "SERVER 49"}, "text that is nowhere": {Text: "nowhere"},
			"all at once": {Status: []store.Status{store.Failed}, TargetPlatform: vm.HyperV, Text: "9"}, "unfinished": {Unfinished: true},
		} {
			b.Run(string(k)+"/jobs "+name, func(b *testing.B) {
				for b.Loop() {
					_, err := s.Jobs(b.Context(), f, store.Page{})
					must(b, err)
				}
			})
		}
		b.Run(string(k)+"/jobs page 20", func(b *testing.B) {
			for b.Loop() {
				_, err := s.Jobs(b.Context(), store.JobFilter{}, store.Page{Cursor: deep.Next})
				must(b, err)
			}
		})
		b.Run(string(k)+"/jobs by status", func(b *testing.B) {
			for b.Loop() {
				_, err := s.JobCounts(b.Context())
				must(b, err)
			}
		})
		for name, f := range map[string]store.BackupFilter{
			"newest": {}, "platform": {Platform: vm.AWS}, "vm": {VM: "Server 77"}, "text": {Text: "SERVER 49"}, "text that is nowhere": {Text: "nowhere"},
			"time": {Since: time.Now().Add(-time.Hour), Until: time.Now()},
		} {
			b.Run(string(k)+"/backups "+name, func(b *testing.B) {
				for b.Loop() {
					_, err := s.NewestBackups(b.Context(), f, store.Page{})
					must(b, err)
				}
			})
		}
	}
}

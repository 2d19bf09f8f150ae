package api

import (
	"context"

	"errors"
	"fmt"
	"time"

	"ascend/internal/backup"
	"ascend/internal/disk"
	"ascend/internal/plan"
	"ascend/internal/server/auth"
	"ascend/internal/server/feed"
	"ascend/internal/server/planning"
	"ascend/internal/server/records"
	"ascend/internal/vm"
)

// BackupRow is a backup in a list.
type BackupRow struct {
	ID         string        `json:"id"`
	Repository string        `json:"repository"`
	Backup     string        `json:"backup" doc:"its id in the repository"`
	VM         string        `json:"vm"`
	Origin     vm.Platform   `json:"origin,omitempty" doc:"where the machine ran"`
	Type       backup.Type   `json:"type"`
	Layout     backup.Layout `json:"layout"`
	Created    time.Time     `json:"created"`
	Disks      int           `json:"disks"`
	Size       int64         `json:"size" doc:"bytes the guest sees"`
	Bytes      int64         `json:"bytes" doc:"of the files that it is read from"`
	Fault      string        `json:"fault,omitempty" doc:"why it cannot be restored"`
}

func rowOf(b records.Backup) BackupRow {
	r := BackupRow{ID: b.ID, Repository: b.Repository, Backup: b.Backup.ID, VM: b.VM, Origin: b.Origin, Type: b.Type, Layout: b.Layout, Created: b.Created, Disks: len(b.Disks), Bytes: b.Bytes(), Fault: b.Fault}
	for _, d := range b.Disks {
		r.Size += d.Size
	}
	return r
}

// BackupDetails is everything a backup says of itself.
type BackupDetails struct {
	BackupRow
	Path     string        `json:"path" doc:"in the repository"`
	DiskList []backup.Disk `json:"disk_list" nullable:"false"`
	Machine  *vm.Machine   `json:"machine"`
	Notes    []string      `json:"notes,omitempty"`
}

// Chain is a disk and the files it is read from, the top first.
type Chain struct {
	Index int       `json:"index"`
	Name  string    `json:"name"`
	Disk  disk.Info `json:"disk,omitzero"`
	Error string    `json:"error,omitempty" doc:"why the disk cannot be opened"`
}

// Possible is how a backup and a target go together.
type Possible struct {
	Target   plan.TargetRef `json:"target"`
	Possible bool           `json:"possible" doc:"nothing critical stands in the way"`
	Error    string         `json:"error,omitempty" doc:"why no plan can be made at all"`
	Findings []plan.Finding `json:"findings" nullable:"false"`
}

func (a *API) backups() {
	add(a, op{method: "GET", path: "/backups", id: "list-backups", summary: "Backups, the newest first", tag: "backups", role: auth.Viewer},
		func(ctx context.Context, in *struct {
			PageIn
			Span
			Repository string `query:"repository" maxLength:"63"`
			Search     string `query:"q" maxLength:"200" doc:"in the machine's name or the backup's id"`
			VM         string `query:"vm" maxLength:"255" doc:"the machine's whole name"`
			Origin     string `query:"origin" enum:"vmware,cloudstack,hyperv,aws,azure,nutanix,local"`
			Type       string `query:"type" enum:"full,incremental,differential"`
			State      string `query:"state" enum:"good,faulty"`
		}) (*List[BackupRow], error) {
			f := records.BackupFilter{Repository: in.Repository, Text: in.Search, VM: in.VM, Origin: vm.Platform(in.Origin), Type: backup.Type(in.Type), Since: in.Since, Until: in.Until, Cursor: in.Cursor, Limit: in.Limit}
			if in.State != "" {
				faulty := in.State == "faulty"
				f.Faulty = &faulty
			}
			list, next, err := a.Store.Backups(ctx, f)
			if err != nil {
				return nil, err
			}
			rows := make([]BackupRow, 0, len(list))
			for _, b := range list {
				rows = append(rows, rowOf(b))
			}
			return listOf(rows, next), nil
		})
	add(a, op{method: "GET", path: "/backups/{id}", id: "get-backup", summary: "A backup and its machine", tag: "backups", role: auth.Viewer, errors: []int{404}},
		func(ctx context.Context, in *ID) (*One[BackupDetails], error) {
			b, err := a.Store.Backup(ctx, in.ID)
			return &One[BackupDetails]{Body: BackupDetails{rowOf(b), b.Path, b.Disks, b.Machine, b.Notes}}, err
		})
	add(a, op{method: "GET", path: "/backups/{id}/chain", id: "get-backup-chain", summary: "The files that each disk is read from; opens them", tag: "backups", role: auth.Viewer, errors: []int{404, 409}},
		func(ctx context.Context, in *ID) (*List[Chain], error) {
			src, err := a.source(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			list, err := chains(ctx, src)
			return listOf(list, ""), err
		})
	add(a, op{method: "GET", path: "/backups/{id}/guest", id: "get-backup-guest", summary: "What system is on its disks; reads them", tag: "backups", role: auth.Viewer, errors: []int{404, 409}},
		func(ctx context.Context, in *ID) (*One[Guest], error) {
			src, err := a.source(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			g, err := a.guestOf(ctx, src)
			return &One[Guest]{Body: g}, err
		})
	add(a, op{method: "GET", path: "/backups/{id}/targets", id: "get-backup-targets", summary: "What stands in the way on each target; asks the targets", tag: "plans", role: auth.Viewer, errors: []int{404, 409}},
		func(ctx context.Context, in *ID) (*List[Possible], error) {
			src, err := a.source(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			all, err := a.Targets.Table.All(ctx, "")
			if err != nil {
				return nil, err
			}
			var out []Possible
			for _, d := range all {
				p := Possible{Target: d.Value.ref(d.ID), Findings: []plan.Finding{}}
				made, err := a.make(ctx, src, d.ID, planning.Wish{})
				switch {
				case errors.Is(err, errTarget), errors.Is(err, planning.ErrWish):
					p.Error = a.text(err)
				case err != nil:
					return nil, err
				default:
					p.Possible = !made.Plan.Stopped()
					p.Findings = append(p.Findings, made.Plan.Findings...)
					made.Close()
				}
				out = append(out, p)
			}
			return listOf(out, ""), nil
		})
}

// source is a backup where it lies.
func (a *API) source(ctx context.Context, id string) (planning.Source, error) {
	b, err := a.Store.Backup(ctx, id)
	if err != nil {
		return planning.Source{}, err
	}
	d, err := a.Scanner.Table.Get(ctx, b.Repository)
	return planning.Source{Dir: d.Value.Path, Backup: b.Backup}, err
}

func chains(ctx context.Context, src planning.Source) ([]Chain, error) {
	r, err := backup.Open(src.Dir)
	if err != nil {
		return nil, newProblem(409, "repository-missing", fmt.Sprintf("cannot open the repository: %v", err), "mount it, or scan it again")
	}
	defer func() { _ = r.Close() }()
	var out []Chain
	for i, d := range src.Backup.Disks {
		c := Chain{Index: d.Index, Name: d.Name}
		img, err := r.OpenDisk(ctx, src.Backup, i)
		if err != nil {
			c.Error = err.Error()
		} else {
			c.Disk = img.Info()
			if c.Disk.Chain == nil {
				c.Disk.Chain = []disk.Layer{}
			}
			_ = img.Close()
		}
		out = append(out, c)
	}
	return out, ctx.Err()
}

// summary gathers the state of everything.
func (a *API) summary(ctx context.Context) (Summary, error) {
	s := Summary{Jobs: map[string]int{}, Rates: append([]feed.Rate{}, a.Feed.Rates()...), Asked: time.Now().UTC()}
	var err error
	if s.Backups, err = a.Store.CountBackups(ctx); err != nil {
		return s, err
	}
	repos, err := a.Scanner.Table.All(ctx, "")
	if err != nil {
		return s, err
	}
	targets, err := a.Targets.Table.All(ctx, "")
	if err != nil {
		return s, err
	}
	s.Repositories, s.Targets = len(repos), len(targets)
	return s, a.countJobs(ctx, &s)
}

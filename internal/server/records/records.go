// Package records is what the server keeps besides jobs: users, tokens,
// sessions, targets, repositories, plans, channels, deliveries and settings as
// versioned documents, the backups found in repositories, and the audit log. It
// says what it needs of a store; package store has the tables.
package records

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"ascend/internal/backup"
	"ascend/internal/vm"
)

// Errors of a store.
var (
	// ErrNotFound: there is no such record.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the record has changed since it was read, or is there already.
	ErrConflict = errors.New("changed in the meantime")
	// ErrCursor: a cursor that no list gave.
	ErrCursor = errors.New("not a cursor of this list")
)

// AnyRev, as the revision that a Put or Delete expects, takes whatever is there.
const AnyRev = -1

// Record is one document. Rev grows by one with each change.
type Record struct {
	Kind, ID string
	Ref      string // what it belongs to, for lists; may be empty
	Rev      int64
	Created  time.Time
	Updated  time.Time
	Expires  time.Time // zero: never
	Data     []byte
}

// Page bounds a list: at most Limit entries after the one that After names, in
// the order of their ids, or backwards.
type Page struct {
	After string
	Limit int
	Desc  bool
}

// Store keeps what the server knows. Methods are durable when they return, and
// called concurrently. Records that have expired are not found.
type Store interface {
	Record(ctx context.Context, kind, id string) (Record, error)
	// PutRecord stores r when the stored revision is ifRev (0: there is none)
	// and returns the new one; else the error is ErrConflict.
	PutRecord(ctx context.Context, r Record, ifRev int64) (int64, error)
	DeleteRecord(ctx context.Context, kind, id string, ifRev int64) error
	// Records lists a kind, those of ref only unless it is empty.
	Records(ctx context.Context, kind, ref string, p Page) ([]Record, error)
	ExpireRecords(ctx context.Context, now time.Time) error

	// ReplaceBackups makes the list the backups of a repository; those that are
	// no longer there are removed. The store gives the ids, and keeps them.
	ReplaceBackups(ctx context.Context, repository string, list []Backup) error
	Backup(ctx context.Context, id string) (Backup, error)
	FindBackup(ctx context.Context, repository, id string) (Backup, error)
	// Backups lists, the newest first. The cursor of the next page is empty at
	// the end.
	Backups(ctx context.Context, f BackupFilter) (list []Backup, next string, err error)
	CountBackups(ctx context.Context) (map[vm.Platform]int, error)

	Audit(ctx context.Context, e Entry) error
	// Entries lists the audit log, the newest first.
	Entries(ctx context.Context, f EntryFilter) (list []Entry, next string, err error)

	Ping(ctx context.Context) error

	// Prune removes what is older than a retention. Jobs that have left something on
	// a target stay.
	Prune(ctx context.Context, r Retention) (Pruned, error)
}

// Retention says how long things are kept; 0: for ever.
type Retention struct {
	Jobs     int `json:"job_days,omitempty" minimum:"0" maximum:"36500" doc:"days that jobs are kept once they are at rest; those whose machine or disks are still on a target stay"`
	KeepJobs int `json:"keep_jobs,omitempty" minimum:"0" maximum:"1000000" doc:"so many of the newest jobs stay, however old"`
	Events   int `json:"event_days,omitempty" minimum:"0" maximum:"36500" doc:"days that the lines of the logs of jobs at rest are kept"`
	Audit    int `json:"audit_days,omitempty" minimum:"0" maximum:"36500" doc:"days that the audit log is kept"`
}

// Pruned is how much was removed.
type Pruned struct{ Jobs, Events, Audits int64 }

// Backup is a backup found in a repository.
type Backup struct {
	ID         string // of all repositories
	Repository string
	backup.Backup
}

// BackupFilter chooses backups; zero fields choose all.
type BackupFilter struct {
	Repository string
	Text       string // in the machine's name or the backup's id, whatever the case
	VM         string // the machine's whole name
	Origin     vm.Platform
	Type       backup.Type
	Faulty     *bool
	Since      time.Time
	Until      time.Time
	Cursor     string
	Limit      int
}

// Entry is one line of the audit log.
type Entry struct {
	ID      string            `json:"id"`
	Time    time.Time         `json:"time"`
	Actor   string            `json:"actor" doc:"who: a user's name, token:NAME, or system"`
	Address string            `json:"address,omitempty" doc:"from where"`
	Action  string            `json:"action" doc:"what, as target.create"`
	Object  string            `json:"object,omitempty" doc:"the id of what was changed"`
	Outcome string            `json:"outcome" enum:"done,refused,failed"`
	Detail  map[string]string `json:"detail,omitempty"`
}

// EntryFilter chooses audit entries; zero fields choose all.
type EntryFilter struct {
	Actor  string
	Action string // or, ending in a dot, all of a kind
	Object string
	Since  time.Time
	Until  time.Time
	Cursor string
	Limit  int
}

// Table reads and writes the documents of one kind as values of T.
type Table[T any] struct {
	Store Store
	Kind  string
}

// Doc is a value with its record.
type Doc[T any] struct {
	Record
	Value T
}

func decode[T any](r Record) (Doc[T], error) {
	d := Doc[T]{Record: r}
	if err := json.Unmarshal(r.Data, &d.Value); err != nil {
		return d, fmt.Errorf("cannot read %s %s: %w", r.Kind, r.ID, err)
	}
	return d, nil
}

// Get reads one.
func (t Table[T]) Get(ctx context.Context, id string) (Doc[T], error) {
	r, err := t.Store.Record(ctx, t.Kind, id)
	if err != nil {
		return Doc[T]{}, fmt.Errorf("%s %q: %w", t.Kind, id, err)
	}
	return decode[T](r)
}

// Put writes d; d.Rev is the revision that must be there, as for PutRecord.
func (t Table[T]) Put(ctx context.Context, d *Doc[T]) error {
	return t.put(ctx, d, d.Rev)
}

// Force writes d whatever is there.
func (t Table[T]) Force(ctx context.Context, d *Doc[T]) error {
	return t.put(ctx, d, AnyRev)
}

func (t Table[T]) put(ctx context.Context, d *Doc[T], ifRev int64) error {
	b, err := json.Marshal(d.Value)
	if err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	d.Kind, d.Data, d.Updated = t.Kind, b, now
	if d.Created.IsZero() {
		d.Created = now
	}
	rev, err := t.Store.PutRecord(ctx, d.Record, ifRev)
	if err != nil {
		return fmt.Errorf("cannot write %s %q: %w", t.Kind, d.ID, err)
	}
	d.Rev = rev
	return nil
}

// Delete removes one.
func (t Table[T]) Delete(ctx context.Context, id string, ifRev int64) error {
	if err := t.Store.DeleteRecord(ctx, t.Kind, id, ifRev); err != nil {
		return fmt.Errorf("cannot delete %s %q: %w", t.Kind, id, err)
	}
	return nil
}

// List reads a page.
func (t Table[T]) List(ctx context.Context, ref string, p Page) ([]Doc[T], error) {
	list, err := t.Store.Records(ctx, t.Kind, ref, p)
	if err != nil {
		return nil, fmt.Errorf("cannot list %ss: %w", t.Kind, err)
	}
	out := make([]Doc[T], 0, len(list))
	for _, r := range list {
		d, err := decode[T](r)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// All reads every one; for kinds that are few.
func (t Table[T]) All(ctx context.Context, ref string) ([]Doc[T], error) {
	var out []Doc[T]
	for after := ""; ; {
		list, err := t.List(ctx, ref, Page{After: after, Limit: 500})
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
		if len(list) < 500 {
			return out, nil
		}
		after = list[len(list)-1].ID
	}
}

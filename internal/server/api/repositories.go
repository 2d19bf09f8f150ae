package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ascend/internal/backup"
	"ascend/internal/server/auth"
	"ascend/internal/server/records"
)

// Repository is a folder of backups on the server.
type Repository struct {
	ID      string     `json:"id"`
	Path    string     `json:"path" doc:"a folder on the server's machine"`
	Note    string     `json:"note,omitempty"`
	Backups int        `json:"backups" doc:"found at the last scan"`
	Faulty  int        `json:"faulty" doc:"of them, those that cannot be restored"`
	Scanned *time.Time `json:"scanned,omitempty"`
	Error   string     `json:"error,omitempty" doc:"of the last scan"`
	Scan    Scan       `json:"scan"`
	Created time.Time  `json:"created"`
	Updated time.Time  `json:"updated"`
}

// Scan is a look through a repository, under way or done.
type Scan struct {
	Running bool       `json:"running"`
	Phase   string     `json:"phase,omitempty" enum:"waiting,reading,storing"`
	Started *time.Time `json:"started,omitempty"`
}

// StoredRepository is a repository as the store has it.
type StoredRepository struct {
	Path    string    `json:"path"`
	Note    string    `json:"note,omitempty"`
	Backups int       `json:"backups"`
	Faulty  int       `json:"faulty"`
	Scanned time.Time `json:"scanned,omitzero"`
	Error   string    `json:"error,omitempty"`
}

// Scanner looks through repositories in the background, one at a time.
type Scanner struct {
	Table records.Table[StoredRepository]
	log   *slog.Logger
	wake  chan struct{}

	mu    sync.Mutex
	scans map[string]*Scan
	queue []string
}

// NewScanner makes a scanner.
func NewScanner(s records.Store, log *slog.Logger) *Scanner {
	return &Scanner{Table: records.Table[StoredRepository]{Store: s, Kind: "repository"}, log: log, wake: make(chan struct{}, 1), scans: map[string]*Scan{}}
}

// Scan has a repository looked through; one that is waiting already is not twice.
func (s *Scanner) Scan(id string) Scan {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.scans[id]; c != nil {
		return *c
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	c := &Scan{Running: true, Phase: "waiting", Started: &now}
	s.scans[id] = c
	s.queue = append(s.queue, id)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return *c
}

func (s *Scanner) state(id string) Scan {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.scans[id]; c != nil {
		return *c
	}
	return Scan{}
}

func (s *Scanner) phase(id, phase string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.scans[id]; c != nil {
		c.Phase = phase
	}
}

// Run scans what is asked for, and at first every repository that was never
// looked through or whose scan the last stop cut short, until ctx ends.
func (s *Scanner) Run(ctx context.Context) {
	all, err := s.Table.All(ctx, "")
	if err != nil && ctx.Err() == nil {
		s.log.Warn("cannot list repositories", "error", err)
	}
	for _, d := range all {
		if d.Value.Scanned.IsZero() {
			s.Scan(d.ID)
		}
	}
	for {
		s.mu.Lock()
		id := ""
		if len(s.queue) > 0 {
			id, s.queue = s.queue[0], s.queue[1:]
		}
		s.mu.Unlock()
		if id == "" {
			select {
			case <-ctx.Done():
				return
			case <-s.wake:
			}
			continue
		}
		if err := s.scan(ctx, id); err != nil && ctx.Err() == nil {
			s.log.Warn("cannot scan the repository", "repository", id, "error", err)
		}
		s.mu.Lock()
		delete(s.scans, id)
		s.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
	}
}

func (s *Scanner) scan(ctx context.Context, id string) error {
	d, err := s.Table.Get(ctx, id)
	if err != nil {
		return err
	}
	s.phase(id, "reading")
	rows, err := readBackups(ctx, id, d.Value.Path)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		s.phase(id, "storing")
		err = s.Table.Store.ReplaceBackups(ctx, id, rows)
	}
	for {
		if d, gerr := s.Table.Get(ctx, id); gerr == nil {
			d.Value.Scanned, d.Value.Error = time.Now().UTC().Truncate(time.Second), ""
			if err != nil {
				d.Value.Error = err.Error()
			} else {
				d.Value.Backups, d.Value.Faulty = len(rows), 0
				for _, b := range rows {
					if b.Fault != "" {
						d.Value.Faulty++
					}
				}
			}
			perr := s.Table.Put(ctx, &d)
			if errors.Is(perr, records.ErrConflict) {
				continue
			}
			return errors.Join(err, perr)
		}
		return err
	}
}

func readBackups(ctx context.Context, id, path string) ([]records.Backup, error) {
	r, err := backup.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	list, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	rows := make([]records.Backup, 0, len(list))
	for _, b := range list {
		rows = append(rows, records.Backup{Repository: id, Backup: b})
	}
	return rows, nil
}

func (a *API) repositoryOf(d records.Doc[StoredRepository]) Repository {
	v := d.Value
	r := Repository{ID: d.ID, Path: v.Path, Note: v.Note, Backups: v.Backups, Faulty: v.Faulty, Error: v.Error, Scan: a.Scanner.state(d.ID), Created: d.Created, Updated: d.Updated}
	if !v.Scanned.IsZero() {
		r.Scanned = &v.Scanned
	}
	return r
}

func checkFolder(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", notValid("body.path", "the path is not absolute")
	}
	path = filepath.Clean(path)
	st, err := os.Stat(path)
	if err != nil || !st.IsDir() {
		return "", notValid("body.path", "there is no such folder on the server's machine")
	}
	return path, nil
}

func (a *API) repositories() {
	t := a.Scanner.Table
	add(a, op{method: "GET", path: "/repositories", id: "list-repositories", summary: "Folders of backups", tag: "backups", role: auth.Viewer},
		func(ctx context.Context, in *PageIn) (*List[Repository], error) {
			return page(ctx, t, "", *in, false, a.repositoryOf)
		})
	add(a, op{method: "POST", path: "/repositories", id: "create-repository", summary: "Add a folder of backups; it is scanned in the background", tag: "backups", role: auth.Admin, status: http.StatusCreated, maxBody: 64 << 10},
		func(ctx context.Context, in *struct {
			Body struct {
				ID   string `json:"id" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$" maxLength:"63" doc:"a short name"`
				Path string `json:"path" minLength:"1" maxLength:"4096" doc:"a folder on the server's machine"`
				Note string `json:"note,omitempty" maxLength:"1000"`
			}
		}) (*Created[Repository], error) {
			path, err := checkFolder(in.Body.Path)
			if err != nil {
				return nil, err
			}
			d := records.Doc[StoredRepository]{Record: records.Record{ID: in.Body.ID}, Value: StoredRepository{Path: path, Note: in.Body.Note}}
			if err := t.Put(ctx, &d); err != nil {
				return nil, taken(err, "repository", d.ID)
			}
			a.Scanner.Scan(d.ID)
			return &Created[Repository]{Prefix + "/repositories/" + d.ID, tagOf(d.Rev), a.repositoryOf(d)}, a.audit(ctx, "repository.create", d.ID, "path", path)
		})
	add(a, op{method: "GET", path: "/repositories/{id}", id: "get-repository", summary: "A folder of backups and its scan", tag: "backups", role: auth.Viewer, errors: []int{404}},
		func(ctx context.Context, in *ID) (*One[Repository], error) {
			d, err := t.Get(ctx, in.ID)
			return &One[Repository]{Body: a.repositoryOf(d)}, err
		})
	add(a, op{method: "DELETE", path: "/repositories/{id}", id: "delete-repository", summary: "Forget a folder of backups; its files stay", tag: "backups", role: auth.Admin, status: 204, errors: []int{404}},
		func(ctx context.Context, in *ID) (*struct{}, error) {
			if err := a.Store.ReplaceBackups(ctx, in.ID, nil); err != nil {
				return nil, err
			}
			if err := t.Delete(ctx, in.ID, records.AnyRev); err != nil {
				return nil, err
			}
			return nil, a.audit(ctx, "repository.delete", in.ID)
		})
	add(a, op{method: "POST", path: "/repositories/{id}/scan", id: "scan-repository", summary: "Look through a repository again", tag: "backups", role: auth.Operator, status: http.StatusAccepted, errors: []int{404}},
		func(ctx context.Context, in *ID) (*One[Scan], error) {
			if _, err := t.Get(ctx, in.ID); err != nil {
				return nil, err
			}
			return &One[Scan]{Body: a.Scanner.Scan(in.ID)}, a.audit(ctx, "repository.scan", in.ID)
		})
}

func taken(err error, what, id string) error {
	if errors.Is(err, records.ErrConflict) {
		return newProblem(http.StatusConflict, "name-taken", fmt.Sprintf("there is a %s %q already", what, id), "choose another name, or change that one")
	}
	return err
}

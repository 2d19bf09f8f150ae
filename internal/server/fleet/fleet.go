// Package fleet knows the workers that carry jobs out where there are many
// machines: each says about every five seconds where it stands, what it reaches
// and how much it has to do, in a record that all share; and a job goes to the
// site that suits it best.
package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ascend/internal/server/records"
)

// Worker is what a worker says of itself.
type Worker struct {
	Site    string   `json:"site" doc:"jobs are given to sites; the workers of one share them"`
	Host    string   `json:"host"`
	PID     int      `json:"pid"`
	Version string   `json:"version"`
	Driver  int      `json:"driver" doc:"the version of the part that decides what comes next in a job: jobs are decided by workers of the highest"`
	Regions []string `json:"regions,omitempty" doc:"of clouds that are near"`
	// Repositories that can be read here, by their ids.
	Repositories []string  `json:"repositories" nullable:"false"`
	Jobs         int       `json:"jobs" doc:"held now"`
	Capacity     int       `json:"capacity" doc:"jobs at once"`
	Draining     bool      `json:"draining" doc:"takes no more jobs and ends after its last"`
	Started      time.Time `json:"started"`
	Seen         time.Time `json:"seen" doc:"its last sign of life, by its clock"`
}

// Listed is a worker with its id and whether it counts as alive.
type Listed struct {
	ID    string `json:"id"`
	Alive bool   `json:"alive"`
	Worker
}

// States of a worker.
const (
	Alive    = "alive"
	Draining = "draining"
	Lost     = "lost"
)

// State is a worker's in a word.
func (l *Listed) State() string {
	switch {
	case !l.Alive:
		return Lost
	case l.Draining:
		return Draining
	}
	return Alive
}

// Times of signs of life.
const (
	Every = 5 * time.Second
	// lost is after how long without one a worker gets no jobs; the clocks of all
	// machines agree to within some seconds.
	lost = 30 * time.Second
	// kept is how long one that is lost is still shown.
	kept = time.Hour
)

// Fleet is the table of workers.
type Fleet struct {
	workers records.Table[Worker]
	orders  records.Table[order]
}

// order is what a worker is told.
type order struct {
	Drain bool `json:"drain"`
}

// New makes one.
func New(s records.Store) *Fleet {
	return &Fleet{records.Table[Worker]{Store: s, Kind: "worker"}, records.Table[order]{Store: s, Kind: "worker-order"}}
}

// Beat writes a worker's sign of life, and tells whether it is to drain.
func (f *Fleet) Beat(ctx context.Context, id string, w Worker) (drain bool, err error) {
	w.Seen = time.Now().UTC().Truncate(time.Millisecond)
	d := records.Doc[Worker]{Record: records.Record{ID: id, Ref: w.Site, Expires: w.Seen.Add(kept)}, Value: w}
	if err := f.workers.Force(ctx, &d); err != nil {
		return false, err
	}
	o, err := f.orders.Get(ctx, id)
	if errors.Is(err, records.ErrNotFound) {
		return false, nil
	}
	return o.Value.Drain, err
}

// Leave forgets a worker that ends.
func (f *Fleet) Leave(ctx context.Context, id string) error {
	for _, err := range []error{f.workers.Delete(ctx, id, records.AnyRev), f.orders.Delete(ctx, id, records.AnyRev)} {
		if err != nil && !errors.Is(err, records.ErrNotFound) {
			return err
		}
	}
	return nil
}

// Drain tells a worker to take no more jobs and to end after its last.
func (f *Fleet) Drain(ctx context.Context, id string) error {
	w, err := f.workers.Get(ctx, id)
	if err != nil {
		return err
	}
	d := records.Doc[order]{Record: records.Record{ID: id, Ref: w.Value.Site, Expires: time.Now().UTC().Add(7 * 24 * time.Hour)}, Value: order{Drain: true}}
	return f.orders.Force(ctx, &d)
}

// List lists workers by site and id.
func (f *Fleet) List(ctx context.Context) ([]Listed, error) {
	all, err := f.workers.All(ctx, "")
	if err != nil {
		return nil, err
	}
	out := make([]Listed, 0, len(all))
	for _, d := range all {
		out = append(out, Listed{d.ID, time.Since(d.Value.Seen) < lost, d.Value})
	}
	slices.SortFunc(out, func(a, b Listed) int { return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

// Need is what a job needs of the site that carries it out.
type Need struct {
	Repository string // its id; must be readable there. Empty: none is read
	Region     string // of the target; better near, when not empty
	Site       string // asked for; empty: any
	// Load is how many unfinished jobs each site has.
	Load map[string]int
}

// ErrNoSite: no site can carry the job out.
var ErrNoSite = errors.New("no worker can carry this restore out")

// Place chooses the site of a job: among those with a live worker that reads the
// repository and takes jobs, those near the target's region go before others, and
// then the one with the least to do for what it can.
func Place(workers []Listed, n Need) (string, error) {
	type site struct {
		name     string
		near     bool
		capacity int
	}
	sites := map[string]*site{}
	alive, draining := 0, 0
	for _, w := range workers {
		if !w.Alive || n.Site != "" && w.Site != n.Site {
			continue
		}
		alive++
		if w.Draining {
			draining++
			continue
		}
		if n.Repository != "" && !slices.Contains(w.Repositories, n.Repository) {
			continue
		}
		s := sites[w.Site]
		if s == nil {
			s = &site{name: w.Site}
			sites[w.Site] = s
		}
		s.capacity += max(w.Capacity, 1)
		s.near = s.near || n.Region != "" && slices.ContainsFunc(w.Regions, func(r string) bool { return strings.EqualFold(r, n.Region) })
	}
	var best *site
	for _, s := range sites {
		if best == nil || better(s.near, best.near, n.Load[s.name]*best.capacity, n.Load[best.name]*s.capacity, s.name < best.name) {
			best = s
		}
	}
	if best != nil {
		return best.name, nil
	}
	where := ""
	if n.Site != "" {
		where = " of site " + n.Site
	}
	switch alive {
	case 0:
		return "", fmt.Errorf("%w: no worker%s is alive", ErrNoSite, where)
	case draining:
		return "", fmt.Errorf("%w: every worker%s is draining", ErrNoSite, where)
	}
	return "", fmt.Errorf("%w: no worker%s can read the repository %s", ErrNoSite, where, n.Repository)
}

func better(near, bestNear bool, load, bestLoad int, first bool) bool {
	switch {
	case near != bestNear:
		return near
	case load != bestLoad:
		return load < bestLoad
	}
	return first
}

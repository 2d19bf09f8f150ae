package fleet_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"ascend/internal/server/fleet"
	"ascend/internal/server/storage"
	"ascend/internal/store"
	"ascend/internal/store/storetest"
)

func worker(id, site, repos string, change func(w *fleet.Listed)) fleet.Listed {
	w := fleet.Listed{ID: id, Alive: true, Worker: fleet.Worker{Site: site, Capacity: 2, Repositories: strings.Fields(repos)}}
	if change != nil {
		change(&w)
	}
	return w
}

func TestPlace(t *testing.T) {
	dead := func(w *fleet.Listed) { w.Alive = false }
	draining := func(w *fleet.Listed) { w.Draining = true }
	in := func(region string) func(w *fleet.Listed) {
		return func(w *fleet.Listed) { w.Regions = []string{region} }
	}
	big := func(w *fleet.Listed) { w.Capacity = 8 }
	for _, c := range []struct {
		name    string
		workers []fleet.Listed
		need    fleet.Need
		want    string // or the error's words
	}{
		{"by reach", []fleet.Listed{worker("1", "a", "x", nil), worker("2", "b", "y", nil)}, fleet.Need{Repository: "y"}, "b"},
		{"a dead one reaches nothing", []fleet.Listed{worker("1", "a", "x", nil), worker("2", "b", "y", dead)}, fleet.Need{Repository: "y"}, "can read the repository y"},
		{"nor does a draining one", []fleet.Listed{worker("1", "a", "x", draining)}, fleet.Need{Repository: "x"}, "every worker is draining"},
		{"nobody", nil, fleet.Need{Repository: "x"}, "no worker is alive"},
		{"nobody of the site", []fleet.Listed{worker("1", "a", "x", nil)}, fleet.Need{Repository: "x", Site: "c"}, "of site c is alive"},
		{"by load for capacity", []fleet.Listed{worker("1", "a", "x", nil), worker("2", "b", "x", big)}, fleet.Need{Repository: "x", Load: map[string]int{"a": 1, "b": 3}}, "b"},
		{"workers of a site add up", []fleet.Listed{worker("1", "a", "x", nil), worker("2", "b", "x", nil), worker("3", "b", "x", nil)}, fleet.Need{Repository: "x", Load: map[string]int{"a": 2, "b": 3}}, "b"},
		{"near before idle", []fleet.Listed{worker("1", "a", "x", nil), worker("2", "b", "x", in("eu-central-1"))}, fleet.Need{Repository: "x", Region: "EU-central-1", Load: map[string]int{"b": 9}}, "b"},
		{"reach before near", []fleet.Listed{worker("1", "a", "x", nil), worker("2", "b", "y", in("r"))}, fleet.Need{Repository: "x", Region: "r"}, "a"},
		{"as asked", []fleet.Listed{worker("1", "a", "x", nil), worker("2", "b", "x", nil)}, fleet.Need{Repository: "x", Site: "b", Load: map[string]int{"b": 9}}, "b"},
		{"equal: by name", []fleet.Listed{worker("2", "b", "x", nil), worker("1", "a", "x", nil)}, fleet.Need{Repository: "x"}, "a"},
	} {
		got, err := fleet.Place(c.workers, c.need)
		if err != nil && (!errors.Is(err, fleet.ErrNoSite) || !strings.Contains(err.Error(), c.want)) || err == nil && got != c.want {
			t.Errorf("%s: %q %v, not %q", c.name, got, err, c.want)
		}
	}
}

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

func TestTable(t *testing.T) {
	ctx := t.Context()
	f := fleet.New(storage.New(storetest.Open(t, store.SQLite, store.Options{})))
	if drain, err := f.Beat(ctx, "w1", fleet.Worker{Site: "north", Repositories: []string{"main"}, Capacity: 4}); err != nil || drain {
		t.Fatal(drain, err)
	}
	all, err := f.List(ctx)
	if err != nil || len(all) != 1 || !all[0].Alive || all[0].Site != "north" {
		t.Fatalf("%+v %v", all, err)
	}
	if err := f.Drain(ctx, "nobody"); err == nil {
		t.Error("drained nobody")
	}
	if err := f.Drain(ctx, "w1"); err != nil {
		t.Fatal(err)
	}
	if drain, err := f.Beat(ctx, "w1", fleet.Worker{Site: "north"}); err != nil || !drain {
		t.Error("not told to drain", err)
	}
	if err := errors.Join(f.Leave(ctx, "w1"), f.Leave(ctx, "w1")); err != nil {
		t.Error(err)
	}
	if all, err := f.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("%+v %v", all, err)
	}
	if drain, err := f.Beat(ctx, "w1", fleet.Worker{Site: "north"}); err != nil || drain {
		t.Error("one that comes back is not draining", err)
	}
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"ascend/internal/prices"
	"ascend/internal/restore"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// inventoryAge is how long what a target said is taken to hold for a plan that
// changes nothing.
const inventoryAge = time.Hour

// inventoryFile is where what a target has is remembered. Names are escaped:
// local:/dir and vc1 each are one file name.
func (a *app) inventoryFile(name string) string {
	return filepath.Join(a.state(), "inventory", url.QueryEscape(name)+".json")
}

// inventory asks a target what it has, and remembers it; with cached, what it
// said within the hour will do. Folders of this machine are always asked.
func (a *app) inventory(ctx context.Context, t target.Target, s target.Settings, cached bool) (*target.Inventory, error) {
	if s.Platform == vm.Local {
		return t.Inventory(ctx)
	}
	if cached {
		if inv := a.remembered(s); inv != nil {
			return inv, nil
		}
	}
	inv, err := t.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	a.remember(s, inv)
	return inv, nil
}

// memory is the file: what a target said, and with which settings it was asked.
type memory struct {
	Platform  vm.Platform       `json:"platform"`
	Settings  map[string]string `json:"settings"`
	Inventory *target.Inventory `json:"inventory"`
}

func (a *app) remembered(s target.Settings) *target.Inventory {
	b, err := os.ReadFile(a.inventoryFile(s.Name))
	var m memory
	if err != nil || json.Unmarshal(b, &m) != nil || m.Inventory == nil || m.Platform != s.Platform || fmt.Sprint(m.Settings) != fmt.Sprint(s.Values) {
		return nil
	}
	if age := time.Since(m.Inventory.Asked); age < 0 || age > inventoryAge {
		return nil
	}
	return m.Inventory
}

// remember is best effort: without it the target is asked every time.
func (a *app) remember(s target.Settings, inv *target.Inventory) {
	if inv.Asked.IsZero() {
		inv.Asked = time.Now()
	}
	b, err := json.Marshal(memory{s.Platform, s.Values, inv})
	if err != nil {
		return
	}
	path := a.inventoryFile(s.Name)
	if os.MkdirAll(filepath.Dir(path), 0o700) == nil && os.WriteFile(path+".new", b, 0o600) == nil {
		_ = os.Rename(path+".new", path)
	}
}

// age says how old what is known of a target is.
func (a *app) age(s target.Settings) {
	if inv := a.remembered(s); inv != nil {
		if old := time.Since(inv.Asked).Round(time.Second); old > time.Second {
			a.note("what %s has was asked %s ago; ask again with --refresh", s.Name, old)
		}
	}
}

// prices is the book of prices: built in, updated, and the rate card.
func (a *app) prices(card string) (*prices.Book, error) {
	b, err := prices.Open(a.pricesDir())
	if err != nil {
		return nil, withHint(err, "remove the file to use the built-in prices")
	}
	if card == "" {
		cfg, err := a.config()
		if err != nil {
			return nil, err
		}
		card = cfg.Rates
	}
	if card == "" {
		return b, nil
	}
	data, err := os.ReadFile(expandHome(card))
	if err != nil {
		return nil, fmt.Errorf("cannot read rate card: %w", err)
	}
	if b.Rates, err = prices.ParseRateCard(data); err != nil {
		return nil, fmt.Errorf("%s: %w", card, err)
	}
	return b, nil
}

func (a *app) pricesDir() string { return filepath.Join(a.state(), "prices") }

// measured is the rate of earlier jobs to a target: bytes sent over the time
// from the first byte of the first disk to the last of the last, of the newest
// ten jobs.
func (a *app) measured(name string) (rate int64, jobs int) {
	if _, err := os.Stat(filepath.Join(a.state(), databaseName)); err != nil {
		return 0, 0 // no job was ever begun here
	}
	s, err := a.jobs()
	if err != nil {
		return 0, 0
	}
	defer s.close()
	ctx := context.Background()
	all, err := s.Jobs(ctx, restore.Filter{Target: name, Statuses: []restore.Status{restore.Completed}, Limit: 10})
	if err != nil {
		return 0, 0
	}
	var bytes int64
	var took time.Duration
	for _, j := range all {
		b, err := s.Receipt(ctx, j.ID)
		if err != nil {
			continue
		}
		r, err := restore.ParseReceipt(b, nil)
		if err != nil {
			continue
		}
		var from, to time.Time
		var sent int64
		for _, d := range r.Disks {
			if from.IsZero() || d.Started.Before(from) {
				from = d.Started
			}
			if d.Finished.After(to) {
				to = d.Finished
			}
			sent += d.Sent
		}
		if span := to.Sub(from); sent >= 1<<20 && span > 0 && !from.IsZero() {
			bytes, took, jobs = bytes+sent, took+span, jobs+1
		}
	}
	if took <= 0 {
		return 0, 0
	}
	return max(int64(float64(bytes)/took.Seconds()), 1), jobs
}

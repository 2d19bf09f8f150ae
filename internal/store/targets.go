package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/uptrace/bun"

	"ascend/internal/vm"
)

// Target is one configured place to restore to.
type Target struct {
	bun.BaseModel `bun:"table:targets,alias:t"`

	ID           string          `bun:"id,pk"`
	Name         string          `bun:"name"` // unique
	Platform     vm.Platform     `bun:"platform"`
	Settings     json.RawMessage `bun:"settings,nullzero"`     // no secrets
	Secrets      []byte          `bun:"secrets,nullzero"`      // encrypted by the caller
	Capabilities json.RawMessage `bun:"capabilities,nullzero"` // as last seen
	Inventory    json.RawMessage `bun:"inventory,nullzero"`    // as last asked
	CheckedAt    time.Time       `bun:"checked_at,nullzero"`
	ErrorMessage string          `bun:"error_message,nullzero"` // of the last check
	Stamp
}

// CreateTarget stores a new target and fills its ID.
func (s *Store) CreateTarget(ctx context.Context, t *Target) error {
	if t.ID == "" {
		t.ID = NewID()
	}
	return insert(ctx, s, "add target "+t.Name, t, nil)
}

// UpdateTarget stores a changed target; see Stamp. What the last check saw stays.
func (s *Store) UpdateTarget(ctx context.Context, t *Target) error {
	return update(ctx, s, "change target "+t.Name, t, "capabilities", "inventory", "checked_at", "error_message")
}

// SetTargetSeen stores what a check of a target saw, without a new version;
// nil leaves capabilities or inventory as they were.
func (s *Store) SetTargetSeen(ctx context.Context, id string, capabilities, inventory json.RawMessage, problem string) error {
	return s.tx(ctx, "store the target's check", func(t *Store) error {
		q := t.db.NewUpdate().Model((*Target)(nil)).Where("id = ?", id).Set("checked_at = ?", now()).Set("error_message = ?", nullable(cut(problem, maxText)))
		if capabilities != nil {
			q = q.Set("capabilities = ?", string(capabilities))
		}
		if inventory != nil {
			q = q.Set("inventory = ?", string(inventory))
		}
		_, err := q.Exec(ctx)
		return err
	})
}

// Target returns one by ID or name.
func (s *Store) Target(ctx context.Context, idOrName string) (*Target, error) {
	return get[Target](ctx, s, "find target "+cut(idOrName, 80), "id = ? OR name = ?", idOrName, idOrName)
}

// Targets lists all by name.
func (s *Store) Targets(ctx context.Context) ([]Target, error) {
	return all[Target](ctx, s, "list targets", "name", "1 = 1")
}

// DeleteTarget removes a target with its grants and mapping sets. version 0:
// whatever its version.
func (s *Store) DeleteTarget(ctx context.Context, id string, version int64) error {
	return removeVersion[Target](ctx, s, "delete the target", id, version)
}

// MappingSet is a named mapping of networks and storage.
type MappingSet struct {
	bun.BaseModel `bun:"table:mapping_sets,alias:m"`

	ID       string          `bun:"id,pk"`
	Name     string          `bun:"name"` // unique
	TargetID string          `bun:"target_id,nullzero"`
	Body     json.RawMessage `bun:"body"`
	Stamp
}

// CreateMappingSet stores a new mapping set and fills its ID.
func (s *Store) CreateMappingSet(ctx context.Context, m *MappingSet) error {
	if m.ID == "" {
		m.ID = NewID()
	}
	return insert(ctx, s, "add mapping set "+m.Name, m, nil)
}

// UpdateMappingSet stores a changed mapping set; see Stamp.
func (s *Store) UpdateMappingSet(ctx context.Context, m *MappingSet) error {
	return update(ctx, s, "change mapping set "+m.Name, m)
}

// MappingSet returns one by ID or name.
func (s *Store) MappingSet(ctx context.Context, idOrName string) (*MappingSet, error) {
	return get[MappingSet](ctx, s, "find mapping set "+cut(idOrName, 80), "id = ? OR name = ?", idOrName, idOrName)
}

// MappingSets lists all by name.
func (s *Store) MappingSets(ctx context.Context) ([]MappingSet, error) {
	return all[MappingSet](ctx, s, "list mapping sets", "name", "1 = 1")
}

// DeleteMappingSet removes a mapping set. version 0: whatever its version.
func (s *Store) DeleteMappingSet(ctx context.Context, id string, version int64) error {
	return removeVersion[MappingSet](ctx, s, "delete the mapping set", id, version)
}

// Plan is a stored plan: what a restore would do.
type Plan struct {
	bun.BaseModel `bun:"table:plans,alias:p"`

	ID         string          `bun:"id,pk"`
	Name       string          `bun:"name"`
	VMName     string          `bun:"vm_name"`
	TargetName string          `bun:"target_name"`
	CreatedBy  string          `bun:"created_by"`
	Body       json.RawMessage `bun:"body"` // not in lists
	CreatedAt  time.Time       `bun:"created_at"`
}

// CreatePlan stores a plan and fills its ID, if empty.
func (s *Store) CreatePlan(ctx context.Context, p *Plan) error {
	if p.ID == "" {
		p.ID = NewID()
	}
	p.CreatedAt = now()
	return s.tx(ctx, "store the plan", func(t *Store) error {
		if ok, err := t.db.NewSelect().Model(p).WherePK().Exists(ctx); err != nil || ok {
			return err
		}
		_, err := t.db.NewInsert().Model(p).Exec(ctx)
		return err
	})
}

// Plan returns one by ID.
func (s *Store) Plan(ctx context.Context, id string) (*Plan, error) {
	return get[Plan](ctx, s, "find plan "+cut(id, 80), "id = ?", id)
}

// Plans lists plans, without Body, the newest first; at most limit.
func (s *Store) Plans(ctx context.Context, limit int) ([]Plan, error) {
	var rows []Plan
	err := s.read(ctx, "list plans", func(ctx context.Context) error {
		rows = nil
		return s.db.NewSelect().Model(&rows).ExcludeColumn("body").OrderExpr("created_at DESC, id DESC").Limit(Page{Limit: limit}.limit()).Scan(ctx)
	})
	return rows, err
}

// DeletePlan removes a plan; ErrInUse while a job has it.
func (s *Store) DeletePlan(ctx context.Context, id string) error {
	return remove[Plan](ctx, s, "delete the plan", "id = ?", id)
}

type rateRow struct {
	bun.BaseModel `bun:"table:rates,alias:r"`

	ID         string    `bun:"id,pk"`
	Target     string    `bun:"target"`
	Kind       string    `bun:"kind"`
	Bytes      int64     `bun:"bytes"`
	DurationMS int64     `bun:"duration_ms"`
	CreatedAt  time.Time `bun:"created_at"`
}

// ratesKept is how many measurements a rate is computed from.
const ratesKept = 10

// RecordRate stores that a transfer of a kind to a target moved so many bytes
// in a time. Measurements of less than a second or a MiB say nothing and are
// left out.
func (s *Store) RecordRate(ctx context.Context, target, kind string, bytes int64, d time.Duration) error {
	if d < time.Second || bytes < 1<<20 {
		return nil
	}
	row := &rateRow{ID: NewID(), Target: cut(target, maxName), Kind: kind, Bytes: bytes, DurationMS: d.Milliseconds(), CreatedAt: now()}
	return s.tx(ctx, "store the rate", func(t *Store) error {
		if _, err := t.db.NewInsert().Model(row).Exec(ctx); err != nil {
			return err
		}
		var old []string
		err := t.db.NewSelect().Model((*rateRow)(nil)).Column("id").Where("target = ? AND kind = ?", row.Target, kind).
			OrderExpr("id DESC").Offset(ratesKept).Limit(100).Scan(ctx, &old)
		if err != nil || len(old) == 0 {
			return err
		}
		_, err = t.db.NewDelete().Model((*rateRow)(nil)).Where("id IN (?)", bun.In(old)).Exec(ctx)
		return err
	})
}

// Rate is the rate of the last transfers of a kind to a target, in bytes a
// second; 0 when none was measured.
func (s *Store) Rate(ctx context.Context, target, kind string) (float64, error) {
	rows, err := all[rateRow](ctx, s, "read the rate", "id", "target = ? AND kind = ?", cut(target, maxName), kind)
	var bytes, ms int64
	for _, r := range rows {
		bytes += r.Bytes
		ms += r.DurationMS
	}
	if err != nil || ms == 0 {
		return 0, err
	}
	return float64(bytes) / (float64(ms) / 1000), nil
}

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"ascend/internal/plan"
	"ascend/internal/secret"
	"ascend/internal/server/auth"
	"ascend/internal/server/records"
	"ascend/internal/target"
	"ascend/internal/vault"
	"ascend/internal/vm"
)

// Target is a place that machines are restored to. Its secrets are written and
// never read.
type Target struct {
	ID       string            `json:"id"`
	Platform vm.Platform       `json:"platform"`
	Note     string            `json:"note,omitempty"`
	Settings map[string]string `json:"settings" nullable:"false"`
	Secrets  []string          `json:"secrets" nullable:"false" doc:"the names of the secrets that are set"`
	Role     auth.Role         `json:"role,omitempty" doc:"what I may do here"`
	Checked  *time.Time        `json:"checked,omitempty" doc:"when it was validated last"`
	Healthy  *bool             `json:"healthy,omitempty" doc:"whether every check passed then"`
	Created  time.Time         `json:"created"`
	Updated  time.Time         `json:"updated"`
}

// StoredTarget is a target as the store has it: its secrets are sealed.
type StoredTarget struct {
	Platform vm.Platform       `json:"platform"`
	Note     string            `json:"note,omitempty"`
	Settings map[string]string `json:"settings"`
	Names    []string          `json:"names,omitempty"` // of the secrets
	Sealed   []byte            `json:"sealed,omitempty"`
	Checked  time.Time         `json:"checked,omitzero"`
	Healthy  bool              `json:"healthy,omitempty"`
}

func (s *StoredTarget) ref(id string) plan.TargetRef {
	return plan.TargetRef{Name: id, Platform: s.Platform}
}

// Targets opens stored targets. Safe for concurrent use.
type Targets struct {
	Table    records.Table[StoredTarget]
	vault    *vault.Vault
	registry *target.Registry
}

// NewTargets makes a Targets.
func NewTargets(s records.Store, v *vault.Vault, r *target.Registry) *Targets {
	return &Targets{records.Table[StoredTarget]{Store: s, Kind: "target"}, v, r}
}

func (t *Targets) seal(id string, s *StoredTarget, secrets map[string]secret.String) error {
	plain := map[string]string{}
	for k, v := range secrets {
		if !v.Empty() {
			plain[k] = v.Reveal()
		}
	}
	s.Names = slices.Sorted(maps.Keys(plain))
	b, err := json.Marshal(plain)
	if err == nil {
		s.Sealed, err = t.vault.Seal("target "+id, b)
	}
	return err
}

func (t *Targets) unseal(id string, s *StoredTarget) (map[string]secret.String, bool, error) {
	out := map[string]secret.String{}
	if len(s.Sealed) == 0 {
		return out, false, nil
	}
	b, stale, err := t.vault.Open("target "+id, s.Sealed)
	if err != nil {
		return nil, false, err
	}
	plain := map[string]string{}
	if err := json.Unmarshal(b, &plain); err != nil {
		return nil, false, fmt.Errorf("cannot read the secrets of target %s", id)
	}
	for k, v := range plain {
		out[k] = secret.New(v)
	}
	return out, stale, nil
}

// Rotate seals every target's secrets with the vault's first key.
func (t *Targets) Rotate(ctx context.Context) (int, error) {
	all, err := t.Table.All(ctx, "")
	n := 0
	for _, d := range all {
		if len(d.Value.Sealed) == 0 {
			continue
		}
		s, stale, err := t.unseal(d.ID, &d.Value)
		if err != nil {
			return n, err
		}
		if !stale {
			continue
		}
		if err := t.seal(d.ID, &d.Value, s); err != nil {
			return n, err
		}
		if err := t.Table.Put(ctx, &d); err != nil {
			return n, err
		}
		n++
	}
	return n, err
}

// Open connects to a stored target. The caller closes it.
func (t *Targets) Open(ctx context.Context, id string) (target.Target, records.Doc[StoredTarget], error) {
	d, err := t.Table.Get(ctx, id)
	if err != nil {
		return nil, d, err
	}
	s, _, err := t.unseal(id, &d.Value)
	if err != nil {
		return nil, d, err
	}
	tgt, err := t.connect(ctx, id, &d.Value, s)
	return tgt, d, err
}

// Region is where a target is, as far as its settings say; else empty.
func (t *Targets) Region(ctx context.Context, id string) string {
	d, err := t.Table.Get(ctx, id)
	if err != nil {
		return "" // a job is as well carried out from afar
	}
	for _, key := range []string{"region", "location"} {
		if r := d.Value.Settings[key]; r != "" {
			return r
		}
	}
	return ""
}

func (t *Targets) connect(ctx context.Context, id string, s *StoredTarget, secrets map[string]secret.String) (target.Target, error) {
	tgt, err := t.registry.Open(ctx, target.Settings{Name: id, Platform: s.Platform, Values: s.Settings, Secrets: secrets})
	if err != nil {
		return nil, fmt.Errorf("%w: cannot open target %s: %w", errTarget, id, err)
	}
	return tgt, nil
}

// check refuses settings that the platform does not know or lacks.
func (t *Targets) check(s *StoredTarget, secrets map[string]secret.String) error {
	k, err := t.registry.Kind(s.Platform)
	if err != nil {
		return notValid("body.platform", "%v", err)
	}
	for name := range s.Settings {
		i := slices.IndexFunc(k.Settings, func(f target.Setting) bool { return f.Name == name })
		if i < 0 {
			return notValid("body.settings."+name, "%s has no setting %q", s.Platform, name)
		}
		if k.Settings[i].Secret {
			return notValid("body.settings."+name, "%s is a secret: put it under secrets", name)
		}
	}
	for name := range secrets {
		if !slices.ContainsFunc(k.Settings, func(f target.Setting) bool { return f.Name == name && f.Secret }) {
			return notValid("body.secrets."+name, "%s has no secret %q", s.Platform, name)
		}
	}
	for _, f := range k.Settings {
		if f.Required && s.Settings[f.Name] == "" && secrets[f.Name].Empty() {
			where := "settings"
			if f.Secret {
				where = "secrets"
			}
			return notValid("body."+where+"."+f.Name, "%s is missing: %s", f.Name, f.Help)
		}
	}
	return nil
}

// NewTarget is a target to be made.
type NewTarget struct {
	ID       string                   `json:"id" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$" maxLength:"63" doc:"a short name"`
	Platform vm.Platform              `json:"platform" maxLength:"32"`
	Note     string                   `json:"note,omitempty" maxLength:"1000"`
	Settings map[string]string        `json:"settings" doc:"by the platform's settings (GET /platforms)"`
	Secrets  map[string]secret.String `json:"secrets,omitempty" doc:"written, never read"`
}

// TargetChange is what is to be otherwise; absent fields stay, an empty secret is
// removed.
type TargetChange struct {
	Note     *string                  `json:"note,omitempty" maxLength:"1000"`
	Settings map[string]string        `json:"settings,omitempty" doc:"all of them"`
	Secrets  map[string]secret.String `json:"secrets,omitempty" doc:"those that are named; others stay"`
}

func (a *API) targetOf(ctx context.Context, d records.Doc[StoredTarget]) Target {
	v := d.Value
	t := Target{ID: d.ID, Platform: v.Platform, Note: v.Note, Settings: v.Settings, Secrets: v.Names, Role: auth.From(ctx).On(d.ID), Created: d.Created, Updated: d.Updated}
	if t.Settings == nil {
		t.Settings = map[string]string{}
	}
	if t.Secrets == nil {
		t.Secrets = []string{}
	}
	if !v.Checked.IsZero() {
		t.Checked, t.Healthy = &v.Checked, &v.Healthy
	}
	return t
}

// Checks is what a validation found.
type Checks struct {
	OK     bool           `json:"ok"`
	Checks []target.Check `json:"checks" nullable:"false"`
}

func validate(ctx context.Context, t target.Target) Checks {
	c := Checks{OK: true, Checks: t.Validate(ctx)}
	for _, k := range c.Checks {
		c.OK = c.OK && k.OK
	}
	if len(c.Checks) == 0 {
		c.OK, c.Checks = false, []target.Check{}
	}
	return c
}

// failed is the answer of a target that cannot even be opened.
func failed(err error) Checks {
	return Checks{Checks: []target.Check{{Name: "connect", Detail: err.Error(), Hint: "check the settings and the secrets"}}}
}

const askTime = 2 * time.Minute

func (a *API) targets() {
	t := a.Targets
	add(a, op{method: "GET", path: "/targets", id: "list-targets", summary: "Where machines are restored to", tag: "targets", role: auth.Viewer},
		func(ctx context.Context, in *PageIn) (*List[Target], error) {
			return page(ctx, t.Table, "", *in, false, func(d records.Doc[StoredTarget]) Target { return a.targetOf(ctx, d) })
		})
	add(a, op{method: "POST", path: "/targets", id: "create-target", summary: "Add a target", tag: "targets", role: auth.Admin, status: http.StatusCreated, maxBody: 256 << 10},
		func(ctx context.Context, in *struct{ Body NewTarget }) (*Created[Target], error) {
			b := in.Body
			d := records.Doc[StoredTarget]{Record: records.Record{ID: b.ID}, Value: StoredTarget{Platform: b.Platform, Note: b.Note, Settings: b.Settings}}
			if err := t.check(&d.Value, b.Secrets); err != nil {
				return nil, err
			}
			if err := t.seal(d.ID, &d.Value, b.Secrets); err != nil {
				return nil, err
			}
			if err := t.Table.Put(ctx, &d); err != nil {
				return nil, taken(err, "target", d.ID)
			}
			return &Created[Target]{Prefix + "/targets/" + d.ID, tagOf(d.Rev), a.targetOf(ctx, d)}, a.audit(ctx, "target.create", d.ID, "platform", string(b.Platform))
		})
	add(a, op{method: "POST", path: "/targets/validate", id: "validate-settings", summary: "Check a target before it is added; changes nothing anywhere", tag: "targets", role: auth.Admin, maxBody: 256 << 10},
		func(ctx context.Context, in *struct{ Body NewTarget }) (*One[Checks], error) {
			s := StoredTarget{Platform: in.Body.Platform, Settings: in.Body.Settings}
			if err := t.check(&s, in.Body.Secrets); err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, askTime)
			defer cancel()
			tgt, err := t.connect(ctx, in.Body.ID, &s, in.Body.Secrets)
			if err != nil {
				return &One[Checks]{Body: failed(err)}, nil
			}
			defer func() { _ = tgt.Close() }()
			return &One[Checks]{Body: validate(ctx, tgt)}, a.audit(ctx, "target.validate", in.Body.ID, "platform", string(s.Platform))
		})
	add(a, op{method: "GET", path: "/targets/{id}", id: "get-target", summary: "A target", tag: "targets", role: auth.Viewer, onTarget: true, errors: []int{404}},
		func(ctx context.Context, in *ID) (*One[Target], error) {
			if err := a.on(ctx, in.ID, auth.Viewer); err != nil {
				return nil, err
			}
			d, err := t.Table.Get(ctx, in.ID)
			return &One[Target]{tagOf(d.Rev), a.targetOf(ctx, d)}, err
		})
	add(a, op{method: "PATCH", path: "/targets/{id}", id: "change-target", summary: "Change a target", tag: "targets", role: auth.Admin, onTarget: true, maxBody: 256 << 10, errors: []int{404, 412}},
		func(ctx context.Context, in *struct {
			ID
			IfMatch
			Body TargetChange
		}) (*One[Target], error) {
			d, err := a.changeTarget(ctx, in.ID.ID, in.IfMatch, in.Body)
			return &One[Target]{tagOf(d.Rev), a.targetOf(ctx, d)}, err
		})
	add(a, op{method: "DELETE", path: "/targets/{id}", id: "delete-target", summary: "Forget a target; nothing on the platform is touched", tag: "targets", role: auth.Admin, onTarget: true, status: 204, errors: []int{404, 412}},
		func(ctx context.Context, in *struct {
			ID
			IfMatch
		}) (*struct{}, error) {
			if err := a.on(ctx, in.ID.ID, auth.Admin); err != nil {
				return nil, err
			}
			d, err := t.Table.Get(ctx, in.ID.ID)
			if err == nil {
				err = in.check(d.Rev)
			}
			if err != nil {
				return nil, err
			}
			if list, _, err := a.Jobs.List(ctx, jobsOn(d.ID)); err != nil || len(list) > 0 {
				if err == nil {
					err = newProblem(http.StatusConflict, "in-use", "job "+list[0].ID+" is at work on it", "wait for it, or cancel it")
				}
				return nil, err
			}
			if err := t.Table.Delete(ctx, d.ID, d.Rev); err != nil {
				return nil, err
			}
			return nil, a.audit(ctx, "target.delete", d.ID)
		})
	add(a, op{method: "POST", path: "/targets/{id}/validate", id: "validate-target", summary: "Check credentials, permissions and reach, one by one; changes nothing there", tag: "targets", role: auth.Operator, onTarget: true, errors: []int{404}},
		func(ctx context.Context, in *ID) (*One[Checks], error) {
			if err := a.on(ctx, in.ID, auth.Operator); err != nil {
				return nil, err
			}
			c, err := a.validateTarget(ctx, in.ID)
			return &One[Checks]{Body: c}, err
		})
	add(a, op{method: "GET", path: "/targets/{id}/inventory", id: "get-inventory", summary: "What machines can be placed on; asks the target", tag: "targets", role: auth.Viewer, onTarget: true, errors: []int{404, 502}},
		func(ctx context.Context, in *ID) (*One[target.Inventory], error) {
			if err := a.on(ctx, in.ID, auth.Viewer); err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, askTime)
			defer cancel()
			tgt, _, err := t.Open(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			defer func() { _ = tgt.Close() }()
			inv, err := tgt.Inventory(ctx)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errTarget, err)
			}
			if inv.Networks == nil {
				inv.Networks = []target.Place{}
			}
			return &One[target.Inventory]{Body: *inv}, nil
		})
	add(a, op{method: "GET", path: "/targets/{id}/capabilities", id: "get-capabilities", summary: "What the target can take, its placement fields and options", tag: "targets", role: auth.Viewer, onTarget: true, errors: []int{404, 502}},
		func(ctx context.Context, in *ID) (*One[target.Capabilities], error) {
			if err := a.on(ctx, in.ID, auth.Viewer); err != nil {
				return nil, err
			}
			tgt, _, err := t.Open(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			defer func() { _ = tgt.Close() }()
			return &One[target.Capabilities]{Body: tgt.Capabilities()}, nil
		})
}

func (a *API) validateTarget(ctx context.Context, id string) (Checks, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	tgt, d, err := a.Targets.Open(ctx, id)
	var c Checks
	switch {
	case errors.Is(err, errTarget):
		c = failed(err)
	case err != nil:
		return c, err
	default:
		c = validate(ctx, tgt)
		_ = tgt.Close()
	}
	d.Value.Checked, d.Value.Healthy = time.Now().UTC().Truncate(time.Second), c.OK
	if err := a.Targets.Table.Put(ctx, &d); err != nil && !errors.Is(err, records.ErrConflict) {
		return c, err
	}
	return c, a.audit(ctx, "target.validate", id, "ok", fmt.Sprint(c.OK))
}

func (a *API) changeTarget(ctx context.Context, id string, m IfMatch, c TargetChange) (records.Doc[StoredTarget], error) {
	t := a.Targets
	if err := a.on(ctx, id, auth.Admin); err != nil {
		return records.Doc[StoredTarget]{}, err
	}
	d, err := t.Table.Get(ctx, id)
	if err == nil {
		err = m.check(d.Rev)
	}
	if err != nil {
		return d, err
	}
	secrets, _, err := t.unseal(id, &d.Value)
	if err != nil {
		return d, err
	}
	var what []string
	if c.Note != nil {
		d.Value.Note = *c.Note
		what = append(what, "note", "changed")
	}
	if c.Settings != nil {
		// Secrets must not be sent to another place than they were given for.
		if !maps.Equal(c.Settings, d.Value.Settings) {
			for name := range secrets {
				if _, given := c.Secrets[name]; !given {
					return d, notValid("body.secrets."+name, "the settings change: give %s again, it must not go to another place unasked", name)
				}
			}
		}
		d.Value.Settings = c.Settings
		what = append(what, "settings", "changed")
	}
	for name, v := range c.Secrets {
		if v.Empty() {
			delete(secrets, name)
		} else {
			secrets[name] = v
		}
		what = append(what, "secret "+name, "changed")
	}
	if err := t.check(&d.Value, secrets); err != nil {
		return d, err
	}
	if err := t.seal(id, &d.Value, secrets); err != nil {
		return d, err
	}
	d.Value.Checked = time.Time{}
	if err := t.Table.Put(ctx, &d); err != nil {
		return d, err
	}
	return d, a.audit(ctx, "target.change", id, what...)
}

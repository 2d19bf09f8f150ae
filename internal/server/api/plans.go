package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"ascend/internal/plan"
	"ascend/internal/server/auth"
	"ascend/internal/server/planning"
	"ascend/internal/server/records"
)

// MappingSet is a mapping under a name, for many restores.
type MappingSet struct {
	Note    string       `json:"note,omitempty" maxLength:"1000"`
	Mapping plan.Mapping `json:"mapping"`
}

// NamedMapping is a mapping set.
type NamedMapping struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	MappingSet
}

func mappingOf(d records.Doc[MappingSet]) NamedMapping {
	return NamedMapping{d.ID, d.Created, d.Updated, d.Value}
}

func (a *API) mappings() {
	t := a.sets
	add(a, op{method: "GET", path: "/mappings", id: "list-mappings", summary: "Mapping sets: where networks and disks go", tag: "plans", role: auth.Viewer},
		func(ctx context.Context, in *PageIn) (*List[NamedMapping], error) {
			return page(ctx, t, "", *in, false, mappingOf)
		})
	add(a, op{method: "GET", path: "/mappings/{id}", id: "get-mapping", summary: "A mapping set", tag: "plans", role: auth.Viewer, errors: []int{404}},
		func(ctx context.Context, in *ID) (*One[NamedMapping], error) {
			d, err := t.Get(ctx, in.ID)
			return &One[NamedMapping]{tagOf(d.Rev), mappingOf(d)}, err
		})
	add(a, op{method: "PUT", path: "/mappings/{id}", id: "put-mapping", summary: "Make or replace a mapping set", tag: "plans", role: auth.Operator, maxBody: 1 << 20, errors: []int{412}},
		func(ctx context.Context, in *struct {
			ID string `path:"id" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$" maxLength:"63"`
			IfMatch
			Body MappingSet
		}) (*One[NamedMapping], error) {
			if err := in.Body.Mapping.Check(); err != nil {
				return nil, notValid("body.mapping", "%s", err)
			}
			d, err := t.Get(ctx, in.ID)
			if err != nil && !errors.Is(err, records.ErrNotFound) {
				return nil, err
			}
			if err := in.check(d.Rev); err != nil {
				return nil, err
			}
			d.ID, d.Value = in.ID, in.Body
			if err := t.Put(ctx, &d); err != nil {
				return nil, err
			}
			return &One[NamedMapping]{tagOf(d.Rev), mappingOf(d)}, a.audit(ctx, "mapping.put", in.ID)
		})
	add(a, op{method: "DELETE", path: "/mappings/{id}", id: "delete-mapping", summary: "Remove a mapping set", tag: "plans", role: auth.Operator, status: 204, errors: []int{404}},
		func(ctx context.Context, in *ID) (*struct{}, error) {
			if err := t.Delete(ctx, in.ID, records.AnyRev); err != nil {
				return nil, err
			}
			return nil, a.audit(ctx, "mapping.delete", in.ID)
		})
}

// StoredPlan is a plan as the store has it.
type StoredPlan struct {
	Backup string        `json:"backup"`
	Target string        `json:"target"`
	Wish   planning.Wish `json:"wish"`
	Plan   *plan.Plan    `json:"plan"`
	By     string        `json:"by"`
	Job    string        `json:"job,omitempty"`
}

// Plan is what a restore would do, and what it was made from.
type Plan struct {
	ID      string        `json:"id"`
	Backup  string        `json:"backup" doc:"the backup's id"`
	Target  string        `json:"target" doc:"the target's id"`
	Wish    planning.Wish `json:"wish" doc:"what is wanted otherwise than the plan would have it"`
	Stopped bool          `json:"stopped" doc:"a critical finding stands in the way"`
	Consent []string      `json:"consent" nullable:"false" doc:"the codes of the warnings that must be accepted"`
	By      string        `json:"by"`
	Job     string        `json:"job,omitempty" doc:"the last job that carried it out"`
	Created time.Time     `json:"created"`
	Updated time.Time     `json:"updated"`
	Plan    *plan.Plan    `json:"plan"`
}

func planOf(d records.Doc[StoredPlan]) Plan {
	v := d.Value
	return Plan{d.ID, v.Backup, v.Target, v.Wish, v.Plan.Stopped(), warnings(v.Plan), v.By, v.Job, d.Created, d.Updated, v.Plan}
}

func warnings(p *plan.Plan) []string {
	out := []string{}
	seen := map[string]bool{}
	for _, f := range p.Findings {
		if f.Severity == plan.Warning && !seen[f.Code] {
			seen[f.Code] = true
			out = append(out, f.Code)
		}
	}
	return out
}

// PlanRow is a plan in a list.
type PlanRow struct {
	ID      string    `json:"id"`
	Backup  string    `json:"backup"`
	Target  string    `json:"target"`
	VM      string    `json:"vm"`
	Stopped bool      `json:"stopped"`
	Job     string    `json:"job,omitempty"`
	By      string    `json:"by"`
	Created time.Time `json:"created"`
}

// NewPlan is what is to be planned.
type NewPlan struct {
	Backup string        `json:"backup" minLength:"1" maxLength:"128" doc:"the backup's id"`
	Target string        `json:"target" minLength:"1" maxLength:"128" doc:"the target's id"`
	Wish   planning.Wish `json:"wish,omitzero"`
}

// planLife is how long a plan is kept.
const planLife = 90 * 24 * time.Hour

// make plans a restore. The caller closes what is made.
func (a *API) make(ctx context.Context, src planning.Source, targetID string, w planning.Wish) (*planning.Made, error) {
	if w.MappingSet != "" {
		set, err := a.sets.Get(ctx, w.MappingSet)
		if errors.Is(err, records.ErrNotFound) {
			return nil, notValid("body.wish.mapping_set", "there is no mapping set %q", w.MappingSet)
		}
		if err != nil {
			return nil, err
		}
		w.Mapping = w.Mapping.Then(set.Value.Mapping)
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	tgt, d, err := a.Targets.Open(ctx, targetID)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tgt.Close() }()
	to := planning.Target{Ref: d.Value.ref(targetID), Target: tgt}
	if to.Rate, to.Jobs, err = a.Jobs.Measured(ctx, targetID); err != nil {
		return nil, err
	}
	made, err := planning.Make(ctx, src, to, w)
	if err != nil && !isKnown(err) {
		err = fmt.Errorf("%w: %w", errTarget, err)
	}
	return made, err
}

func isKnown(err error) bool {
	for _, k := range known {
		if errors.Is(err, k.err) {
			return true
		}
	}
	return false
}

func (a *API) planned() {
	t := a.plans
	add(a, op{method: "GET", path: "/plans", id: "list-plans", summary: "Plans, the newest first", tag: "plans", role: auth.Viewer},
		func(ctx context.Context, in *PageIn) (*List[PlanRow], error) {
			return page(ctx, t, "", *in, true, func(d records.Doc[StoredPlan]) PlanRow {
				v := d.Value
				return PlanRow{d.ID, v.Backup, v.Target, v.Plan.Machine.Name, v.Plan.Stopped(), v.Job, v.By, d.Created}
			})
		})
	add(a, op{method: "POST", path: "/plans", id: "create-plan", summary: "Say what a restore would do, and what stands in its way; nothing is changed", tag: "plans", role: auth.Operator, onTarget: true, status: http.StatusCreated, maxBody: 1 << 20, errors: []int{404, 502}},
		func(ctx context.Context, in *struct{ Body NewPlan }) (*Created[Plan], error) {
			d, err := a.newPlan(ctx, in.Body)
			if err != nil {
				return nil, err
			}
			return &Created[Plan]{Prefix + "/plans/" + d.ID, tagOf(d.Rev), planOf(d)}, a.audit(ctx, "plan.create", d.ID, "target", d.Value.Target, "backup", d.Value.Backup)
		})
	add(a, op{method: "GET", path: "/plans/{id}", id: "get-plan", summary: "A plan", tag: "plans", role: auth.Viewer, errors: []int{404}},
		func(ctx context.Context, in *ID) (*One[Plan], error) {
			d, err := t.Get(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			return &One[Plan]{tagOf(d.Rev), planOf(d)}, nil
		})
	add(a, op{method: "PATCH", path: "/plans/{id}", id: "change-plan", summary: "Want something else; the plan is made again", tag: "plans", role: auth.Operator, onTarget: true, maxBody: 1 << 20, errors: []int{404, 412, 502}},
		func(ctx context.Context, in *struct {
			ID
			IfMatch
			Body struct {
				Target string        `json:"target,omitempty" maxLength:"128" doc:"another target"`
				Wish   planning.Wish `json:"wish" doc:"all of it"`
			}
		}) (*One[Plan], error) {
			d, err := t.Get(ctx, in.ID.ID)
			if err == nil {
				err = in.check(d.Rev)
			}
			if err != nil {
				return nil, err
			}
			if in.Body.Target != "" {
				d.Value.Target = in.Body.Target
			}
			d.Value.Wish = in.Body.Wish
			if err := a.remake(ctx, &d); err != nil {
				return nil, err
			}
			return &One[Plan]{tagOf(d.Rev), planOf(d)}, a.audit(ctx, "plan.change", d.ID)
		})
	add(a, op{method: "DELETE", path: "/plans/{id}", id: "delete-plan", summary: "Remove a plan; jobs made of it stay", tag: "plans", role: auth.Operator, onTarget: true, status: 204, errors: []int{404}},
		func(ctx context.Context, in *ID) (*struct{}, error) {
			d, err := t.Get(ctx, in.ID)
			if err == nil {
				err = a.on(ctx, d.Value.Target, auth.Operator)
			}
			if err == nil {
				err = t.Delete(ctx, in.ID, records.AnyRev)
			}
			if err != nil {
				return nil, err
			}
			return nil, a.audit(ctx, "plan.delete", in.ID)
		})
	add(a, op{method: "GET", path: "/plans/{id}/export", id: "export-plan", summary: "The plan as a YAML file", tag: "plans", role: auth.Viewer, errors: []int{404}, describe: answers("application/yaml", "the plan")},
		func(ctx context.Context, in *ID) (*file, error) {
			d, err := t.Get(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			b, err := d.Value.Plan.YAML()
			return &file{Type: "application/yaml", Disposition: `attachment; filename="plan-` + d.ID + `.yaml"`, Body: b}, err
		})
	add(a, op{method: "POST", path: "/plans/import", id: "import-plan", summary: "Read a plan's file; the plan is made again from what it asks for", tag: "plans", role: auth.Operator, onTarget: true, status: http.StatusCreated, maxBody: 4 << 20, errors: []int{404, 502}},
		func(ctx context.Context, in *struct {
			Body struct {
				Document string `json:"document" maxLength:"4000000" doc:"YAML or JSON, as exported"`
			}
		}) (*Created[Plan], error) {
			n, err := a.importPlan(ctx, in.Body.Document)
			if err != nil {
				return nil, err
			}
			d, err := a.newPlan(ctx, *n)
			if err != nil {
				return nil, err
			}
			return &Created[Plan]{Prefix + "/plans/" + d.ID, tagOf(d.Rev), planOf(d)}, a.audit(ctx, "plan.import", d.ID, "target", d.Value.Target, "backup", d.Value.Backup)
		})
}

func (a *API) newPlan(ctx context.Context, n NewPlan) (records.Doc[StoredPlan], error) {
	d := records.Doc[StoredPlan]{
		Record: records.Record{ID: strings.ToLower(auth.NewID()), Expires: time.Now().UTC().Add(planLife)},
		Value:  StoredPlan{Backup: n.Backup, Target: n.Target, Wish: n.Wish, By: auth.From(ctx).Name},
	}
	return d, a.remake(ctx, &d)
}

// remake makes a stored plan again and stores it.
func (a *API) remake(ctx context.Context, d *records.Doc[StoredPlan]) error {
	if err := a.on(ctx, d.Value.Target, auth.Operator); err != nil {
		return err
	}
	_, err := a.planAnew(ctx, d)
	return err
}

// planAnew is remake for who was let do it; what it answers is closed.
func (a *API) planAnew(ctx context.Context, d *records.Doc[StoredPlan]) (*planning.Made, error) {
	src, err := a.source(ctx, d.Value.Backup)
	if err != nil {
		return nil, err
	}
	made, err := a.make(ctx, src, d.Value.Target, d.Value.Wish)
	if err != nil {
		return nil, err
	}
	made.Close()
	d.Value.Plan = made.Plan
	return made, a.plans.Put(ctx, d)
}

// file is an answer that is no JSON.
type file struct {
	Type        string `header:"Content-Type"`
	Disposition string `header:"Content-Disposition"`
	Body        []byte
}

// importPlan reads a plan's file. What it says of the backup and the target is
// looked at again; what can be edited in it is taken as it stands.
func (a *API) importPlan(ctx context.Context, text string) (*NewPlan, error) {
	doc, err := plan.ParseDocument("document", []byte(text))
	if err != nil {
		return nil, notValid("body.document", "%s", clipText(err.Error(), 500))
	}
	id, err := a.findBackup(ctx, doc.Plan.Backup)
	if err != nil {
		return nil, err
	}
	return &NewPlan{Backup: id, Target: doc.Plan.Target.Name, Wish: planning.Wish{Document: doc.Plan, PowerOn: doc.Plan.PowerOn, Guest: doc.Plan.Guest}}, nil
}

// findBackup is the id of the backup that a plan names.
func (a *API) findBackup(ctx context.Context, ref plan.BackupRef) (string, error) {
	repos, err := a.Scanner.Table.All(ctx, "")
	if err != nil {
		return "", err
	}
	for _, r := range repos {
		if r.Value.Path == filepath.Clean(ref.Repository) || r.ID == ref.Repository {
			b, err := a.Store.FindBackup(ctx, r.ID, ref.ID)
			if err == nil || !errors.Is(err, records.ErrNotFound) {
				return b.ID, err
			}
		}
	}
	return "", newProblem(http.StatusNotFound, "not-found", fmt.Sprintf("no repository here has the backup %.200q", ref.ID), "add the repository "+clipText(ref.Repository, 200)+" or scan it again")
}

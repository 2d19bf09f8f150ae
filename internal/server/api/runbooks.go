package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ascend/internal/runbook"
	"ascend/internal/server/auth"
	"ascend/internal/server/jobs"
	"ascend/internal/server/records"
)

// StoredRunbook is a runbook as the store has it: the text that was given, with
// its comments.
type StoredRunbook struct {
	Text string `json:"text"`
	By   string `json:"by"`
}

// Runbook is a stored runbook.
type Runbook struct {
	ID       string            `json:"id"`
	Text     string            `json:"text" doc:"the document as it was given"`
	Document *runbook.Document `json:"document"`
	By       string            `json:"by" doc:"who wrote it last"`
	Created  time.Time         `json:"created"`
	Updated  time.Time         `json:"updated"`
}

// RunbookRow is a runbook in a list.
type RunbookRow struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Note     string    `json:"note,omitempty"`
	Groups   int       `json:"groups"`
	Machines int       `json:"machines"`
	By       string    `json:"by"`
	Updated  time.Time `json:"updated"`
}

// RunbookText is a document as text.
type RunbookText struct {
	Document string `json:"document" minLength:"1" maxLength:"4194304" doc:"YAML or JSON; docs/runbook.schema.json describes it"`
}

// RunbookCheck is what is wrong with a document.
type RunbookCheck struct {
	OK       bool              `json:"ok"`
	Error    string            `json:"error,omitempty" doc:"why it cannot be read at all"`
	Places   []runbook.Place   `json:"places" nullable:"false" doc:"each place that is not right"`
	Document *runbook.Document `json:"document,omitempty" doc:"as it was read"`
}

// badRunbook makes the error of a document one of the request's.
func badRunbook(err error) error {
	var bad *runbook.Invalid
	if !errors.As(err, &bad) {
		text, _, _ := strings.Cut(err.Error(), "\n")
		return notValid("body.document", "%s", clipText(text, 300))
	}
	p := newProblem(http.StatusUnprocessableEntity, "not-valid", "the runbook cannot be used as it is", "see errors for each place; docs/runbook.md describes them")
	for _, at := range bad.Places {
		p.Errors = append(p.Errors, &huma.ErrorDetail{Location: at.Path, Message: at.Text})
	}
	return p
}

func runbookOf(d records.Doc[StoredRunbook]) (Runbook, error) {
	doc, err := runbook.Parse([]byte(d.Value.Text))
	if doc == nil {
		return Runbook{}, fmt.Errorf("cannot read runbook %s: %w", d.ID, err)
	}
	return Runbook{d.ID, d.Value.Text, doc, d.Value.By, d.Created, d.Updated}, nil
}

func (a *API) runbooks() {
	t := a.books
	add(a, op{method: "GET", path: "/runbooks", id: "list-runbooks", summary: "Runbooks: many machines, in groups and in order", tag: "runbooks", role: auth.Viewer},
		func(ctx context.Context, in *PageIn) (*List[RunbookRow], error) {
			return page(ctx, t, "", *in, false, func(d records.Doc[StoredRunbook]) RunbookRow {
				row := RunbookRow{ID: d.ID, By: d.Value.By, Updated: d.Updated}
				if b, err := runbookOf(d); err == nil {
					row.Name, row.Note, row.Groups = b.Document.Name, b.Document.Note, len(b.Document.Groups)
					for _, g := range b.Document.Groups {
						row.Machines += len(g.Machines)
					}
				}
				return row
			})
		})
	add(a, op{method: "POST", path: "/runbooks/check", id: "check-runbook", summary: "Say what is wrong with a runbook; nothing is stored and nobody asked", tag: "runbooks", role: auth.Viewer, maxBody: 2 * runbook.MaxBytes},
		func(_ context.Context, in *struct{ Body RunbookText }) (*One[RunbookCheck], error) {
			d, err := runbook.Parse([]byte(in.Body.Document))
			out := RunbookCheck{OK: err == nil, Document: d, Places: []runbook.Place{}}
			var bad *runbook.Invalid
			switch {
			case errors.As(err, &bad):
				out.Places = bad.Places
			case err != nil:
				out.Error = clipText(err.Error(), 2000)
			}
			return &One[RunbookCheck]{Body: out}, nil
		})
	add(a, op{method: "GET", path: "/runbooks/{id}", id: "get-runbook", summary: "A runbook", tag: "runbooks", role: auth.Viewer, errors: []int{404}},
		func(ctx context.Context, in *ID) (*One[Runbook], error) {
			d, err := t.Get(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			b, err := runbookOf(d)
			return &One[Runbook]{tagOf(d.Rev), b}, err
		})
	add(a, op{method: "PUT", path: "/runbooks/{id}", id: "put-runbook", summary: "Make or replace a runbook; runs of it under way keep theirs", tag: "runbooks", role: auth.Operator, maxBody: 2 * runbook.MaxBytes, errors: []int{412}},
		func(ctx context.Context, in *struct {
			ID string `path:"id" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$" maxLength:"63"`
			IfMatch
			Body RunbookText
		}) (*One[Runbook], error) {
			if _, err := runbook.Parse([]byte(in.Body.Document)); err != nil {
				return nil, badRunbook(err)
			}
			d, err := t.Get(ctx, in.ID)
			if err != nil && !errors.Is(err, records.ErrNotFound) {
				return nil, err
			}
			if err := in.check(d.Rev); err != nil {
				return nil, err
			}
			d.ID, d.Value = in.ID, StoredRunbook{in.Body.Document, auth.From(ctx).Name}
			if err := t.Put(ctx, &d); err != nil {
				return nil, err
			}
			b, err := runbookOf(d)
			if err != nil {
				return nil, err
			}
			return &One[Runbook]{tagOf(d.Rev), b}, a.audit(ctx, "runbook.put", in.ID)
		})
	add(a, op{method: "DELETE", path: "/runbooks/{id}", id: "delete-runbook", summary: "Remove a runbook; its runs stay", tag: "runbooks", role: auth.Operator, status: 204, errors: []int{404}},
		func(ctx context.Context, in *ID) (*struct{}, error) {
			if err := t.Delete(ctx, in.ID, records.AnyRev); err != nil {
				return nil, err
			}
			return nil, a.audit(ctx, "runbook.delete", in.ID)
		})
}

// NewRun is a runbook that is to be planned.
type NewRun struct {
	Runbook  string `json:"runbook,omitempty" maxLength:"63" doc:"the id of a stored runbook"`
	Document string `json:"document,omitempty" maxLength:"4194304" doc:"or the document itself"`
}

// RunReport is a run with what follows from it.
type RunReport struct {
	*runbook.Run
	Counts  runbook.Counts   `json:"counts"`
	Summary *runbook.Summary `json:"summary"`
	// Jobs are those under way, by their ids.
	Jobs map[string]jobs.Job `json:"jobs" doc:"the jobs under way, by their ids"`
}

// RunRow is a run in a list.
type RunRow struct {
	ID       string         `json:"id"`
	Runbook  string         `json:"runbook,omitempty"`
	Name     string         `json:"name"`
	Status   runbook.Status `json:"status"`
	Counts   runbook.Counts `json:"counts"`
	By       string         `json:"by"`
	Created  time.Time      `json:"created"`
	Started  *time.Time     `json:"started,omitempty"`
	Finished *time.Time     `json:"finished,omitempty"`
}

func maybe(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// report is a run with its jobs as they are now.
func (a *API) report(ctx context.Context, r *runbook.Run) (RunReport, error) {
	full := r.Report()
	out := RunReport{r, full.Counts, full.Summary, map[string]jobs.Job{}}
	var err error
	r.Each(func(_ runbook.At, m *runbook.MachineRun) {
		if m.Status == runbook.Running && m.Job != "" && err == nil {
			var j jobs.Job
			if j, err = a.Jobs.Job(ctx, m.Job); err == nil {
				out.Jobs[j.ID] = j
			} else if errors.Is(err, jobs.ErrNotFound) {
				err = nil
			}
		}
	})
	return out, err
}

// mayRun refuses who may not restore to every target of a runbook.
func (a *API) mayRun(ctx context.Context, d *runbook.Document) error {
	asked := map[string]bool{}
	for _, g := range d.Groups {
		for _, m := range g.Machines {
			t := d.Settings(m).Target
			if asked[t] {
				continue
			}
			asked[t] = true
			if err := a.on(ctx, t, auth.Operator); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *API) newRun(ctx context.Context, n NewRun) (*runbook.Run, error) {
	text := n.Document
	if (n.Runbook == "") == (n.Document == "") {
		return nil, notValid("body", "name a stored runbook, or give the document: one of them")
	}
	if n.Runbook != "" {
		d, err := a.books.Get(ctx, n.Runbook)
		if err != nil {
			return nil, err
		}
		text = d.Value.Text
	}
	doc, err := runbook.Parse([]byte(text))
	if err != nil {
		return nil, badRunbook(err)
	}
	if err := a.mayRun(ctx, doc); err != nil {
		return nil, err
	}
	r := runbook.New(strings.ToLower(auth.NewID()), auth.From(ctx).Name, doc, time.Now().UTC().Truncate(time.Millisecond))
	r.Runbook = n.Runbook
	return r, a.conduct.Add(ctx, r)
}

func (a *API) runs() {
	t := a.conduct.Runs
	one := func(ctx context.Context, r *runbook.Run) (*One[RunReport], error) {
		rep, err := a.report(ctx, r)
		return &One[RunReport]{Body: rep}, err
	}
	add(a, op{method: "GET", path: "/runbook-runs", id: "list-runbook-runs", summary: "Runs of runbooks, the newest first", tag: "runbooks", role: auth.Viewer},
		func(ctx context.Context, in *PageIn) (*List[RunRow], error) {
			return page(ctx, t, "", *in, true, func(d records.Doc[*runbook.Run]) RunRow {
				r := d.Value
				return RunRow{r.ID, r.Runbook, r.Document.Name, r.Status, r.Counts(), r.By, r.Created, maybe(r.Started), maybe(r.Finished)}
			})
		})
	add(a, op{method: "POST", path: "/runbook-runs", id: "create-runbook-run", summary: "Plan a runbook as a whole; nothing is restored before it is applied", tag: "runbooks", role: auth.Operator, onTarget: true, status: http.StatusCreated, maxBody: 2 * runbook.MaxBytes, errors: []int{404}},
		func(ctx context.Context, in *struct{ Body NewRun }) (*Created[RunReport], error) {
			r, err := a.newRun(ctx, in.Body)
			if err != nil {
				return nil, err
			}
			rep, err := a.report(ctx, r)
			if err != nil {
				return nil, err
			}
			return &Created[RunReport]{Location: Prefix + "/runbook-runs/" + r.ID, Body: rep}, a.audit(ctx, "runbook-run.create", r.ID, "runbook", r.Runbook, "name", r.Document.Name)
		})
	add(a, op{method: "GET", path: "/runbook-runs/{id}", id: "get-runbook-run", summary: "A run: its plan as a whole, and how each machine is", tag: "runbooks", role: auth.Viewer, errors: []int{404}},
		func(ctx context.Context, in *ID) (*One[RunReport], error) {
			d, err := t.Get(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			return one(ctx, d.Value)
		})
	add(a, op{method: "GET", path: "/runbook-runs/{id}/report", id: "get-runbook-report", summary: "The report of a run, for those who were not there", tag: "runbooks", role: auth.Viewer, errors: []int{404}, describe: func(o *huma.Operation) {
		answers("text/markdown", "the report; application/json with format=json")(o)
	}},
		func(ctx context.Context, in *struct {
			ID
			Format string `query:"format" enum:"markdown,json" default:"markdown"`
		}) (*file, error) {
			d, err := t.Get(ctx, in.ID.ID)
			if err != nil {
				return nil, err
			}
			if in.Format == "json" {
				return &file{Type: "application/json", Disposition: `attachment; filename="run-` + d.ID + `.json"`, Body: mustJSON(d.Value.Report())}, nil
			}
			return &file{Type: "text/markdown; charset=utf-8", Disposition: `attachment; filename="run-` + d.ID + `.md"`, Body: []byte(d.Value.Markdown())}, nil
		})
	add(a, op{method: "GET", path: "/runbook-runs/{id}/stream", id: "stream-runbook-run", summary: "What happens in a run, as it happens", tag: "runbooks", role: auth.Viewer, errors: []int{404}, describe: func(o *huma.Operation) {
		o.Description = "Server-sent events. `run` is the run as it is now, whenever it has changed; `end` is the last event: the run is at rest."
		answers("text/event-stream", "the events")(o)
	}},
		func(ctx context.Context, in *struct {
			ID
			StreamIn
		}) (*huma.StreamResponse, error) {
			d, err := t.Get(ctx, in.ID.ID)
			if err != nil {
				return nil, err
			}
			return a.stream(func(ctx context.Context, s *sender) error { return a.followRun(ctx, s, d.ID) }), nil
		})
	type verb struct {
		name, summary string
		do            func(r *runbook.Run, accept []string, now time.Time) error
	}
	for _, v := range []verb{
		{"apply", "Carry a planned run out", func(r *runbook.Run, accept []string, now time.Time) error { return r.Apply(accept, now) }},
		{"retry", "Go on with a failed run: what failed, and what was held back", func(r *runbook.Run, _ []string, now time.Time) error { return r.Retry(now) }},
		{"cancel", "Stop a run: jobs under way are cancelled, machines that are restored stay", func(r *runbook.Run, _ []string, now time.Time) error { return r.Cancel(now) }},
	} {
		add(a, op{method: "POST", path: "/runbook-runs/{id}/" + v.name, id: v.name + "-runbook-run", summary: v.summary, tag: "runbooks", role: auth.Operator, onTarget: true, status: http.StatusAccepted, maxBody: 1 << 20, errors: []int{404}},
			func(ctx context.Context, in *struct {
				ID
				Body *struct {
					Accept []string `json:"accept,omitempty" maxItems:"1000" doc:"apply: the codes of the warnings that are accepted"`
				}
			}) (*One[RunReport], error) {
				var accept []string
				if in.Body != nil {
					accept = in.Body.Accept
				}
				r, err := a.conduct.Change(ctx, in.ID.ID, func(r *runbook.Run) (bool, error) {
					if err := a.mayRun(ctx, r.Document); err != nil {
						return false, err
					}
					return true, v.do(r, accept, time.Now().UTC().Truncate(time.Millisecond))
				})
				var need *runbook.Consent
				if errors.As(err, &need) {
					p := newProblem(http.StatusConflict, "consent-needed", need.Error(), "look at the findings, and accept them by their codes")
					p.Missing = need.Missing
					return nil, p
				}
				if err != nil {
					return nil, err
				}
				if err := a.audit(ctx, "runbook-run."+v.name, r.ID, "name", r.Document.Name, "accepted", strings.Join(accept, " ")); err != nil {
					return nil, err
				}
				return one(ctx, r)
			})
	}
	add(a, op{method: "DELETE", path: "/runbook-runs/{id}", id: "delete-runbook-run", summary: "Forget a run that is at rest; its jobs and machines stay", tag: "runbooks", role: auth.Operator, onTarget: true, status: 204, errors: []int{404}},
		func(ctx context.Context, in *ID) (*struct{}, error) {
			d, err := t.Get(ctx, in.ID)
			if err == nil {
				err = a.mayRun(ctx, d.Value.Document)
			}
			if err == nil && !d.Value.Status.AtRest() {
				err = fmt.Errorf("cannot forget the run: it is %s: %w", d.Value.Status, runbook.ErrState)
			}
			if err == nil {
				err = t.Delete(ctx, in.ID, d.Rev)
			}
			if err != nil {
				return nil, err
			}
			return nil, a.audit(ctx, "runbook-run.delete", in.ID)
		})
}

// followRun tells of a run until it is at rest.
func (a *API) followRun(ctx context.Context, s *sender, id string) error {
	for {
		_, next := a.Feed.Jobs()
		d, err := a.conduct.Runs.Get(ctx, id)
		if err != nil {
			return err
		}
		rep, err := a.report(ctx, d.Value)
		if err != nil {
			return err
		}
		if err := s.changed(id, "run", rep); err != nil {
			return err
		}
		if d.Value.Status.AtRest() {
			return s.event("end", 0, map[string]string{"id": id, "status": string(d.Value.Status)})
		}
		if err := wait(ctx, next, s); err != nil {
			return err
		}
	}
}

package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	"ascend/internal/plan"
	"ascend/internal/restore"
	"ascend/internal/server/auth"
	"ascend/internal/server/jobs"
	"ascend/internal/server/notify"
	"ascend/internal/server/records"
	"ascend/internal/target"
)

// NewJob is a plan to be carried out.
type NewJob struct {
	Plan    string       `json:"plan" minLength:"1" maxLength:"128" doc:"the plan's id"`
	Accept  []string     `json:"accept,omitempty" maxItems:"1000" doc:"the codes of the warnings that are accepted; the plan's consent lists those it needs"`
	Options jobs.Options `json:"options,omitzero"`
}

// JobDetails is a job with its steps.
type JobDetails struct {
	jobs.Job
	Steps []jobs.Step `json:"steps" nullable:"false"`
	Role  auth.Role   `json:"role,omitempty" doc:"what I may do on its target"`
}

func jobsOn(targetID string) jobs.Filter {
	return jobs.Filter{Target: targetID, Unfinished: true, Limit: 1}
}

func (a *API) jobs() {
	add(a, op{method: "GET", path: "/jobs", id: "list-jobs", summary: "Restores, the newest first", tag: "jobs", role: auth.Viewer},
		func(ctx context.Context, in *struct {
			PageIn
			Span
			Status []string `query:"status" maxItems:"20" doc:"any of these"`
			Active bool     `query:"active" doc:"only those that are not at rest"`
			Target string   `query:"target" maxLength:"128"`
			Search string   `query:"q" maxLength:"200" doc:"in the machine's name"`
			Backup string   `query:"backup" maxLength:"128" doc:"the backup's id in its repository"`
		}) (*List[jobs.Job], error) {
			list, next, err := a.Jobs.List(ctx, jobs.Filter{Status: in.Status, Unfinished: in.Active, Target: in.Target, VM: in.Search, Backup: in.Backup, Since: in.Since, Until: in.Until, Cursor: in.Cursor, Limit: in.Limit})
			return listOf(list, next), err
		})
	add(a, op{method: "POST", path: "/jobs", id: "create-job", summary: "Carry out a plan", tag: "jobs", role: auth.Operator, onTarget: true, status: http.StatusCreated, maxBody: 1 << 20, errors: []int{404, 502}},
		func(ctx context.Context, in *struct {
			Key  string `header:"Idempotency-Key" maxLength:"255" doc:"the same key gives the same job"`
			Body NewJob
		}) (*Created[jobs.Job], error) {
			j, err := a.submit(ctx, in.Key, in.Body)
			return &Created[jobs.Job]{Location: Prefix + "/jobs/" + j.ID, Body: j}, err
		})
	add(a, op{method: "GET", path: "/jobs/{id}", id: "get-job", summary: "A restore and all its steps", tag: "jobs", role: auth.Viewer, errors: []int{404}},
		func(ctx context.Context, in *ID) (*One[JobDetails], error) {
			d, err := a.job(ctx, in.ID)
			return &One[JobDetails]{Body: d}, err
		})
	add(a, op{method: "GET", path: "/jobs/{id}/steps", id: "get-job-steps", summary: "Its steps, each from the start", tag: "jobs", role: auth.Viewer, errors: []int{404}},
		func(ctx context.Context, in *ID) (*List[jobs.Step], error) {
			d, err := a.job(ctx, in.ID)
			return listOf(d.Steps, ""), err
		})
	add(a, op{method: "GET", path: "/jobs/{id}/plan", id: "get-job-plan", summary: "The plan it carries out", tag: "jobs", role: auth.Viewer, errors: []int{404}},
		func(ctx context.Context, in *ID) (*One[*plan.Plan], error) {
			p, err := a.Jobs.Plan(ctx, in.ID)
			return &One[*plan.Plan]{Body: p}, err
		})
	add(a, op{method: "GET", path: "/jobs/{id}/resources", id: "get-job-resources", summary: "What it made on the target, and undo removes", tag: "jobs", role: auth.Viewer, errors: []int{404}},
		func(ctx context.Context, in *ID) (*List[target.Resource], error) {
			j, err := a.Jobs.Job(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			list, err := a.Jobs.Resources(ctx, j.ID)
			return listOf(list, ""), err
		})
	add(a, op{method: "GET", path: "/jobs/{id}/events", id: "get-job-events", summary: "Its log, the oldest first", tag: "jobs", role: auth.Viewer, errors: []int{404}},
		func(ctx context.Context, in *struct {
			ID
			After int64 `query:"after" minimum:"0" doc:"the last seq that is known"`
			Limit int   `query:"limit" minimum:"1" maximum:"1000" default:"200"`
		}) (*List[jobs.Event], error) {
			j, err := a.Jobs.Job(ctx, in.ID.ID)
			if err != nil {
				return nil, err
			}
			list, err := a.Jobs.Events(ctx, j.ID, in.After, in.Limit)
			next := ""
			if len(list) == in.Limit {
				next = fmt.Sprint(list[len(list)-1].Seq)
			}
			return listOf(list, next), err
		})
	add(a, op{method: "GET", path: "/jobs/{id}/log", id: "get-job-log", summary: "Its log as text", tag: "jobs", role: auth.Viewer, errors: []int{404}, describe: answers("text/plain", "the log")},
		func(ctx context.Context, in *ID) (*file, error) {
			b, err := a.jobLog(ctx, in.ID)
			return &file{Type: "text/plain; charset=utf-8", Disposition: "inline", Body: b}, err
		})
	add(a, op{method: "GET", path: "/jobs/{id}/receipt", id: "get-job-receipt", summary: "Its signed receipt", tag: "jobs", role: auth.Viewer, errors: []int{404}, describe: answers("application/json", "the receipt, byte for byte as it was signed")},
		func(ctx context.Context, in *ID) (*file, error) {
			j, err := a.Jobs.Job(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			b, err := a.Jobs.Receipt(ctx, j.ID)
			return &file{Type: "application/json", Disposition: `attachment; filename="receipt-` + j.ID + `.json"`, Body: b}, err
		})
	add(a, op{method: "GET", path: "/jobs/{id}/evidence", id: "list-job-evidence", summary: "What is kept of its boot proof: the console, the screen", tag: "jobs", role: auth.Viewer, errors: []int{404}},
		func(ctx context.Context, in *ID) (*List[Evidence], error) {
			j, err := a.Jobs.Job(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			names, err := a.Jobs.Evidence(ctx, j.ID)
			list := []Evidence{}
			for _, n := range names {
				list = append(list, Evidence{n, evidenceType(n)})
			}
			return listOf(list, ""), err
		})
	add(a, op{method: "GET", path: "/jobs/{id}/evidence/{name}", id: "get-job-evidence", summary: "One piece of its boot proof", tag: "jobs", role: auth.Viewer, errors: []int{404}, describe: answers("application/octet-stream", "a picture of the screen, the console's text, or what went over the network")},
		func(ctx context.Context, in *struct {
			ID
			Name string `path:"name" maxLength:"255"`
		}) (*file, error) {
			j, err := a.Jobs.Job(ctx, in.ID.ID)
			if err != nil {
				return nil, err
			}
			b, err := a.Jobs.EvidenceFile(ctx, j.ID, in.Name)
			return &file{Type: evidenceType(in.Name), Disposition: "inline", Body: b}, err
		})
	add(a, op{method: "POST", path: "/receipts/verify", id: "verify-receipt", summary: "Whether a receipt is as it was signed; nothing is read from a target", tag: "jobs", role: auth.Viewer, maxBody: 16 << 20},
		func(_ context.Context, in *struct {
			Body struct {
				Receipt string `json:"receipt" maxLength:"8388608" doc:"the receipt, byte for byte"`
			}
		}) (*One[ReceiptCheck], error) {
			return &One[ReceiptCheck]{Body: checkReceipt([]byte(in.Body.Receipt))}, nil
		})
	for _, verb := range []struct {
		name, summary string
		do            func(context.Context, string) error
	}{
		{"retry", "Go on with a failed job from the step that failed", a.Jobs.Retry},
		{"cancel", "Stop a job and remove what it made", a.Jobs.Cancel},
		{"undo", "Remove what a job made, and nothing else", a.Jobs.Undo},
	} {
		add(a, op{method: "POST", path: "/jobs/{id}/" + verb.name, id: verb.name + "-job", summary: verb.summary, tag: "jobs", role: auth.Operator, onTarget: true, status: http.StatusAccepted, errors: []int{404}},
			func(ctx context.Context, in *ID) (*One[jobs.Job], error) {
				j, err := a.Jobs.Job(ctx, in.ID)
				if err == nil {
					err = a.on(ctx, j.Target.Name, auth.Operator)
				}
				if err == nil {
					err = a.Feed.Again(ctx, j)
				}
				if err == nil {
					err = verb.do(ctx, j.ID)
				}
				if err != nil {
					return nil, err
				}
				a.Feed.Kick()
				if err := a.audit(ctx, "job."+verb.name, j.ID, "vm", j.Name, "target", j.Target.Name); err != nil {
					return nil, err
				}
				j, err = a.Jobs.Job(ctx, j.ID)
				return &One[jobs.Job]{Body: j}, err
			})
	}
}

func (a *API) job(ctx context.Context, id string) (JobDetails, error) {
	j, err := a.Jobs.Job(ctx, id)
	if err != nil {
		return JobDetails{}, err
	}
	steps, err := a.Jobs.Steps(ctx, j.ID)
	if steps == nil {
		steps = []jobs.Step{}
	}
	return JobDetails{j, steps, auth.From(ctx).On(j.Target.Name)}, err
}

// maxLog bounds a log that is told as one text.
const maxLog = 100_000

func (a *API) jobLog(ctx context.Context, id string) ([]byte, error) {
	j, err := a.Jobs.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	after := int64(0)
	for n := 0; n < maxLog; {
		list, err := a.Jobs.Events(ctx, j.ID, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			step := ""
			if e.Step != "" {
				step = " [" + e.Step + "]"
			}
			fmt.Fprintf(&b, "%s %-5s%s %s\n", e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), strings.ToUpper(e.Level), step, strings.ReplaceAll(e.Text, "\n", "\n    "))
			after = e.Seq
		}
		if n += len(list); len(list) < 1000 {
			break
		}
	}
	return []byte(b.String()), nil
}

// submit carries out a plan, if the world is as it was planned and everything
// that needs it was consented to.
func (a *API) submit(ctx context.Context, key string, n NewJob) (jobs.Job, error) {
	d, err := a.plans.Get(ctx, n.Plan)
	if err != nil {
		return jobs.Job{}, err
	}
	if err := a.on(ctx, d.Value.Target, auth.Operator); err != nil {
		return jobs.Job{}, err
	}
	if key != "" {
		key = auth.From(ctx).UserID + "/" + key
	}
	return a.carryOut(ctx, d, key, n)
}

// carryOut is submit for who was let do it.
func (a *API) carryOut(ctx context.Context, d records.Doc[StoredPlan], key string, n NewJob) (jobs.Job, error) {
	src, err := a.source(ctx, d.Value.Backup)
	if err != nil {
		return jobs.Job{}, err
	}
	made, err := a.make(ctx, src, d.Value.Target, d.Value.Wish)
	if err != nil {
		return jobs.Job{}, err
	}
	defer made.Close()
	if why := drift(d.Value.Plan, made.Plan); why != "" {
		return jobs.Job{}, newProblem(http.StatusConflict, "plan-outdated", why+"; it is not as it was planned", "make the plan again and look at it: PATCH the plan with its wish")
	}
	if made.Plan.Stopped() {
		return jobs.Job{}, newProblem(http.StatusConflict, "plan-stopped", "the plan has critical findings: this cannot work", "see the plan's findings; each says what to do")
	}
	if missing := without(warnings(made.Plan), n.Accept); len(missing) > 0 {
		p := newProblem(http.StatusConflict, "consent-needed", "the plan has warnings that were not accepted: "+strings.Join(missing, ", "), "set what is missing, or accept them by their codes")
		p.Missing = missing
		if err := a.needsConsent(ctx, d.ID, made.Plan, missing); err != nil {
			return jobs.Job{}, err
		}
		return jobs.Job{}, p
	}
	if b := n.Options.BootProof; b != "" && b != "off" && made.Inspection == nil {
		return jobs.Job{}, notValid("body.options.boot_proof", "there is no boot to prove on this target")
	}
	if key != "" {
		key = auth.From(ctx).UserID + "/" + key
	}
	j, err := a.Jobs.Submit(ctx, jobs.Order{Plan: made.Plan, Repository: src.Dir, Images: made.Images, Maps: made.Maps, Inspection: made.Inspection, Adaptation: made.Adaptation, Options: n.Options, Key: key})
	if err != nil {
		return j, err
	}
	if err := a.Feed.Follow(ctx, j.ID); err != nil {
		a.Log.WarnContext(ctx, "cannot follow the job from the start", "job", j.ID, "error", err)
	}
	d.Value.Job = j.ID
	if err := a.plans.Force(ctx, &d); err != nil {
		a.Log.WarnContext(ctx, "cannot note the plan's job", "job", j.ID, "error", err)
	}
	return j, a.audit(ctx, "job.create", j.ID, "vm", j.Name, "target", j.Target.Name, "plan", d.ID, "accepted", strings.Join(n.Accept, " "))
}

func (a *API) needsConsent(ctx context.Context, id string, p *plan.Plan, missing []string) error {
	return a.Queue.Tell(ctx, notify.Message{
		ID: "plan-" + id + "." + strings.Join(missing, "+"), Event: notify.Consent, Time: p.Made, VM: p.Machine.Name, Backup: p.Backup.ID, Target: p.Target.Name,
		Text: fmt.Sprintf("The restore of %s to %s waits for consent: %s.", p.Machine.Name, p.Target.Name, strings.Join(missing, ", ")),
		URL:  a.Settings.Link(ctx, "/plans/"+id),
	})
}

func without(list, drop []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(drop, s) })
}

// drift says what is otherwise than when a plan was made; empty when nothing that
// matters is.
func drift(was, now *plan.Plan) string {
	finds := func(p *plan.Plan) map[string]bool {
		m := map[string]bool{}
		for _, f := range p.Findings {
			if f.Severity != plan.Information {
				m[f.Code] = true
			}
		}
		return m
	}
	before := finds(was)
	for code := range finds(now) {
		if !before[code] {
			return "there is a new finding: " + code
		}
	}
	switch {
	case was.Target != now.Target:
		return "the target is another"
	case !same(was.Source, now.Source):
		return "what the backup says of the machine has changed"
	case !same(was.Disks, now.Disks):
		return "the backup's disks have changed"
	case !same(was.Machine, now.Machine) || !same(was.Placement, now.Placement) || !same(was.Options, now.Options):
		return "the restored machine would be another"
	}
	return ""
}

// same compares two values as they are stored.
func same(x, y any) bool {
	var a, b any
	return json.Unmarshal(mustJSON(x), &a) == nil && json.Unmarshal(mustJSON(y), &b) == nil && reflect.DeepEqual(a, b)
}

func (a *API) countJobs(ctx context.Context, s *Summary) error {
	list, _, err := a.Jobs.List(ctx, jobs.Filter{Limit: 1000})
	if err != nil {
		return err
	}
	for _, j := range list {
		s.Jobs[j.Status]++
	}
	active, _ := a.Feed.Jobs()
	for _, j := range active {
		if !jobs.Resting(j.Status) {
			s.Running++
			s.Rate += j.Rate
		}
	}
	return nil
}

// ReceiptCheck is what a receipt proves by itself.
type ReceiptCheck struct {
	Valid    bool      `json:"valid" doc:"the signature is of the key that it names, over all of it"`
	Error    string    `json:"error,omitempty" doc:"why it is not"`
	Job      string    `json:"job,omitempty"`
	Key      string    `json:"key,omitempty" doc:"the public key, base64: compare it with the server's receipt.key.pub"`
	Finished time.Time `json:"finished,omitzero"`
	Disks    int       `json:"disks"`
	Verified int       `json:"verified" doc:"of disks: read back, or checked by the platform"`
}

func checkReceipt(b []byte) ReceiptCheck {
	r, err := restore.ParseReceipt(b, nil)
	if err != nil {
		return ReceiptCheck{Error: clipText(err.Error(), 500)}
	}
	c := ReceiptCheck{Valid: true, Job: r.Job, Key: r.Sign.Key, Finished: r.Finished, Disks: len(r.Disks)}
	for _, d := range r.Disks {
		if d.Verified != "" {
			c.Verified++
		}
	}
	return c
}

// Evidence is one file that a boot proof left.
type Evidence struct {
	Name string `json:"name"`
	Type string `json:"type" doc:"its media type"`
}

// evidenceType says how evidence is shown: never as a page.
func evidenceType(name string) string {
	switch path.Ext(name) {
	case ".png":
		return "image/png"
	case ".txt":
		return "text/plain; charset=utf-8"
	}
	return "application/octet-stream"
}

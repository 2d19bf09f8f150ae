package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ascend/internal/client"
	"ascend/internal/plan"
	"ascend/internal/runbook"
	"ascend/internal/server/api"
	"ascend/internal/vm"
)

func (a *app) runbookCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "runbook", Short: "restore many machines by one document: groups in order, conditions, limits", Args: cobra.NoArgs,
		Long: `Restore many machines by one document: groups in order, what must hold before the
next group begins, and limits. docs/runbook.md describes it.

  ascend runbook check FILE     is the document right? asks nobody
  ascend runbook plan FILE      the plan of the whole: findings, time, cost, space
  ascend runbook apply RUN      carry it out and follow it
  ascend runbook report RUN     what came of it, as Markdown or JSON

A server carries runs out and remembers them (--server, or: ascend login URL), so
that they go on without this command; only check works without one.`,
		Example: `  ascend runbook plan site-a.yaml
  ascend runbook apply 01jd --accept mac-changes`,
	}
	check := &cobra.Command{
		Use: "check FILE", Short: "tell what is wrong with a runbook; - reads standard input", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.runbookCheck(c, args[0]) },
	}
	remote := func(use, short string, run func(*cobra.Command, *client.Client, string) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			return hintOf(run(c, cl, args[0]))
		}}
	}
	var accept []string
	var yes bool
	apply := remote("apply RUN|FILE", "carry a planned run out and follow it; a FILE is planned first", func(c *cobra.Command, cl *client.Client, ref string) error {
		return a.runbookApply(c, cl, ref, accept, yes)
	})
	apply.Flags().StringSliceVar(&accept, "accept", nil, "`CODE`s of the warnings that are accepted")
	apply.Flags().BoolVar(&yes, "accept-all", false, "accept every warning")
	var format, out string
	report := remote("report RUN", "the report of a run", func(c *cobra.Command, cl *client.Client, id string) error {
		b, err := cl.Bytes(c.Context(), client.RunReport, client.Request{ID: id, Query: map[string][]string{"format": {format}}})
		if err != nil {
			return err
		}
		if out != "" {
			return os.WriteFile(out, b, 0o644)
		}
		_, err = c.OutOrStdout().Write(append(b, '\n'))
		return err
	})
	report.Flags().StringVarP(&format, "format", "O", "markdown", "markdown or json")
	report.Flags().StringVarP(&out, "output", "o", "", "write it to this `file`")
	complete(report, "format", "markdown", "json")
	list := &cobra.Command{Use: "ls", Short: "list runs, the newest first", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		cl, err := a.client()
		if err != nil {
			return err
		}
		return hintOf(a.runbookList(c, cl))
	}}
	c.AddCommand(check,
		remote("plan FILE", "plan a runbook as a whole; nothing is restored", a.runbookPlan), apply,
		remote("watch RUN", "follow a run until it is at rest; Ctrl-C ends this command and not the run", a.runbookFollow),
		remote("retry RUN", "go on with a failed run: what failed, and what was held back; and follow it", func(c *cobra.Command, cl *client.Client, id string) error {
			if _, err := client.Do[api.RunReport](c.Context(), cl, client.RetryRun, client.Request{ID: id}); err != nil {
				return err
			}
			return a.runbookFollow(c, cl, id)
		}),
		remote("cancel RUN", "stop a run; machines that are restored stay", func(c *cobra.Command, cl *client.Client, id string) error {
			r, err := client.Do[api.RunReport](c.Context(), cl, client.CancelRun, client.Request{ID: id})
			if err == nil {
				a.note("run %s is %s", r.ID, r.Status)
			}
			return err
		}), report, list)
	return c
}

func readDocument(path string) ([]byte, error) {
	if path != "-" {
		st, err := os.Stat(path)
		if err == nil && st.Size() > runbook.MaxBytes {
			return nil, fmt.Errorf("cannot read runbook: %s is longer than %s", path, vm.FormatSize(runbook.MaxBytes))
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read runbook: %w", err)
		}
		return b, nil
	}
	return io.ReadAll(io.LimitReader(os.Stdin, runbook.MaxBytes+1))
}

func (a *app) runbookCheck(c *cobra.Command, path string) error {
	b, err := readDocument(path)
	if err != nil {
		return err
	}
	d, err := runbook.Parse(b)
	var bad *runbook.Invalid
	if errors.As(err, &bad) {
		rows := [][]string{}
		for _, p := range bad.Places {
			rows = append(rows, []string{clean(p.Path), clean(p.Text)})
		}
		if a.json {
			err = printJSON(c, bad.Places)
		} else {
			table(c.OutOrStdout(), rows)
		}
		return errors.Join(err, refusedError{fmt.Errorf("%d places are not right", len(bad.Places))})
	}
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(c, d)
	}
	n := 0
	for _, g := range d.Groups {
		n += len(g.Machines)
	}
	a.note("%s: %d groups, %d machines; plan it with: ascend runbook plan %s", clean(d.Name), len(d.Groups), n, path)
	return nil
}

// newRun has a document planned and waits for it.
func (a *app) newRun(ctx context.Context, cl *client.Client, path string) (api.RunReport, error) {
	b, err := readDocument(path)
	if err != nil {
		return api.RunReport{}, err
	}
	r, err := client.Do[api.RunReport](ctx, cl, client.NewRun, client.Request{Body: api.NewRun{Document: string(b)}, Key: newKey()})
	if err != nil {
		return r, err
	}
	a.note("run %s: planning %d machines", r.ID, r.Counts.Total)
	return a.awaitRun(ctx, cl, r.ID, func(r api.RunReport) {})
}

// awaitRun follows a run until it is at rest.
func (a *app) awaitRun(ctx context.Context, cl *client.Client, id string, each func(api.RunReport)) (api.RunReport, error) {
	var last api.RunReport
	err := cl.Stream(ctx, client.StreamRun, client.Request{ID: id}, func(error) { a.note("connection lost; connecting again") }, func(e client.Event) error {
		switch e.Name {
		case "run":
			r, err := decodeEvent[api.RunReport](e)
			if err != nil {
				return err
			}
			last = r
			each(r)
		case "end":
			return client.ErrEnd
		}
		return nil
	})
	if errors.Is(err, context.Canceled) {
		return last, withHint(err, "the run goes on; see it with: ascend runbook watch %s, or stop it: ascend runbook cancel %s", id, id)
	}
	return last, err
}

func (a *app) runbookPlan(c *cobra.Command, cl *client.Client, path string) error {
	r, err := a.newRun(c.Context(), cl, path)
	if err != nil {
		return err
	}
	if a.json {
		err = printJSON(c, r)
	} else {
		printRunPlan(c.OutOrStdout(), r)
		a.note("\nrun %s; carry it out with: ascend runbook apply %s", r.ID, r.ID)
	}
	if err == nil && r.Summary.Stopped {
		return refusedError{errors.New("the runbook has critical findings")}
	}
	return err
}

// printRunPlan shows the plan of the whole.
func printRunPlan(w io.Writer, r api.RunReport) {
	s := r.Summary
	rows := [][]string{{"runbook", clean(r.Document.Name)}, {"machines", fmt.Sprintf("%d, of them %d planned", s.Machines, s.Planned)}, {"disks", fmt.Sprintf("%d, %s of data", s.Disks, vm.FormatSize(s.Bytes))},
		{"time", fmt.Sprintf("about %s of copying with the limits of the run, pauses included", time.Duration(s.Seconds)*time.Second)}}
	for cur, sum := range s.Costs {
		rows = append(rows, []string{"cost", sum + " " + cur + " a month"})
	}
	if s.Unpriced > 0 && len(s.Costs) > 0 {
		rows = append(rows, []string{"", fmt.Sprintf("%d machines have no price", s.Unpriced)})
	}
	for _, c := range s.Capacity {
		free := "free space not known"
		if c.Free > 0 {
			free = vm.FormatSize(c.Free) + " free"
		}
		rows = append(rows, []string{"space", fmt.Sprintf("%s on %s: %s, %s", clean(c.Place), c.Target, vm.FormatSize(c.Needs), free)})
	}
	table(w, rows)
	for i, g := range r.Groups {
		fmt.Fprintf(w, "\n%d. %s\n", i+1, clean(g.Name))
		rows := [][]string{}
		for j, m := range g.Machines {
			at := runbook.At{Group: i, Machine: j}
			row := []string{"  " + clean(r.Label(at)), "", "", clean(m.Trouble)}
			if o := m.Plan; o != nil {
				row = []string{"  " + clean(r.Label(at)), "→ " + clean(o.Target.Name), vm.FormatSize(o.Bytes), ""}
			}
			rows = append(rows, row)
		}
		table(w, rows)
	}
	fmt.Fprintln(w)
	for _, f := range s.Findings {
		printFinding(w, "", f)
	}
	r.Each(func(at runbook.At, m *runbook.MachineRun) {
		if m.Trouble != "" {
			printFinding(w, r.Label(at), plan.Finding{Severity: plan.Critical, Code: "no plan", Text: m.Trouble})
		}
		if m.Plan != nil {
			for _, f := range m.Plan.Findings {
				printFinding(w, r.Label(at), f)
			}
		}
	})
	if len(s.Consent) > 0 {
		fmt.Fprintf(w, "to be accepted: %s\n", strings.Join(s.Consent, ","))
	}
}

func printFinding(w io.Writer, who string, f plan.Finding) {
	if who != "" {
		who = clean(who) + ": "
	}
	fmt.Fprintf(w, "%-8s  %s%s [%s]\n", f.Severity, who, clean(f.Text), f.Code)
	if f.Advice != "" {
		fmt.Fprintf(w, "          %s\n", clean(f.Advice))
	}
}

func (a *app) runbookApply(c *cobra.Command, cl *client.Client, ref string, accept []string, all bool) error {
	var r api.RunReport
	var err error
	if _, serr := os.Stat(ref); serr == nil {
		if r, err = a.newRun(c.Context(), cl, ref); err == nil && !a.quiet && !a.json {
			printRunPlan(os.Stderr, r)
		}
	} else {
		r, err = client.Do[api.RunReport](c.Context(), cl, client.GetRun, client.Request{ID: ref})
	}
	if err != nil {
		return err
	}
	if all {
		accept = append(accept, r.Summary.Consent...)
	}
	if _, err := client.Do[api.RunReport](c.Context(), cl, client.ApplyRun, client.Request{ID: r.ID, Body: map[string]any{"accept": accept}}); err != nil {
		return err
	}
	a.note("run %s is begun; it goes on without this command", r.ID)
	return a.runbookFollow(c, cl, r.ID)
}

// runbookFollow shows a run until it is at rest.
func (a *app) runbookFollow(c *cobra.Command, cl *client.Client, id string) error {
	said := map[runbook.At]string{}
	groups := map[int]runbook.Status{}
	r, err := a.awaitRun(c.Context(), cl, id, func(r api.RunReport) {
		if a.json {
			a.event(map[string]any{"event": "progress", "run": r.ID, "status": r.Status, "counts": r.Counts})
		}
		for i, g := range r.Groups {
			if groups[i] != g.Status {
				groups[i] = g.Status
				a.note("%s  %s: %s", time.Now().Format(time.TimeOnly), clean(g.Name), g.Status)
			}
		}
		r.Each(func(at runbook.At, m *runbook.MachineRun) {
			text := string(m.Status)
			if m.Error != "" {
				text += ": " + clean(m.Error)
			} else if m.Seen != "" {
				text += ": " + clean(m.Seen)
			}
			if said[at] == text || m.Status == runbook.Pending {
				return
			}
			said[at] = text
			a.note("%s    %s: %s", time.Now().Format(time.TimeOnly), clean(r.Label(at)), text)
		})
	})
	if err != nil {
		return err
	}
	n := r.Counts
	if a.json {
		a.event(map[string]any{"event": string(r.Status), "run": r.ID, "counts": n})
	}
	a.note("run %s is %s: %d of %d machines completed, %d failed, %d held back", r.ID, r.Status, n.Completed, n.Total, n.Failed, n.Held)
	switch r.Status {
	case runbook.Failed:
		return withHint(errors.New("the run has failed"), "ascend runbook report %s, then: ascend runbook retry %s", r.ID, r.ID)
	case runbook.Cancelled:
		return errors.New("the run was cancelled")
	}
	return nil
}

func (a *app) runbookList(c *cobra.Command, cl *client.Client) error {
	list, err := client.All[api.RunRow](c.Context(), cl, client.ListRuns, client.Request{}, 200)
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(c, list)
	}
	rows := [][]string{{"RUN", "STATUS", "RUNBOOK", "MACHINES", "COMPLETED", "FAILED", "BY", "CREATED"}}
	for _, r := range list {
		rows = append(rows, []string{r.ID, string(r.Status), clean(r.Name), fmt.Sprint(r.Counts.Total), fmt.Sprint(r.Counts.Completed), fmt.Sprint(r.Counts.Failed), clean(r.By), when(r.Created)})
	}
	table(c.OutOrStdout(), rows)
	return nil
}

package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"ascend/internal/backup"
	"ascend/internal/plan"
	"ascend/internal/target"
)

func (a *app) applyCommand() *cobra.Command {
	var r restoreFlags
	c := &cobra.Command{
		Use:   "apply PLAN",
		Short: "carry out a plan that was written and perhaps edited",
		Long: `Carry out a plan that "ascend plan -o" wrote: exactly it, edits included. The
backup, the target and every rule are looked at again first; the restore stops
before the first byte when the world has changed in a way that matters: the
backup's files, what the target has, a finding that was not in the plan. An edit
that cannot be is refused with its line and the values allowed.

As with restore, warnings need --accept, and the same command goes on where a
killed one stopped.`,
		Example: `  ascend plan web01 --repo /backups --to vc1 -o plan.yaml
  ascend apply plan.yaml --accept`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.apply(c, &r, args[0]) },
	}
	c.Flags().StringVar(&r.rate, "rates", "", "rate card of on-premises targets, a `file` (default: rates of the configuration)")
	r.app = a
	r.registerRun(c)
	r.registerGuest(c)
	return c
}

func (a *app) apply(c *cobra.Command, r *restoreFlags, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot read plan: %w", err)
	}
	doc, err := plan.ParseDocument(file, b)
	if err != nil {
		return editError(err)
	}
	ch, err := reopen(c, doc.Plan.Backup)
	if err != nil {
		return err
	}
	defer ch.repo.Close()
	r.to = doc.Plan.Target.Name
	t, s, err := a.openTarget(c.Context(), r.to)
	if err != nil {
		return err
	}
	defer t.Close()
	return a.carryOut(c, r, ch, t, applyKey(doc.Plan), func() (*prepared, error) {
		p, err := r.prepareWith(c.Context(), ch, func(sources []plan.Source) (*plan.Request, error) {
			return a.again(c, r, doc, ch, sources, t, s)
		})
		if err != nil {
			return nil, editError(err)
		}
		d := doc.Plan.Drift(p.plan)
		for _, n := range d.Notes {
			a.note("since the plan was made: %s", n)
		}
		if len(d.Stops) > 0 {
			p.close()
			return nil, refusedError{withHint(fmt.Errorf("the world is not what the plan was made for: %s", strings.Join(d.Stops, "; ")),
				"make the plan again with: ascend plan … -o %s", file)}
		}
		return p, nil
	})
}

// again is the request of a plan that was made before.
func (a *app) again(c *cobra.Command, r *restoreFlags, doc *plan.Document, ch *chosen, sources []plan.Source, t target.Target, s target.Settings) (*plan.Request, error) {
	req, err := doc.Request(sources, t.Capabilities())
	if err != nil {
		return nil, err
	}
	if w, err := r.guestWish(len(req.Machine.NICs)); err != nil {
		return nil, usageError{err}
	} else if w != nil { // the flags go before the plan
		req.GuestWish = w
	}
	req.Backup, req.Target = ch.ref(), plan.TargetRef{Name: s.Name, Platform: s.Platform}
	if err := a.complete(c.Context(), req, ch, t, s, r.rate, false); err != nil {
		return nil, err
	}
	return req, doc.Check(*req)
}

// editError is a mistake in the plan's file, which is the user's input.
func editError(err error) error {
	if errors.As(err, new(*plan.EditError)) {
		return usageError{err}
	}
	return err
}

// reopen finds the backup that a plan names.
func reopen(c *cobra.Command, ref plan.BackupRef) (*chosen, error) {
	if len(ref.Files) == 0 {
		return choose(c, ref.Repository, "", []string{ref.ID})
	}
	var files []string
	for _, f := range ref.Files {
		files = append(files, filepath.Join(ref.Repository, f))
	}
	r, b, err := backup.FromFilesAs(c.Context(), files, ref.Format)
	if err != nil {
		return nil, err
	}
	return &chosen{repo: r, b: b, name: r.Name(), files: ref.Files, format: ref.Format}, nil
}

// applyKey names what a plan asks for: the same plan resumes its job.
func applyKey(p *plan.Plan) string {
	b, err := json.Marshal([]any{"apply", p.Backup, p.Target, p.Machine, p.Disks, p.Placement, p.Options, p.PowerOn, p.Guest, p.Seed})
	if err != nil {
		b = []byte(p.Backup.ID)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

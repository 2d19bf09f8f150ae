package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"ascend/internal/backup"
	"ascend/internal/transfer"
)

// checkManifest compares a backup's files with the digests that its manifest
// states. It tells whether there were any.
func (a *app) checkManifest(ctx context.Context, r *backup.Repository, b backup.Backup, bars *progress) (checked bool, err error) {
	meter := transfer.NewMeter()
	var last int64
	shown := false
	err = r.Verify(ctx, b, func(done, total int64) {
		if !shown {
			shown = true
			meter.SetTotal(total)
			bars.add("manifest", meter)
		}
		meter.Add(done - last)
		last = done
	})
	switch {
	case errors.Is(err, backup.ErrNoManifest):
		return false, nil
	case errors.Is(err, backup.ErrDigest):
		err = mismatchError{withHint(err, "the backup is damaged or was changed: use another copy of it, or take it as it is with --no-manifest")}
	}
	return err == nil, err
}

// beforeRestore checks a package's manifest before the first byte moves.
func (a *app) beforeRestore(ctx context.Context, r *restoreFlags, ch *chosen) error {
	if r.noManifest {
		return nil
	}
	bars := a.startProgress(r.progress, true)
	defer bars.done()
	_, err := a.checkManifest(ctx, ch.repo, ch.b, bars)
	return err
}

func (a *app) backupsCheck() *cobra.Command {
	var repo string
	c := &cobra.Command{
		Use: "check BACKUP --repo DIR", Short: "compare an OVA's or OVF's files with its manifest", Args: cobra.ExactArgs(1),
		Long: `Compare the files of an OVA or OVF with the digests in its manifest. A restore does
so by itself before the first byte moves. The exit code is 4 when a file differs.`,
		RunE: func(c *cobra.Command, args []string) error {
			r, err := backup.Open(repo)
			if err != nil {
				return err
			}
			defer r.Close()
			b, err := r.Find(c.Context(), args[0])
			if err != nil {
				return withHint(err, "see: ascend backups ls --repo %s", repo)
			}
			bars := a.startProgress(false, false)
			checked, err := a.checkManifest(c.Context(), r, b, bars)
			bars.done()
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(c, map[string]any{"backup": b.ID, "manifest": checked})
			}
			if !checked {
				_, err = fmt.Fprintln(c.OutOrStdout(), "not checked: the backup has no manifest")
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), "ok: every file is as its manifest says")
			return err
		},
	}
	c.Flags().StringVar(&repo, "repo", "", "the repository's `folder`")
	_ = c.MarkFlagRequired("repo")
	_ = c.MarkFlagDirname("repo")
	return c
}

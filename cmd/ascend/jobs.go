package main

import (
	"github.com/spf13/cobra"

	"ascend/internal/restore"
)

func (a *app) jobsCommand() *cobra.Command {
	c := &cobra.Command{Use: "jobs", Short: "the restores that this machine has made or begun", Args: cobra.NoArgs}
	c.AddCommand(&cobra.Command{
		Use: "ls", Short: "list the jobs, the newest first", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			st, err := restore.OpenState(a.state())
			if err != nil {
				return err
			}
			all, err := st.List()
			if err != nil {
				return err
			}
			if a.json {
				if all == nil {
					all = []restore.Record{}
				}
				return printJSON(c, all)
			}
			rows := [][]string{{"JOB", "STATUS", "VM", "TARGET", "CREATED", ""}}
			for _, r := range all {
				rows = append(rows, []string{r.ID, string(r.Status), clean(r.Plan.Machine.Name), r.Plan.Target.Name, when(r.Created), clean(r.Error)})
			}
			table(c.OutOrStdout(), rows)
			return nil
		},
	})
	return c
}

func (a *app) undoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "undo JOB",
		Short: "remove exactly what a restore created, and nothing else",
		Long: `Remove what a restore created on its target, the newest first: what the job
recorded, and nothing else. It may be run again when something failed. JOB is the
id or the beginning of it ("ascend jobs ls").`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			st, err := restore.OpenState(a.state())
			if err != nil {
				return err
			}
			j, err := st.Open(args[0])
			if err != nil {
				return err
			}
			defer j.Close()
			t, _, err := a.openTarget(c.Context(), j.Plan.Target.Name)
			if err != nil {
				return err
			}
			defer t.Close()
			if err := j.Undo(c.Context(), t); err != nil {
				return withHint(err, "run it again: ascend undo %s", j.ID)
			}
			a.note("undone: %s on %s", clean(j.Plan.Machine.Name), j.Plan.Target.Name)
			if a.json {
				return printJSON(c, map[string]string{"job": j.ID, "status": string(restore.Undone)})
			}
			return nil
		},
	}
}

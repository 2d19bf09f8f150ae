package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ascend/internal/client"
	"ascend/internal/server/api"
	"ascend/internal/server/fleet"
)

func (a *app) workersCommand() *cobra.Command {
	c := &cobra.Command{Use: "workers", Short: "the workers that carry a server's jobs out", Args: cobra.NoArgs,
		Long: `Look at the workers of a server and send them home. A worker is a machine on which
"ascend worker" runs.`}
	c.AddCommand(
		&cobra.Command{Use: "ls", Short: "list the workers by site: what they hold and which repositories they reach", Args: cobra.NoArgs, RunE: a.workersList},
		&cobra.Command{Use: "drain WORKER", Short: "have a worker take no more jobs and end after its last", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if _, err := cl.Bytes(c.Context(), client.DrainWorker, client.Request{ID: args[0]}); err != nil {
				return hintOf(err)
			}
			a.note("%s takes no more jobs and ends after its last; see: ascend workers ls", args[0])
			return nil
		}})
	return c
}

func (a *app) workersList(c *cobra.Command, _ []string) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	list, err := client.Do[api.Page[fleet.Listed]](c.Context(), cl, client.ListWorkers, client.Request{})
	if err != nil {
		return hintOf(err)
	}
	if a.json {
		return printJSON(c, list.Items)
	}
	if len(list.Items) == 0 {
		a.note("there are no workers: the server carries jobs out itself, or none has come yet")
		return nil
	}
	rows := [][]string{{"WORKER", "SITE", "STATE", "JOBS", "VERSION", "REGIONS", "REPOSITORIES", "SEEN"}}
	for _, w := range list.Items {
		rows = append(rows, []string{clean(w.ID), clean(w.Site), w.State(), fmt.Sprintf("%d/%d", w.Jobs, w.Capacity), clean(w.Version), clean(strings.Join(w.Regions, " ")), clean(strings.Join(w.Repositories, " ")), when(w.Seen)})
	}
	table(c.OutOrStdout(), rows)
	return nil
}

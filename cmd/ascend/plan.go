package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"ascend/internal/plan"
	"ascend/internal/vm"
)

func (a *app) planCommand() *cobra.Command {
	var r requestFlags
	var output string
	c := &cobra.Command{
		Use:   "plan BACKUP --repo DIR --to TARGET",
		Short: "say what a restore would do, and what stands in its way; nothing is changed",
		Long: `Say what a restore would do: how each disk travels, what of the machine changes
and why, and every finding. Nothing is created, and the disks' data is not read.
The exit code is 3 when a critical finding stands in the way.`,
		Example: `  ascend plan web01 --repo /backups --to vc1 --network "VM Network"
  ascend plan disk.qcow2 --cpus 2 --memory 4G --to local:/restored --format vhdx
  ascend plan web01 --repo /backups --to vc1 -O yaml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ch, err := choose(c, r.repo, r.sourceFormat, args)
			if err != nil {
				return err
			}
			defer ch.repo.Close()
			t, s, err := a.openTarget(c.Context(), r.to)
			if err != nil {
				return err
			}
			defer t.Close()
			p, err := r.prepare(c.Context(), ch, t, s)
			if err != nil {
				return err
			}
			defer p.close()
			if a.json {
				output = "json"
			}
			switch output {
			case "json":
				err = printJSON(c, p.plan)
			case "yaml":
				err = yaml.NewEncoder(c.OutOrStdout(), yaml.UseJSONMarshaler()).Encode(p.plan)
			case "text":
				printPlan(c.OutOrStdout(), p.plan)
			default:
				return usageError{fmt.Errorf("--output is text, json or yaml, not %q", output)}
			}
			if err == nil && p.plan.Stopped() {
				return refusedError{fmt.Errorf("the plan has critical findings")}
			}
			return err
		},
	}
	r.register(c, a)
	c.Flags().StringVarP(&output, "output", "O", "text", "text, json or yaml")
	complete(c, "output", "text", "json", "yaml")
	return c
}

// printPlan writes a plan for a person.
func printPlan(w io.Writer, p *plan.Plan) {
	fmt.Fprintf(w, "restore %s (%s) to %s (%s)\n\n", clean(p.Backup.VM), clean(p.Backup.ID), p.Target.Name, p.Target.Platform)
	m := p.Machine
	rows := [][]string{{"machine", clean(m.Name)}}
	rows = append(rows, machineRows(m)...)
	for i, d := range p.Disks {
		size := "size known at the end"
		if d.FileSize >= 0 {
			size = "file of " + vm.FormatSize(d.FileSize)
		}
		rows = append(rows, []string{fmt.Sprintf("disk %d", d.Index), fmt.Sprintf("%s, %s allocated, on %s; sent as %s by %s, %s",
			vm.FormatSize(d.Virtual), vm.FormatSize(d.Source.Allocated), m.Disks[i].Controller, d.Delivery.Format, d.Delivery.Path, size)})
	}
	table(w, rows)
	if len(p.Changes) > 0 {
		fmt.Fprintln(w, "\nwhat changes")
		rows = [][]string{}
		for _, c := range p.Changes {
			rows = append(rows, []string{"  " + c.Field, clean(c.From) + " → " + clean(c.To), c.Reason})
		}
		table(w, rows)
	}
	printFindings(w, p.Findings)
	fmt.Fprintf(w, "\nto move: %s of %s; temporary space: %s\n", vm.FormatSize(p.Estimate.Allocated), vm.FormatSize(p.Estimate.Virtual), vm.FormatSize(p.Estimate.Staging))
}

func printFindings(w io.Writer, list []plan.Finding) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(w, "\nfindings")
	for _, s := range []plan.Severity{plan.Critical, plan.Warning, plan.Information} {
		for _, f := range list {
			if f.Severity != s {
				continue
			}
			fmt.Fprintf(w, "  %-11s  %s: %s\n", strings.ToUpper(string(f.Severity)), f.Code, clean(f.Text))
			if f.Advice != "" {
				fmt.Fprintf(w, "               %s\n", f.Advice)
			}
		}
	}
}

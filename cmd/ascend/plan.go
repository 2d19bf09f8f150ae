package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"ascend/internal/plan"
	"ascend/internal/vm"
)

func (a *app) planCommand() *cobra.Command {
	var r requestFlags
	var output, file string
	var schema, compare, refresh bool
	c := &cobra.Command{
		Use:   "plan BACKUP --repo DIR --to TARGET",
		Short: "say what a restore would do, and what stands in its way; nothing is changed",
		Long: `Say what a restore would do: how each disk travels, what of the machine changes
and why, every finding, how long it takes and what it costs. Nothing is created,
and the disks' data is not read. The exit code is 3 when a critical finding
stands in the way.

With -o the plan is written to a file, which may be edited and carried out:
ascend apply FILE. What the target has is taken from memory when it was asked
within the hour; --refresh asks again.`,
		Example: `  ascend plan web01 --repo /backups --to vc1 --network "VM Network"
  ascend plan web01 --repo /backups --to aws1 --map lab.yaml -o plan.yaml
  ascend plan disk.qcow2 --cpus 2 --memory 4G --to local:/restored --format vhdx`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case schema && len(args) == 0:
				return nil
			case len(args) == 0:
				return errors.New("name a backup")
			case r.to == "":
				return errors.New("required flag \"to\" not set")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if schema {
				_, err := c.OutOrStdout().Write(plan.Schema())
				return err
			}
			if strings.Contains(file, "=") {
				return usageError{withHint(fmt.Errorf("-o is the plan's file, and %q is none", file), "options of the format are --option KEY=VALUE here")}
			}
			r.cached = !refresh
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
			if file != "" {
				if err := writePlan(file, p.plan); err != nil {
					return err
				}
				a.note("wrote %s; edit it if need be, then: ascend apply %s", file, file)
			}
			if a.json {
				output = "json"
			}
			switch output {
			case "json":
				err = printJSON(c, p.plan)
			case "yaml":
				var b []byte
				if b, err = p.plan.YAML(); err == nil {
					_, err = c.OutOrStdout().Write(b)
				}
			case "text":
				printPlan(c.OutOrStdout(), p.plan)
				if compare {
					printComparison(c.OutOrStdout(), p.plan)
				}
				a.age(s)
			default:
				return usageError{fmt.Errorf("--output is text, json or yaml, not %q", output)}
			}
			if err == nil && p.plan.Stopped() {
				return refusedError{fmt.Errorf("the plan has critical findings")}
			}
			return err
		},
	}
	r.register(c, a, "")
	c.Flags().StringVarP(&output, "output", "O", "text", "text, json or yaml")
	c.Flags().StringVarP(&file, "out", "o", "", "write the plan to this `file` too: JSON if it ends in .json, else YAML")
	c.Flags().BoolVar(&schema, "schema", false, "print the JSON Schema of plans")
	c.Flags().BoolVar(&compare, "compare", false, "list every field of the machine, before and after")
	c.Flags().BoolVar(&refresh, "refresh", false, "ask the target again what it has")
	complete(c, "output", "text", "json", "yaml")
	return c
}

func writePlan(file string, p *plan.Plan) error {
	b, err := p.YAML()
	if strings.HasSuffix(file, ".json") {
		if b, err = json.MarshalIndent(p, "", "  "); err == nil {
			b = append(b, '\n')
		}
	}
	if err == nil {
		err = os.WriteFile(file, b, 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot write plan: %w", err)
	}
	return nil
}

// printPlan writes a plan for a person.
func printPlan(w io.Writer, p *plan.Plan) {
	fmt.Fprintf(w, "restore %s (%s) to %s (%s)\n", clean(p.Backup.VM), clean(p.Backup.ID), p.Target.Name, p.Target.Platform)
	if d := p.Detected; d != nil {
		fmt.Fprintf(w, "the machine ran on %s (%s)\n", plan.Title(d.Platform), d.Confidence)
	}
	fmt.Fprintln(w)
	m := p.Machine
	rows := [][]string{{"machine", clean(m.Name)}}
	if s := p.Size; s != nil {
		price := ""
		if s.Hourly != "" {
			price = fmt.Sprintf(", %s %s an hour", s.Hourly, s.Currency)
		}
		rows = append(rows, []string{"size", s.Name + price + "; " + s.Chosen})
		for _, o := range s.Alternatives {
			note := o.Hourly
			if note != "" {
				note = ", " + note + " an hour"
			}
			if o.Note != "" {
				note += "; " + o.Note
			}
			rows = append(rows, []string{"", fmt.Sprintf("or %s, %d processors, %s%s", o.Name, o.CPUs, vm.FormatSize(o.Memory), note)})
		}
	}
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
	printEstimate(w, p.Estimate)
}

func printEstimate(w io.Writer, e plan.Estimate) {
	fmt.Fprintf(w, "\nto move: %s of %s; temporary space: %s\n", vm.FormatSize(e.Allocated), vm.FormatSize(e.Virtual), vm.FormatSize(e.Staging))
	if e.Rate > 0 {
		fmt.Fprintf(w, "time: about %s at %s/s (%s)\n", e.Time(), vm.FormatSize(e.Rate), e.RateFrom)
	}
	if e.Requests > 0 {
		fmt.Fprintf(w, "requests: %d\n", e.Requests)
	}
	c := e.Cost
	if c == nil {
		return
	}
	where := ""
	if c.Region != "" {
		where = " in " + c.Region
	}
	fmt.Fprintf(w, "\ncost in %s%s, at prices of %s\n", c.Currency, where, cmp.Or(c.Date, "an unknown date"))
	rows := [][]string{}
	for _, l := range c.Once {
		rows = append(rows, []string{"  " + l.What, l.Amount, "once"})
	}
	for _, l := range c.Monthly {
		rows = append(rows, []string{"  " + l.What, l.Amount, "a month"})
	}
	rows = append(rows, []string{"  together", c.Total, "a month"})
	for _, l := range c.Sizes {
		rows = append(rows, []string{"  with " + l.What, l.Amount, "a month"})
	}
	table(w, rows)
	fmt.Fprintf(w, "  left out: %s\n", strings.Join(c.LeftOut, "; "))
}

func printComparison(w io.Writer, p *plan.Plan) {
	fmt.Fprintln(w, "\nevery field")
	rows := [][]string{{"  FIELD", "BEFORE", "AFTER", "WHY"}}
	for _, r := range p.Compare() {
		rows = append(rows, []string{"  " + r.Field, clean(r.Before), clean(r.After), r.Reason})
	}
	table(w, rows)
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

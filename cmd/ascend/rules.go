package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ascend/internal/plan"
	"ascend/internal/vm"
)

func (a *app) rulesCommand() *cobra.Command {
	c := &cobra.Command{Use: "rules", Short: "the compatibility rules that plans are checked against", Args: cobra.NoArgs}
	c.AddCommand(&cobra.Command{
		Use: "ls", Short: "list the rules", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			rules := plan.Rules()
			if a.json {
				return printJSON(c, rules)
			}
			rows := [][]string{{"CODE", "SEVERITY", "SUBJECT", "ABOUT"}}
			for _, r := range rules {
				rows = append(rows, []string{r.Code, string(r.Severity), r.Subject, r.About})
			}
			table(c.OutOrStdout(), rows)
			return nil
		},
	}, &cobra.Command{
		Use: "explain CODE", Short: "say what a rule looks for, what it looks at and what to do", Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var codes []string
			for _, r := range plan.Rules() {
				codes = append(codes, r.Code)
			}
			return codes, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			r, ok := plan.FindRule(args[0])
			if !ok {
				return usageError{withHint(fmt.Errorf("no rule has the code %q", args[0]), "see: ascend rules ls")}
			}
			if a.json {
				return printJSON(c, r)
			}
			does := map[plan.Severity]string{
				plan.Critical: "critical: the restore does not start", plan.Warning: "warning: the restore needs --accept", plan.Information: "information: nothing is stopped",
			}
			rows := [][]string{{"code", r.Code}, {"severity", does[r.Severity]}, {"subject", r.Subject}, {"about", r.About}, {"looks at", strings.Join(r.Facts, ", ")}}
			if r.Advice != "" {
				rows = append(rows, []string{"what to do", r.Advice})
			}
			table(c.OutOrStdout(), rows)
			return nil
		},
	})
	return c
}

func (a *app) matrixCommand() *cobra.Command {
	var r requestFlags
	var output string
	c := &cobra.Command{
		Use:   "matrix [BACKUP]",
		Short: "say what can be restored where, and why not",
		Long: `Say which sources can be restored to which targets, with the reason of each "no"
and each "with conditions", from the platforms' capabilities and the rules of
every plan. With a BACKUP, for its machine alone; no target is asked.`,
		Example: `  ascend matrix
  ascend matrix web01 --repo /backups
  ascend matrix -O markdown`,
		RunE: func(c *cobra.Command, args []string) error {
			m, err := a.matrix(c, &r, args)
			if err != nil {
				return err
			}
			if a.json {
				output = "json"
			}
			switch output {
			case "json":
				return printJSON(c, m)
			case "markdown":
				_, err = fmt.Fprint(c.OutOrStdout(), m.Markdown())
				return err
			case "text":
				printMatrix(c, m)
				return nil
			}
			return usageError{fmt.Errorf("--output is text, json or markdown, not %q", output)}
		},
	}
	f := c.Flags()
	f.StringVar(&r.repo, "repo", "", "the repository's `folder`; without it, name image files")
	f.StringVarP(&r.sourceFormat, "source-format", "f", "", "format of the image files named (default: told from their signatures)")
	f.StringVar(&r.cpus, "cpus", "", "processors: `N`, or SOCKETSxCORES")
	f.StringVar(&r.memory, "memory", "", "memory, as `4G`")
	f.StringVar(&r.firmware, "firmware", "", "bios or uefi")
	f.StringVar(&r.machine, "machine", "", "`file` that describes the machine (vm.json), in place of what the backup says")
	f.StringVar(&r.source, "source-platform", "", "where the machine ran, instead of what the backup speaks for")
	f.StringVarP(&output, "output", "O", "text", "text, json or markdown")
	complete(c, "output", "text", "json", "markdown")
	return c
}

func (a *app) matrix(c *cobra.Command, r *requestFlags, args []string) (*plan.Matrix, error) {
	if len(args) == 0 {
		return plan.General()
	}
	ch, err := choose(c, r.repo, r.sourceFormat, args)
	if err != nil {
		return nil, err
	}
	defer ch.repo.Close()
	p, err := openDisks(c.Context(), ch)
	if err != nil {
		return nil, err
	}
	defer p.close()
	sources, err := plan.Measure(c.Context(), p.images)
	if err != nil {
		return nil, err
	}
	m, err := r.machineOf(ch, sources)
	if err != nil {
		return nil, err
	}
	var stated vm.Platform
	if r.source != "" {
		if stated, err = vm.ParsePlatform(r.source); err != nil {
			return nil, usageError{err}
		}
	}
	if d := plan.Detect(evidence(ch), m, nil, stated); d != nil {
		m.Platform = d.Platform
	}
	return plan.Of(ch.b.ID, m, sources)
}

func printMatrix(c *cobra.Command, m *plan.Matrix) {
	w := c.OutOrStdout()
	head := []string{"FROM"}
	for _, t := range m.Targets {
		head = append(head, plan.Title(t))
	}
	rows := [][]string{head}
	for _, s := range m.Sources {
		row := []string{plan.Title(s)}
		for _, t := range m.Targets {
			cell := m.Cell(s, t)
			text := string(cell.Verdict)
			if cell.Verdict == plan.Conditions && cell.Of > 0 {
				text = fmt.Sprintf("%d of %d", cell.Plain, cell.Of)
			}
			row = append(row, text)
		}
		rows = append(rows, row)
	}
	table(w, rows)
	if m.Backup == "" {
		fmt.Fprintln(w, "\nN of M: so many of the kinds of machines tried need no consent and nothing else; the others:")
	}
	for _, cell := range m.Cells {
		if len(cell.Reasons) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s to %s: %s\n", plan.Title(cell.Source), plan.Title(cell.Target), cell)
		for _, r := range cell.Reasons {
			when := ""
			if r.When != "" {
				when = r.When + ": "
			}
			fmt.Fprintf(w, "  %s%s, %s (%s)\n      %s\n", when, r.Verdict, clean(r.Text), r.Code, r.Advice)
		}
	}
}

package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ascend/internal/target"
	"ascend/internal/target/all"
	"ascend/internal/vm"
)

func (a *app) targetCommand() *cobra.Command {
	c := &cobra.Command{Use: "target", Short: "configure and check where machines are restored to", Args: cobra.NoArgs}
	c.AddCommand(a.targetAdd(), a.targetLs(), a.targetRm(), a.targetValidate(), a.targetSettings(), a.targetInventory())
	return c
}

func (a *app) targetAdd() *cobra.Command {
	var platform string
	var set []string
	c := &cobra.Command{
		Use:   "add NAME --platform PLATFORM --set KEY=VALUE …",
		Short: "add or replace a target in the configuration",
		Long: `Add or replace a target in the configuration file.

Secrets never stand on a command line or in the configuration: give
--set password_file=FILE or --set password_env=VARIABLE; without either the
password is asked for when it is needed. "ascend target settings PLATFORM" lists
the keys.`,
		Example: `  ascend target add vc1 --platform vmware --set url=vcenter.example.org \
      --set username=restore@vsphere.local --set password_file=/etc/ascend/vc1.password`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := vm.ParsePlatform(platform)
			if err != nil {
				return usageError{err}
			}
			kind, err := all.Registry().Kind(p)
			if err != nil {
				return usageError{err}
			}
			t := map[string]string{"platform": string(p)}
			values, err := keyValues(set)
			if err != nil {
				return usageError{err}
			}
			for k, v := range values {
				if slices.ContainsFunc(kind.Settings, func(s target.Setting) bool { return s.Secret && s.Name == k }) {
					return usageError{withHint(fmt.Errorf("%s must not stand on a command line", k), "use --set %s_file=FILE or --set %s_env=VARIABLE", k, k)}
				}
				t[k] = v
			}
			cfg, err := a.config()
			if err != nil {
				return err
			}
			for k := range t {
				if !knownSetting(kind, k) {
					return usageError{withHint(fmt.Errorf("unknown setting %q", k), "see: ascend target settings %s", p)}
				}
			}
			cfg.Targets[args[0]] = t
			if err := cfg.save(); err != nil {
				return err
			}
			a.note("added %s to %s; check it with: ascend target validate %s", args[0], cfg.path, args[0])
			return nil
		},
	}
	c.Flags().StringVar(&platform, "platform", "", "the target's platform")
	c.Flags().StringArrayVar(&set, "set", nil, "a connection setting, `KEY=VALUE`")
	_ = c.MarkFlagRequired("platform")
	_ = c.RegisterFlagCompletionFunc("platform", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var names []string
		for _, k := range all.Registry().Kinds() {
			names = append(names, string(k.Platform))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	return c
}

// keysOf are the names that a setting has in the configuration: a secret is not
// there itself, only where it is found.
func keysOf(s target.Setting) []string {
	if s.Secret {
		return []string{s.Name + "_file", s.Name + "_env"}
	}
	return []string{s.Name}
}

// knownSetting tells whether the configuration of a platform's target may have key.
func knownSetting(kind target.Kind, key string) bool {
	return key == "platform" || slices.ContainsFunc(kind.Settings, func(s target.Setting) bool { return slices.Contains(keysOf(s), key) })
}

// keyValues reads KEY=VALUE arguments.
func keyValues(list []string) (map[string]string, error) {
	m := map[string]string{}
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("%q is not KEY=VALUE", s)
		}
		m[k] = v
	}
	return m, nil
}

func (a *app) targetLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "list the configured targets", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			type row struct {
				Name     string `json:"name"`
				Platform string `json:"platform"`
				Where    string `json:"where,omitempty"`
			}
			list := []row{}
			for n, t := range cfg.Targets {
				list = append(list, row{n, t["platform"], whereIs(t)})
			}
			slices.SortFunc(list, func(x, y row) int { return strings.Compare(x.Name, y.Name) })
			if a.json {
				return printJSON(c, list)
			}
			rows := [][]string{{"NAME", "PLATFORM", "WHERE"}}
			for _, r := range list {
				rows = append(rows, []string{r.Name, r.Platform, clean(r.Where)})
			}
			table(c.OutOrStdout(), rows)
			return nil
		},
	}
}

// whereIs is what tells a target from others of its platform: the first setting
// that every one has, as its address or folder.
func whereIs(t map[string]string) string {
	p, err := vm.ParsePlatform(t["platform"])
	if err != nil {
		return ""
	}
	kind, err := all.Registry().Kind(p)
	if err != nil {
		return ""
	}
	for _, s := range kind.Settings {
		if s.Required && !s.Secret {
			return t[s.Name]
		}
	}
	return ""
}

func (a *app) targetRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME", Short: "remove a target from the configuration; nothing on the platform is touched", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeTargets,
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			if cfg.Targets[args[0]] == nil {
				return fmt.Errorf("no target is named %q", args[0])
			}
			delete(cfg.Targets, args[0])
			return cfg.save()
		},
	}
}

func (a *app) targetValidate() *cobra.Command {
	return &cobra.Command{
		Use: "validate NAME", Short: "check that a target can be used; changes nothing there", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeTargets,
		RunE: func(c *cobra.Command, args []string) error {
			t, _, err := a.openTarget(c.Context(), args[0])
			if err != nil {
				return err
			}
			defer t.Close()
			checks := t.Validate(c.Context())
			failed := 0
			rows := [][]string{}
			for _, k := range checks {
				mark := "ok"
				if !k.OK {
					mark = "FAILED"
					failed++
				}
				rows = append(rows, []string{mark, k.Name, k.Detail})
				if !k.OK && k.Hint != "" {
					rows = append(rows, []string{"", "", "hint: " + k.Hint})
				}
			}
			if a.json {
				if err := printJSON(c, checks); err != nil {
					return err
				}
			} else {
				table(c.OutOrStdout(), rows)
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d checks failed", failed, len(checks))
			}
			if len(checks) == 0 {
				return errors.New("the target made no checks")
			}
			return nil
		},
	}
}

func (a *app) targetSettings() *cobra.Command {
	return &cobra.Command{
		Use: "settings PLATFORM", Short: "list a platform's connection settings, placement fields and options", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := vm.ParsePlatform(args[0])
			if err != nil {
				return usageError{err}
			}
			kind, err := all.Registry().Kind(p)
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(c, kind.Settings)
			}
			rows := [][]string{{"SETTING", "", "MEANING"}}
			for _, s := range kind.Settings {
				note := ""
				if s.Required {
					note = "required"
				}
				rows = append(rows, []string{strings.Join(keysOf(s), ", "), note, s.Help})
			}
			table(c.OutOrStdout(), rows)
			return nil
		},
	}
}

func (a *app) targetInventory() *cobra.Command {
	return &cobra.Command{
		Use: "inventory NAME", Short: "list what machines can be placed on", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeTargets,
		RunE: func(c *cobra.Command, args []string) error {
			t, _, err := a.openTarget(c.Context(), args[0])
			if err != nil {
				return err
			}
			defer t.Close()
			inv, err := t.Inventory(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(c, inv)
			}
			printInventory(c.OutOrStdout(), inv)
			return nil
		},
	}
}

func printInventory(w io.Writer, inv *target.Inventory) {
	rows := [][]string{{"FIELD", "NAME", "FREE", ""}}
	add := func(field string, list []target.Place) {
		for _, p := range list {
			free := ""
			if p.Free > 0 {
				free = vm.FormatSize(p.Free)
			}
			rows = append(rows, []string{field, clean(p.Name), free, clean(p.Note)})
		}
	}
	for _, f := range slices.Sorted(maps.Keys(inv.Places)) {
		add(f, inv.Places[f])
	}
	add("network", inv.Networks)
	table(w, rows)
}

func (a *app) completeTargets(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	names := []string{"local:"}
	if cfg, err := a.config(); err == nil {
		for n := range cfg.Targets {
			names = append(names, n)
		}
	}
	return names, cobra.ShellCompDirectiveNoSpace
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"golang.org/x/term"

	"ascend/internal/plan"
	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/all"
	"ascend/internal/vm"
)

// config is the configuration file: targets by name, each with its platform and
// the settings of that platform's connector. A secret stands there as
// NAME_file or NAME_env; in clear it is refused.
//
//	targets:
//	  vc1:
//	    platform: vmware
//	    server: vcenter.example.org
//	    username: restore@vsphere.local
//	    password_file: ~/.config/ascend/vc1.password
//	mappings:
//	  lab:
//	    networks:
//	      - {from: "VM Network", to: lab}
//	rates: ~/.config/ascend/rates.yaml
type config struct {
	Targets map[string]map[string]string `yaml:"targets"`
	// Mappings are named sets for --map; see plan.Mapping.
	Mappings map[string]plan.Mapping `yaml:"mappings,omitempty"`
	// Rates is the file of the rate card of on-premises targets.
	Rates string `yaml:"rates,omitempty"`

	path string
}

func (a *app) configFile() string {
	if a.configPath != "" {
		return a.configPath
	}
	if p := os.Getenv("ASCEND_CONFIG"); p != "" {
		return p
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		dir = "."
	}
	return filepath.Join(dir, "ascend", "config.yaml")
}

func (a *app) config() (*config, error) {
	if a.cfg != nil {
		return a.cfg, nil
	}
	c := &config{path: a.configFile()}
	b, err := os.ReadFile(c.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && a.configPath == "":
	case err != nil:
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	default:
		if err := yaml.UnmarshalWithOptions(b, c, yaml.Strict()); err != nil {
			return nil, fmt.Errorf("cannot read configuration %s: %w", c.path, err)
		}
	}
	if c.Targets == nil {
		c.Targets = map[string]map[string]string{}
	}
	a.cfg = c
	return c, nil
}

func (c *config) save() error {
	b, err := yaml.Marshal(c)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(c.path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(c.path+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(c.path+".new", c.path)
	}
	if err != nil {
		return fmt.Errorf("cannot write configuration: %w", err)
	}
	return nil
}

// settings are those of a configured target, or of local:DIR, with the secrets
// read from where the configuration says.
func (a *app) settings(name string) (target.Settings, error) {
	if dir, ok := strings.CutPrefix(name, "local:"); ok {
		if dir == "" {
			return target.Settings{}, usageError{errors.New("local: needs a folder, as in local:/restored")}
		}
		abs, err := filepath.Abs(dir)
		return target.Settings{Name: "local:" + abs, Platform: vm.Local, Values: map[string]string{"dir": abs}}, err
	}
	c, err := a.config()
	if err != nil {
		return target.Settings{}, err
	}
	t, ok := c.Targets[name]
	if !ok {
		var have []string
		for n := range c.Targets {
			have = append(have, n)
		}
		slices.Sort(have)
		has := "has none"
		if len(have) > 0 {
			has = "has: " + strings.Join(have, ", ")
		}
		return target.Settings{}, withHint(fmt.Errorf("no target is named %q in %s (it %s)", name, c.path, has),
			"add it with: ascend target add %s --platform …, or use local:DIR", name)
	}
	p, err := vm.ParsePlatform(t["platform"])
	if err != nil {
		return target.Settings{}, fmt.Errorf("target %s: %w", name, err)
	}
	kind, err := all.Registry().Kind(p)
	if err != nil {
		return target.Settings{}, err
	}
	return readSettings(name, kind, t)
}

// readSettings sorts a target's configuration into values and secrets. A secret
// that is given nowhere is asked for on a terminal.
func readSettings(name string, kind target.Kind, t map[string]string) (target.Settings, error) {
	s := target.Settings{Name: name, Platform: kind.Platform, Values: map[string]string{}, Secrets: map[string]secret.String{}}
	for _, f := range kind.Settings {
		if !f.Secret {
			if v, ok := t[f.Name]; ok {
				s.Values[f.Name] = v
			}
			continue
		}
		if _, ok := t[f.Name]; ok {
			return s, withHint(fmt.Errorf("target %s: %s must not stand in the configuration", name, f.Name), "use %s_file or %s_env", f.Name, f.Name)
		}
		v, err := readSecret(name, f, t)
		if err != nil {
			return s, err
		}
		s.Secrets[f.Name] = v
	}
	for k := range t {
		if !knownSetting(kind, k) {
			return s, withHint(fmt.Errorf("target %s: unknown setting %q", name, k), "see: ascend target settings %s", kind.Platform)
		}
	}
	return s, nil
}

func readSecret(name string, f target.Setting, t map[string]string) (secret.String, error) {
	if env := t[f.Name+"_env"]; env != "" {
		v, ok := os.LookupEnv(env)
		if !ok {
			return secret.String{}, fmt.Errorf("target %s: environment variable %s is not set", name, env)
		}
		return secret.New(v), nil
	}
	if file := t[f.Name+"_file"]; file != "" {
		b, err := os.ReadFile(expandHome(file))
		if err != nil {
			return secret.String{}, fmt.Errorf("target %s: cannot read %s: %w", name, f.Name, err)
		}
		return secret.New(strings.TrimRight(string(b), "\r\n")), nil
	}
	if !f.Required {
		return secret.String{}, nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return secret.String{}, withHint(fmt.Errorf("target %s: its %s is not known, and there is no terminal to ask for it", name, f.Name),
			"add %s_file or %s_env to the target's settings", f.Name, f.Name)
	}
	fmt.Fprintf(os.Stderr, "%s of target %s: ", f.Name, name)
	b, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(os.Stderr)
	return secret.New(string(b)), err
}

func expandHome(p string) string {
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return p
}

// openTarget connects to a configured target or local:DIR.
func (a *app) openTarget(ctx context.Context, name string) (target.Target, target.Settings, error) {
	s, err := a.settings(name)
	if err != nil {
		return nil, s, err
	}
	t, err := all.Registry().Open(ctx, s)
	if err != nil {
		return nil, s, fmt.Errorf("cannot open target %s: %w", name, err)
	}
	return t, s, nil
}

// state is the folder of jobs.
func (a *app) state() string {
	if a.stateDir != "" {
		return a.stateDir
	}
	if p := os.Getenv("ASCEND_STATE_DIR"); p != "" {
		return p
	}
	if p := os.Getenv("XDG_STATE_HOME"); p != "" {
		return filepath.Join(p, "ascend")
	}
	return expandHome("~/.local/state/ascend")
}

package target

import (
	"context"
	"fmt"
	"slices"

	"ascend/internal/secret"
	"ascend/internal/vm"
)

// Settings are a configured target's own settings: names to values. Secret
// ones stand in Secrets only, which never prints them.
type Settings struct {
	Name     string            // the target's configured name
	Platform vm.Platform       //
	Values   map[string]string // by Kind.Settings
	Secrets  map[string]secret.String
}

// Kind describes one platform's connector.
type Kind struct {
	Platform vm.Platform
	// Settings are the connection settings the kind understands.
	Settings []Setting
	// Open connects. It may ask the platform; it changes nothing.
	Open func(ctx context.Context, s Settings) (Target, error)
}

// Setting is one connection setting.
type Setting struct {
	Field
	Secret bool `json:"secret,omitempty"`
}

// Registry maps platforms to connectors; a value, filled explicitly by
// package target/all.
type Registry struct{ kinds []Kind }

// NewRegistry makes a registry of kinds.
func NewRegistry(kinds ...Kind) *Registry { return &Registry{kinds: kinds} }

// Kinds lists the connectors in the order they were given.
func (r *Registry) Kinds() []Kind { return slices.Clone(r.kinds) }

// Kind finds the connector of a platform.
func (r *Registry) Kind(p vm.Platform) (Kind, error) {
	for _, k := range r.kinds {
		if k.Platform == p {
			return k, nil
		}
	}
	return Kind{}, fmt.Errorf("no connector for platform %q is built in", p)
}

// Open checks the settings against the kind and connects.
func (r *Registry) Open(ctx context.Context, s Settings) (Target, error) {
	k, err := r.Kind(s.Platform)
	if err != nil {
		return nil, err
	}
	for name := range s.Values {
		if !slices.ContainsFunc(k.Settings, func(f Setting) bool { return f.Name == name }) {
			return nil, fmt.Errorf("target %s: unknown setting %q", s.Name, name)
		}
	}
	for _, f := range k.Settings {
		if f.Required && s.Values[f.Name] == "" && s.Secrets[f.Name].Empty() {
			return nil, fmt.Errorf("target %s: setting %q is missing: %s", s.Name, f.Name, f.Help)
		}
	}
	return k.Open(ctx, s)
}

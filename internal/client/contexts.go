package client

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/zalando/go-keyring"

	"ascend/internal/secret"
)

// Contexts is the file of servers that a user works with. It holds no token: those
// stand in a file, an environment variable or the system's keyring.
type Contexts struct {
	Current  string              `yaml:"current,omitempty"`
	Contexts map[string]*Context `yaml:"contexts"`

	path string
}

// Context is one server.
type Context struct {
	Server      string `yaml:"server"`
	CAFile      string `yaml:"ca_file,omitempty"`
	Fingerprint string `yaml:"fingerprint,omitempty"`
	// One of these says where the token is.
	TokenFile    string `yaml:"token_file,omitempty"`
	TokenEnv     string `yaml:"token_env,omitempty"`
	TokenKeyring bool   `yaml:"token_keyring,omitempty"`
}

const keyringService = "ascend-client"

// OpenContexts reads a file; one that is not there is empty.
func OpenContexts(path string) (*Contexts, error) {
	c := &Contexts{path: path, Contexts: map[string]*Context{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = yaml.UnmarshalWithOptions(b, c, yaml.Strict())
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	if c.Contexts == nil {
		c.Contexts = map[string]*Context{}
	}
	return c, nil
}

// Find is a context by its name.
func (c *Contexts) Find(name string) (*Context, error) {
	if x := c.Contexts[name]; x != nil {
		return x, nil
	}
	var have []string
	for n := range c.Contexts {
		have = append(have, n)
	}
	slices.Sort(have)
	return nil, fmt.Errorf("no context is named %q in %s (it has: %s)", name, c.path, strings.Join(have, ", "))
}

// Save writes the file.
func (c *Contexts) Save() error {
	b, err := yaml.Marshal(c)
	if err == nil {
		err = writePrivate(c.path, b)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", c.path, err)
	}
	return nil
}

func writePrivate(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Token reads a context's token.
func (x *Context) Token(name string) (secret.String, error) {
	switch {
	case x.TokenKeyring:
		v, err := keyring.Get(keyringService, name)
		if err != nil {
			return secret.String{}, fmt.Errorf("cannot read the token of %s from the keyring: %w", name, err)
		}
		return secret.New(v), nil
	case x.TokenEnv != "":
		v, ok := os.LookupEnv(x.TokenEnv)
		if !ok {
			return secret.String{}, fmt.Errorf("cannot read the token of %s: environment variable %s is not set", name, x.TokenEnv)
		}
		return secret.New(strings.TrimSpace(v)), nil
	case x.TokenFile != "":
		b, err := os.ReadFile(x.TokenFile)
		if err != nil {
			return secret.String{}, fmt.Errorf("cannot read the token of %s: %w", name, err)
		}
		return secret.New(strings.TrimSpace(string(b))), nil
	}
	return secret.String{}, nil
}

// StoreToken puts a token into the keyring or, where there is none, into a file
// beside the contexts, and notes where.
func (c *Contexts) StoreToken(name string, x *Context, token secret.String, inKeyring bool) error {
	x.TokenKeyring, x.TokenFile, x.TokenEnv = false, "", ""
	if inKeyring {
		if err := keyring.Set(keyringService, name, token.Reveal()); err != nil {
			return fmt.Errorf("cannot write the token to the keyring: %w", err)
		}
		x.TokenKeyring = true
		return nil
	}
	x.TokenFile = filepath.Join(filepath.Dir(c.path), "tokens", name)
	if err := writePrivate(x.TokenFile, []byte(token.Reveal()+"\n")); err != nil {
		return fmt.Errorf("cannot write the token: %w", err)
	}
	return nil
}

// Client is a client of the context.
func (x *Context) Client(name string) (*Client, error) {
	t, err := x.Token(name)
	if err != nil {
		return nil, err
	}
	return New(Config{URL: x.Server, Token: t, CAFile: x.CAFile, Fingerprint: x.Fingerprint})
}

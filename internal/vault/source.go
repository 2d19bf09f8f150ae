package vault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/zalando/go-keyring"

	"ascend/internal/secret"
)

// Source is where a key may stand. It is written as a text:
//
//	file:PATH      a file, readable by its owner only; made when it is not there
//	env:NAME       an environment variable
//	credential:ID  a credential of the service manager: $CREDENTIALS_DIRECTORY/ID
//	               (systemd.exec(5), "Credentials")
//	keyring:NAME   the system's keyring (Secret Service, Keychain, Credential
//	               Manager); made when it is not there
type Source struct{ kind, name string }

const keyringService = "ascend"

// ParseSource reads a source's text.
func ParseSource(s string) (Source, error) {
	kind, name, ok := strings.Cut(s, ":")
	if ok && name != "" {
		switch kind {
		case "file", "env", "credential", "keyring":
			return Source{kind, name}, nil
		}
	}
	return Source{}, fmt.Errorf("%q is not file:PATH, env:NAME, credential:ID or keyring:NAME", s)
}

// String is the source's text.
func (s Source) String() string { return s.kind + ":" + s.name }

// Writable tells whether Store can replace the key.
func (s Source) Writable() bool { return s.kind == "file" || s.kind == "keyring" }

// Load reads the key. A file or keyring entry that is not there is made when
// create says so.
func (s Source) Load(create bool) (secret.String, error) {
	text, err := s.read()
	if err == nil {
		return text, nil
	}
	if !errors.Is(err, fs.ErrNotExist) || !create || !s.Writable() {
		return secret.String{}, fmt.Errorf("cannot read the server's key from %s: %w", s, err)
	}
	key, err := Generate()
	if err != nil {
		return key, err
	}
	return key, s.Store(key)
}

func (s Source) read() (secret.String, error) {
	switch s.kind {
	case "env":
		v, ok := os.LookupEnv(s.name)
		if !ok {
			return secret.String{}, fmt.Errorf("the variable is not set: %w", fs.ErrNotExist)
		}
		return secret.New(v), nil
	case "keyring":
		v, err := keyring.Get(keyringService, s.name)
		if errors.Is(err, keyring.ErrNotFound) {
			err = fs.ErrNotExist
		}
		return secret.New(v), err
	case "credential":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return secret.String{}, errors.New("$CREDENTIALS_DIRECTORY is not set: the service manager gave no credentials")
		}
		b, err := os.ReadFile(filepath.Join(dir, filepath.Base(s.name)))
		return secret.New(string(b)), err
	}
	st, err := os.Stat(s.name)
	if err != nil {
		return secret.String{}, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return secret.String{}, fmt.Errorf("others may read it (mode %04o): chmod 600 %s", st.Mode().Perm(), s.name)
	}
	b, err := os.ReadFile(s.name)
	return secret.New(string(b)), err
}

// Store replaces the key so that a crash leaves the old one or the new one.
func (s Source) Store(key secret.String) error {
	var err error
	switch s.kind {
	case "keyring":
		err = keyring.Set(keyringService, s.name, key.Reveal())
	case "file":
		err = s.writeFile(key)
	default:
		err = errors.New("it is not written by this program")
	}
	if err != nil {
		return fmt.Errorf("cannot write the server's key to %s: %w", s, err)
	}
	return nil
}

func (s Source) writeFile(key secret.String) error {
	if err := os.MkdirAll(filepath.Dir(s.name), 0o700); err != nil {
		return err
	}
	tmp := s.name + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.TrimRight(key.Reveal(), "\n") + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, s.name)
}

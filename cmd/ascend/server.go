package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ascend/internal/secret"
	"ascend/internal/server"
	"ascend/internal/server/api"
	"ascend/internal/server/auth"
	"ascend/internal/server/records"
	"ascend/internal/server/storage"
	"ascend/internal/target/all"
	"ascend/internal/vault"
	"ascend/internal/vm"
)

func (a *app) serverCommand() *cobra.Command {
	var s serverFlags
	c := &cobra.Command{
		Use: "server", Short: "look after a server's data: accounts, tokens, keys", Args: cobra.NoArgs,
		Long: `Look after a server's data on its own machine: for lock-outs, for scripts, and to
replace the key of secrets at rest. What is changed here is in the audit log, by
"local". rotate-key wants the server stopped; the others do not.`,
	}
	s.register(c)
	user := &cobra.Command{Use: "user", Short: "accounts", Args: cobra.NoArgs}
	var role string
	add := &cobra.Command{Use: "add NAME", Short: "make an account; the password is asked for, or read from standard input", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		return a.withKeeper(c.Context(), &s, func(ctx context.Context, k *auth.Keeper, st records.Store) error {
			r := auth.Role(role)
			if !r.Valid() {
				return usageError{fmt.Errorf("--role is one of %s", strings.Join(auth.Roles(), ", "))}
			}
			p, err := askPassword()
			if err != nil {
				return err
			}
			d, err := k.AddUser(ctx, auth.User{Name: args[0], Role: r}, p)
			if errors.Is(err, records.ErrConflict) {
				return withHint(fmt.Errorf("there is an account %q already", args[0]), "ascend server user passwd %s", args[0])
			}
			if err != nil {
				return err
			}
			a.note("made %s, role %s", args[0], r)
			return local(ctx, st, "user.create", d.ID, "name", args[0], "role", role)
		})
	}}
	add.Flags().StringVar(&role, "role", "admin", strings.Join(auth.Roles(), ", "))
	user.AddCommand(add,
		&cobra.Command{Use: "passwd NAME", Short: "set a password; sessions end, and a locked or disabled account opens", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			return a.withKeeper(c.Context(), &s, func(ctx context.Context, k *auth.Keeper, st records.Store) error {
				id := auth.UserID(args[0])
				d, err := k.Users.Get(ctx, id)
				if err != nil {
					return withHint(err, "ascend server user ls")
				}
				p, err := askPassword()
				if err != nil {
					return err
				}
				if d.Value.Disabled {
					d.Value.Disabled = false
					if err := k.Users.Put(ctx, &d); err != nil {
						return err
					}
				}
				if err := errors.Join(k.SetPassword(ctx, id, p, ""), k.Guard.Passed(ctx, id)); err != nil {
					return err
				}
				a.note("the password of %s is set", args[0])
				return local(ctx, st, "password.change", id)
			})
		}},
		&cobra.Command{Use: "ls", Short: "list accounts", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
			return a.withKeeper(c.Context(), &s, func(ctx context.Context, k *auth.Keeper, _ records.Store) error {
				list, err := k.Users.All(ctx, "")
				if err != nil {
					return err
				}
				rows := [][]string{{"NAME", "ROLE", "STATE", "SEEN"}}
				for _, d := range list {
					rows = append(rows, []string{clean(d.Value.Name), string(d.Value.Role), map[bool]string{true: "disabled", false: "ok"}[d.Value.Disabled], when(d.Value.LastSeen)})
				}
				table(c.OutOrStdout(), rows)
				return nil
			})
		}})
	var tokenRole, tokenUser, out string
	var days int
	token := &cobra.Command{Use: "token", Short: "make an API token for an account and print it, once", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return a.withKeeper(c.Context(), &s, func(ctx context.Context, k *auth.Keeper, st records.Store) error {
			u, err := k.Users.Get(ctx, auth.UserID(tokenUser))
			if err != nil {
				return withHint(err, "ascend server user ls")
			}
			if !auth.Role(tokenRole).Valid() || days < 1 || days > 3650 {
				return usageError{fmt.Errorf("--role is one of %s, --days 1 to 3650", strings.Join(auth.Roles(), ", "))}
			}
			d, text, err := k.AddToken(ctx, auth.Token{Name: "made on the server", User: u.ID, Role: auth.Role(tokenRole), Until: time.Now().UTC().AddDate(0, 0, days)})
			if err != nil {
				return err
			}
			if out != "" {
				err = os.WriteFile(out, []byte(text.Reveal()+"\n"), 0o600)
			} else {
				fmt.Fprintln(c.OutOrStdout(), text.Reveal())
			}
			return errors.Join(err, local(ctx, st, "token.create", d.ID, "user", u.Value.Name))
		})
	}}
	token.Flags().StringVar(&tokenUser, "user", "", "`NAME` of the account")
	token.Flags().StringVar(&tokenRole, "role", "admin", "at most this role: "+strings.Join(auth.Roles(), ", "))
	token.Flags().IntVar(&days, "days", 30, "how long it is valid")
	token.Flags().StringVar(&out, "out", "", "write it to this `file` instead")
	_ = token.MarkFlagRequired("user")
	var to string
	rotate := &cobra.Command{Use: "rotate-key", Short: "replace the key of secrets at rest and seal them all again; the server is stopped meanwhile", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return a.rotateKey(c.Context(), &s, to)
	}}
	rotate.Flags().StringVar(&to, "to", "", "where the new key is to stand, as --key (default: where the old one is)")
	c.AddCommand(user, token, rotate, a.serverFolders(&s))
	return c
}

// serverFolders are commands that tell a server of folders of its machine.
func (a *app) serverFolders(s *serverFlags) *cobra.Command {
	c := &cobra.Command{Use: "folder", Short: "folders of this machine that the server reads backups from, or restores to", Args: cobra.NoArgs}
	add := func(use, short string, put func(context.Context, *opened, records.Store, string, string) error) {
		c.AddCommand(&cobra.Command{Use: use + " NAME FOLDER", Short: short, Args: cobra.ExactArgs(2), RunE: func(c *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			if st, err := os.Stat(dir); err != nil || !st.IsDir() {
				return withHint(fmt.Errorf("%s is no folder", dir), "make it first")
			}
			d, err := a.openData(c.Context(), s, false, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer func() { _ = d.db.Close() }()
			st := storage.New(d.db)
			if err := put(c.Context(), d, st, args[0], dir); errors.Is(err, records.ErrConflict) {
				return withHint(fmt.Errorf("there is one called %q already", args[0]), "choose another name")
			} else if err != nil {
				return err
			}
			return local(c.Context(), st, map[string]string{"repository": "repository.create", "target": "target.create"}[use], args[0], "path", dir)
		}})
	}
	add("repository", "read backups from a folder; a server that runs looks into it at its next start", func(ctx context.Context, _ *opened, st records.Store, name, dir string) error {
		d := records.Doc[api.StoredRepository]{Record: records.Record{ID: name}, Value: api.StoredRepository{Path: dir}}
		return api.NewScanner(st, slog.New(slog.DiscardHandler)).Table.Put(ctx, &d)
	})
	add("target", "restore to a folder", func(ctx context.Context, o *opened, st records.Store, name, dir string) error {
		d := records.Doc[api.StoredTarget]{Record: records.Record{ID: name}, Value: api.StoredTarget{Platform: vm.Local, Settings: map[string]string{"dir": dir}}}
		return api.NewTargets(st, o.vault, all.Registry()).Table.Put(ctx, &d)
	})
	return c
}

// local writes the audit log for what was done on the server's own machine.
func local(ctx context.Context, s records.Store, action, object string, detail ...string) error {
	e := records.Entry{ID: auth.NewID(), Time: time.Now().UTC(), Actor: "local", Action: action, Object: object, Outcome: "done", Detail: map[string]string{}}
	for i := 0; i+1 < len(detail); i += 2 {
		e.Detail[detail[i]] = detail[i+1]
	}
	return s.Audit(ctx, e)
}

func (a *app) withKeeper(ctx context.Context, s *serverFlags, f func(context.Context, *auth.Keeper, records.Store) error) error {
	d, err := a.openData(ctx, s, false, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { _ = d.db.Close() }()
	st := storage.New(d.db)
	return f(ctx, auth.NewKeeper(st), st)
}

// askPassword asks twice on a terminal, else reads a line.
func askPassword() (secret.String, error) {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		s := bufio.NewScanner(os.Stdin)
		s.Scan()
		if s.Text() == "" {
			return secret.String{}, withHint(errors.New("no password on standard input"), "echo it in, or run this on a terminal")
		}
		return secret.New(s.Text()), s.Err()
	}
	var said [2]string
	for i, what := range []string{"password: ", "again: "} {
		fmt.Fprint(os.Stderr, what)
		b, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(os.Stderr)
		if err != nil {
			return secret.String{}, err
		}
		said[i] = string(b)
	}
	if said[0] != said[1] {
		return secret.String{}, errors.New("the two are not the same")
	}
	return secret.New(said[0]), nil
}

// rotateKey stores the new key before the old one first, so that both open what
// is sealed whenever it is stopped; seals everything; then forgets the old one.
func (a *app) rotateKey(ctx context.Context, s *serverFlags, to string) error {
	d, err := a.openData(ctx, s, true, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { _ = d.db.Close() }()
	old, err := d.source.Load(false)
	if err != nil {
		return err
	}
	dest := d.source
	if to != "" {
		if dest, err = vault.ParseSource(to); err != nil {
			return usageError{fmt.Errorf("--to: %w", err)}
		}
	}
	if !dest.Writable() {
		return withHint(fmt.Errorf("%s is not written by this program", dest), "make a key with age-keygen, put it there above the old one, start once with both, and give --to file:PATH or keyring:NAME here")
	}
	fresh, err := vault.Generate()
	if err != nil {
		return err
	}
	both := secret.New(fresh.Reveal() + "\n" + strings.TrimSpace(old.Reveal()))
	if err := dest.Store(both); err != nil {
		return err
	}
	v, err := vault.New(both)
	if err != nil {
		return err
	}
	n, err := server.Rotate(ctx, storage.New(d.db), v)
	if err != nil {
		return withHint(err, "the new and the old key stand in %s; run it again", dest)
	}
	if err := dest.Store(fresh); err != nil {
		return err
	}
	a.note("sealed %d targets and channels again with key %s in %s", n, v.ID(), dest)
	if dest != d.source {
		a.note("start the server with --key %s from now on; the old key opens nothing any more", dest)
	}
	return local(ctx, storage.New(d.db), "key.rotate", v.ID())
}

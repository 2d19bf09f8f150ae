package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ascend/internal/secret"
	"ascend/internal/server"
	"ascend/internal/server/api"
	"ascend/internal/server/auth"
	apijobs "ascend/internal/server/jobs"
	"ascend/internal/server/storage"
	"ascend/internal/store"
	"ascend/internal/target/all"
	"ascend/internal/vault"
	"ascend/internal/webui"
)

// serverFlags say where a server's data is; serve and server share them.
type serverFlags struct {
	data, database, key string
}

func (s *serverFlags) register(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&s.data, "data", "", "`folder` of the server's data (default $ASCEND_DATA_DIR or ~/.local/state/ascend/server)")
	f.StringVar(&s.database, "database-file", "", "`file` that holds the database's URL: mysql://…, postgres://… or sqlite:PATH (default $ASCEND_DATABASE, or SQLite in the data folder)")
	f.StringVar(&s.key, "key", "", "where the key of secrets at rest is: file:PATH, env:NAME, credential:ID (systemd) or keyring:NAME (default $ASCEND_KEY_SOURCE, a systemd credential ascend-key, or a file in the data folder)")
}

func (a *app) dataDir(s *serverFlags) string {
	switch p := os.Getenv("ASCEND_DATA_DIR"); {
	case s.data != "":
		return s.data
	case p != "":
		return p
	}
	return filepath.Join(a.state(), "server")
}

// dsn is the database's URL. It may hold a password, and so is no flag.
func (s *serverFlags) dsn(dir string) (secret.String, error) {
	if s.database != "" {
		b, err := os.ReadFile(s.database)
		if err != nil {
			return secret.String{}, fmt.Errorf("cannot read the database's URL: %w", err)
		}
		return secret.New(strings.TrimSpace(string(b))), nil
	}
	if u := os.Getenv("ASCEND_DATABASE"); u != "" {
		return secret.New(u), nil
	}
	return secret.New("sqlite:" + filepath.Join(dir, "ascend.db")), nil
}

func (s *serverFlags) keySource(dir string) (vault.Source, error) {
	text := s.key
	if text == "" {
		text = os.Getenv("ASCEND_KEY_SOURCE")
	}
	if text == "" {
		text = "file:" + filepath.Join(dir, "server.key")
		if d := os.Getenv("CREDENTIALS_DIRECTORY"); d != "" {
			if _, err := os.Stat(filepath.Join(d, "ascend-key")); err == nil {
				text = "credential:ascend-key"
			}
		}
	}
	src, err := vault.ParseSource(text)
	if err != nil {
		return src, usageError{fmt.Errorf("--key: %w", err)}
	}
	return src, nil
}

// opened is a server's data.
type opened struct {
	dir    string
	db     *store.Store
	source vault.Source
	vault  *vault.Vault
}

// openData opens a server's data; exclusive for the one that serves.
func (a *app) openData(ctx context.Context, s *serverFlags, exclusive bool, log *slog.Logger) (*opened, error) {
	o := &opened{dir: a.dataDir(s)}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the data folder: %w", err)
	}
	var err error
	if o.source, err = s.keySource(o.dir); err != nil {
		return nil, err
	}
	key, err := o.source.Load(true)
	if err != nil {
		return nil, err
	}
	if o.vault, err = vault.New(key); err != nil {
		return nil, err
	}
	dsn, err := s.dsn(o.dir)
	if err != nil {
		return nil, err
	}
	if o.db, err = store.Open(ctx, dsn.Reveal(), store.Options{Exclusive: exclusive, Log: log}); err != nil {
		if errors.Is(err, store.ErrLocked) {
			err = withHint(err, "one server uses a database at a time: stop the other one")
		}
		return nil, err
	}
	return o, nil
}

type serveFlags struct {
	serverFlags
	temporal                             temporalFlags
	engine                               string
	listen, cert, keyFile, level, format string
	hosts                                []string
	selfSigned, insecure, openMetrics    bool
}

func (a *app) serveCommand() *cobra.Command {
	var s serveFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "run the server: the HTTP API, its jobs and the web application",
		Long: `Run the server. Without --listen it answers on this machine only. Beyond it TLS is
wanted: --tls-cert and --tls-key, or --tls-self-signed, whose fingerprint is
printed for clients; plain HTTP only when --insecure-http is said.

The first start prints a token that makes the first account and nothing after
that. SIGTERM and Ctrl-C stop it: running steps checkpoint and go on at the next
start. docs/server.md tells the rest.

With --engine temporal this process carries no job out: it hands them to the
workers ("ascend worker") that share its database, which must then be PostgreSQL
or MariaDB, by a Temporal cluster of yours. docs/scale.md tells how to get there.`,
		Example: `  ascend serve
  ascend serve --engine temporal --temporal temporal.example.org:7233 --database-file /etc/ascend/database
  ascend serve --listen :8443 --tls-self-signed
  ascend serve --listen :8443 --tls-cert /etc/ascend/tls.crt --tls-key /etc/ascend/tls.key`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.serve(c.Context(), &s) },
	}
	s.register(c)
	s.temporal.register(c)
	f := c.Flags()
	f.StringVar(&s.engine, "engine", cmp.Or(os.Getenv("ASCEND_ENGINE"), "local"), "who carries jobs out: local, this process, or temporal, workers (default $ASCEND_ENGINE, or local)")
	complete(c, "engine", "local", "temporal")
	f.StringVar(&s.listen, "listen", "127.0.0.1:8080", "`ADDRESS:PORT` to answer on")
	f.StringVar(&s.cert, "tls-cert", "", "`file` of the certificate, PEM; read again when it changes")
	f.StringVar(&s.keyFile, "tls-key", "", "`file` of the certificate's key, PEM")
	f.BoolVar(&s.selfSigned, "tls-self-signed", false, "make a certificate and keep it in the data folder")
	f.StringArrayVar(&s.hosts, "tls-host", nil, "`NAME` or address for the certificate that is made (default: this machine's)")
	f.BoolVar(&s.insecure, "insecure-http", false, "plain HTTP beyond this machine: passwords and tokens can be read on the network")
	f.BoolVar(&s.openMetrics, "open-metrics", false, "let anybody read /metrics")
	f.StringVar(&s.level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&s.format, "log-format", "auto", "text, json, or auto: text on a terminal")
	complete(c, "log-level", "debug", "info", "warn", "error")
	complete(c, "log-format", "auto", "text", "json")
	return c
}

// tokenText is an API token wherever it stands.
var tokenText = regexp.MustCompile(regexp.QuoteMeta(auth.TokenPrefix) + `[A-Za-z0-9]{20,}_[A-Za-z0-9_-]{20,}`)

// newLog makes the server's log. API tokens are taken out of every text, whatever
// way they came in.
func newLog(w *os.File, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usageError{fmt.Errorf("--log-level is debug, info, warn or error, not %q", level)}
	}
	hide := func(_ []string, at slog.Attr) slog.Attr {
		switch at.Value.Kind() {
		case slog.KindString:
			at.Value = slog.StringValue(tokenText.ReplaceAllString(at.Value.String(), "**redacted**"))
		case slog.KindAny:
			if err, ok := at.Value.Any().(error); ok {
				at.Value = slog.StringValue(tokenText.ReplaceAllString(err.Error(), "**redacted**"))
			}
		}
		return at
	}
	switch {
	case format == "text" || format == "auto" && term.IsTerminal(int(w.Fd())):
		return slog.New(tint.NewHandler(w, &tint.Options{Level: l, TimeFormat: time.TimeOnly, NoColor: !term.IsTerminal(int(w.Fd())), ReplaceAttr: hide})), nil
	case format == "json" || format == "auto":
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l, ReplaceAttr: hide})), nil
	}
	return nil, usageError{fmt.Errorf("--log-format is auto, text or json, not %q", format)}
}

func (s *serveFlags) tls(dir string, out io.Writer) (*tls.Config, error) {
	switch {
	case s.cert != "" && s.keyFile != "":
		return server.CertificateFiles(s.cert, s.keyFile)
	case s.cert != "" || s.keyFile != "":
		return nil, usageError{errors.New("--tls-cert and --tls-key belong together")}
	case !s.selfSigned:
		return nil, nil
	}
	hosts := s.hosts
	if len(hosts) == 0 {
		hosts = []string{"localhost", "127.0.0.1", "::1"}
		if h, err := os.Hostname(); err == nil && !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
		if h, _, err := net.SplitHostPort(s.listen); err == nil && h != "" && !net.ParseIP(h).IsUnspecified() && !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	c, fingerprint, err := server.SelfSigned(dir, hosts)
	if err == nil {
		fmt.Fprintf(out, "certificate fingerprint (SHA-256): %s\n", fingerprint)
	}
	return c, err
}

func (a *app) serve(ctx context.Context, s *serveFlags) error {
	if s.engine != "local" && s.engine != "temporal" {
		return usageError{fmt.Errorf("--engine is local or temporal, not %q", s.engine)}
	}
	log, err := newLog(os.Stderr, s.level, s.format)
	if err != nil {
		return err
	}
	d, err := a.openData(ctx, &s.serverFlags, true, log)
	if err != nil {
		return err
	}
	defer func() { _ = d.db.Close() }()
	conf, err := s.tls(d.dir, os.Stderr)
	if err != nil {
		return err
	}
	run := &runner{d: d, log: log}
	defer run.stop(log)
	var temporal *temporalFlags
	if s.engine == "temporal" {
		temporal = &s.temporal
	}
	o := server.Options{
		Store: storage.New(d.db), Vault: d.vault, Registry: all.Registry(), Log: log, Version: version, TLS: conf, Web: webui.Files(), InsecureHTTP: s.insecure, OpenMetrics: s.openMetrics,
	}
	o.Jobs = func(t *api.Targets, sc *api.Scanner) (apijobs.Service, error) { return run.start(ctx, temporal, t, sc) }
	srv, err := server.New(o)
	if err != nil {
		return err
	}
	l, err := srv.Listen(ctx, s.listen)
	if err != nil {
		if errors.Is(err, server.ErrPlain) {
			err = withHint(err, "--tls-self-signed, or --tls-cert and --tls-key; or say --insecure-http")
		}
		return err
	}
	token, err := srv.SetupToken(ctx)
	if err != nil {
		return err
	}
	if !token.Empty() {
		fmt.Fprintf(os.Stderr, "\nThere is no account yet. This token makes the first one, within a day, and nothing after that:\n\n  %s\n\n", token.Reveal())
	}
	scheme := "http"
	if conf != nil {
		scheme = "https"
	}
	log.Info("answering", "url", scheme+"://"+l.Addr().String(), "version", version, "engine", s.engine, "data", d.dir, "database", d.db.String())
	if err := run.recover(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-d.db.Lost():
			cancel(fmt.Errorf("the database is %w: this server stops", store.ErrLocked))
		case <-ctx.Done():
		}
	}()
	err = srv.Serve(ctx, l)
	log.Info("stopping: running steps checkpoint and go on at the next start")
	if cause := context.Cause(ctx); errors.Is(cause, store.ErrLocked) {
		err = errors.Join(err, cause)
	}
	return err
}

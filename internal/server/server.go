// Package server is Ascend as a service: the HTTP API and its access, the
// background work around jobs, and the web application that is given to it.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"ascend/internal/secret"
	"ascend/internal/server/api"
	"ascend/internal/server/auth"
	"ascend/internal/server/feed"
	"ascend/internal/server/fleet"
	"ascend/internal/server/jobs"
	"ascend/internal/server/metrics"
	"ascend/internal/server/notify"
	"ascend/internal/server/records"
	"ascend/internal/target"
	"ascend/internal/vault"
)

// Options of a server.
type Options struct {
	Store    records.Store
	Vault    *vault.Vault
	Registry *target.Registry
	// Jobs makes what carries jobs out; it opens targets and backups by what it is
	// given.
	Jobs    func(*api.Targets, *api.Scanner) (jobs.Service, error)
	Log     *slog.Logger
	Version string
	// Web is served at /, when not nil: the web application.
	Web fs.FS
	// TLS, when not nil, is spoken; without it the server answers on loopback only,
	// unless InsecureHTTP.
	TLS          *tls.Config
	InsecureHTTP bool
	// OpenMetrics lets anybody read /metrics.
	OpenMetrics bool
	// Drain bounds how long a stop waits for answers under way; 0: 20 s.
	Drain time.Duration
}

// Server is an assembled server.
type Server struct {
	o       Options
	api     *api.API
	keeper  *auth.Keeper
	targets *api.Targets
	jobs    jobs.Service
	feed    *feed.Feed
	queue   *notify.Queue
	scanner *api.Scanner
	set     *api.SettingsStore
	metrics *metrics.Metrics
	handler http.Handler

	mu       sync.Mutex
	stopping bool
}

// New assembles a server. Nothing runs yet.
func New(o Options) (*Server, error) {
	s := &Server{o: o, metrics: metrics.New(o.Version)}
	s.keeper = auth.NewKeeper(o.Store)
	s.targets = api.NewTargets(o.Store, o.Vault, o.Registry)
	s.scanner = api.NewScanner(o.Store, o.Log)
	s.set = api.NewSettings(o.Store, o.Vault)
	s.queue = notify.NewQueue(o.Store, o.Vault, s.set.Guard, o.Log)
	var err error
	if s.jobs, err = o.Jobs(s.targets, s.scanner); err != nil {
		return nil, err
	}
	s.feed = feed.New(o.Store, s.jobs, o.Log, s.tell, s.metrics.Look)
	s.api = api.New(api.Config{
		Store: o.Store, Vault: o.Vault, Keeper: s.keeper, Provider: auth.NewProvider(s.keeper, nil), Jobs: s.jobs, Registry: o.Registry,
		Targets: s.targets, Scanner: s.scanner, Queue: s.queue, Feed: s.feed, Settings: s.set, Fleet: fleet.New(o.Store), Log: o.Log, Version: o.Version, Secure: o.TLS != nil,
	})
	s.handler = s.routes()
	return s, nil
}

// Keeper knows the server's accounts.
func (s *Server) Keeper() *auth.Keeper { return s.keeper }

// Handler answers every request.
func (s *Server) Handler() http.Handler { return s.handler }

// Document is the OpenAPI document.
func (s *Server) Document() []byte { return s.api.Document() }

// Listen opens the address. Beyond loopback it wants TLS, or to be told that it
// need not.
func (s *Server) Listen(ctx context.Context, addr string) (net.Listener, error) {
	if s.o.TLS == nil && !s.o.InsecureHTTP {
		if err := loopbackOnly(ctx, addr); err != nil {
			return nil, err
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	if s.o.TLS != nil {
		l = tls.NewListener(l, s.o.TLS)
	}
	return l, nil
}

// ErrPlain: plain HTTP beyond this machine.
var ErrPlain = errors.New("plain HTTP beyond loopback would show passwords and tokens to the network")

func loopbackOnly(ctx context.Context, addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("cannot listen on %q: %w", addr, err)
	}
	if host == "" {
		return ErrPlain
	}
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if a, perr := netip.ParseAddr(host); perr == nil {
		all, err = []netip.Addr{a}, nil
	}
	if err != nil {
		return fmt.Errorf("cannot listen on %q: %w", addr, err)
	}
	for _, a := range all {
		if !a.Unmap().IsLoopback() {
			return ErrPlain
		}
	}
	return nil
}

// SetupToken is the one-time token of the first start; empty when there are
// accounts.
func (s *Server) SetupToken(ctx context.Context) (secret.String, error) {
	return s.keeper.SetupToken(ctx)
}

// Serve answers on l and does the background work until ctx ends; then it stops
// taking requests, lets those under way end, and returns. It does not stop jobs:
// whoever made the service does that after.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	d, err := s.set.Get(ctx)
	if err != nil {
		return err
	}
	s.jobs.SetLimits(d.Value.Limits)
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	base, end := context.WithCancel(work) // of requests: streams end with it
	var wg sync.WaitGroup
	for _, run := range []func(context.Context){s.feed.Run, s.queue.Run, s.scanner.Run, s.api.Conductor().Run, s.expire} {
		wg.Go(func() { run(work) })
	}
	h := &http.Server{
		Handler: s.handler, BaseContext: func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, WriteTimeout: 5 * time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(l) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
		s.mu.Lock()
		s.stopping = true
		s.mu.Unlock()
		end()
		drain := s.o.Drain
		if drain <= 0 {
			drain = 20 * time.Second
		}
		down, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		if err = h.Shutdown(down); errors.Is(err, context.DeadlineExceeded) {
			err = h.Close()
		}
		cancel()
		if serr := <-failed; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
	}
	end()
	stop()
	wg.Wait()
	return err
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// expire removes what has expired, now and then.
func (s *Server) expire(ctx context.Context) {
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		if err := s.o.Store.ExpireRecords(ctx, time.Now()); err != nil && ctx.Err() == nil {
			s.o.Log.Warn("cannot remove what has expired", "error", err)
		}
		if err := s.prune(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Warn("cannot remove what is older than it is to be kept", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// prune removes what is older than the settings say.
func (s *Server) prune(ctx context.Context) error {
	d, err := s.set.Get(ctx)
	if err != nil || d.Value.Retention == (records.Retention{}) {
		return err
	}
	p, err := s.o.Store.Prune(ctx, d.Value.Retention)
	if p.Jobs > 0 || p.Events > 0 || p.Audits > 0 {
		s.o.Log.Info("removed what was older than it is to be kept", "jobs", p.Jobs, "events", p.Events, "audit", p.Audits)
	}
	return err
}

// told are the statuses that people are told of, by what.
var told = map[string]struct{ event, text string }{
	"completed": {notify.Completed, "The restore of %s to %s is completed and proven."},
	"failed":    {notify.Failed, "The restore of %s to %s has failed."},
	"cancelled": {notify.Cancelled, "The restore of %s to %s was cancelled; what it made is removed."},
	"undone":    {notify.Undone, "The restore of %s to %s is undone."},
}

// tell tells people of a change of a job's status.
func (s *Server) tell(ctx context.Context, c feed.Change) error {
	j := c.Job
	t, ok := told[j.Status]
	begun := c.Before == "" || c.Before == "pending"
	if !ok && (!begun || j.Status == "pending" || j.Status == "compensating") {
		return nil
	}
	if !ok {
		t.event, t.text = notify.Started, "The restore of %s to %s has started."
	}
	if j.Status == "failed" && j.RolledBack {
		t.text = "The restore of %s to %s has failed; what it made is removed."
	}
	return s.queue.Tell(ctx, notify.Message{
		ID: fmt.Sprintf("%s.%d.%s", j.ID, c.Count, t.event), Event: t.event, Time: time.Now().UTC().Truncate(time.Second), Job: j.ID, Status: j.Status,
		VM: j.Name, Backup: j.Backup.ID, Target: j.Target.Name, Error: j.Error, Text: fmt.Sprintf(t.text, j.Name, j.Target.Name), URL: s.set.Link(ctx, "/jobs/"+j.ID),
	})
}

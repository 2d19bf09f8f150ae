package server

import (
	"context"
	"encoding/json"
	"io/fs"
	"net/http"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"ascend/internal/server/api"
	"ascend/internal/server/auth"
)

// contentPolicy lets a page load from this server only, and no inline script.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; manifest-src 'self'; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(api.Prefix+"/", s.api)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("GET /metrics", s.serveMetrics)
	if s.o.Web != nil {
		mux.Handle("/", spa(s.o.Web))
	}
	return s.wrap(mux)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// ready tells whether the server can do its work: the database answers, jobs are
// looked at, and it is not about to stop.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	checks := map[string]string{"database": "ok", "jobs": "ok", "server": "ok"}
	status := http.StatusOK
	bad := func(what, why string) { checks[what], status = why, http.StatusServiceUnavailable }
	if s.o.Store.Ping(ctx) != nil {
		bad("database", "does not answer") // why is for the log
	}
	if s.feed.Age() > 30*time.Second {
		bad("jobs", "not looked at for a while")
	}
	if s.isStopping() {
		bad("server", "stopping")
	}
	answer(w, status, checks)
}

// serveMetrics asks for a token with the role viewer: the metrics name targets.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	if !s.o.OpenMetrics {
		text, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		p, err := s.keeper.ByToken(r.Context(), text)
		if err != nil || !p.Global().Has(auth.Viewer) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="ascend"`)
			answer(w, http.StatusUnauthorized, map[string]string{"code": "sign-in", "hint": "show a token with the role viewer, or start the server with --open-metrics"})
			return
		}
	}
	s.metrics.Handler().ServeHTTP(w, r)
}

// spa serves the web application: its files, and its page for every other path.
func spa(files fs.FS) http.Handler {
	server := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		name := strings.TrimPrefix(path.Clean(r.URL.Path), "/")
		st, err := fs.Stat(files, name)
		if name == "" || err != nil || st.IsDir() {
			r = r.Clone(r.Context())
			r.URL.Path = "/"
			w.Header().Set("Cache-Control", "no-cache")
		} else if strings.HasPrefix(name, "assets/") { // named by their content
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		server.ServeHTTP(w, r)
	})
}

// status notes what was answered.
type status struct {
	http.ResponseWriter
	code int
}

func (s *status) WriteHeader(code int) {
	if s.code == 0 {
		s.code = code
	}
	s.ResponseWriter.WriteHeader(code)
}

func (s *status) Write(p []byte) (int, error) {
	if s.code == 0 {
		s.code = http.StatusOK
	}
	return s.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (s *status) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// wrap sets the headers that every answer has, counts and logs it, and answers
// for a handler that panics.
func (s *Server) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		if s.o.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		out := &status{ResponseWriter: w}
		defer func() {
			p := recover()
			if p == http.ErrAbortHandler { //nolint:errorlint // a value that is compared, as net/http does
				defer panic(p) // cut the connection: the answer is not whole
			} else if p != nil {
				s.o.Log.ErrorContext(r.Context(), "handler panicked", "panic", p, "stack", string(debug.Stack()))
				if out.code == 0 {
					answer(out, http.StatusInternalServerError, map[string]any{"type": "urn:ascend:problem:internal", "title": "Internal Server Error", "status": 500, "code": "internal", "detail": "something went wrong here", "hint": "an admin finds the reason in the server's log"})
				}
			}
			took := time.Since(began)
			s.metrics.Request(r.Method, route(r), out.code, took)
			// Neither the query nor a header is logged: they may hold secrets.
			s.o.Log.DebugContext(r.Context(), "request", "method", r.Method, "path", r.URL.Path, "status", out.code, "took", took.Round(time.Microsecond), "from", r.RemoteAddr)
		}()
		next.ServeHTTP(out, r)
	})
}

// route is a request's path with its ids left out, so that there are few.
func route(r *http.Request) string {
	p := r.URL.Path
	if !strings.HasPrefix(p, api.Prefix+"/") {
		switch p {
		case "/healthz", "/readyz", "/metrics":
			return p
		}
		return "web"
	}
	parts := strings.Split(strings.TrimPrefix(p, api.Prefix+"/"), "/")
	if len(parts) > 3 || !known[parts[0]] {
		return "other"
	}
	if len(parts) > 1 && parts[0] != "auth" {
		parts[1] = "{id}"
	}
	if len(parts) > 2 && !known[parts[2]] {
		return "other"
	}
	if parts[0] == "auth" {
		return api.Prefix + "/auth"
	}
	return api.Prefix + "/" + strings.Join(parts, "/")
}

var known = func() map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq("version me platforms rules summary auth users tokens repositories backups targets mappings plans jobs events settings audit channels deliveries openapi.json " +
		"workers drain evidence sessions guest receipts verify scan chain validate inventory capabilities export steps plan resources log receipt report runbooks runbook-runs check apply retry cancel undo stream test") {
		m[w] = true
	}
	return m
}()

// Package api is the server's HTTP API: /api/v1, described by the OpenAPI
// document that it publishes. It knows who may do what, and says what went wrong
// in words and by stable codes (RFC 9457).
package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"ascend/internal/server/auth"
	"ascend/internal/server/conduct"
	"ascend/internal/server/feed"
	"ascend/internal/server/fleet"
	"ascend/internal/server/jobs"
	"ascend/internal/server/notify"
	"ascend/internal/server/records"
	"ascend/internal/target"
	"ascend/internal/vault"
)

// Prefix is where the API begins.
const Prefix = "/api/v1"

// Config is what an API is made of.
type Config struct {
	Store    records.Store
	Vault    *vault.Vault
	Keeper   *auth.Keeper
	Provider *auth.Provider
	Jobs     jobs.Service
	Registry *target.Registry
	Targets  *Targets
	Scanner  *Scanner
	Queue    *notify.Queue
	Feed     *feed.Feed
	Settings *SettingsStore
	Fleet    *fleet.Fleet
	Log      *slog.Logger
	Version  string
	Secure   bool // cookies are for TLS only
}

// API is the handler of everything below Prefix.
type API struct {
	Config
	huma    huma.API
	mux     *http.ServeMux
	handler http.Handler
	plans   records.Table[StoredPlan]
	sets    records.Table[MappingSet]
	books   records.Table[StoredRunbook]
	conduct *conduct.Conductor
	replays records.Table[replay]
	looks   chan struct{} // one for each request that looks into a backup
}

// New makes the API.
func New(c Config) *API {
	a := &API{
		Config:  c,
		mux:     http.NewServeMux(),
		plans:   records.Table[StoredPlan]{Store: c.Store, Kind: "plan"},
		sets:    records.Table[MappingSet]{Store: c.Store, Kind: "mapping"},
		books:   records.Table[StoredRunbook]{Store: c.Store, Kind: "runbook"},
		replays: records.Table[replay]{Store: c.Store, Kind: "replay"},
		looks:   make(chan struct{}, maxLooks),
	}
	a.conduct = conduct.New(c.Store, world{a}, c.Log)
	cfg := huma.DefaultConfig("Ascend", "1")
	cfg.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	cfg.Info.Description = "Restores virtual machine backups to any platform. Errors are application/problem+json with a stable code and a hint. Lists are paged: pass next as cursor. " +
		"POST requests take an Idempotency-Key; GET answers carry an ETag, which If-None-Match and, where a thing is changed, If-Match take."
	cfg.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	cfg.Servers = []*huma.Server{{URL: "/"}}
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath, cfg.CreateHooks = "", "", "", nil
	cfg.Formats = map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat}
	cfg.RejectUnknownQueryParameters = true
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token":   {Type: "http", Scheme: "bearer", Description: "an API token, as " + auth.TokenPrefix + "…"},
		"session": {Type: "apiKey", In: "cookie", Name: cookieName(false), Description: "a browser's session; what changes anything needs the header X-CSRF-Token"},
	}
	a.huma = humago.New(a.mux, cfg)
	a.huma.UseMiddleware(a.allow)
	a.system()
	a.signIn()
	a.users()
	a.tokens()
	a.repositories()
	a.backups()
	a.files()
	a.targets()
	a.mappings()
	a.matrix()
	a.planned()
	a.runbooks()
	a.runs()
	a.jobs()
	a.workers()
	a.streams()
	a.settings()
	a.channels()
	a.auditLog()
	doc := a.Document()
	a.mux.HandleFunc("GET "+Prefix+"/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(doc)
	})
	a.mux.HandleFunc(Prefix+"/", func(w http.ResponseWriter, r *http.Request) {
		if methods := a.methods(r); len(methods) > 0 {
			w.Header()["Allow"] = methods
			writeProblem(w, newProblem(http.StatusMethodNotAllowed, "method-not-allowed", "this is not done by "+r.Method, "see "+Prefix+"/openapi.json"))
			return
		}
		writeProblem(w, newProblem(http.StatusNotFound, "no-such-path", "there is nothing here", "see "+Prefix+"/openapi.json"))
	})
	a.handler = a.identify(a.idempotent(etags(a.mux)))
	return a
}

// schemaName names a type in the document: those of other packages by their
// package too, for several have a Disk.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	pkg := path.Base(t.PkgPath())
	if t.Name() == "" || strings.Contains(t.Name(), "[") || pkg == "api" || pkg == "jobs" || pkg == "." {
		return name
	}
	return strings.ToUpper(pkg[:1]) + pkg[1:] + name
}

// Conductor carries runs of runbooks out.
func (a *API) Conductor() *conduct.Conductor { return a.conduct }

// ServeHTTP answers.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }

// methods are those by which something would answer.
func (a *API) methods(r *http.Request) []string {
	var out []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		c := r.Clone(r.Context())
		c.Method = m
		if _, pattern := a.mux.Handler(c); pattern != "" && pattern != Prefix+"/" {
			out = append(out, m)
		}
	}
	return out
}

// Document is the OpenAPI document, the same bytes for the same program.
func (a *API) Document() []byte {
	b, err := json.MarshalIndent(a.huma.OpenAPI(), "", " ")
	if err != nil {
		panic(err) // made of what New registered
	}
	return append(b, '\n')
}

// The extension of an operation that says who may ask for it.
const roleExtension = "x-ascend-role"

// op describes an operation.
type op struct {
	method, path, id, summary, tag string
	role                           auth.Role
	// onTarget: the role on the target concerned is enough; the handler asks.
	onTarget bool
	status   int // of success; 0: 200, or 204 without a body
	maxBody  int64
	errors   []int
	describe func(*huma.Operation)
}

// add registers an operation.
func add[I, O any](a *API, o op, h func(context.Context, *I) (*O, error)) {
	operation := huma.Operation{
		OperationID: o.id, Method: o.method, Path: Prefix + o.path, Summary: o.summary, Tags: []string{o.tag}, DefaultStatus: o.status,
		MaxBodyBytes: o.maxBody, BodyReadTimeout: 20 * time.Second, Metadata: map[string]any{"op": o},
		Extensions: map[string]any{roleExtension: string(o.role)},
		Errors:     slices.Concat([]int{http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable}, o.errors),
	}
	if o.role != auth.None {
		operation.Security = []map[string][]string{{"token": {}}, {"session": {}}}
		operation.Errors = append(operation.Errors, http.StatusUnauthorized, http.StatusForbidden)
	}
	if o.onTarget {
		operation.Extensions["x-ascend-on-target"] = true
	}
	if o.method != http.MethodGet {
		operation.Errors = append(operation.Errors, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusConflict)
	}
	if o.describe != nil {
		o.describe(&operation)
	}
	slices.Sort(operation.Errors)
	operation.Errors = slices.Compact(operation.Errors)
	huma.Register(a.huma, operation, func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		if err != nil {
			return nil, a.explain(ctx, err)
		}
		return out, nil
	})
}

// allow refuses who may not.
func (a *API) allow(ctx huma.Context, next func(huma.Context)) {
	o, _ := ctx.Operation().Metadata["op"].(op)
	if o.role == auth.None {
		next(ctx)
		return
	}
	_, w := humago.Unwrap(ctx)
	p := auth.From(ctx.Context())
	if p == nil {
		w.Header().Set("WWW-Authenticate", `Bearer realm="ascend"`)
		writeProblem(w, newProblem(http.StatusUnauthorized, "sign-in", "sign in first", "show a token (Authorization: Bearer …) or sign in at "+Prefix+"/auth/sign-in"))
		return
	}
	have := p.Global()
	if o.onTarget {
		have = p.Somewhere()
	}
	if !have.Has(o.role) {
		a.refused(ctx.Context(), o.id, o.role)
		writeProblem(w, forbidden(o.role))
		return
	}
	next(ctx)
}

func forbidden(want auth.Role) *Problem {
	return newProblem(http.StatusForbidden, "not-allowed", "this needs the role "+string(want), "ask an admin for it")
}

// on refuses who has not the role on a target.
func (a *API) on(ctx context.Context, targetID string, want auth.Role) error {
	if !auth.From(ctx).On(targetID).Has(want) {
		a.refused(ctx, "target "+targetID, want)
		p := forbidden(want)
		p.Detail += " on " + targetID
		return p
	}
	return nil
}

// audit records a change; the change has been made, so that a record that cannot
// be written fails the request.
func (a *API) audit(ctx context.Context, action, object string, detail ...string) error {
	return a.record(ctx, action, object, "done", detail...)
}

func (a *API) record(ctx context.Context, action, object, outcome string, detail ...string) error {
	e := records.Entry{ID: auth.NewID(), Time: time.Now().UTC().Truncate(time.Millisecond), Actor: "nobody", Address: addressOf(ctx), Action: action, Object: object, Outcome: outcome}
	if p := auth.From(ctx); p != nil {
		e.Actor = p.Name
	}
	for i := 0; i+1 < len(detail); i += 2 {
		if e.Detail == nil {
			e.Detail = map[string]string{}
		}
		if detail[i+1] != "" {
			e.Detail[detail[i]] = detail[i+1]
		}
	}
	a.Log.InfoContext(ctx, "audit", "actor", e.Actor, "address", e.Address, "action", action, "object", object, "outcome", outcome)
	return a.Store.Audit(context.WithoutCancel(ctx), e)
}

func (a *API) refused(ctx context.Context, what string, want auth.Role) {
	if err := a.record(ctx, "access", what, "refused", "needs", string(want)); err != nil {
		a.Log.WarnContext(ctx, "cannot write the audit log", "error", err)
	}
}

package api

import (
	"context"
	"net/http"
	"runtime"
	"time"

	"ascend/internal/plan"
	"ascend/internal/server/auth"
	"ascend/internal/server/feed"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// Version is what runs here.
type Version struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	API      string `json:"api"`
}

// Me is who asks.
type Me struct {
	ID     string       `json:"id,omitempty"`
	Name   string       `json:"name"`
	Role   string       `json:"role"`
	Grants []auth.Grant `json:"grants,omitempty"`
	Token  string       `json:"token,omitempty" doc:"the id of the token that was shown"`
	CSRF   string       `json:"csrf_token,omitempty" doc:"for the header X-CSRF-Token"`
	Setup  bool         `json:"setup,omitempty" doc:"there is no account yet: make the first one"`
}

func meOf(p *auth.Principal) Me {
	return Me{ID: p.UserID, Name: p.Name, Role: string(p.Global()), Grants: p.Grants, Token: p.Token, CSRF: p.CSRF, Setup: p.Setup}
}

// Platform is a platform that machines can be restored to here.
type Platform struct {
	Platform vm.Platform `json:"platform"`
	// Settings are what a target of it is made of.
	Settings []target.Setting `json:"settings" nullable:"false"`
}

// Summary is the state of everything at a glance.
type Summary struct {
	Jobs         map[string]int      `json:"jobs" doc:"of the last 1000 jobs, by status"`
	Running      int                 `json:"running"`
	Rate         int64               `json:"rate" doc:"bytes a second, of all jobs"`
	Rates        []feed.Rate         `json:"rates" nullable:"false" doc:"of the last hour, every ten seconds, since the server runs"`
	Backups      map[vm.Platform]int `json:"backups" doc:"by the platform they come from; empty: not known"`
	Repositories int                 `json:"repositories"`
	Targets      int                 `json:"targets"`
	Asked        time.Time           `json:"asked"`
}

func (a *API) system() {
	add(a, op{method: "GET", path: "/version", id: "version", summary: "What runs here", tag: "system"},
		func(context.Context, *struct{}) (*One[Version], error) {
			return &One[Version]{Body: Version{a.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH, "v1"}}, nil
		})
	add(a, op{method: "GET", path: "/me", id: "me", summary: "Who I am", tag: "system", role: auth.Viewer, onTarget: true},
		func(ctx context.Context, _ *struct{}) (*One[Me], error) {
			return &One[Me]{Body: meOf(auth.From(ctx))}, nil
		})
	add(a, op{method: "GET", path: "/platforms", id: "list-platforms", summary: "Platforms and the settings of their targets", tag: "system", role: auth.Viewer},
		func(context.Context, *struct{}) (*List[Platform], error) {
			var out []Platform
			for _, k := range a.Registry.Kinds() {
				out = append(out, Platform{k.Platform, k.Settings})
			}
			return listOf(out, ""), nil
		})
	add(a, op{method: "GET", path: "/rules", id: "list-rules", summary: "The compatibility rules that plans are checked against", tag: "plans", role: auth.Viewer},
		func(context.Context, *struct{}) (*List[plan.Rule], error) { return listOf(plan.Rules(), ""), nil })
	add(a, op{method: "GET", path: "/summary", id: "summary", summary: "The state of everything at a glance", tag: "system", role: auth.Viewer},
		func(ctx context.Context, _ *struct{}) (*One[Summary], error) {
			s, err := a.summary(ctx)
			return &One[Summary]{Body: s}, err
		})
	a.mux.HandleFunc("HEAD "+Prefix+"/version", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
}

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ascend/internal/backup"
	"ascend/internal/disk"
	"ascend/internal/runbook"
	"ascend/internal/server/auth"
	"ascend/internal/server/jobs"
	"ascend/internal/server/notify"
	"ascend/internal/server/planning"
	"ascend/internal/server/records"
	"ascend/internal/target"
	"ascend/internal/vault"
)

// Problem is an error for people and programs (RFC 9457). Code is stable.
type Problem struct {
	Type   string              `json:"type" format:"uri-reference" doc:"names the kind of problem, as its code does"`
	Title  string              `json:"title"`
	Status int                 `json:"status"`
	Code   string              `json:"code" doc:"stable; for programs"`
	Detail string              `json:"detail" doc:"what happened, for people"`
	Hint   string              `json:"hint,omitempty" doc:"what to do about it"`
	Errors []*huma.ErrorDetail `json:"errors,omitempty" doc:"each place in the request that is not right"`
	// Missing are the codes of findings that were not consented to.
	Missing []string `json:"missing,omitempty" doc:"findings that consent is missing for"`

	retryAfter time.Duration
}

func newProblem(status int, code, detail, hint string) *Problem {
	return &Problem{Type: "urn:ascend:problem:" + code, Title: http.StatusText(status), Status: status, Code: code, Detail: detail, Hint: hint}
}

func (p *Problem) Error() string { return p.Detail }

// GetStatus is for huma.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders is for huma.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(p.retryAfter.Seconds()+0.999)))
	}
	return h
}

// ContentType is for huma.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

func writeProblem(w http.ResponseWriter, p *Problem) {
	for k, v := range p.GetHeaders() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// codes of the errors that huma itself finds.
var codesByStatus = map[int]string{
	http.StatusBadRequest: "bad-request", http.StatusUnprocessableEntity: "not-valid", http.StatusRequestEntityTooLarge: "too-large",
	http.StatusUnsupportedMediaType: "media-type", http.StatusRequestTimeout: "timeout", http.StatusNotAcceptable: "not-acceptable",
}

func init() {
	// huma has one error type for the whole program.
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		code := codesByStatus[status]
		if code == "" {
			code = "failed"
		}
		p := newProblem(status, code, msg, "")
		for _, err := range errs {
			var d huma.ErrorDetailer
			switch {
			case err == nil:
			case errors.As(err, &d):
				e := *d.ErrorDetail()
				e.Value = nil // it may be a secret
				p.Errors = append(p.Errors, &e)
			default:
				p.Errors = append(p.Errors, &huma.ErrorDetail{Message: err.Error()})
			}
		}
		if len(p.Errors) > 0 {
			p.Hint = "see errors for each place"
		}
		return p
	}
}

// known are the errors that a status, a code and a hint belong to.
var known = []struct {
	err    error
	status int
	code   string
	hint   string
}{
	{records.ErrNotFound, 404, "not-found", "list what is there; it may have been removed"},
	{records.ErrConflict, 409, "conflict", "read it again and repeat the change; or choose another name"},
	{records.ErrCursor, 422, "bad-cursor", "begin the list anew, without a cursor"},
	{jobs.ErrNotFound, 404, "no-job", "see " + Prefix + "/jobs"},
	{jobs.ErrState, 409, "wrong-state", "look at the job's status"},
	{runbook.ErrState, 409, "wrong-state", "look at the run's status"},
	{runbook.ErrStopped, 409, "plan-stopped", "see the findings of the run and of each machine; each says what to do"},
	{jobs.ErrOptions, 422, "bad-options", "leave the boot proof out, or choose a target that runs machines"},
	{jobs.ErrNoWorker, 409, "no-worker", "start a worker that can read the repository (ascend worker --site NAME), or name a site that has one; see " + Prefix + "/workers"},
	{jobs.ErrNoReceipt, 404, "no-receipt", "a job has a receipt once it is completed"},
	{jobs.ErrNoEvidence, 404, "no-evidence", "evidence is there when a boot was proven; see the job's evidence"},
	{auth.ErrCredentials, 401, "wrong-credentials", "an admin can set a new password: ascend server user passwd"},
	{auth.ErrToken, 401, "bad-token", "make a new token"},
	{auth.ErrWeak, 422, "weak-password", "several unrelated words make a good one"},
	{auth.ErrLastAdmin, 409, "last-admin", "make another admin first"},
	{auth.ErrOIDC, 403, "oidc", "begin again; an admin finds the reason in the server's log"},
	{planning.ErrWish, 422, "not-possible", ""},
	{notify.ErrChannel, 422, "bad-channel", ""},
	{vault.ErrKey, 503, "wrong-key", "start the server with the key that its secrets were sealed with"},
	{backup.ErrNotFound, 404, "not-found", "scan the repository again"},
	{backup.ErrFault, 409, "backup-broken", "choose another point in time"},
	{disk.ErrEscape, 409, "reference-escapes", "the image names a file outside the repository; add the common folder as repository"},
	{disk.ErrMissing, 409, "file-missing", "copy the missing file into the repository"},
	{disk.ErrChanged, 409, "source-changed", "scan the repository again"},
	{disk.ErrCorrupt, 409, "image-damaged", "restore another point in time"},
	{disk.ErrUnsupported, 409, "image-unsupported", ""},
	{disk.ErrFormat, 409, "wrong-format", ""},
	{target.ErrExists, 409, "exists", "choose another name"},
	{errTarget, 502, "target", "check the target: its validation shows each point"},
	{context.DeadlineExceeded, 504, "timeout", "try again"},
}

// errTarget wraps what a target's platform answered.
var errTarget = errors.New("the target did not answer as it should")

// explain makes any error a Problem. What is not known is told to the log, and to
// the client without its words: they may hold what is not theirs.
func (a *API) explain(ctx context.Context, err error) error {
	var p *Problem
	var se huma.StatusError
	var wait *auth.Wait
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &se):
		return err
	case errors.As(err, &wait):
		p := newProblem(http.StatusTooManyRequests, "too-many-attempts", wait.Error(), "wait, or ask an admin")
		p.retryAfter = wait.For
		return p
	}
	for _, k := range known {
		if errors.Is(err, k.err) {
			if errors.Is(k.err, auth.ErrOIDC) {
				a.Log.WarnContext(ctx, "sign-in failed", "error", err)
			}
			return newProblem(k.status, k.code, a.text(err), k.hint)
		}
	}
	if ctx.Err() != nil {
		return newProblem(http.StatusServiceUnavailable, "cancelled", "the request was cancelled", "try again")
	}
	id := auth.NewID()
	a.Log.ErrorContext(ctx, "request failed", "error", err, "incident", id)
	if perr := a.Store.Ping(context.WithoutCancel(ctx)); perr != nil {
		p := newProblem(http.StatusServiceUnavailable, "database", "the database does not answer; jobs under way go on when it does", "try again in a moment; an admin finds the reason in the server's log under "+id)
		p.retryAfter = 5 * time.Second
		return p
	}
	return newProblem(http.StatusInternalServerError, "internal", "something went wrong here", "an admin finds the reason in the server's log under "+id)
}

func (a *API) text(err error) string { return strings.TrimSpace(err.Error()) }

func notValid(location, format string, args ...any) *Problem {
	p := newProblem(http.StatusUnprocessableEntity, "not-valid", fmt.Sprintf(format, args...), "")
	p.Errors = []*huma.ErrorDetail{{Location: location, Message: p.Detail}}
	return p
}

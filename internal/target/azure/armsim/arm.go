package armsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// apiError is a refusal: status, code and message as the platform gives them.
type apiError struct {
	status  int
	code    string
	message string
}

func (e apiError) Error() string { return e.code + ": " + e.message }

func refuse(status int, code, format string, args ...any) *apiError {
	return &apiError{status, code, fmt.Sprintf(format, args...)}
}

func bad(code, format string, args ...any) *apiError {
	return refuse(http.StatusBadRequest, code, format, args...)
}

// call is one request to the resource manager, taken apart.
type call struct {
	w       http.ResponseWriter
	r       *http.Request
	body    []byte
	version string
	group   string // "" for calls on the subscription
	kind    string // of the resource, lower-case with its provider: "microsoft.compute/disks"
	name    string
	sub     []string // what follows the name
}

var apiVersion = regexp.MustCompile(`^20(1[5-9]|2[0-6])-[01]\d-[0-3]\d(-preview)?$`)

// serveARM authenticates, throttles and routes.
func (s *Sim) serveARM(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		return
	}
	s.mu.Lock()
	var fault Fault
	if len(s.faults.arm) > 0 {
		fault, s.faults.arm = s.faults.arm[0], s.faults.arm[1:]
	}
	s.mu.Unlock()
	if fault != nil {
		fault(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("x-ms-ratelimit-remaining-subscription-global-reads", "3749")
	c, e := s.parse(w, r, body)
	if e == nil {
		e = s.route(c)
	}
	if e != nil {
		if e.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Bearer authorization_uri="`+s.URL+"/"+Tenant+`", error="invalid_token"`)
		}
		if e.status == http.StatusBadRequest {
			s.refuse = append(s.refuse, e.Error())
		}
		w.WriteHeader(e.status)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": e.code, "message": e.message}})
	}
}

func (s *Sim) parse(w http.ResponseWriter, r *http.Request, body []byte) (*call, *apiError) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch ends, known := s.tokens[token]; {
	case !ok:
		return nil, refuse(http.StatusUnauthorized, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
	case !known:
		return nil, refuse(http.StatusUnauthorized, "InvalidAuthenticationToken", "The access token is invalid.")
	case s.clock().After(ends):
		return nil, refuse(http.StatusUnauthorized, "ExpiredAuthenticationToken", "The access token expiry UTC time is earlier than current UTC time.")
	}
	c := &call{w: w, r: r, body: body, version: r.URL.Query().Get("api-version")}
	if c.version == "" {
		return nil, bad("MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.")
	}
	if !apiVersion.MatchString(c.version) {
		return nil, bad("InvalidApiVersionParameter", "The api-version '%s' is invalid.", c.version)
	}
	p := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(p) < 2 || !strings.EqualFold(p[0], "subscriptions") {
		return nil, refuse(http.StatusNotFound, "InvalidResourceType", "no such path")
	}
	if !strings.EqualFold(p[1], Subscription) {
		return nil, refuse(http.StatusNotFound, "SubscriptionNotFound", "The subscription '%s' could not be found.", p[1])
	}
	p = p[2:]
	if len(p) >= 2 && strings.EqualFold(p[0], "resourcegroups") {
		c.group = p[1]
		if _, ok := s.groups[strings.ToLower(c.group)]; !ok {
			return nil, refuse(http.StatusNotFound, "ResourceGroupNotFound", "Resource group '%s' could not be found.", c.group)
		}
		p = p[2:]
	}
	switch {
	case len(p) == 0:
		c.kind = map[bool]string{true: "subscription", false: "group"}[c.group == ""]
	case strings.EqualFold(p[0], "providers") && len(p) == 2:
		c.kind, c.name = "provider", p[1]
	case strings.EqualFold(p[0], "providers") && len(p) >= 3:
		c.kind = strings.ToLower(p[1] + "/" + p[2])
		if len(p) > 3 {
			c.name, c.sub = p[3], p[4:]
		}
	default:
		c.kind = strings.ToLower(p[0])
	}
	if r.Method == http.MethodPut && !resourceName.MatchString(c.name) {
		return nil, bad("InvalidResourceName", "Resource name '%s' is invalid: 1 to 80 letters, digits, underscores, periods and hyphens, beginning with a letter or digit and ending with one or an underscore.", c.name)
	}
	return c, nil
}

// resourceName is what disks, adapters and addresses may be called ("Naming
// rules and restrictions for Azure resources").
var resourceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?$`)

// may checks the account's rights.
func (s *Sim) may(action string) *apiError {
	if s.opts.Actions == nil || slices.ContainsFunc(s.opts.Actions, func(a string) bool { return matches(a, action) }) {
		return nil
	}
	return refuse(http.StatusForbidden, "AuthorizationFailed",
		"The client '%s' does not have authorization to perform action '%s' over the scope or the scope is invalid.", ClientID, action)
}

func matches(pattern, action string) bool {
	re := "(?i)^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*") + "$"
	ok, _ := regexp.MatchString(re, action) // the pattern is quoted
	return ok
}

// route finds who answers.
func (s *Sim) route(c *call) *apiError {
	if c.r.Method != http.MethodGet {
		s.log = append(s.log, c.r.Method+" "+c.r.URL.Path)
	}
	if answer, ok := s.plain(c); ok {
		if c.r.Method != http.MethodGet {
			return refuse(http.StatusMethodNotAllowed, "MethodNotAllowed", "the simulator changes no %s", c.kind)
		}
		c.json(http.StatusOK, answer)
		return nil
	}
	if strings.HasSuffix(c.kind, "/locations") && len(c.sub) == 2 {
		return s.operation(c)
	}
	if !slices.Contains(kinds, c.kind) {
		return refuse(http.StatusNotFound, "InvalidResourceType", "The resource type '%s' could not be found.", c.kind)
	}
	verb := map[string]string{http.MethodGet: "read", http.MethodPut: "write", http.MethodPatch: "write", http.MethodDelete: "delete", http.MethodPost: "action"}[c.r.Method]
	action := c.kind + "/" + verb
	if verb == "action" && len(c.sub) == 1 {
		action = c.kind + "/" + c.sub[0] + "/action"
	}
	if e := s.may(action); e != nil {
		return e
	}
	if c.name == "" {
		if c.r.Method != http.MethodGet {
			return refuse(http.StatusMethodNotAllowed, "MethodNotAllowed", "a name is needed")
		}
		return s.list(c)
	}
	t := s.things[strings.ToLower(c.id())]
	switch {
	case c.r.Method == http.MethodPut && len(c.sub) == 0:
		return s.put(c, t)
	case t == nil && c.r.Method == http.MethodDelete:
		c.w.WriteHeader(http.StatusNoContent)
		return nil
	case t == nil:
		return refuse(http.StatusNotFound, "ResourceNotFound", "The Resource '%s/%s' under resource group '%s' was not found.", c.kind, c.name, c.group)
	case c.r.Method == http.MethodGet && len(c.sub) == 0:
		c.json(http.StatusOK, s.view(t, strings.EqualFold(c.r.URL.Query().Get("$expand"), "instanceView")))
		return nil
	case c.r.Method == http.MethodGet && c.kind == kindVM && strings.EqualFold(c.sub[0], "instanceView"):
		c.json(http.StatusOK, instanceView(t))
		return nil
	case c.r.Method == http.MethodGet && c.kind == kindNetwork && len(c.sub) == 2 && strings.EqualFold(c.sub[0], "subnets"):
		for _, sub := range t.subnets {
			if strings.EqualFold(sub, c.sub[1]) {
				c.json(http.StatusOK, subnetView(t, sub))
				return nil
			}
		}
		return refuse(http.StatusNotFound, "NotFound", "Resource %s not found.", c.r.URL.Path)
	case c.r.Method == http.MethodDelete && len(c.sub) == 0:
		return s.remove(c, t)
	case c.r.Method == http.MethodPost && len(c.sub) == 1:
		return s.act(c, t, c.sub[0])
	}
	return refuse(http.StatusMethodNotAllowed, "MethodNotAllowed", "the simulator does not %s %s", c.r.Method, c.r.URL.Path)
}

func (c *call) id() string {
	p, _, _ := strings.Cut(c.kind, "/")
	return identifier(c.group, strings.TrimPrefix(c.kind, p+"/"), c.name)
}

// identifier is a resource's full name, in the platform's spelling.
func identifier(group, kind, name string) string {
	for _, k := range kinds {
		if strings.EqualFold(strings.SplitN(k, "/", 2)[1], kind) {
			return "/subscriptions/" + Subscription + "/resourceGroups/" + group + "/providers/" + spelling[k] + "/" + name
		}
	}
	return ""
}

func (c *call) json(status int, v any) {
	c.w.WriteHeader(status)
	_ = json.NewEncoder(c.w).Encode(v)
}

// decode reads a body and refuses members that the API does not have.
func (c *call) decode(v any) *apiError {
	d := json.NewDecoder(bytes.NewReader(c.body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return bad("InvalidRequestContent", "The request content was invalid and could not be deserialized: '%v'.", err)
	}
	return nil
}

// list answers with pages of three, so that clients must follow nextLink.
func (s *Sim) list(c *call) *apiError {
	var ids []string
	for id, t := range s.things {
		if t.kind == c.kind && (c.group == "" || strings.EqualFold(t.group, c.group)) {
			ids = append(ids, id)
		}
	}
	sort.Strings(ids)
	skip, err := strconv.Atoi(c.r.URL.Query().Get("$skiptoken"))
	if err != nil || skip < 0 || skip > len(ids) {
		skip = 0
	}
	const page = 3
	values := []any{}
	for _, id := range ids[skip:min(skip+page, len(ids))] {
		values = append(values, s.view(s.things[id], false))
	}
	out := map[string]any{"value": values}
	if skip+page < len(ids) {
		q := c.r.URL.Query()
		q.Set("$skiptoken", strconv.Itoa(skip+page))
		out["nextLink"] = s.URL + c.r.URL.Path + "?" + q.Encode()
	}
	c.json(http.StatusOK, out)
	return nil
}

// operation is a long-running operation.
type operation struct {
	id      string
	began   time.Time
	ends    time.Time
	over    bool
	err     *apiError
	result  any
	apply   func() *apiError // what happens at its end
	failure func()           // instead, when it fails
}

// begin accepts an operation and answers: status with a body, and where to ask
// on. kind is its name for FailOperation.
func (s *Sim) begin(c *call, status int, body any, kind string, op *operation) {
	op.id, op.began = random(16), s.clock()
	op.ends = op.began.Add(s.opts.Delay)
	if e, ok := s.faults.fail[kind]; ok {
		delete(s.faults.fail, kind)
		op.err = &e
	}
	s.ops[op.id] = op
	ns, _, _ := strings.Cut(c.kind, "/")
	base := fmt.Sprintf("%s/subscriptions/%s/providers/%s/locations/%s/operations/%s?api-version=%s", s.URL, Subscription, ns, Region, op.id, url.QueryEscape(c.version))
	c.w.Header().Set("Azure-AsyncOperation", base)
	if c.r.Method != http.MethodPut || c.kind == kindDisk {
		c.w.Header().Set("Location", base+"&monitor=true")
	}
	s.pace(c.w)
	if body == nil {
		c.w.WriteHeader(status)
		return
	}
	c.json(status, body)
}

// pace tells when to ask again.
func (s *Sim) pace(w http.ResponseWriter) {
	ms := max(s.opts.Delay.Milliseconds()/2, 1)
	w.Header().Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
	w.Header().Set("retry-after-ms", strconv.FormatInt(ms, 10))
}

// settle ends the operations that are due, in the order in which they began.
func (s *Sim) settle() {
	var due []*operation
	for _, op := range s.ops {
		if !op.over && !s.clock().Before(op.ends) {
			due = append(due, op)
		}
	}
	slices.SortFunc(due, func(a, b *operation) int { return a.began.Compare(b.began) })
	for _, op := range due {
		op.over = true
		if op.err == nil {
			op.err = op.apply()
		} else if op.failure != nil {
			op.failure()
		}
	}
}

// operation answers how an operation stands.
func (s *Sim) operation(c *call) *apiError {
	op := s.ops[c.sub[1]]
	if op == nil || !strings.EqualFold(c.sub[0], "operations") {
		return refuse(http.StatusNotFound, "OperationNotFound", "The operation was not found.")
	}
	if c.r.URL.Query().Get("monitor") != "" {
		switch {
		case !op.over:
			c.w.Header().Set("Location", s.URL+c.r.URL.RequestURI())
			s.pace(c.w)
			c.w.WriteHeader(http.StatusAccepted)
		case op.err != nil:
			return op.err
		case op.result == nil:
			c.w.WriteHeader(http.StatusNoContent)
		default:
			c.json(http.StatusOK, op.result)
		}
		return nil
	}
	out := map[string]any{"name": op.id, "startTime": op.began.UTC().Format(time.RFC3339Nano), "status": "InProgress"}
	switch {
	case !op.over:
		s.pace(c.w)
	case op.err != nil:
		out["status"], out["error"] = "Failed", map[string]any{"code": op.err.code, "message": op.err.message}
	default:
		out["status"], out["endTime"] = "Succeeded", op.ends.UTC().Format(time.RFC3339Nano)
		if op.result != nil {
			out["properties"] = map[string]any{"output": op.result}
		}
	}
	c.json(http.StatusOK, out)
	return nil
}

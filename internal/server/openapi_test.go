package server_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"ascend/internal/client"
	"ascend/internal/server/api"
)

var update = flag.Bool("update", false, "write docs/openapi.json anew, when nothing breaks")
var breaking = flag.Bool("breaking", false, "with -update: although something breaks")

const published = "../../docs/openapi.json"

// TestOpenAPI holds the document against the one that is published in docs: what a
// client relies on stays. -update publishes a new one.
func TestOpenAPI(t *testing.T) {
	m := start(t)
	now := m.s.Document()
	was, err := os.ReadFile(published)
	if err != nil && !*update {
		t.Fatalf("%v: go test ./internal/server -run TestOpenAPI -update", err)
	}
	if err == nil {
		if broken := compare(t, was, now); len(broken) > 0 && !*breaking {
			t.Fatalf("clients would break:\n%s\nannounce it in the changelog and run with -update -breaking", strings.Join(broken, "\n"))
		}
	}
	if *update {
		if err := os.WriteFile(published, now, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(was, now) {
		t.Error("the document is not the published one: go test ./internal/server -run TestOpenAPI -update")
	}
	_, served := m.do("GET", "/openapi.json", "", nil)
	if !bytes.Equal(served, now) {
		t.Error("another document is served")
	}
}

type node = map[string]any

// compare says what of an old document a client can no longer rely on.
func compare(t *testing.T, old, now []byte) []string {
	var a, b node
	if err := json.Unmarshal(old, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(now, &b); err != nil {
		t.Fatal(err)
	}
	c := &comparison{old: a, now: b, seen: map[string]bool{}}
	paths, nows := at(a, "paths"), at(b, "paths")
	for path, methods := range paths {
		for method, o := range methods.(node) {
			where := strings.ToUpper(method) + " " + path
			n := at(nows, path, method)
			if n == nil {
				c.say("%s is gone", where)
				continue
			}
			c.operation(where, o.(node), n)
		}
	}
	slices.Sort(c.broken)
	return c.broken
}

type comparison struct {
	old, now node
	broken   []string
	seen     map[string]bool
}

func (c *comparison) say(format string, args ...any) {
	c.broken = append(c.broken, fmt.Sprintf(format, args...))
}

func at(n node, path ...string) node {
	for _, p := range path {
		n, _ = n[p].(node)
	}
	return n
}

func list(n node, key string) []any { l, _ := n[key].([]any); return l }

func (c *comparison) operation(where string, o, n node) {
	params := func(x node) map[string]node {
		m := map[string]node{}
		for _, p := range list(x, "parameters") {
			p := p.(node)
			m[fmt.Sprint(p["in"], " ", p["name"])] = p
		}
		return m
	}
	was, is := params(o), params(n)
	for name, p := range was {
		if is[name] == nil {
			c.say("%s: %s is gone", where, name)
			continue
		}
		c.schema(where+" "+name, at(p, "schema"), at(is[name], "schema"), true)
	}
	for name, p := range is {
		if p["required"] == true && (was[name] == nil || was[name]["required"] != true) {
			c.say("%s: %s is required now", where, name)
		}
	}
	body := func(x node) node { return at(x, "requestBody", "content", "application/json", "schema") }
	switch {
	case at(n, "requestBody") != nil && at(o, "requestBody") == nil && at(n, "requestBody")["required"] == true:
		c.say("%s wants a body now", where)
	case body(o) != nil:
		c.schema(where+" body", body(o), body(n), true)
	}
	for status, r := range at(o, "responses") {
		if status[0] != '2' {
			continue
		}
		for ct, media := range at(r.(node), "content") {
			now := at(n, "responses", status, "content", ct, "schema")
			if now == nil {
				c.say("%s: the answer %s as %s is gone", where, status, ct)
				continue
			}
			c.schema(where+" answer", at(media.(node), "schema"), now, false)
		}
	}
}

func resolve(doc, s node) (node, string) {
	ref, _ := s["$ref"].(string)
	if ref == "" {
		return s, ""
	}
	return at(doc, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...), ref
}

// schema compares two schemas of what clients send (in) or are told.
func (c *comparison) schema(where string, o, n node, in bool) {
	o, ref := resolve(c.old, o)
	n, nref := resolve(c.now, n)
	if ref != "" {
		key := fmt.Sprint(ref, nref, in)
		if c.seen[key] {
			return
		}
		c.seen[key] = true
	}
	if o == nil {
		return
	}
	if n == nil {
		c.say("%s is gone", where)
		return
	}
	types := func(x node) []string {
		var out []string
		switch t := x["type"].(type) {
		case string:
			out = []string{t}
		case []any:
			for _, v := range t {
				out = append(out, fmt.Sprint(v))
			}
		}
		return out
	}
	for _, v := range types(o) {
		if in && !slices.Contains(types(n), v) && len(types(n)) > 0 {
			c.say("%s takes no %s any more", where, v)
		}
	}
	for _, v := range types(n) {
		if !in && !slices.Contains(types(o), v) && len(types(o)) > 0 {
			c.say("%s may be %s now", where, v)
		}
	}
	if was, is := list(o, "enum"), list(n, "enum"); in && len(is) > 0 {
		for _, v := range was {
			if !slices.Contains(is, v) {
				c.say("%s takes no %v any more", where, v)
			}
		}
		if len(was) == 0 {
			c.say("%s takes only some values now", where)
		}
	}
	for bound, sign := range map[string]float64{"maximum": 1, "maxLength": 1, "maxItems": 1, "minimum": -1, "minLength": -1, "minItems": -1} {
		is, has := n[bound].(float64)
		was, had := o[bound].(float64)
		if in && has && (!had || sign*is < sign*was) {
			c.say("%s: %s is narrower", where, bound)
		}
	}
	if is, has := n["pattern"]; in && has && is != o["pattern"] {
		c.say("%s: the pattern is another", where)
	}
	required := list(o, "required")
	for _, v := range list(n, "required") {
		if in && !slices.Contains(required, v) {
			c.say("%s.%v is required now", where, v)
		}
	}
	for _, v := range required {
		if !in && !slices.Contains(list(n, "required"), v) {
			c.say("%s.%v may be missing now", where, v)
		}
	}
	for name, p := range at(o, "properties") {
		q := at(n, "properties", name)
		if q == nil {
			c.say("%s.%s is gone", where, name)
			continue
		}
		c.schema(where+"."+name, p.(node), q, in)
	}
	for _, k := range []string{"items", "additionalProperties"} {
		if at(o, k) != nil {
			c.schema(where+" "+k, at(o, k), at(n, k), in)
		}
	}
}

// TestCompare breaks a document in every way that clients would notice, and in
// none.
func TestCompare(t *testing.T) {
	m := start(t)
	doc := string(m.s.Document())
	change := func(f func(d node)) []byte {
		var d node
		if err := json.Unmarshal([]byte(doc), &d); err != nil {
			t.Fatal(err)
		}
		f(d)
		b, _ := json.Marshal(d)
		return b
	}
	schema := func(d node, name string) node { return at(d, "components", "schemas", name) }
	if broken := compare(t, []byte(doc), []byte(doc)); len(broken) > 0 {
		t.Error(broken)
	}
	for what, f := range map[string]func(d node){
		"an operation is gone":         func(d node) { delete(at(d, "paths", "/api/v1/jobs"), "post") },
		"a path is renamed":            func(d node) { p := at(d, "paths"); p["/api/v1/tasks"] = p["/api/v1/jobs"]; delete(p, "/api/v1/jobs") },
		"an answer's field is renamed": func(d node) { p := at(schema(d, "Job"), "properties"); p["state"] = p["status"]; delete(p, "status") },
		"a field has another type":     func(d node) { at(schema(d, "Job"), "properties", "percent")["type"] = "string" },
		"a field of a request is required": func(d node) {
			s := schema(d, "NewPlan")
			s["required"] = append(list(s, "required"), "wish")
		},
		"a request is shorter": func(d node) { at(schema(d, "NewUser"), "properties", "name")["maxLength"] = 3 },
		"an enum is narrower":  func(d node) { at(schema(d, "NewUser"), "properties", "role")["enum"] = []string{"admin"} },
		"a parameter is gone":  func(d node) { delete(at(d, "paths", "/api/v1/backups", "get"), "parameters") },
		"a parameter is required": func(d node) {
			list(at(d, "paths", "/api/v1/backups", "get"), "parameters")[0].(node)["required"] = true
		},
	} {
		if broken := compare(t, []byte(doc), change(f)); len(broken) == 0 {
			t.Errorf("%s, and nobody noticed", what)
		}
	}
	for what, f := range map[string]func(d node){
		"a new operation": func(d node) { at(d, "paths")["/api/v1/new"] = at(d, "paths", "/api/v1/jobs") },
		"a new field":     func(d node) { at(schema(d, "Job"), "properties")["x"] = node{"type": "string"} },
		"a wider request": func(d node) { at(schema(d, "NewUser"), "properties", "name")["maxLength"] = 300 },
		"other words":     func(d node) { at(d, "paths", "/api/v1/jobs", "get")["summary"] = "x" },
		"a wider choice": func(d node) {
			r := at(schema(d, "NewUser"), "properties", "role")
			r["enum"] = append(list(r, "enum"), "x")
		},
		"an optional part": func(d node) { at(schema(d, "NewUser"), "properties")["x"] = node{"type": "string"} },
	} {
		if broken := compare(t, []byte(doc), change(f)); len(broken) > 0 {
			t.Errorf("%s breaks: %v", what, broken)
		}
	}
}

// TestClient holds every call of the client against the document.
func TestClient(t *testing.T) {
	doc := start(t).document()
	for _, c := range client.Calls() {
		if _, ok := doc.Paths[api.Prefix+c.Path][strings.ToLower(c.Method)]; !ok {
			t.Errorf("%+v is no operation", c)
		}
	}
}

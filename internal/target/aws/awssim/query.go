package awssim

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// el is an XML element: its children, else its text.
type el struct {
	name string
	kids []el
	text string
}

func e(name string, v any) el {
	switch v := v.(type) {
	case []el:
		return el{name: name, kids: v}
	case el:
		return el{name: name, kids: []el{v}}
	default:
		return el{name: name, text: fmt.Sprint(v)}
	}
}

func (x el) write(b *strings.Builder) {
	b.WriteString("<" + x.name + ">")
	for _, k := range x.kids {
		k.write(b)
	}
	_ = xml.EscapeText(b, []byte(x.text)) // a Builder does not fail
	b.WriteString("</" + x.name + ">")
}

// items makes a list of <item>.
func items(name string, list [][]el) el {
	out := el{name: name}
	for _, l := range list {
		out.kids = append(out.kids, el{name: "item", kids: l})
	}
	return out
}

func tagSet(tags []tag) el {
	var l [][]el
	for _, t := range tags {
		l = append(l, []el{e("key", t.Key), e("value", t.Value)})
	}
	return items("tagSet", l)
}

// params are a request's parameters, which know whether they were looked at.
type params struct {
	v    url.Values
	used map[string]bool
}

func (p *params) get(name string) string {
	p.used[name] = true
	return p.v.Get(name)
}

// list is name.1, name.2, …
func (p *params) list(name string) (out []string) {
	for i := 1; ; i++ {
		k := name + "." + strconv.Itoa(i)
		if _, ok := p.v[k]; !ok {
			return out
		}
		out = append(out, p.get(k))
	}
}

// groups are the prefixes name.1., name.2., … that have members.
func (p *params) groups(name string) (out []string) {
	for i := 1; ; i++ {
		pre := name + "." + strconv.Itoa(i) + "."
		if !slices.ContainsFunc(keys(p.v), func(k string) bool { return strings.HasPrefix(k, pre) }) {
			return out
		}
		out = append(out, pre)
	}
}

func keys(v url.Values) (out []string) {
	for k := range v {
		out = append(out, k)
	}
	return out
}

// tags are those a TagSpecification gives a type of resource.
func (p *params) tags(resource string) (out []tag, err *apiError) {
	for _, g := range p.groups("TagSpecification") {
		typ := p.get(g + "ResourceType")
		for _, t := range p.groups(g + "Tag") {
			v := tag{p.get(t + "Key"), p.get(t + "Value")}
			if typ == resource {
				out = append(out, v)
			}
		}
	}
	return out, checkTags(out)
}

// filters are the request's filters; a resource must match each of them.
func (p *params) filters() map[string][]string {
	out := map[string][]string{}
	for _, g := range p.groups("Filter") {
		out[p.get(g+"Name")] = p.list(g + "Value")
	}
	return out
}

// match tells whether a resource with tags and fields passes filters; a filter
// that is not known is an error, as it is on AWS.
func match(f map[string][]string, tags []tag, fields map[string]string) (bool, *apiError) {
	ok := true
	for name, values := range f {
		have, known := fields[name]
		if k, is := strings.CutPrefix(name, "tag:"); is {
			known, have = true, "\x00"
			for _, t := range tags {
				if t.Key == k {
					have = t.Value
				}
			}
		}
		if !known {
			return false, bad("InvalidParameterValue", "The filter '%s' is invalid", name)
		}
		if !slices.Contains(values, have) {
			ok = false
		}
	}
	return ok, nil
}

type handler func(s *Sim, p *params) ([]el, *apiError)

func (s *Sim) serveQuery(w http.ResponseWriter, q Request, aerr *apiError) {
	var out []el
	if aerr == nil {
		out, aerr = s.query(q)
	}
	req := w.Header().Get("X-Amzn-Requestid")
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	var b strings.Builder
	b.WriteString(xml.Header)
	switch {
	case aerr != nil && q.Service == "sts":
		w.WriteHeader(aerr.status)
		e("ErrorResponse", []el{e("Error", []el{e("Type", "Sender"), e("Code", aerr.code), e("Message", aerr.msg)}), e("RequestId", req)}).write(&b)
	case aerr != nil:
		w.WriteHeader(aerr.status)
		e("Response", []el{e("Errors", e("Error", []el{e("Code", aerr.code), e("Message", aerr.msg)})), e("RequestID", req)}).write(&b)
	case q.Service == "sts":
		e(q.Action+"Response", []el{e(q.Action+"Result", out), e("ResponseMetadata", e("RequestId", req))}).write(&b)
	default:
		e(q.Action+"Response", append([]el{e("requestId", req)}, out...)).write(&b)
	}
	_, _ = w.Write([]byte(b.String())) // the client may be gone
}

func (s *Sim) query(q Request) ([]el, *apiError) {
	h, version := ec2Actions[q.Action], "2016-11-15"
	if q.Service == "sts" {
		h, version = stsActions[q.Action], "2011-06-15"
	}
	if h == nil {
		return nil, bad("InvalidAction", "The action %s is not valid for this web service.", q.Action)
	}
	if q.Params.Get("Version") != version {
		return nil, bad("InvalidParameterValue", "version %s", q.Params.Get("Version"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &params{v: q.Params, used: map[string]bool{"Action": true, "Version": true}}
	// Whether a parameter is known shows when it was looked at; what an action
	// would change is not changed when one was not.
	back := s.freeze()
	p.get("MaxResults")
	p.get("NextToken")
	dry := p.get("DryRun") == "true"
	out, aerr := h(s, p)
	for k := range p.v {
		if !p.used[k] && aerr == nil {
			aerr = bad("UnknownParameter", "The parameter %s is not recognized", k)
		}
	}
	if aerr == nil && dry {
		aerr = &apiError{status: 412, code: "DryRunOperation", msg: "Request would have succeeded, but DryRun flag is set."}
	}
	if aerr != nil {
		back()
	}
	return out, aerr
}

// freeze remembers what exists; the result puts it back.
func (s *Sim) freeze() func() {
	sn, im, in, vo, to := copyOf(s.snaps), copyOf(s.images), copyOf(s.insts), copyOf(s.vols), s.tokens
	tokens := make(map[string]tokenUse, len(to))
	for k, v := range to {
		tokens[k] = v
	}
	tasks, disks := copyOf(s.imports), copyOf(s.diskImports)
	return func() {
		s.diskImports = disks
		s.snaps, s.images, s.insts, s.vols, s.tokens, s.imports = sn, im, in, vo, tokens, tasks
	}
}

func copyOf[T any](m map[string]*T) map[string]*T {
	out := make(map[string]*T, len(m))
	for k, v := range m {
		c := *v
		out[k] = &c
	}
	return out
}

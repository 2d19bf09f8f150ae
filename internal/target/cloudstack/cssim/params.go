package cssim

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // CloudStack's API signs with HMAC-SHA1
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
)

//go:embed apis.txt
var apisText string

// command is one line of apis.txt.
type command struct {
	name   string
	async  bool
	params map[string]param
}

type param struct {
	required bool
	kind     string
	length   int
}

func readTable() (map[string]*command, error) {
	table := map[string]*command{}
	for line := range strings.Lines(apisText) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "#" {
			continue
		}
		c := &command{name: f[0], async: f[1] == "async", params: map[string]param{}}
		for _, s := range f[2:] {
			parts := strings.Split(s, ":")
			name, required := strings.CutSuffix(parts[0], "*")
			p := param{required: required, kind: parts[1]}
			if len(parts) > 2 {
				n, err := strconv.Atoi(parts[2])
				if err != nil {
					return nil, fmt.Errorf("apis.txt: %q: %w", s, err)
				}
				p.length = n
			}
			c.params[name] = p
		}
		table[strings.ToLower(c.name)] = c
	}
	return table, nil
}

// failure is an error as the API gives it.
type failure struct {
	code int // HTTP status and errorcode
	text string
}

func (f *failure) Error() string { return f.text }

// Codes of the API (CloudStack's ApiErrorCode).
const (
	codeAuth       = 401
	codeMalformed  = 430
	codeParam      = 431
	codeUnknown    = 432 // unsupported action
	codeLimit      = 429
	codeInternal   = 530
	codeNotAllowed = 531
	codeCapacity   = 533
	codeResource   = 535
)

func refuse(code int, format string, args ...any) *failure {
	return &failure{code, fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) *failure { return refuse(codeParam, format, args...) }

// always are the parameters of every command.
var always = []string{"command", "apikey", "signature", "signatureversion", "expires", "response"}

var reUUID = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// args are the parameters of one call, names in lower case but for the keys of
// maps.
type args map[string]string

// list is a parameter that holds values separated by commas.
func (a args) list(name string) []string {
	if a[name] == "" {
		return nil
	}
	return strings.Split(a[name], ",")
}

// maps are the entries of a map parameter, name[i].key=value, by i.
func (a args) maps(name string) []map[string]string {
	var out []map[string]string
	for i := 0; ; i++ {
		m := map[string]string{}
		for k, v := range a {
			if rest, ok := strings.CutPrefix(k, fmt.Sprintf("%s[%d].", name, i)); ok {
				m[rest] = v
			}
		}
		if len(m) == 0 {
			return out
		}
		out = append(out, m)
	}
}

// merged are the entries of a map parameter put together.
func (a args) merged(name string) map[string]string {
	out := map[string]string{}
	for _, m := range a.maps(name) {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

func (a args) number(name string) int64 {
	n, _ := strconv.ParseInt(a[name], 10, 64) // its form was checked
	return n
}

// check holds the call to the table.
func (c *command) check(a args) *failure {
	seen := map[string]bool{}
	for name, v := range a {
		base, _, isMap := strings.Cut(name, "[")
		if slices.Contains(always, name) {
			continue
		}
		p, ok := c.params[base]
		if !ok {
			return invalid("Received unknown parameters for command %s. Unknown parameters: [%s]", c.name, name)
		}
		seen[base] = true
		if strings.ContainsFunc(v, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			return invalid("Received value %s for parameter %s is invalid, contains illegal ASCII non-printable characters", v, name)
		}
		if isMap != (p.kind == "map") {
			return invalid("Unable to execute API command %s due to invalid value. Parameter %s is a %s", c.name, name, p.kind)
		}
		if err := p.check(v); err != "" {
			return invalid("Unable to execute API command %s due to invalid value. Invalid parameter %s value=%s due to %s", strings.ToLower(c.name), name, v, err)
		}
	}
	for name, p := range c.params {
		if p.required && !seen[name] {
			return invalid("Unable to execute API command %s due to missing parameter %s", strings.ToLower(c.name), name)
		}
	}
	return nil
}

func (p param) check(v string) string {
	switch p.kind {
	case "uuid":
		if !reUUID.MatchString(v) && v != "-1" {
			return "incorrect long value format, or entity does not exist or due to incorrect parameter annotation for the field in api cmd class."
		}
	case "boolean":
		if v != "true" && v != "false" {
			return "it is no boolean"
		}
	case "integer":
		if _, err := strconv.ParseInt(v, 10, 32); err != nil {
			return "incorrect integer value format"
		}
	case "long":
		if _, err := strconv.ParseInt(v, 10, 64); err != nil {
			return "incorrect long value format"
		}
	case "string":
		if n := len(utf16.Encode([]rune(v))); p.length > 0 && n > p.length {
			return fmt.Sprintf("its length %d is more than %d", n, p.length)
		}
	}
	return ""
}

// encode is java.net.URLEncoder's form of a value, with %20 for a space.
func encode(v string) string {
	var b strings.Builder
	for _, c := range []byte(v) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '*', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// sign is the signature of a call, as ApiServer.verifyRequest computes it: the
// parameters sorted by name as they were sent, then all in lower case, HMAC-SHA1,
// Base64.
func sign(q url.Values, secret string) string {
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(q)) {
		if !strings.EqualFold(k, "signature") {
			pairs = append(pairs, strings.ToLower(k+"="+encode(q.Get(k))))
		}
	}
	m := hmac.New(sha1.New, []byte(secret))
	m.Write([]byte(strings.Join(pairs, "&")))
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// authenticate checks who calls and when.
func (s *Sim) authenticate(q url.Values, a args) *failure {
	bad := refuse(codeAuth, "unable to verify user credentials and/or request signature")
	if a["apikey"] != APIKey || !hmac.Equal([]byte(sign(q, SecretKey)), []byte(a["signature"])) {
		return bad
	}
	if a["signatureversion"] != "3" || a["expires"] == "" {
		return refuse(codeAuth, "missing expires: signatures of version 3 are asked for")
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04:05-0700"} {
		if t, err := time.Parse(form, a["expires"]); err == nil {
			if time.Now().After(t) {
				return bad
			}
			return nil
		}
	}
	return bad
}

func (s *Sim) serveAPI(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || r.URL.Path != "/client/api" {
		http.Error(w, "<html>404</html>", http.StatusNotFound)
		return
	}
	a := args{}
	var twice *failure
	for k, vs := range r.Form {
		base, rest, isMap := strings.Cut(k, "[")
		low := strings.ToLower(base)
		if isMap { // the keys of a map keep their case
			low += "[" + rest
		}
		if _, ok := a[low]; ok || len(vs) > 1 {
			twice = invalid("parameter %s is given twice", k)
		}
		a[low] = vs[0]
	}
	name := strings.ToLower(a["command"])
	c := s.table[name]
	if f := s.faults.next(name); f != nil {
		if f.status < 0 {
			panic(http.ErrAbortHandler)
		}
		if f.status == http.StatusServiceUnavailable {
			http.Error(w, "<html><body>503 Service Unavailable</body></html>", f.status)
			return
		}
		answer(w, name, nil, refuse(f.status, "%s", f.text))
		return
	}
	var out any
	fail := s.authenticate(r.Form, a)
	switch {
	case fail != nil:
	case twice != nil:
		fail = twice
	case c == nil || slices.Contains(s.o.Denied, c.name):
		fail = refuse(codeUnknown, "The given command '%s' either does not exist, is not available for user, or not available from ip address '127.0.0.1'.", a["command"])
	default:
		if fail = c.check(a); fail == nil {
			s.mu.Lock()
			out, fail = s.run(c, a)
			s.mu.Unlock()
		}
	}
	answer(w, name, out, fail)
}

// answers that are not named after their command.
var answerNames = map[string]string{
	"getuploadparamsforvolume": "postuploadvolumeresponse", "getuploadparamsfortemplate": "postuploadtemplateresponse",
}

func answer(w http.ResponseWriter, name string, out any, fail *failure) {
	key := name + "response"
	if n, ok := answerNames[name]; ok {
		key = n
	}
	status := http.StatusOK
	if fail != nil {
		status = fail.code
		if fail.code == codeUnknown {
			key = "errorresponse"
		}
		out = map[string]any{"uuidList": []string{}, "errorcode": fail.code, "cserrorcode": 4350, "errortext": fail.text}
	}
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{key: out})
}

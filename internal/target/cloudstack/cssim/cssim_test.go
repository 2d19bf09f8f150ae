package cssim

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTable holds apis.txt to the official list of the SDK's module.
func TestTable(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "github.com/apache/cloudstack-go/v2").Output()
	if err != nil {
		t.Fatalf("cannot find the module of the SDK: %v", err)
	}
	var mod struct{ Dir string }
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(mod.Dir, "generate", "listApis.json"))
	if err != nil {
		t.Fatal(err)
	}
	var official struct {
		API []struct {
			Name   string `json:"name"`
			Async  bool   `json:"isasync"`
			Params []struct {
				Name     string `json:"name"`
				Required bool   `json:"required"`
				Type     string `json:"type"`
				Length   int    `json:"length"`
			} `json:"params"`
		} `json:"api"`
	}
	if err := json.Unmarshal(b, &official); err != nil {
		t.Fatal(err)
	}
	table, err := readTable()
	if err != nil {
		t.Fatal(err)
	}
	if len(official.API) < 800 || len(table) < 35 {
		t.Fatalf("%d official commands, %d in the table", len(official.API), len(table))
	}
	for _, o := range official.API {
		c := table[strings.ToLower(o.Name)]
		if c == nil {
			continue
		}
		delete(table, strings.ToLower(o.Name))
		if c.name != o.Name || c.async != o.Async || len(c.params) != len(o.Params) {
			t.Errorf("%s: %d parameters, async %v; officially %d, %v", o.Name, len(c.params), c.async, len(o.Params), o.Async)
		}
		for _, p := range o.Params {
			want := param{required: p.Required, kind: p.Type}
			if p.Type == "string" {
				want.length = p.Length
			}
			if got := c.params[p.Name]; got != want {
				t.Errorf("%s %s: %+v, officially %+v", o.Name, p.Name, got, want)
			}
		}
	}
	for _, c := range table {
		t.Errorf("%s is no official command", c.name)
	}
	for name := range actions {
		if _, twice := lists[name]; twice {
			t.Errorf("%s is carried out in two ways", name)
		}
	}
}

func start(t *testing.T, o Options) *Sim {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func client(t *testing.T, s *Sim) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// call makes a signed call; edit may spoil it after signing.
func call(t *testing.T, s *Sim, edit func(url.Values), pairs ...string) (int, map[string]any) {
	t.Helper()
	q := url.Values{"apiKey": {APIKey}, "response": {"json"}, "signatureVersion": {"3"}, "expires": {time.Now().Add(time.Minute).UTC().Format("2006-01-02T15:04:05-0700")}}
	for i := 0; i < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	q.Set("signature", sign(q, SecretKey))
	if edit != nil {
		edit(q)
	}
	res, err := client(t, s).PostForm(s.URL, q)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var outer map[string]map[string]any
	if err := json.NewDecoder(res.Body).Decode(&outer); err != nil {
		t.Fatal(err)
	}
	for _, inner := range outer {
		return res.StatusCode, inner
	}
	return res.StatusCode, nil
}

// TestSignature compares with the example of CloudStack's developer guide, and
// has names whose order is another in lower case.
func TestSignature(t *testing.T) {
	q := url.Values{"command": {"listUsers"}, "response": {"json"},
		"apiKey": {"plgWJfZK4gyS3mOMTVmjUVg-X-jlWlnfaUJ9GAbBbf9EdM-kAYMmAiLqzzq1ElZLYq_u38zCm0bewzGUdP66mg"}}
	const key = "VDaACYb0LV9eNjTetIOElcVQkvJck_J_QljX_FcHRj87ZKiy0z0ty0ZsYBkoXkY9b7eq1EhwJaw7FF3akA3KBQ"
	if got := sign(q, key); got != "TTpdDq/7j/J58XCRHomKoQXEQds=" {
		t.Errorf("the guide's call is signed %s", got)
	}
	before := sign(url.Values{"d[0].UEFI": {"a"}, "d[0].ascend": {"b"}}, key)
	if before == sign(url.Values{"d[0].uefi": {"a"}, "d[0].ascend": {"b"}}, key) {
		t.Error("names are sorted in lower case")
	}
}

func TestStrict(t *testing.T) {
	s := start(t, Options{Denied: []string{"createTags"}})
	zone := s.zoneID
	for _, c := range []struct {
		name  string
		want  int
		edit  func(url.Values)
		pairs []string
	}{
		{"right", 200, nil, []string{"command", "listZones", "name", Zone}},
		{"unknown command", 432, nil, []string{"command", "makeCoffee"}},
		{"denied command", 432, nil, []string{"command", "createTags", "resourceids", zone, "resourcetype", "Volume", "tags[0].key", "a", "tags[0].value", "b"}},
		{"unknown parameter", 431, nil, []string{"command", "listZones", "colour", "blue"}},
		{"missing parameter", 431, nil, []string{"command", "deleteVolume"}},
		{"no boolean", 431, nil, []string{"command", "listZones", "available", "yes"}},
		{"no identifier", 431, nil, []string{"command", "listVolumes", "id", "7"}},
		{"no such thing", 431, nil, []string{"command", "listVolumes", "id", newID()}},
		{"no number", 431, nil, []string{"command", "listZones", "page", "x"}},
		{"no map", 431, nil, []string{"command", "listZones", "name[0].x", "y"}},
		{"control character", 431, nil, []string{"command", "listZones", "name", "a\tb"}},
		{"too long", 431, nil, []string{"command", "listZones", "name", strings.Repeat("n", 256)}},
		{"changed after signing", 401, func(q url.Values) { q.Set("name", "other") }, []string{"command", "listZones", "name", Zone}},
		{"expired", 401, nil, []string{"command", "listZones", "expires", "2020-01-01T00:00:00+0000"}},
		{"fixed disk offering", 431, nil, []string{"command", "getUploadParamsForVolume", "name", "v", "format", "QCOW2", "zoneid", zone, "diskofferingid", s.diskOfferings[1].id()}},
		{"wrong format", 431, nil, []string{"command", "getUploadParamsForVolume", "name", "v", "format", "VHD", "zoneid", zone}},
	} {
		if got, answer := call(t, s, c.edit, c.pairs...); got != c.want {
			t.Errorf("%s: %d, want %d: %v", c.name, got, c.want, answer)
		}
	}
	if vs := s.Inventory(); len(vs) != 0 {
		t.Errorf("refused calls made %q", vs)
	}
}

// qcow2 is an image that qemu-img made.
func qcow2(t *testing.T) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "d.qcow2")
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "create", "-f", "qcow2", name, "1M").CombinedOutput(); err != nil {
		t.Fatalf("qemu-img is needed (apt-get install qemu-utils): %v\n%s", err, out)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestUpload holds the upload service to its rules, one broken at a time.
func TestUpload(t *testing.T) {
	s := start(t, Options{})
	image := qcow2(t)
	form := func(name string, file []byte) (string, []byte) {
		var b bytes.Buffer
		m := multipart.NewWriter(&b)
		h := textproto.MIMEHeader{"Content-Disposition": {fmt.Sprintf(`form-data; name="files[]"; filename=%q`, name)}}
		if name == "" {
			h = textproto.MIMEHeader{"Content-Disposition": {`form-data; name="files[]"`}}
		}
		w, err := m.CreatePart(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(file); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		return m.FormDataContentType(), b.Bytes()
	}
	send := func(k map[string]any, kind string, body io.Reader, edit func(*http.Request)) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, k["postURL"].(string), body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", kind)
		for h, f := range map[string]string{"X-signature": "signature", "X-metadata": "metadata", "X-expires": "expires"} {
			req.Header.Set(h, k[f].(string))
		}
		if edit != nil {
			edit(req)
		}
		res, err := client(t, s).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	ticket := func(name string) map[string]any {
		status, out := call(t, s, nil, "command", "getUploadParamsForVolume", "name", name, "format", "QCOW2", "zoneid", s.zoneID)
		if status != 200 {
			t.Fatalf("%d %v", status, out)
		}
		return out["getuploadparams"].(map[string]any)
	}
	kind, good := form("disk.qcow2", image)
	for _, c := range []struct {
		name  string
		want  int
		state string
		file  string
		bytes []byte
		edit  func(*http.Request)
	}{
		{"right", 200, "Uploaded", "disk.qcow2", image, nil},
		{"chunked", 400, "NotUploaded", "disk.qcow2", image, func(r *http.Request) { r.ContentLength = -1 }},
		{"no signature", 400, "UploadError", "disk.qcow2", image, func(r *http.Request) { r.Header.Del("X-signature") }},
		{"other metadata", 400, "UploadError", "disk.qcow2", image, func(r *http.Request) { r.Header.Set("X-metadata", "x") }},
		{"later expiry", 400, "UploadError", "disk.qcow2", image, func(r *http.Request) { r.Header.Set("X-expires", "2099-01-01T00:00:00.000Z") }},
		{"no file", 422, "UploadError", "", image, nil},
		{"wrong ending", 400, "UploadError", "disk.vhd", image, nil},
		{"no image", 400, "UploadError", "disk.qcow2", []byte(strings.Repeat("zero", 100)), nil},
	} {
		k := ticket(c.name)
		kind, body := form(c.file, c.bytes)
		if got := send(k, kind, io.NopCloser(bytes.NewReader(body)), func(r *http.Request) {
			r.ContentLength = int64(len(body))
			if c.edit != nil {
				c.edit(r)
			}
		}); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
		s.mu.Lock()
		if v := s.volume(k["id"].(string)); v.state != c.state {
			t.Errorf("%s: the volume is %s, want %s", c.name, v.state, c.state)
		} else if c.state == "Uploaded" && (!bytes.Equal(v.file, image) || v.size != 1<<20) {
			t.Errorf("%s: %d bytes landed as a disk of %d", c.name, len(v.file), v.size)
		}
		s.mu.Unlock()
		if c.want == 200 {
			if got := send(k, kind, bytes.NewReader(body), nil); got != 400 {
				t.Errorf("a second use of a permission: %d", got)
			}
		}
	}
	// A volume that an upload may still come for is not deleted.
	k := ticket("waiting")
	if status, _ := call(t, s, nil, "command", "deleteVolume", "id", k["id"].(string)); status != 431 {
		t.Errorf("deleting a volume that is waited for: %d", status)
	}
	if got := send(k, kind, bytes.NewReader(good), nil); got != 200 {
		t.Errorf("%d", got)
	}
	if status, _ := call(t, s, nil, "command", "deleteVolume", "id", k["id"].(string)); status != 200 {
		t.Errorf("deleting an uploaded volume: %d", status)
	}
}

// TestPython drives the simulator with the Python client cs, which knows nothing
// of it.
func TestPython(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), "python3", "-c", "import cs, requests").CombinedOutput(); err != nil {
		t.Fatalf("the Python package cs is needed (build/deps): %v\n%s", err, out)
	}
	s := start(t, Options{})
	image := filepath.Join(t.TempDir(), "disk.qcow2")
	if err := os.WriteFile(image, qcow2(t), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "python3", "testdata/client.py", s.URL, APIKey, s.CAFile, image)
	cmd.Env = append(os.Environ(), "SECRET="+SecretKey)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ms := s.Machines()
	for i := range ms {
		for j := range ms[i].Disks {
			ms[i].Disks[j].File = nil // to be printed
		}
	}
	if len(ms) != 1 || ms[0].Display != "Büro & Co" || ms[0].State != "Running" || len(ms[0].Disks) != 2 || ms[0].Details["rootDiskController"] != "virtio" ||
		ms[0].NICs[0]["macaddress"] != "02:00:00:00:00:07" || ms[0].Tags["team"] != "blue" {
		t.Errorf("%+v", ms)
	}
	if !slices.ContainsFunc(s.Inventory(), func(l string) bool { return strings.HasPrefix(l, "template ") }) {
		t.Error("the template is gone")
	}
}

package armsim

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// user is a plain HTTP client of a simulator.
type user struct {
	*Sim
	t     *testing.T
	http  *http.Client
	token string
}

func newUser(t *testing.T, opts Options) *user {
	t.Helper()
	opts.Dir = t.TempDir()
	s, err := Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	u := &user{Sim: s, t: t, http: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}}
	res, err := u.http.PostForm(s.URL+"/"+Tenant+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {ClientID}, "client_secret": {ClientSecret}, "scope": {"x/.default"}})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var a struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil || a.Token == "" {
		t.Fatalf("no token: %v", err)
	}
	u.token = a.Token
	return u
}

// ask makes one request; path is that behind the subscription.
func (u *user) ask(method, path, body string) (int, string, http.Header) {
	u.t.Helper()
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	return u.raw(method, u.URL+"/subscriptions/"+Subscription+path+sep+"api-version=2024-07-01", body, "Authorization", "Bearer "+u.token)
}

func (u *user) raw(method, address, body string, header ...string) (int, string, http.Header) {
	u.t.Helper()
	req, err := http.NewRequestWithContext(u.t.Context(), method, address, bytes.NewReader([]byte(body)))
	if err != nil {
		u.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := u.http.Do(req)
	if err != nil {
		u.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		u.t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

// refused wants a request to be refused by status and code.
func (u *user) refused(what string, status int, code, method, path, body string) {
	u.t.Helper()
	s, answer, _ := u.ask(method, path, body)
	var e struct {
		Error struct{ Code, Message string }
	}
	_ = json.Unmarshal([]byte(answer), &e)
	if s != status || e.Error.Code != code || e.Error.Message == "" {
		u.t.Errorf("%s: %d %s, want %d %s", what, s, answer, status, code)
	}
}

// done asks for something and waits for the operation's end.
func (u *user) done(method, path, body string) string {
	u.t.Helper()
	s, answer, h := u.ask(method, path, body)
	if s/100 != 2 {
		u.t.Fatalf("%s %s: %d %s", method, path, s, answer)
	}
	op := h.Get("Azure-AsyncOperation")
	if op == "" {
		return answer
	}
	for {
		_, answer, _ := u.raw(http.MethodGet, op, "", "Authorization", "Bearer "+u.token)
		var o struct {
			Status     string
			Properties struct{ Output json.RawMessage }
		}
		if err := json.Unmarshal([]byte(answer), &o); err != nil {
			u.t.Fatal(err)
		}
		switch o.Status {
		case "Succeeded":
			return string(o.Properties.Output)
		case "InProgress":
		default:
			u.t.Fatalf("%s %s: %s", method, path, answer)
		}
	}
}

// at sets the simulator's clock.
func (u *user) at(clock func() time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clock = clock
}

const (
	groupPath = "/resourceGroups/" + Group + "/providers"
	disksPath = groupPath + "/Microsoft.Compute/disks/"
	vmsPath   = groupPath + "/Microsoft.Compute/virtualMachines/"
)

func diskJSON(more string) string {
	return `{"location":"westeurope","properties":{"osType":"Linux","creationData":{"createOption":"Upload","uploadSizeBytes":20972032}` + more + `}}`
}

func TestWhoAsks(t *testing.T) {
	u := newUser(t, Options{})
	base := u.URL + "/subscriptions/" + Subscription
	for _, c := range []struct {
		what, address string
		header        []string
		status        int
		code          string
	}{
		{"no token", base + "?api-version=2022-12-01", nil, 401, "AuthenticationFailed"},
		{"unknown token", base + "?api-version=2022-12-01", []string{"Authorization", "Bearer x"}, 401, "InvalidAuthenticationToken"},
		{"no version", base, []string{"Authorization", "Bearer " + u.token}, 400, "MissingApiVersionParameter"},
		{"bad version", base + "?api-version=latest", []string{"Authorization", "Bearer " + u.token}, 400, "InvalidApiVersionParameter"},
	} {
		s, answer, h := u.raw(http.MethodGet, c.address, "", c.header...)
		if s != c.status || !strings.Contains(answer, c.code) || s == 401 && h.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %d %s", c.what, s, answer)
		}
	}
	u.mu.Lock()
	u.tokens[u.token] = time.Now().Add(-time.Second)
	u.mu.Unlock()
	u.refused("ended token", 401, "ExpiredAuthenticationToken", http.MethodGet, "", "")
}

func TestDisksAreStrict(t *testing.T) {
	u := newUser(t, Options{})
	for what, body := range map[string]string{
		"unknown member":  diskJSON(`,"colour":"red"`),
		"no location":     `{"properties":{"creationData":{"createOption":"Upload","uploadSizeBytes":20972032}}}`,
		"no JSON":         `{`,
		"odd size":        strings.Replace(diskJSON(""), "20972032", "20972544", 1),
		"without footer":  strings.Replace(diskJSON(""), "20972032", "20971520", 1),
		"too small":       strings.Replace(diskJSON(""), "20972032", "1049088", 1),
		"too large":       strings.Replace(diskJSON(""), "20972032", "35184372089344", 1),
		"generation 3":    diskJSON(`,"hyperVGeneration":"V3"`),
		"trusted gen 1":   diskJSON(`,"hyperVGeneration":"V1","securityProfile":{"securityType":"TrustedLaunch"}`),
		"performance":     diskJSON(`,"diskIOPSReadWrite":5000`),
		"unknown set":     diskJSON(`,"encryption":{"diskEncryptionSetId":"/subscriptions/x"}`),
		"no creation":     `{"location":"westeurope","properties":{}}`,
		"zone 7":          strings.Replace(diskJSON(""), `{"location"`, `{"zones":["7"],"location"`, 1),
		"tag with slash":  strings.Replace(diskJSON(""), `{"location"`, `{"tags":{"a/b":"c"},"location"`, 1),
		"unknown sku":     strings.Replace(diskJSON(""), `{"location"`, `{"sku":{"name":"Gold_LRS"},"location"`, 1),
		"v2 without zone": strings.Replace(diskJSON(""), `{"location"`, `{"sku":{"name":"PremiumV2_LRS"},"location"`, 1),
	} {
		if s, answer, _ := u.ask(http.MethodPut, disksPath+"d", body); s != 400 {
			t.Errorf("%s: %d %s", what, s, answer)
		}
	}
	if left := u.Inventory(); len(left) > 0 {
		t.Fatalf("what was refused is there: %q", left)
	}
	u.refused("bad name", 400, "InvalidResourceName", http.MethodPut, disksPath+"a%20b", diskJSON(""))
	now := time.Now()
	u.at(func() time.Time { return now }) // nothing ends
	s, answer, h := u.ask(http.MethodPut, disksPath+"d", diskJSON(""))
	if s != 202 || !strings.Contains(answer, `"Updating"`) {
		t.Errorf("a disk that was asked for: %d %s", s, answer)
	}
	u.refused("access too early", 409, "OperationNotAllowed", http.MethodPost, disksPath+"d/beginGetAccess", `{"access":"Write","durationInSeconds":60}`)
	for _, address := range []string{h.Get("Azure-AsyncOperation"), h.Get("Location")} {
		s, answer, h := u.raw(http.MethodGet, address, "", "Authorization", "Bearer "+u.token)
		if s != 202 && !strings.Contains(answer, "InProgress") || h.Get("Retry-After") == "" {
			t.Errorf("an operation under way: %d %s", s, answer)
		}
	}
	u.at(func() time.Time { return now.Add(time.Second) })
	if s, answer, _ := u.raw(http.MethodGet, h.Get("Azure-AsyncOperation"), "", "Authorization", "Bearer "+u.token); !strings.Contains(answer, "Succeeded") {
		t.Errorf("an operation that is over: %d %s", s, answer)
	}
	u.at(time.Now)
	if answer := u.done(http.MethodPut, disksPath+"d", diskJSON("")); !strings.Contains(answer, "ReadyToUpload") {
		t.Errorf("the same disk again: %s", answer)
	}
	u.refused("reading an upload", 409, "OperationNotAllowed", http.MethodPost, disksPath+"d/beginGetAccess", `{"access":"Read","durationInSeconds":60}`)
	u.refused("no duration", 400, "InvalidParameter", http.MethodPost, disksPath+"d/beginGetAccess", `{"access":"Write"}`)
	var grant struct {
		SAS string `json:"accessSAS"`
	}
	if err := json.Unmarshal([]byte(u.done(http.MethodPost, disksPath+"d/beginGetAccess", `{"access":"Write","durationInSeconds":60}`)), &grant); err != nil || grant.SAS == "" {
		t.Fatalf("%v %+v", err, grant)
	}
	put := func(status int, code string, n int, header ...string) {
		t.Helper()
		h := append([]string{"x-ms-version", "2023-11-03", "x-ms-page-write", "update", "x-ms-range", "bytes=0-511"}, header...)
		s, answer, rh := u.raw(http.MethodPut, grant.SAS+"&comp=page", strings.Repeat("x", n), h...)
		if s != status || rh.Get("x-ms-error-code") != code {
			t.Errorf("put %v: %d %s", header, s, answer)
		}
	}
	put(201, "", 512)
	put(400, "UnsupportedHeader", 512, "Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA==")
	put(416, "InvalidPageRange", 512, "x-ms-range", "bytes=1-512")
	put(416, "InvalidPageRange", 512, "x-ms-range", "bytes=20972032-20972543")
	put(413, "RequestBodyTooLarge", 8<<20, "x-ms-range", "bytes=0-8388607")
	put(400, "InvalidHeaderValue", 512, "x-ms-range", "bytes=0-1023")
	put(400, "Crc64Mismatch", 512, "x-ms-content-crc64", "AAAAAAAAAAE=")
	u.refused("deleting it", 409, "OperationNotAllowed", http.MethodDelete, disksPath+"d", "")
	u.done(http.MethodPost, disksPath+"d/endGetAccess", "")
	put(403, "AuthorizationFailure", 512)
	u.refused("writing again", 409, "OperationNotAllowed", http.MethodPost, disksPath+"d/beginGetAccess", `{"access":"Write","durationInSeconds":60}`)
	u.done(http.MethodDelete, disksPath+"d", "")
	if s, _, _ := u.ask(http.MethodDelete, disksPath+"d", ""); s != 204 {
		t.Errorf("deleting what is gone: %d", s)
	}
	u.refused("getting what is gone", 404, "ResourceNotFound", http.MethodGet, disksPath+"d", "")
}

func TestMachinesAreStrict(t *testing.T) {
	u := newUser(t, Options{Cores: 4})
	id := "/subscriptions/" + Subscription
	u.done(http.MethodPut, disksPath+"d", diskJSON(`,"hyperVGeneration":"V1"`))
	nic := groupPath + "/Microsoft.Network/networkInterfaces/n"
	u.done(http.MethodPut, nic, `{"location":"westeurope","properties":{"ipConfigurations":[{"name":"a","properties":{"subnet":{"id":"`+id+
		`/resourceGroups/network/providers/Microsoft.Network/virtualNetworks/hub/subnets/servers"}}}]}}`)
	vm := func(size, more string) string {
		return fmt.Sprintf(`{"location":"westeurope"%s,"properties":{"hardwareProfile":{"vmSize":%q},"storageProfile":{"osDisk":{"osType":"Linux","createOption":"Attach","managedDisk":{"id":%q}}},"networkProfile":{"networkInterfaces":[{"id":%q}]}}}`,
			more, size, id+disksPath+"d", id+nic)
	}
	u.refused("a disk that is being uploaded", 409, "OperationNotAllowed", http.MethodPut, vmsPath+"v", vm("Standard_D2s_v5", ""))
	u.done(http.MethodPost, disksPath+"d/endGetAccess", "")
	u.refused("unknown size", 400, "InvalidParameter", http.MethodPut, vmsPath+"v", vm("Big", ""))
	u.refused("generation", 400, "BadRequest", http.MethodPut, vmsPath+"v", vm("Standard_D4s_v6", ""))
	u.refused("quota", 409, "OperationNotAllowed", http.MethodPut, vmsPath+"v", vm("Standard_D8s_v5", ""))
	u.refused("zone of a regional disk", 400, "BadRequest", http.MethodPut, vmsPath+"v", vm("Standard_D2s_v5", `,"zones":["1"]`))
	u.refused("name", 400, "InvalidParameter", http.MethodPut, vmsPath+strings.Repeat("v", 65), vm("Standard_D2s_v5", ""))
	u.done(http.MethodPut, vmsPath+"v", vm("Standard_D2s_v5", ""))
	if m := u.Machine(id + vmsPath + "v"); m == nil || m.Power != "running" {
		t.Errorf("a machine that was made is started: %+v", m)
	}
	u.refused("a disk of another", 409, "ConflictingUserInput", http.MethodPut, vmsPath+"w", vm("Standard_D2s_v5", ""))
	u.refused("another machine of the name", 409, "PropertyChangeNotAllowed", http.MethodPut, vmsPath+"v", vm("Standard_B2s", ""))
	u.refused("deleting its disk", 409, "OperationNotAllowed", http.MethodDelete, disksPath+"d", "")
	u.refused("deleting its adapter", 400, "NicInUse", http.MethodDelete, nic, "")
	u.done(http.MethodDelete, vmsPath+"v", "")
	if left := u.Inventory(); len(left) != 2 || !slices.ContainsFunc(left, func(l string) bool { return strings.Contains(l, "Unattached") }) {
		t.Errorf("a machine's disks stay: %q", left)
	}
}

func TestFaults(t *testing.T) {
	u := newUser(t, Options{Actions: []string{"*/read"}})
	u.refused("no right", 403, "AuthorizationFailed", http.MethodPut, disksPath+"d", diskJSON(""))
	u.FailCalls(1, Status(http.StatusTooManyRequests, "TooManyRequests"))
	s, _, h := u.ask(http.MethodGet, "", "")
	if s != 429 || h.Get("Retry-After") == "" {
		t.Errorf("throttled: %d %v", s, h)
	}
	if s, _, _ := u.ask(http.MethodGet, "", ""); s != 200 {
		t.Errorf("after that: %d", s)
	}
	u.ExpireTokens()
	u.refused("tokens ended", 401, "InvalidAuthenticationToken", http.MethodGet, "", "")
}

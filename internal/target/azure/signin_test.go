package azure

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/azure/armsim"
)

// application makes an application's certificate and a file with it and its key.
func application(t testing.TB) (*x509.Certificate, string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "restore"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	out := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk})...)
	file := filepath.Join(t.TempDir(), "application.pem")
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return cert, file
}

// works validates with settings made by changing those of a secret.
func works(t *testing.T, s sim, change func(set target.Settings)) {
	t.Helper()
	set := s.settings()
	delete(set.Secrets, "client_secret")
	change(set)
	tgt, err := target.NewRegistry(Kind()).Open(t.Context(), set)
	if err != nil {
		t.Fatal(err)
	}
	defer tgt.Close()
	for _, c := range tgt.Validate(t.Context()) {
		if !c.OK {
			t.Errorf("%s: %s (%s)", c.Name, c.Detail, c.Hint)
		}
	}
}

func TestSignInByCertificate(t *testing.T) {
	cert, file := application(t)
	s := newSim(t, armsim.Options{Certificate: cert})
	works(t, s, func(set target.Settings) { set.Values["certificate_file"] = file })
	_, other := application(t)
	set := s.settings("certificate_file", other)
	delete(set.Secrets, "client_secret")
	tgt, err := open(set)
	if err != nil {
		t.Fatal(err)
	}
	defer tgt.Close()
	if c := tgt.Validate(t.Context())[0]; c.OK || !strings.Contains(c.Detail, "AADSTS700027") {
		t.Errorf("a certificate that is not the application's: %+v", c)
	}
}

func TestSignInByWorkloadIdentity(t *testing.T) {
	s := newSim(t, armsim.Options{Federated: "federated.token.of-kubernetes"})
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("federated.token.of-kubernetes"), 0o600); err != nil {
		t.Fatal(err)
	}
	works(t, s, func(set target.Settings) { set.Values["token_file"] = file })
}

func TestSignInByManagedIdentity(t *testing.T) {
	s := newSim(t, armsim.Options{})
	t.Setenv("IDENTITY_ENDPOINT", s.URL+"/msi/token")
	t.Setenv("IDENTITY_HEADER", armsim.MSIHeader)
	works(t, s, func(set target.Settings) {
		set.Values["auth"] = authManaged
		delete(set.Values, "client_id")
		delete(set.Values, "tenant")
	})
}

// The CLI's program is stood in for by a script that answers as it does.
func TestSignInByCLI(t *testing.T) {
	s := newSim(t, armsim.Options{})
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in 'account get-access-token '*) ;; *) exit 2 ;; esac\n"+
		`printf '{"accessToken":"%s","expiresOn":"%s","expires_on":%d,"subscription":"%s","tenant":"%s","tokenType":"Bearer"}'`,
		s.Token(), time.Now().Add(time.Hour).Format("2006-01-02 15:04:05.000000"), time.Now().Add(time.Hour).Unix(), armsim.Subscription, armsim.Tenant)
	if err := os.WriteFile(filepath.Join(dir, "az"), []byte(script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	works(t, s, func(set target.Settings) { set.Values["auth"] = authCLI })
}

// A token that ends is replaced before it does.
func TestTokensEnd(t *testing.T) {
	s := newSim(t, armsim.Options{TokenLife: 2 * time.Second})
	tgt := s.open(t)
	for range 3 {
		var sub struct{}
		if err := tgt.c.get(t.Context(), tgt.c.path(), apiSubscriptions, &sub); err != nil {
			t.Fatal(err)
		}
		s.ExpireTokens()
	}
}

func TestSettings(t *testing.T) {
	s := newSim(t, armsim.Options{})
	for name, c := range map[string]struct {
		pairs []string
		say   string
	}{
		"no subscription":       {[]string{"subscription", "my subscription"}, "az account show"},
		"nothing to sign in by": {[]string{"client_secret", ""}, "auth=managed-identity"},
		"no tenant":             {[]string{"tenant", ""}, "tenant"},
		"unknown auth":          {[]string{"auth", "guess"}, "guess"},
		"auth without secret":   {[]string{"auth", authCertificate}, "client-certificate"},
		"unknown cloud":         {[]string{"cloud", "mars"}, "mars"},
		"endpoint in clear":     {[]string{"arm_endpoint", "http://management.azure.com"}, "https://"},
		"password in endpoint":  {[]string{"authority_host", "https://me:hunter2@login.example"}, "user name"},
		"hours":                 {[]string{"access_hours", "0"}, "1 to 720"},
		"no ca file":            {[]string{"ca_file", "/nowhere"}, "nowhere"},
		"insecure":              {[]string{"insecure", "maybe"}, "maybe"},
	} {
		_, err := newConfig(s.settings(c.pairs...))
		if err == nil || !target.IsPermanent(err) || !strings.Contains(err.Error(), c.say) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for cloud, host := range map[string]string{"public": "management.azure.com", "usgovernment": "management.usgovcloudapi.net", "china": "management.chinacloudapi.cn"} {
		c, err := newConfig(target.Settings{Values: map[string]string{"subscription": armsim.Subscription, "tenant": "t", "client_id": "c", "cloud": cloud},
			Secrets: map[string]secret.String{"client_secret": secret.New("x")}})
		if err != nil || c.endpoint() != host || c.custom {
			t.Errorf("cloud %s: %s, %v", cloud, c.endpoint(), err)
		}
	}
}

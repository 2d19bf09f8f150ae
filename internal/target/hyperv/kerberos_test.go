package hyperv

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ascend/internal/target"
	"ascend/internal/target/hyperv/wsmansim"
)

// realm is a real Kerberos domain controller (MIT's) with one user and the
// WinRM service of the simulated host.
type realm struct{ conf, keytab string }

const (
	realmName = "TEST.EXAMPLE"
	realmPass = "kerberos-password"
)

func startRealm(t *testing.T) realm {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	r := realm{filepath.Join(dir, "krb5.conf"), filepath.Join(dir, "service.keytab")}
	kdc := filepath.Join(dir, "kdc.conf")
	for name, text := range map[string]string{
		r.conf: fmt.Sprintf("[libdefaults]\ndefault_realm = %s\ndns_lookup_kdc = false\nudp_preference_limit = 1\n[realms]\n%[1]s = {\n kdc = %s\n}\n", realmName, addr),
		kdc: fmt.Sprintf("[realms]\n%s = {\n database_name = %s/db\n key_stash_file = %[2]s/stash\n acl_file = %[2]s/acl\n kdc_listen = \"\"\n kdc_tcp_listen = %s\n}\n[logging]\nkdc = FILE:%[2]s/log\n",
			realmName, dir, addr),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := func(program string, args ...string) *exec.Cmd {
		c := exec.CommandContext(t.Context(), filepath.Join("/usr/sbin", program), args...)
		c.Env = append(os.Environ(), "KRB5_CONFIG="+r.conf, "KRB5_KDC_PROFILE="+kdc)
		return c
	}
	for _, args := range [][]string{
		{"kdb5_util", "-r", realmName, "create", "-s", "-P", "master"},
		{"kadmin.local", "-r", realmName, "-q", "addprinc -pw " + realmPass + " restore"},
		{"kadmin.local", "-r", realmName, "-q", "addprinc -randkey HTTP/127.0.0.1"},
		{"kadmin.local", "-r", realmName, "-q", "ktadd -k " + r.keytab + " HTTP/127.0.0.1"},
	} {
		if out, err := command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v (Debian packages krb5-kdc and krb5-admin-server): %v\n%s", args, err, out)
		}
	}
	c := command("krb5kdc", "-n", "-r", realmName)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait() // it was killed
	})
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) { // between connection attempts
		if n, err := net.Dial("tcp", addr); err == nil {
			n.Close()
			return r
		}
		if time.Since(start) > 20*time.Second {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Fatalf("krb5kdc does not answer\n%s", log)
		}
	}
}

// TestKerberos signs in with a ticket of a real domain controller, which the
// simulated host checks with the service's key.
func TestKerberos(t *testing.T) {
	r := startRealm(t)
	s, err := wsmansim.Start(wsmansim.Options{Keytab: r.keytab})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	open := func(user, password string) *host {
		p := &peer{Sim: s, user: user, values: map[string]string{"auth": authKerberos, "krb5_conf": r.conf, "smb_address": "127.0.0.1:1"}, smb: nobody, net: nowhere(t)}
		return p.open(t, "password", password)
	}
	inv, err := open("restore@test.example", realmPass).Inventory(t.Context())
	if err != nil || len(inv.Networks) != 2 {
		t.Errorf("%+v %v", inv, err)
	}
	for _, user := range []string{"restore@test.example", "nobody@test.example"} {
		_, err := open(user, "do-not-show-this").Inventory(t.Context())
		if !target.IsPermanent(err) || !strings.Contains(err.Error(), "hint: check user") || strings.Contains(err.Error(), "do-not-show-this") {
			t.Errorf("%s: %v", user, err)
		}
	}
	if c := open("restore@test.example", realmPass).cfg.cargo("VMs"); c.Kerberos == nil || c.Kerberos.Realm != realmName {
		t.Errorf("the share is signed in to by %+v", c)
	}
}

// Package sambatest runs a real SMB 3 server, Samba, on a loopback port for
// tests. It runs as the user of the test and keeps all its state in a temporary
// folder.
package sambatest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ascend/internal/secret"
	"ascend/internal/target/hyperv/hostshare"
)

// Options are the server's.
type Options struct {
	Encrypt string // "required" or "off"; "" is "off"
}

// Server is a running server with one share, "VMs".
type Server struct {
	Dir    string // the share's folder
	Config hostshare.Config
}

// Start starts a server that ends with the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	smbd, err := find("smbd")
	if err != nil {
		t.Fatal("smbd is needed: apt-get install samba")
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	s := &Server{Dir: filepath.Join(base, "share")}
	for _, d := range []string{"share", "private", "lock", "state", "cache", "pid", "ncalrpc"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	port := freePort(t)
	if o.Encrypt == "" {
		o.Encrypt = "off"
	}
	conf := filepath.Join(base, "smb.conf")
	text := fmt.Sprintf(`[global]
server role = standalone server
workgroup = TEST
smb ports = %d
interfaces = 127.0.0.1/8
bind interfaces only = yes
disable netbios = yes
server min protocol = SMB3_00
server signing = mandatory
server smb encrypt = %s
map to guest = never
passdb backend = tdbsam
load printers = no
printcap name = /dev/null
log file = %[3]s/log
private dir = %[3]s/private
lock directory = %[3]s/lock
state directory = %[3]s/state
cache directory = %[3]s/cache
pid directory = %[3]s/pid
ncalrpc dir = %[3]s/ncalrpc
[VMs]
path = %[3]s/share
read only = no
`, port, o.Encrypt, base)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	const password = `pass "word" $(x)`
	smbpasswd, err := find("smbpasswd")
	if err != nil {
		t.Fatal("smbpasswd is needed: apt-get install samba-common-bin")
	}
	add := exec.CommandContext(t.Context(), smbpasswd, "-c", conf, "-a", "-s", me.Username)
	add.Stdin = strings.NewReader(password + "\n" + password + "\n")
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("smbpasswd: %v\n%s", err, out)
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, smbd, "--foreground", "--no-process-group", "--configfile", conf)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it ends its children
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait() // it was told to end
	})
	s.Config = hostshare.Config{Address: fmt.Sprintf("127.0.0.1:%d", port), Share: "VMs", User: me.Username, Password: secret.New(password)}
	for start := time.Now(); ; {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Config.Address)
		if err == nil {
			_ = c.Close()
			return s
		}
		if time.Since(start) > 20*time.Second {
			log, _ := os.ReadFile(filepath.Join(base, "log"))
			t.Fatalf("smbd does not answer: %v\n%s", err, log)
		}
		time.Sleep(10 * time.Millisecond) // between connection attempts
	}
}

// find looks for a server's program, which Debian keeps in /usr/sbin.
func find(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", name))
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

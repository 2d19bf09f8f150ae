// Package sambatest runs a real SMB 3 server, Samba, on a loopback port for
// tests and demonstrations. It runs as the user of the process and keeps all its state in a temporary
// folder.
package sambatest

import (
	"context"
	"errors"
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
	Dir     string // of the share; "" is a folder of its own
}

// Server is a running server with one share, "VMs".
type Server struct {
	Dir    string // the share's folder
	Config hostshare.Config

	base string
	cmd  *exec.Cmd
	stop context.CancelFunc
}

// Start starts a server that ends with the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := Run(o)
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

const password = `pass "word" $(x)`

// Run starts a server that ends with Close.
func Run(o Options) (_ *Server, err error) {
	smbd, err := find("smbd")
	if err != nil {
		return nil, errors.New("smbd is needed: apt-get install samba")
	}
	smbpasswd, err := find("smbpasswd")
	if err != nil {
		return nil, errors.New("smbpasswd is needed: apt-get install samba-common-bin")
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	base, err := os.MkdirTemp("", "samba")
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: o.Dir, base: base, stop: func() {}}
	defer func() {
		if err != nil {
			_ = s.Close() // of what there is
		}
	}()
	for _, d := range []string{"share", "private", "lock", "state", "cache", "pid", "ncalrpc"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o700); err != nil {
			return nil, err
		}
	}
	if s.Dir == "" {
		s.Dir = filepath.Join(base, "share")
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
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
path = %[4]s
read only = no
`, port, o.Encrypt, base, s.Dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	add := exec.CommandContext(ctx, smbpasswd, "-c", conf, "-a", "-s", me.Username)
	add.Stdin = strings.NewReader(password + "\n" + password + "\n")
	if out, err := add.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("smbpasswd: %w\n%s", err, out)
	}
	cmd := exec.CommandContext(ctx, smbd, "--foreground", "--no-process-group", "--configfile", conf)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it ends its children
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.cmd = cmd
	s.Config = hostshare.Config{Address: fmt.Sprintf("127.0.0.1:%d", port), Share: "VMs", User: me.Username, Password: secret.New(password)}
	for start := time.Now(); ; {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Config.Address)
		if err == nil {
			_ = c.Close()
			return s, nil
		}
		if time.Since(start) > 20*time.Second {
			log, _ := os.ReadFile(filepath.Join(base, "log"))
			return nil, fmt.Errorf("smbd does not answer: %w\n%s", err, log)
		}
		time.Sleep(10 * time.Millisecond) // between connection attempts
	}
}

// Close ends the server and removes its folders; a share's folder that was given stays.
func (s *Server) Close() error {
	s.stop()
	if s.cmd != nil {
		_ = s.cmd.Wait() // it was told to end
	}
	return os.RemoveAll(s.base)
}

// find looks for a server's program, which Debian keeps in /usr/sbin.
func find(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", name))
}

func freePort() (int, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

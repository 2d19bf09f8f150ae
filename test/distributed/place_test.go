//go:build distributed

package distributed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// place is a machine as far as its network goes: a network namespace whose
// loopback leads, port by port, to what the test lets it reach.
type place struct {
	t  *testing.T
	ns *os.File
}

// newPlace makes one; it wants root.
func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{t: t}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			p.ns, err = os.Open("/proc/thread-self/ns/net")
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatalf("cannot make a network namespace (this test wants root): %v", err)
	}
	t.Cleanup(func() { _ = p.ns.Close() })
	p.link(true)
	return p
}

// in calls f on a thread within the namespace; what it starts stays there.
func (p *place) in(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(p.ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// link connects the place with everything, or cuts it off: packets are lost from
// then on, also those of connections that stand.
func (p *place) link(up bool) {
	p.t.Helper()
	err := p.in(func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		r, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		if up {
			r.SetUint16(unix.IFF_UP)
		}
		return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// reach makes 127.0.0.1:port of the place lead to an address outside.
func (p *place) reach(port int, network, address string) {
	p.t.Helper()
	var l net.Listener
	err := p.in(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				go join(c, network, address)
			}
		}
	}()
}

func join(a net.Conn, network, address string) {
	defer a.Close()
	b, err := net.Dial(network, address)
	if err != nil {
		return
	}
	defer b.Close()
	go func() {
		_, _ = io.Copy(b, a)
		_ = b.(interface{ CloseWrite() error }).CloseWrite()
	}()
	_, _ = io.Copy(a, b)
	_ = a.(*net.TCPConn).CloseWrite()
}

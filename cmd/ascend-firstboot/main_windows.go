// ascend-firstboot runs once in a restored Windows, as a service: see package
// firstboot.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"

	"ascend/internal/firstboot"
)

func main() {
	self, err := os.Executable()
	if err != nil {
		os.Exit(1)
	}
	w := &work{dir: filepath.Dir(self)}
	if is, err := svc.IsWindowsService(); err == nil && is {
		err = svc.Run(firstboot.Service, w)
	} else {
		err = errors.New("this program is run once by Windows, after a restore")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// work is the service.
type work struct {
	dir string
	log *os.File
}

// Execute runs the task; stopping it leaves it for the next start.
func (w *work) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (bool, uint32) {
	const accepts = svc.AcceptStop | svc.AcceptShutdown
	status <- svc.Status{State: svc.Running, Accepts: accepts}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run(ctx)
	}()
	for {
		select {
		case <-done:
			status <- svc.Status{State: svc.StopPending}
			return false, 0
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- r.CurrentStatus
			case svc.Stop, svc.Shutdown:
				status <- svc.Status{State: svc.StopPending}
				cancel()
				<-done
				return false, 0
			}
		}
	}
}

func (w *work) run(ctx context.Context) {
	var err error
	w.log, err = os.OpenFile(filepath.Join(w.dir, firstboot.LogFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		defer w.log.Close()
	}
	b, err := os.ReadFile(filepath.Join(w.dir, firstboot.ConfigFile))
	var c *firstboot.Config
	if err == nil {
		c, err = firstboot.Parse(b)
	}
	if err != nil {
		w.Log("nothing is done: %v", err)
	} else {
		w.Log("first start")
		r := firstboot.Run(ctx, w, w.dir, c)
		if ctx.Err() != nil {
			w.Log("stopped; the next start goes on")
			return
		}
		w.Log("done, %d failures", len(r.Failed))
		w.tell(len(r.Failed))
	}
	w.remove()
}

// tell writes one line to the first serial port, for who watches there.
func (w *work) tell(failures int) {
	p, err := os.OpenFile(`\\.\COM1`, os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer p.Close()
	_, _ = fmt.Fprintf(p, "ASCEND-FIRSTBOOT done, %d failures\r\n", failures)
}

// remove takes the service and the files away; the log stays. The program itself
// goes when Windows starts next.
func (w *work) remove() {
	m, err := mgr.Connect()
	if err == nil {
		var s *mgr.Service
		if s, err = m.OpenService(firstboot.Service); err == nil {
			err = s.Delete()
			_ = s.Close()
		}
		_ = m.Disconnect()
	}
	if err != nil {
		w.Log("cannot remove the service %s: %v", firstboot.Service, err)
	}
	for _, n := range []string{firstboot.Drivers, firstboot.ConfigFile, firstboot.DiskFile} {
		if err := os.RemoveAll(filepath.Join(w.dir, n)); err != nil {
			w.Log("%v", err)
		}
	}
	p, err := windows.UTF16PtrFromString(filepath.Join(w.dir, firstboot.Program))
	if err == nil {
		err = windows.MoveFileEx(p, nil, windows.MOVEFILE_DELAY_UNTIL_REBOOT)
	}
	if err != nil {
		w.Log("cannot remove the program: %v", err)
	}
}

// Log implements firstboot.System.
func (w *work) Log(format string, a ...any) {
	if w.log != nil {
		_, _ = fmt.Fprintf(w.log, "%s %s\r\n", time.Now().Format(time.RFC3339), fmt.Sprintf(format, a...))
	}
}

// Exec implements firstboot.System: programs are those of System32 alone.
func (w *work) Exec(ctx context.Context, argv ...string) (string, int, error) {
	system, err := windows.GetSystemDirectory()
	if err != nil {
		return "", 0, err
	}
	name := argv[0]
	if filepath.Ext(name) == "" {
		name += ".exe"
	}
	bounded, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(bounded, filepath.Join(system, name), argv[1:]...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && bounded.Err() == nil {
		return string(out), exit.ExitCode(), nil
	}
	return string(out), 0, errors.Join(err, bounded.Err())
}

// WriteFile implements firstboot.System.
func (w *work) WriteFile(name, text string) (string, error) {
	p := filepath.Join(w.dir, name)
	return p, os.WriteFile(p, []byte(text), 0o600)
}

// Wait implements firstboot.System.
func (w *work) Wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// Interfaces implements firstboot.System: Ethernet adapters with an IPv4 index
// (GetAdaptersAddresses, iphlpapi.h).
func (w *work) Interfaces() ([]firstboot.Interface, error) {
	const flags = windows.GAA_FLAG_SKIP_ANYCAST | windows.GAA_FLAG_SKIP_MULTICAST | windows.GAA_FLAG_SKIP_DNS_SERVER
	size := uint32(32 << 10)
	for range 4 {
		b := make([]byte, size)
		list := (*windows.IpAdapterAddresses)(unsafe.Pointer(&b[0]))
		err := windows.GetAdaptersAddresses(windows.AF_INET, flags, 0, list, &size)
		if errors.Is(err, windows.ERROR_BUFFER_OVERFLOW) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var out []firstboot.Interface
		for a := list; a != nil; a = a.Next {
			if a.IfType != windows.IF_TYPE_ETHERNET_CSMACD || a.PhysicalAddressLength != 6 || a.IfIndex == 0 {
				continue
			}
			i := firstboot.Interface{Index: int(a.IfIndex), MAC: strings.ToLower(net.HardwareAddr(a.PhysicalAddress[:6]).String())}
			for u := a.FirstUnicastAddress; u != nil; u = u.Next {
				if ip, ok := netip.AddrFromSlice(u.Address.IP().To4()); ok {
					i.Addresses = append(i.Addresses, netip.PrefixFrom(ip, int(u.OnLinkPrefixLength)).String())
				}
			}
			out = append(out, i)
		}
		return out, nil
	}
	return nil, errors.New("the list of network adapters keeps growing")
}

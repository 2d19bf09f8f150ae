package firstboot

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// System is the machine that Run works on.
type System interface {
	// Exec runs a program of Windows to its end; err is for one that did not run.
	Exec(ctx context.Context, argv ...string) (output string, code int, err error)
	// Interfaces lists the network adapters that are there.
	Interfaces() ([]Interface, error)
	// WriteFile makes a file in the task's folder and returns its path.
	WriteFile(name, text string) (string, error)
	// Wait sleeps; false when the system is going down.
	Wait(ctx context.Context, d time.Duration) bool
	Log(format string, a ...any)
}

// Interface is a network adapter.
type Interface struct {
	Index     int
	MAC       string   // in small letters, with colons
	Addresses []string // as 192.0.2.1/24
}

// How long Run waits for adapters whose driver was just installed.
const (
	Patience = 5 * time.Minute
	Between  = 3 * time.Second
)

// Result is what was done and what was not.
type Result struct {
	Failed []string `json:"failed,omitempty"`
	Reboot bool     `json:"reboot,omitempty"` // a driver asks for it
}

// Codes of pnputil that are no failure: no device takes the driver yet, or it has a
// better one (ERROR_NO_MORE_ITEMS); a restart is needed (ERROR_SUCCESS_REBOOT_
// REQUIRED, ERROR_SUCCESS_REBOOT_INITIATED).
const (
	codeNoDevice = 259
	codeRestart  = 3010
	codeRestarts = 1641
)

// Run does what c says in dir's system. Everything may be done again: what is so
// already stays. It goes on after a failure, and reports it.
func Run(ctx context.Context, s System, dir string, c *Config) Result {
	r := &run{ctx: ctx, s: s}
	for _, d := range c.Drivers {
		out, code, err := s.Exec(ctx, "pnputil.exe", "/add-driver", filepath.Join(dir, filepath.FromSlash(d)), "/install")
		switch {
		case err == nil && (code == 0 || code == codeNoDevice):
			s.Log("driver %s: installed", d)
		case err == nil && (code == codeRestart || code == codeRestarts):
			s.Log("driver %s: installed, needs a restart", d)
			r.Reboot = true
		default:
			r.fail("driver %s: %s", d, said(out, code, err))
		}
	}
	r.adapters(c.Adapters)
	if c.Disks > 1 {
		p, err := s.WriteFile(DiskFile, diskScript(c.Disks))
		if err != nil {
			r.fail("disks: %v", err)
		} else {
			r.do("disks", "diskpart.exe", "/s", p)
		}
	}
	return r.Result
}

type run struct {
	Result
	ctx context.Context
	s   System
}

func (r *run) fail(format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	r.Failed = append(r.Failed, text)
	r.s.Log("%s", text)
}

func (r *run) do(what string, argv ...string) {
	out, code, err := r.s.Exec(r.ctx, argv...)
	if err != nil || code != 0 {
		r.fail("%s: %s: %s", what, strings.Join(argv, " "), said(out, code, err))
		return
	}
	r.s.Log("%s: %s", what, strings.Join(argv, " "))
}

func said(out string, code int, err error) string {
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("code %d: %s", code, strings.Join(strings.Fields(out), " "))
}

// adapters waits for each adapter and gives it its addresses.
func (r *run) adapters(want []Adapter) {
	left := slices.Clone(want)
	for waited := time.Duration(0); len(left) > 0; waited += Between {
		have, err := r.s.Interfaces()
		if err != nil {
			r.s.Log("cannot list network adapters: %v", err)
		}
		left = slices.DeleteFunc(left, func(a Adapter) bool {
			i := slices.IndexFunc(have, func(i Interface) bool { return a.MAC == i.MAC || a.MAC == "" && len(have) == 1 })
			if i < 0 {
				return false
			}
			r.address(a, have[i])
			return true
		})
		if len(left) > 0 && (waited >= Patience || !r.s.Wait(r.ctx, Between)) {
			break
		}
	}
	for _, a := range left {
		r.fail("adapter %s with %s was not found", a.MAC, strings.Join(a.Addresses, " "))
	}
}

func (r *run) address(a Adapter, i Interface) {
	all := true
	for _, s := range a.Addresses {
		all = all && slices.Contains(i.Addresses, s)
	}
	if all {
		r.s.Log("adapter %s has %s already", i.MAC, strings.Join(a.Addresses, " "))
		return
	}
	for _, c := range a.addressing(fmt.Sprint(i.Index)) {
		r.do("adapter "+i.MAC, c...)
	}
}

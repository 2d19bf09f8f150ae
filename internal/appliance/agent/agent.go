//go:build linux

// Package agent is the program inside the appliance: init of a micro-VM without
// a network, which carries out the operations of package proto on a guest's
// disks and powers off. It must not be run anywhere else.
package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"ascend/internal/appliance/proto"
)

// Agent is the state of one appliance.
type Agent struct {
	out   sync.Mutex
	lines *os.File

	mu    sync.Mutex // roots and modules
	roots map[string]*root
	mods  map[string][]string
	have  map[string]bool

	ports [proto.DataPorts]struct {
		sync.Mutex
		f *os.File
	}
}

// Main is init: it never returns.
func Main() {
	a := &Agent{roots: map[string]*root{}, have: map[string]bool{}}
	err := a.boot()
	if err == nil {
		err = a.work()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ascend-agent:", err)
	}
	end := proto.Event{Kind: "end"}
	if e := a.unmountAll(); e != nil {
		end.Error = wrap(e)
	}
	unix.Sync()
	a.send(end)
	if a.lines != nil {
		a.lines.Close()
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func (a *Agent) boot() error {
	for _, m := range [][3]string{{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"}, {"tmpfs", "/run", "tmpfs"}, {"tmpfs", "/tmp", "tmpfs"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[2], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("cannot mount %s: %w", m[1], err)
		}
	}
	for _, d := range []string{"/mnt", "/run/lock", "/run/cryptsetup"} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	_ = os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
	_ = os.Setenv("DM_DISABLE_UDEV", "1") // there is no udev here
	_ = os.Setenv("LC_ALL", "C")
	b, err := os.ReadFile("/modules/list.json")
	if err == nil {
		err = json.Unmarshal(b, &a.mods)
	}
	if err != nil {
		return fmt.Errorf("cannot read the list of modules: %w", err)
	}
	for _, m := range []string{"virtio_pci", "virtio_console", "virtio_blk"} {
		if err := a.module(m); err != nil {
			return err
		}
	}
	if a.lines, err = openPort(proto.PortResults); err != nil {
		return err
	}
	return nil
}

// module loads a kernel module and those it needs; one that is built in is fine.
func (a *Agent) module(name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, file := range a.mods[name] {
		if a.have[file] {
			continue
		}
		f, err := os.Open(filepath.Join("/modules", file))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("cannot load %s: %w", file, err)
		}
		a.have[file] = true
	}
	return nil
}

// openPort opens a virtio-serial port by its name. The driver learns of ports from the
// machine, after it was loaded: on a busy host that takes a moment.
func openPort(name string) (*os.File, error) {
	for range 3000 {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if b, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(b)) == name {
				f, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_RDWR, 0)
				if !errors.Is(err, os.ErrNotExist) {
					return f, err
				}
			}
		}
		ts := unix.Timespec{Nsec: 20e6}
		_ = unix.Nanosleep(&ts, nil)
	}
	return nil, fmt.Errorf("there is no port %s", name)
}

// port takes a data port for the time of one operation.
func (a *Agent) port(n int) (*os.File, func(), error) {
	if n < 0 || n >= proto.DataPorts {
		return nil, nil, fmt.Errorf("there is no port %d", n)
	}
	p := &a.ports[n]
	p.Lock()
	if p.f == nil {
		f, err := openPort(fmt.Sprint(proto.PortData, n))
		if err != nil {
			p.Unlock()
			return nil, nil, err
		}
		p.f = f
	}
	return p.f, p.Unlock, nil
}

func (a *Agent) work() error {
	var job proto.Job
	b, err := os.ReadFile("/" + proto.JobFile)
	if err == nil {
		err = json.Unmarshal(b, &job)
	}
	if err != nil {
		return fmt.Errorf("cannot read the job: %w", err)
	}
	_ = os.Remove("/" + proto.JobFile) // it may hold keys
	a.send(proto.Event{Kind: "ready"})
	for i := range job.Calls {
		if !a.call(&job.Calls[i]) && !job.Calls[i].Continue {
			return nil
		}
	}
	if !job.Session {
		return nil
	}
	control, err := openPort(proto.PortControl)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	r := bufio.NewReaderSize(control, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return err
		}
		c := new(proto.Call)
		if err := json.Unmarshal(line, c); err != nil {
			return fmt.Errorf("cannot read a call: %w", err)
		}
		if c.End {
			return nil
		}
		wg.Go(func() { a.call(c) })
	}
}

// call carries out one operation and reports it.
func (a *Agent) call(c *proto.Call) (ok bool) {
	res, err := a.do(c)
	e := proto.Event{Kind: "done", ID: c.ID}
	if err == nil && res != nil {
		e.Result, err = json.Marshal(res)
	}
	if err != nil {
		e = proto.Event{Kind: "failed", ID: c.ID, Error: wrap(err)}
	}
	a.send(e)
	return err == nil
}

func (a *Agent) send(e proto.Event) {
	b, err := json.Marshal(e)
	if err != nil || a.lines == nil {
		return
	}
	a.out.Lock()
	defer a.out.Unlock()
	_, _ = a.lines.Write(append(b, '\n'))
}

func (a *Agent) do(c *proto.Call) (res any, err error) {
	defer func() {
		// A fault of ours ends the operation, with the file systems still to be
		// unmounted properly.
		if p := recover(); p != nil {
			err = fmt.Errorf("the agent failed: %v", p)
		}
	}()
	switch {
	case c.Probe != nil:
		return a.probe()
	case c.LVM != nil:
		return a.lvm()
	case c.LUKS != nil:
		return nil, a.luks(c.LUKS)
	case c.Mount != nil:
		return nil, a.mount(c.Mount)
	case c.Unmount != nil:
		return nil, a.unmount(c.Unmount.Root)
	case c.Check != nil:
		return a.check(c.Check)
	case c.Format != nil:
		return nil, a.format(c.Format)
	case c.Sync != nil:
		unix.Sync()
		return nil, nil
	}
	// What is left works within a root.
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			r, err := a.root(f.Elem().FieldByName("Root").String())
			if err != nil {
				return nil, err
			}
			return a.within(r, c)
		}
	}
	return nil, &proto.Error{Code: "unsupported", Text: "this agent does not know the operation"}
}

func (a *Agent) within(r *root, c *proto.Call) (any, error) {
	switch {
	case c.Trim != nil:
		return r.trim(c.Trim.Path)
	case c.Statfs != nil:
		return r.statfs(c.Statfs.Path)
	case c.List != nil:
		return r.list(c.List)
	case c.Stat != nil:
		return r.stat(c.Stat)
	case c.Read != nil:
		return a.read(r, c.Read)
	case c.Write != nil:
		return nil, a.write(r, c.Write)
	case c.Truncate != nil:
		return nil, r.truncate(c.Truncate)
	case c.Mkdir != nil:
		return nil, r.mkdirAll(c.Mkdir.Path, c.Mkdir.Mode, c.Mkdir.XAttrs)
	case c.Subvolume != nil:
		return nil, r.subvolume(c.Subvolume.Path)
	case c.Symlink != nil:
		return nil, r.symlink(c.Symlink)
	case c.Rename != nil:
		return nil, r.rename(c.Rename)
	case c.Remove != nil:
		return nil, r.remove(c.Remove.Path, c.Remove.All)
	case c.Tar != nil:
		return a.tar(r, c)
	case c.Untar != nil:
		return nil, a.untar(r, c)
	case c.Chroot != nil:
		return a.chroot(r, c.Chroot)
	}
	return nil, &proto.Error{Code: "unsupported", Text: "this agent does not know the operation"}
}

// wrap gives an error its code.
func wrap(err error) *proto.Error {
	var e *proto.Error
	if errors.As(err, &e) {
		return &proto.Error{Code: e.Code, Text: err.Error()}
	}
	code := "failed"
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		code = "not-found"
	case errors.Is(err, fs.ErrExist):
		code = "exists"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		code = "no-space"
	case errors.Is(err, unix.EROFS):
		code = "read-only"
	case errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EBADMSG):
		code = "corrupt"
	case errors.Is(err, unix.EPERM):
		code = "immutable"
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		code = "escapes"
	case errors.Is(err, io.ErrUnexpectedEOF):
		code = "cut-short"
	}
	return &proto.Error{Code: code, Text: err.Error()}
}

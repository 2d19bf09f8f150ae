package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Accelerator is how the guest's processor is run.
type Accelerator string

// Accelerators. Auto is KVM where the machine has it.
const (
	Auto Accelerator = ""
	KVM  Accelerator = "kvm"
	TCG  Accelerator = "tcg" // emulation: works everywhere, about twenty times slower
)

// Pick resolves Auto: ASCEND_ACCEL (kvm, tcg) decides, else whether KVM runs a
// guest. KVM that is asked for and does not is an error.
func (a Accelerator) Pick() (Accelerator, error) {
	if env := Accelerator(os.Getenv("ASCEND_ACCEL")); a == Auto && env != "" {
		a = env
	}
	if a == TCG {
		return TCG, nil
	}
	err := probeKVM()
	if err == nil {
		return KVM, nil
	}
	if a == KVM {
		return "", fmt.Errorf("cannot use KVM: %w", err)
	}
	return TCG, nil
}

// SystemOptions say what a virtual machine may use.
type SystemOptions struct {
	Limits
	Accel  Accelerator
	Memory int64 // bytes of the guest's memory
	CPUs   int   // 0: 1
	// Args follow the common ones; machine, devices and firmware stand here.
	Args []string
}

// System is a running qemu-system-x86_64: confined like every child, without
// default devices, monitored by QMP. Close it.
type System struct {
	*Monitor
	Accel Accelerator
	Dir   string // its folder, which it may write

	cmd    *exec.Cmd
	cancel context.CancelFunc
	child  *child
	errs   *tail
	begin  time.Time
}

// StartSystem starts a machine, paused with -S among Args, else running. dir is a
// folder that it may write (sockets of the caller's, screenshots).
func StartSystem(ctx context.Context, dir string, o SystemOptions) (*System, error) {
	accel, err := o.Accel.Pick()
	if err != nil {
		return nil, err
	}
	qmp, err := (&net.ListenConfig{}).Listen(ctx, "unix", filepath.Join(dir, "qmp"))
	if err != nil {
		return nil, fmt.Errorf("cannot start QEMU: %w", err)
	}
	defer qmp.Close()
	s := &System{Accel: accel, Dir: dir, errs: &tail{}, begin: time.Now()}
	l := o.Limits
	l.Folders = append([]string{dir}, l.Folders...)
	if l.Memory == 0 {
		l.Memory = uint64(o.Memory) + 6<<30 // address space: libraries, threads' stacks, translated code
	}
	accelArg := "tcg,thread=multi,tb-size=256"
	cpu := "max"
	if accel == KVM {
		accelArg, cpu = "kvm", "host"
		l.ReadWrite = append([]string{"/dev/kvm"}, l.ReadWrite...)
	}
	args := append([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-accel", accelArg, "-cpu", cpu, "-m", strconv.FormatInt(o.Memory>>20, 10) + "M", "-smp", strconv.Itoa(max(o.CPUs, 1)),
		"-chardev", "socket,id=qmp,path=" + filepath.Join(dir, "qmp"), "-mon", "chardev=qmp,mode=control",
	}, o.Args...)
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.cmd, err = Command(run, l, "qemu-system-x86_64", args...)
	if err != nil {
		cancel()
		return nil, err
	}
	s.cmd.Stdout, s.cmd.Stderr = s.errs, s.errs
	if s.child, err = spawn(s.cmd); err != nil {
		cancel()
		return nil, fmt.Errorf("cannot start QEMU: %w", err)
	}
	c, err := s.Accept(ctx, qmp)
	if err == nil {
		s.Monitor, err = NewMonitor(ctx, c)
	}
	if err != nil {
		select { // what QEMU says as it ends explains more than the broken monitor
		case <-s.child.done:
			if e := s.Err(); e != nil {
				err = e
			}
		case <-time.After(2 * time.Second):
		}
		s.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	return s, nil
}

// Accept waits for QEMU to connect to a socket of the caller's.
func (s *System) Accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	type accepted struct {
		c   net.Conn
		err error
	}
	ch := make(chan accepted, 1)
	go func() {
		c, err := l.Accept()
		ch <- accepted{c, err}
	}()
	fail := func(err error) (net.Conn, error) {
		l.Close()
		if a := <-ch; a.c != nil {
			a.c.Close()
		}
		return nil, err
	}
	select {
	case a := <-ch:
		return a.c, a.err
	case <-s.child.done:
		return fail(s.Err())
	case <-ctx.Done():
		return fail(ctx.Err())
	case <-time.After(60 * time.Second):
		return fail(fmt.Errorf("QEMU does not come up: %s", s.errs))
	}
}

// Done is closed when QEMU has ended.
func (s *System) Done() <-chan struct{} { return s.child.done }

// Err says how QEMU ended; nil while it runs and after a clean end.
func (s *System) Err() error {
	select {
	case <-s.child.done:
	default:
		return nil
	}
	if s.child.err == nil {
		return nil
	}
	return fmt.Errorf("QEMU ended: %w: %s", s.child.err, s.errs)
}

// CPU is the processor time used so far.
func (s *System) CPU() time.Duration {
	select {
	case <-s.child.done:
		if st := s.cmd.ProcessState; st != nil {
			return st.UserTime() + st.SystemTime()
		}
		return 0
	default:
	}
	// proc(5): utime and stime are fields 14 and 15, in clock ticks of 1/100 s.
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	u, err1 := strconv.ParseInt(f[11], 10, 64)
	k, err2 := strconv.ParseInt(f[12], 10, 64)
	if errors.Join(err1, err2) != nil {
		return 0
	}
	return time.Duration(u+k) * 10 * time.Millisecond
}

// Age is the time since the start.
func (s *System) Age() time.Duration { return time.Since(s.begin) }

// Close ends QEMU, at once, and waits for that. The folder stays the caller's.
func (s *System) Close() error {
	s.cancel()
	<-s.child.done
	if s.Monitor != nil {
		return s.Monitor.Close()
	}
	return nil
}

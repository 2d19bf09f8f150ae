// Package qemu runs QEMU's programs confined: each child sees only the files it
// was given (Landlock), has no network, bounded memory and file sizes, no core
// dumps, and dies with its parent. It knows nothing of what the programs are
// run for.
//
// The confinement is put on by a copy of the calling program that then becomes
// the child (exec), so a program that starts children must call Main first
// thing in its main function, and a test in TestMain.
package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// Limits say what a child may touch and use. The zero value allows reading the
// system's programs and libraries, and nothing else.
type Limits struct {
	ReadOnly  []string `json:"ro,omitempty"`  // files it may read
	ReadWrite []string `json:"rw,omitempty"`  // files it may read and write
	Folders   []string `json:"dir,omitempty"` // folders in which it may do anything
	// Memory bounds the address space in bytes; 0: 2 GiB.
	Memory uint64 `json:"memory,omitempty"`
	// CPU bounds the processor time in seconds; 0: unbounded.
	CPU uint64 `json:"cpu,omitempty"`
	// FileSize bounds the length of files it writes, in bytes.
	FileSize uint64 `json:"file_size,omitempty"`
}

// launcher is argv[0] of the copy that puts the confinement on.
const launcher = "ascend-confined"

// ErrUnconfined means that the kernel offers no way to confine a child, so none
// was started.
var ErrUnconfined = errors.New("cannot confine a child process: the kernel has no Landlock (Linux 5.13 and later, with landlock among its security modules)")

// Main becomes the confined program when this process is a launcher; otherwise
// it returns at once.
func Main() {
	if len(os.Args) < 3 || os.Args[0] != launcher {
		return
	}
	fmt.Fprintln(os.Stderr, become(os.Args[1], os.Args[2:]))
	os.Exit(125)
}

// Command prepares a confined program; name is looked up in PATH. The caller
// sets the input, output and extra files, and starts and waits for it. When ctx
// ends the child is killed.
func Command(ctx context.Context, l Limits, name string, args ...string) (*exec.Cmd, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("cannot run %s: %w (Debian package %s)", name, err, debianPackage(name))
	}
	// A symlink (python3 → python3.11) is allowed by what it points to.
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, err
	}
	spec, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{launcher, string(spec), path}, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC
	}
	return cmd, nil
}

func debianPackage(name string) string {
	if name == "qemu-img" || name == "qemu-nbd" || name == "qemu-io" {
		return "qemu-utils"
	}
	return "qemu-system-x86"
}

// become puts the confinement on this process and replaces it.
func become(spec string, argv []string) error {
	// Landlock and the parent-death signal belong to the thread that execs.
	runtime.LockOSThread()
	var l Limits
	if err := json.Unmarshal([]byte(spec), &l); err != nil {
		return fmt.Errorf("cannot read limits: %w", err)
	}
	if err := setLimits(l); err != nil {
		return err
	}
	if err := restrict(l, argv[0]); err != nil {
		return err
	}
	return fmt.Errorf("cannot run %s: %w", argv[0], syscall.Exec(argv[0], argv, os.Environ()))
}

func setLimits(l Limits) error {
	if l.Memory == 0 {
		l.Memory = 2 << 30
	}
	limits := map[int]uint64{unix.RLIMIT_AS: l.Memory, unix.RLIMIT_CORE: 0, unix.RLIMIT_FSIZE: l.FileSize}
	if l.CPU > 0 {
		limits[unix.RLIMIT_CPU] = l.CPU
	}
	for what, n := range limits {
		if err := unix.Setrlimit(what, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			return fmt.Errorf("cannot set a limit: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot give up privileges: %w", err)
	}
	return nil
}

// restrict applies Landlock. Version 1 (files) is the least that is taken; the
// kernel's network rules are used besides where it has them.
func restrict(l Limits, program string) error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || abi < 1 {
		return ErrUnconfined
	}
	rules := []landlock.Rule{
		landlock.ROFiles(program).IgnoreIfMissing(),
		landlock.RODirs("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/qemu", "/usr/share/seabios").IgnoreIfMissing(),
		landlock.ROFiles("/etc/ld.so.cache", "/dev/zero", "/proc/self/maps").IgnoreIfMissing(),
		landlock.RWFiles("/dev/null").IgnoreIfMissing(), // QEMU probes OFD locks on it
		landlock.ROFiles(l.ReadOnly...),
		landlock.RWFiles(l.ReadWrite...),
		landlock.RWDirs(l.Folders...),
	}
	if err := landlock.V5.BestEffort().Restrict(rules...); err != nil {
		return fmt.Errorf("cannot confine: %w", err)
	}
	return nil
}

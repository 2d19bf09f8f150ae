//go:build linux

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ascend/internal/appliance/proto"
)

// How long the programs may take. The host watches for inactivity as well.
const (
	lvmTime    = 5 * time.Minute
	luksTime   = 5 * time.Minute
	checkTime  = 2 * time.Hour
	formatTime = 10 * time.Minute
)

// tool runs a program of the appliance and returns the last of its output.
func tool(limit time.Duration, input []byte, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = bytes.NewReader(input)
	return run(ctx, cmd)
}

func run(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		err = &proto.Error{Code: "timeout", Text: cmd.Args[0] + " took too long"}
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(out), "?")), err
}

// tail keeps the last 16 KiB.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	if n := len(*t); n > 32<<10 {
		*t = append((*t)[:0], (*t)[n-16<<10:]...)
	}
	return len(p), nil
}

func exitOf(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// check runs the checker. Exit codes: fsck(8) for ext; xfs_repair(8): 1 with -n
// means damage; btrfs-check(8): not 0 means damage; ntfsfix has no read-only
// check that tells, so ntfs-3g.probe(8) stands for it.
func (a *Agent) check(q *proto.Check) (*proto.CheckResult, error) {
	node, err := device(q.Device)
	if err != nil {
		return nil, err
	}
	kind, err := fsOf(node, q.FS)
	if err != nil {
		return nil, fmt.Errorf("cannot check %s: %w", q.Device, err)
	}
	res := &proto.CheckResult{}
	switch kind {
	case "ext4":
		mode := "-n"
		if q.Repair {
			mode = "-p"
		}
		res.Text, err = tool(checkTime, nil, "e2fsck", "-f", mode, node)
		res.Exit = exitOf(err)
		res.Clean, res.Repaired = res.Exit == 0 || res.Exit == 1 && q.Repair, res.Exit&1 != 0 && q.Repair
	case "xfs":
		args := []string{node}
		if !q.Repair {
			args = []string{"-n", node}
		}
		res.Text, err = tool(checkTime, nil, "xfs_repair", args...)
		res.Exit = exitOf(err)
		res.Clean = res.Exit == 0
	case "btrfs":
		args := []string{"check", node}
		if !q.Repair {
			args = []string{"check", "--readonly", node}
		}
		res.Text, err = tool(checkTime, nil, "btrfs", args...)
		res.Exit = exitOf(err)
		res.Clean = res.Exit == 0
	case "ntfs":
		if err := a.module("fuse"); err != nil {
			return nil, err
		}
		res.Text, err = tool(checkTime, nil, "ntfs-3g.probe", "--readwrite", node)
		res.Exit = exitOf(err)
		res.Clean = res.Exit == 0
	case "vfat":
		mode := "-n"
		if q.Repair {
			mode = "-a"
		}
		res.Text, err = tool(checkTime, nil, "fsck.fat", mode, node)
		res.Exit = exitOf(err)
		res.Clean, res.Repaired = res.Exit == 0 || res.Exit == 1 && q.Repair, res.Exit == 1 && q.Repair
	default:
		return nil, &proto.Error{Code: "unsupported", Text: "no checker for " + kind}
	}
	if res.Exit < 0 {
		return nil, fmt.Errorf("cannot check %s: %w", q.Device, err)
	}
	return res, nil
}

// format makes a file system, volume group or LUKS container.
func (a *Agent) format(q *proto.Format) error {
	node, err := device(q.Device)
	if err != nil {
		return err
	}
	flag := func(name, v string) []string {
		if v == "" {
			return nil
		}
		return []string{name, v}
	}
	var steps [][]string
	var input []byte
	switch q.FS {
	case "ext4":
		steps = [][]string{append(append([]string{"mke2fs", "-q", "-F", "-t", "ext4"}, append(flag("-L", q.Label), flag("-U", q.UUID)...)...), node)}
	case "xfs":
		steps = [][]string{append(append([]string{"mkfs.xfs", "-q", "-f"}, append(flag("-L", q.Label), flag("-m", prefix("uuid=", q.UUID))...)...), node)}
	case "btrfs":
		steps = [][]string{append(append([]string{"mkfs.btrfs", "-q", "-f"}, append(flag("-L", q.Label), flag("-U", q.UUID)...)...), node)}
	case "vfat":
		steps = [][]string{append(append([]string{"mkfs.fat"}, append(flag("-n", q.Label), flag("-i", strings.ReplaceAll(q.UUID, "-", ""))...)...), node)}
	case "lvm":
		if err := a.mapper("dm_mod"); err != nil {
			return err
		}
		steps = [][]string{
			{"lvm", "pvcreate", "-ff", "-y", "--config", lvmConfig, node},
			{"lvm", "vgcreate", "--config", lvmConfig, q.Label, node},
			{"lvm", "lvcreate", "-y", "-Wn", "-Zn", "--noudevsync", "--config", lvmConfig, "-n", "root", "-l", "100%FREE", q.Label},
		}
	case "luks":
		if err := a.mapper("dm_mod", "dm_crypt", "aes_generic", "xts", "sha256_generic", "algif_skcipher", "algif_hash"); err != nil {
			return err
		}
		input = q.Key
		kdf := []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
		if q.KDF == "argon2id" {
			kdf = []string{"--pbkdf", "argon2id", "--pbkdf-memory", "32768", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "1"}
		}
		steps = [][]string{append(append([]string{"cryptsetup", "luksFormat", "--type", "luks2", "--batch-mode", "--key-file", "-"},
			append(kdf, append(flag("--label", q.Label), flag("--uuid", q.UUID)...)...)...), node)}
	default:
		return &proto.Error{Code: "unsupported", Text: "cannot make " + q.FS}
	}
	for _, s := range steps {
		if out, err := tool(formatTime, input, s[0], s[1:]...); err != nil {
			return fmt.Errorf("cannot make %s on %s: %w: %s", q.FS, q.Device, err, out)
		}
	}
	return nil
}

func prefix(p, s string) string {
	if s == "" {
		return ""
	}
	return p + s
}

// chroot runs a program of the guest.
func (a *Agent) chroot(r *root, q *proto.Chroot) (*proto.ChrootResult, error) {
	if len(q.Argv) == 0 {
		return nil, errors.New("no program is named")
	}
	var undo []string
	defer func() {
		for i := len(undo) - 1; i >= 0; i-- {
			_ = unix.Unmount(undo[i], unix.MNT_DETACH)
		}
	}()
	for _, m := range []string{"dev", "proc", "sys", "run"} {
		fd, err := r.open(proto.Name("/"+m), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			continue // a guest without it does without it
		}
		at, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		unix.Close(fd)
		if err != nil {
			return nil, err
		}
		if m == "run" {
			err = unix.Mount("tmpfs", at, "tmpfs", 0, "")
		} else {
			err = unix.Mount("/"+m, at, "", unix.MS_BIND, "")
		}
		if err != nil {
			return nil, err
		}
		undo = append(undo, at)
	}
	limit := 10 * time.Minute
	if q.Seconds > 0 {
		limit = time.Duration(q.Seconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `exec "$@"`, "sh"}, q.Argv...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: r.dir, Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	text, err := run(ctx, cmd)
	if exitOf(err) < 0 {
		return nil, fmt.Errorf("cannot run %s in the guest: %w", q.Argv[0], err)
	}
	return &proto.ChrootResult{Exit: exitOf(err), Text: text}, nil
}

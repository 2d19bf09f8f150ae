package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// probeKVM tells whether KVM really runs guests: a nested or broken one may have
// the device, create machines, and never deliver an interrupt. A boot sector that
// ends QEMU by the debug-exit device is started by the firmware, as any guest is.
// The answer is kept for as long as this machine runs.
var probeKVM = sync.OnceValue(func() error {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	known := ""
	if cache, err := os.UserCacheDir(); err == nil {
		known = filepath.Join(cache, "ascend", "kvm")
		if b, err := os.ReadFile(known); err == nil && strings.HasPrefix(string(b), string(boot)) {
			if text := string(b[len(boot):]); text != "works" {
				return errors.New(text)
			}
			return nil
		}
	}
	err = runKVM()
	text := "works"
	if err != nil {
		text = err.Error()
	}
	if known != "" && os.MkdirAll(filepath.Dir(known), 0o755) == nil {
		_ = os.WriteFile(known, []byte(string(boot)+text), 0o644) // only saves time
	}
	return err
})

func runKVM() error {
	dir, err := os.MkdirTemp("", "ascend-kvm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// mov al,42; out 0xf4,al; hlt. QEMU ends with 2·42+1.
	sector := make([]byte, 512)
	copy(sector, "\xb0\x2a\xe6\xf4\xf4\xeb\xfd")
	copy(sector[510:], "\x55\xaa")
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, sector, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	cmd, err := Command(ctx, Limits{ReadWrite: []string{disk, "/dev/kvm"}, Memory: 4 << 30, FileSize: 64 << 20}, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
		"-accel", "kvm", "-cpu", "host", "-m", "16M", "-drive", "file="+disk+",format=raw,if=ide,file.locking=off", "-device", "isa-debug-exit,iobase=0xf4,iosize=1")
	if err != nil {
		return err
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 85 {
		return nil
	}
	if ctx.Err() != nil {
		return errors.New("KVM is there and does not run a guest")
	}
	return fmt.Errorf("KVM does not run a guest: %w: %.200s", err, out)
}

package hyperv

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ascend/internal/target/hyperv/wsmansim"
)

// TestProduct restores by the built command line, which is killed in the middle
// and run again: little is sent twice, the disk is what was backed up, nothing secret is
// left anywhere, and undoing leaves nothing.
func TestProduct(t *testing.T) {
	h := startPeer(t, wsmansim.Options{}, nil, nil)
	dir := t.TempDir()
	program, password := filepath.Join(dir, "ascend"), h.smb.Config.Password.Reveal()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "ascend/cmd/ascend").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	secret, receiptFile := filepath.Join(dir, "hv.secret"), filepath.Join(dir, "receipt.json")
	const mib = 1 << 20
	const data, size = 24 * mib, 64*mib + 512*37
	raw := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(raw[:data])      // documented to never fail
	_, _ = rand.NewChaCha8([32]byte{8}).Read(raw[size-5000:]) // as above
	src := filepath.Join(dir, "disk.raw")
	for name, b := range map[string][]byte{secret: []byte(password + "\n"), src: raw} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var said bytes.Buffer
	command := func(args ...string) *exec.Cmd {
		c := exec.CommandContext(t.Context(), program, args...)
		c.Env = append(os.Environ(), "HOME="+dir, "ASCEND_STATE_DIR="+filepath.Join(dir, "state"), "ASCEND_CONFIG="+filepath.Join(dir, "config.yaml"))
		return c
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := command(args...).CombinedOutput()
		said.Write(out)
		if err != nil {
			t.Fatalf("ascend %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	add := []string{"target", "add", "hv", "--platform", "hyperv", "--set", "password_file=" + secret}
	for k, v := range h.settings().Values {
		add = append(add, "--set", k+"="+v)
	}
	run(add...)
	run("target", "validate", "hv")
	if inv := run("target", "inventory", "hv"); !strings.Contains(inv, wsmansim.Internal) {
		t.Errorf("the inventory: %s", inv)
	}
	restore := []string{
		"restore", src, "-f", "raw", "--cpus", "2", "--memory", "4G", "--firmware", "uefi", "--name", "web 01", "--to", "hv", "--accept", "--power-on",
		"--place", "path=" + h.root, "--set", "checkpoints=disabled", "--receipt", receiptFile, "--keep", "-m", "4",
	}
	before := h.net.sent.Load()
	killed := command(restore...)
	var out bytes.Buffer
	killed.Stdout, killed.Stderr = &out, &out
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); h.net.sent.Load()-before < 6*mib; time.Sleep(2 * time.Millisecond) { // until it has sent so much
		if time.Since(start) > time.Minute {
			t.Fatalf("nothing is sent: %s", out.String())
		}
	}
	argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", killed.Process.Pid))
	if err != nil || bytes.Contains(argv, []byte(password)) {
		t.Errorf("the command line: %q, %v", argv, err)
	}
	if err := killed.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait()
	said.Write(out.Bytes())
	run(restore...)
	// Eight ranges of at most 1 MiB were under way, and what was not yet in the journal.
	if again := h.net.sent.Load() - before - data; again > 16*mib {
		t.Errorf("%d bytes were sent twice", again)
	}
	b, err := os.ReadFile(receiptFile)
	if err != nil {
		t.Fatal(err)
	}
	var receipt struct {
		Job   string `json:"job"`
		Disks []struct {
			Object   string `json:"object"`
			Verified string `json:"verified"`
		} `json:"disks"`
	}
	if err := json.Unmarshal(b, &receipt); err != nil || len(receipt.Disks) != 1 || receipt.Disks[0].Verified != "read back" {
		t.Fatalf("%v: %s", err, b)
	}
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "compare", "-f", "vhdx", "-F", "raw", h.Path(receipt.Disks[0].Object), src).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	m := h.Machines()
	if len(m) != 1 || m[0].Name != "web 01" || m[0].State != "Running" || m[0].Generation != 2 || m[0].Processors != 2 || m[0].Checkpoints != "Disabled" || m[0].Started != 1 {
		t.Errorf("%+v", m)
	}
	run("verify", receiptFile)
	run("undo", receipt.Job)
	if left := h.Inventory(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if bytes.Contains(said.Bytes(), []byte(password)) {
		t.Error("the password was said")
	}
	for _, root := range []string{"state", "config.yaml", "receipt.json"} {
		err := filepath.WalkDir(filepath.Join(dir, root), func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if bytes.Contains(b, []byte(password)) {
				t.Errorf("%s holds the password", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

package qemu

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

const secretText = "the secret of another file"

// TestLeaksAreDenied gives qemu-img, confined, images that name a host file, in
// the ways that leak when it is not confined; the leak is shown first, so that
// the test cannot pass for another reason.
func TestLeaksAreDenied(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, bytes.Repeat([]byte(secretText+"\n"), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	make := func(name string, args ...string) string {
		p := filepath.Join(dir, name)
		if out, err := exec.Command("qemu-img", append([]string{"create", "-q"}, append(args, p)...)...).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img (Debian package qemu-utils): %v: %s", err, out)
		}
		return p
	}
	backing := make("backing.qcow2", "-f", "qcow2", "-F", "raw", "-b", secret)
	descriptor := filepath.Join(dir, "flat.vmdk")
	text := "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\nRW 200 FLAT \"" + secret + "\" 0\n\nddb.adapterType = \"ide\"\n"
	if err := os.WriteFile(descriptor, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string][2]string{"qcow2 backing file": {"qcow2", backing}, "vmdk flat extent": {"vmdk", descriptor}} {
		out := filepath.Join(dir, "out")
		args := []string{"convert", "-f", c[0], "-O", "raw", c[1], out}
		if b, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, b)
		}
		if b, _ := os.ReadFile(out); !bytes.Contains(b, []byte(secretText)) {
			t.Fatalf("%s: does not leak unconfined, so this test shows nothing", name)
		}
		os.Remove(out)
		cmd, err := Command(t.Context(), Limits{ReadOnly: []string{c[1]}, FileSize: 1 << 30}, "qemu-img", args...)
		if err != nil {
			t.Fatal(err)
		}
		b, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(b), "Permission denied") {
			t.Errorf("%s: %v: %s", name, err, b)
		}
	}
}

func TestHonestImageIsRead(t *testing.T) {
	p := filepath.Join(t.TempDir(), "a b ü.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", p, "1M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd, err := Command(t.Context(), Limits{ReadOnly: []string{p}}, "qemu-img", "info", "-f", "qcow2", p)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "1 MiB") {
		t.Errorf("%v: %s", err, out)
	}
}

// shell runs a shell script confined, to look at the confinement from inside.
func shell(t *testing.T, l Limits, script string) (string, error) {
	t.Helper()
	cmd, err := Command(t.Context(), l, "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestLimits(t *testing.T) {
	dir := t.TempDir()
	if out, err := shell(t, Limits{Folders: []string{dir}, FileSize: 100}, "ulimit -c; ulimit -f; ulimit -v"); err != nil || strings.Fields(out)[0] != "0" || strings.Fields(out)[2] != strconv.Itoa(2<<20) {
		t.Errorf("limits: %v %q", err, out)
	}
	if _, err := shell(t, Limits{Folders: []string{dir}, FileSize: 512}, "while :; do echo 0123456789; done > "+dir+"/f"); err == nil {
		t.Error("a file grew without bound")
	}
	if st, err := os.Stat(dir + "/f"); err != nil || st.Size() > 512 {
		t.Errorf("the file: %v %v", st, err)
	}
	if out, err := shell(t, Limits{}, "echo x > /tmp/ascend-must-not-be"); err == nil {
		t.Errorf("wrote outside: %s", out)
	}
	if out, err := shell(t, Limits{CPU: 1}, "while :; do :; done"); err == nil {
		t.Errorf("ran on: %s", out)
	}
	if os.Geteuid() == 0 {
		if out, err := shell(t, Limits{Folders: []string{"/proc"}}, `while read -r a b; do echo "$a"; done < /proc/net/dev`); err != nil || !strings.Contains(out, "lo:") || strings.Count(out, ":") != 1 {
			t.Errorf("network devices: %v %q", err, out)
		}
	}
}

// TestChildDiesWithItsParent kills a process that has a confined child.
func TestChildDiesWithItsParent(t *testing.T) {
	if os.Getenv("ASCEND_TEST_PARENT") != "" {
		cmd, err := Command(t.Context(), Limits{}, "sh", "-c", "echo $$; while :; do :; done")
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout = os.Stdout
		t.Fatal(cmd.Run())
	}
	parent := exec.Command(os.Args[0], "-test.run=^TestChildDiesWithItsParent$")
	parent.Env = append(os.Environ(), "ASCEND_TEST_PARENT=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 32)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(line[:n]))
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	for range 200 {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || bytes.Contains(b, []byte(") Z ")) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %s lives on", pid)
}

func TestServerStartsAndEnds(t *testing.T) {
	p := filepath.Join(t.TempDir(), "d.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", p, "64M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	node := map[string]any{"driver": "qcow2", "backing": nil, "file": map[string]any{"driver": "file", "filename": p}}
	s, err := ServeReadOnly(t.Context(), node, []string{p})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("nbdinfo", "--size", "nbd+unix:///?socket="+s.Socket).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "67108864" {
		t.Errorf("nbdinfo (Debian package libnbd-bin): %v: %s", err, out)
	}
	pid := s.cmd.Process.Pid
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil {
		t.Error("qemu-nbd is still there")
	}
	if _, err := os.Stat(s.Socket); err == nil {
		t.Error("the socket is still there")
	}
	if _, err := ServeReadOnly(t.Context(), node, nil); err == nil || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("a file it was not given: %v", err)
	}
}

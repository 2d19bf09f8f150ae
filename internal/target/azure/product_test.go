package azure

import (
	"bytes"
	"encoding/binary"
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

	"ascend/internal/target/azure/armsim"
)

// product is the built command line with a configured target.
type product struct {
	t       testing.TB
	program string
	dir     string
	env     []string
	said    bytes.Buffer
}

func newProduct(t testing.TB, s sim) *product {
	t.Helper()
	dir := t.TempDir()
	p := &product{t: t, dir: dir, program: filepath.Join(dir, "ascend")}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", p.program, "ascend/cmd/ascend")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	secret := filepath.Join(dir, "azure.secret")
	if err := os.WriteFile(secret, []byte(armsim.ClientSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.env = append(os.Environ(), "HOME="+dir, "ASCEND_STATE_DIR="+filepath.Join(dir, "state"), "ASCEND_CONFIG="+filepath.Join(dir, "config.yaml"))
	args := []string{"target", "add", "az", "--platform", "azure", "--set", "client_secret_file=" + secret}
	for k, v := range s.settings().Values {
		args = append(args, "--set", k+"="+v)
	}
	p.run(args...)
	return p
}

func (p *product) command(args ...string) *exec.Cmd {
	c := exec.CommandContext(p.t.Context(), p.program, args...)
	c.Env = p.env
	return c
}

// run runs it to its end and wants success.
func (p *product) run(args ...string) string {
	p.t.Helper()
	out, err := p.command(args...).CombinedOutput()
	p.said.Write(out)
	if err != nil {
		p.t.Fatalf("ascend %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// A restore by the product, killed in the middle and run again: little is sent
// twice, the file that landed is one that others read as the disk, nothing
// secret is left anywhere, and undoing leaves nothing.
func TestProduct(t *testing.T) {
	s := newSim(t, armsim.Options{})
	p := newProduct(t, s)
	p.run("target", "validate", "az")
	p.run("target", "inventory", "az")
	const data, size = 40 * mib, 64*mib + 512*37
	raw := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(raw[:data])
	_, _ = rand.NewChaCha8([32]byte{8}).Read(raw[size-5000:])
	src := filepath.Join(p.dir, "disk.raw")
	if err := os.WriteFile(src, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	restore := []string{"restore", src, "-f", "raw", "--cpus", "2", "--memory", "4G", "--firmware", "bios", "--name", "web 01", "--to", "az", "--accept",
		"--place", "vm_size=Standard_D2s_v5", "--place", "network=" + armsim.OtherGroup + "/" + armsim.Network + "/" + armsim.Subnet,
		"--receipt", filepath.Join(p.dir, "receipt.json"), "--keep", "-m", "4"}
	killed := p.command(restore...)
	var out bytes.Buffer
	killed.Stdout, killed.Stderr = &out, &out
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		if _, n := s.Puts(); n > 8*mib {
			break
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("nothing is sent: %s", out.String())
		}
	}
	argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", killed.Process.Pid))
	if err != nil || bytes.Contains(argv, []byte(armsim.ClientSecret)) {
		t.Errorf("the command line: %q, %v", argv, err)
	}
	if err := killed.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait()
	_, before := s.Puts()
	if before >= data {
		t.Fatalf("all %d bytes were sent before the kill", before)
	}
	p.said.Write(out.Bytes())
	p.run(restore...)
	_, sent := s.Puts()
	// 4 workers of at most 4 MiB were under way.
	const window = 16 * mib
	if again := sent - data - 65536 - footerSize; again > window {
		t.Errorf("%d bytes were sent twice; at most %d were under way", again, window)
	}
	b, err := os.ReadFile(filepath.Join(p.dir, "receipt.json"))
	if err != nil {
		t.Fatal(err)
	}
	var receipt struct {
		Job string `json:"job"`
		VM  struct {
			ID string `json:"id"`
		} `json:"vm"`
		Disks []struct {
			Object   string `json:"object"`
			Verified string `json:"verified"`
		} `json:"disks"`
	}
	if err := json.Unmarshal(b, &receipt); err != nil || len(receipt.Disks) != 1 || receipt.Disks[0].Verified != verdict {
		t.Fatalf("%v: %s", err, b)
	}
	file, err := s.Disk(receipt.Disks[0].Object)
	if err != nil {
		t.Fatal(err)
	}
	azureFile(t, p.dir, file, raw)
	if m := s.Machine(receipt.VM.ID); m == nil || m.Name != "web-01" || m.Power != "deallocated" {
		t.Errorf("%+v", m)
	}
	p.run("verify", filepath.Join(p.dir, "receipt.json"))
	p.run("undo", receipt.Job)
	if left := s.Inventory(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	p.nothingSecret()
}

// azureFile holds a file to Azure's rules and has qemu-img read it.
func azureFile(t testing.TB, dir string, file, raw []byte) {
	t.Helper()
	if (len(file)-footerSize)%mib != 0 {
		t.Errorf("the file has %d bytes: not whole MiB and a footer", len(file))
	}
	footerOf(t, file)
	vhd, want := filepath.Join(dir, "landed.vhd"), filepath.Join(dir, "want.raw")
	padded := append(append([]byte{}, raw...), make([]byte, len(file)-footerSize-len(raw))...)
	for name, b := range map[string][]byte{vhd: file, want: padded} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), "vhdiinfo", vhd).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("Fixed")) || !bytes.Contains(out, fmt.Appendf(nil, "(%d bytes)", len(file)-footerSize)) {
		t.Errorf("vhdiinfo (Debian package libvhdi-utils): %v: %s", err, out)
	}
	// qemu-img check knows no checks for this format.
	for _, args := range [][]string{{"info", "-f", "vpc", "--output=json", vhd}, {"compare", "-s", "-f", "vpc", "-F", "raw", vhd, want}} {
		out, err := exec.CommandContext(t.Context(), "qemu-img", args...).CombinedOutput()
		if err != nil {
			t.Errorf("qemu-img %v: %v: %s", args, err, out)
		}
		if args[0] == "info" && !bytes.Contains(out, fmt.Appendf(nil, `"virtual-size": %d`, len(file)-footerSize)) {
			t.Errorf("qemu-img info: %s", out)
		}
	}
}

// footerOf holds every byte of a file's footer to "Hard Disk Footer Format" and to
// what Azure asks of it ("Prepare a Windows VHD or VHDX to upload to Azure"): a fixed
// disk whose size, and not whose geometry, counts, without a saved state. Only the
// identifier is free.
func footerOf(t testing.TB, file []byte) {
	t.Helper()
	got := file[len(file)-footerSize:]
	be := binary.BigEndian
	size := uint64(len(file) - footerSize)
	want := append([]byte("conectix"), make([]byte, footerSize-8)...)
	be.PutUint32(want[8:], 2)                   // features: reserved, always set
	be.PutUint32(want[12:], 0x00010000)         // version
	be.PutUint64(want[16:], 0xffffffffffffffff) // no further header: fixed
	copy(want[28:], "win ")
	be.PutUint32(want[32:], 0x000a0000)
	copy(want[36:], "Wi2k")
	be.PutUint64(want[40:], size)
	be.PutUint64(want[48:], size)
	// "CHS Calculation", literally, for disks of less than 504 MiB.
	sectors := size / 512
	perTrack, heads := uint64(17), uint64(0)
	tracks := sectors / perTrack
	if heads = (tracks + 1023) / 1024; heads < 4 {
		heads = 4
	}
	if tracks >= heads*1024 || heads > 16 {
		perTrack, heads = 31, 16
		tracks = sectors / perTrack
	}
	be.PutUint16(want[56:], uint16(tracks/heads))
	want[58], want[59] = byte(heads), byte(perTrack)
	be.PutUint32(want[60:], 2) // fixed
	copy(want[68:84], got[68:84])
	sum := uint32(0)
	for _, b := range want {
		sum += uint32(b)
	}
	be.PutUint32(want[64:], ^sum)
	if !bytes.Equal(got, want) {
		t.Errorf("the footer is\n% x, and not\n% x", got, want)
	}
	if bytes.Equal(got[68:84], make([]byte, 16)) {
		t.Error("the disk has no identifier")
	}
}

// nothingSecret looks for the secret, signatures and tokens in all that the
// product said and wrote.
func (p *product) nothingSecret() {
	p.t.Helper()
	look := func(where string, b []byte) {
		for _, s := range []string{armsim.ClientSecret, "sig=", "simulated."} {
			if bytes.Contains(b, []byte(s)) {
				p.t.Errorf("%s holds %q", where, s)
			}
		}
	}
	look("what was said", p.said.Bytes())
	for _, root := range []string{filepath.Join(p.dir, "state"), filepath.Join(p.dir, "config.yaml"), filepath.Join(p.dir, "receipt.json")} {
		err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			look(path, b)
			return err
		})
		if err != nil {
			p.t.Error(err)
		}
	}
}

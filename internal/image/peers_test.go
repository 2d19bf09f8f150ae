package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/disk"
)

// packages says what to install for each program that is a peer.
var packages = map[string]string{
	"qemu-img":         "qemu-utils",
	"qemu-io":          "qemu-utils",
	"7zz":              "7zip",
	"/usr/bin/python3": "python3 python3-libvhdi python3-libvmdk python3-libqcow",
	"sgdisk":           "gdisk",
}

// run gives the program's output; its failure fails the test.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := tryRun(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func tryRun(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	var stdout bytes.Buffer
	stderr, err := start(t, &stdout, name, args...)
	if err != nil {
		return stdout.String() + stderr, err
	}
	return stdout.String(), nil
}

// start runs the program to its end, its output going to stdout.
func start(t *testing.T, stdout io.Writer, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%v; install %s", err, packages[name])
	}
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	err := cmd.Run()
	return stderr.String(), err
}

// libraryRead reads ranges with libvhdi, libvmdk or libqcow.
func libraryRead(t *testing.T, path string, ranges ...string) string {
	t.Helper()
	library := map[string]string{".vhd": "vhdi", ".vhdx": "vhdi", ".vmdk": "vmdk", ".qcow2": "qcow"}[filepath.Ext(path)]
	args := append([]string{"testdata/read.py", library, path}, ranges...)
	out, err := tryRun(t, "/usr/bin/python3", args...)
	if err != nil {
		t.Fatalf("lib%s: %v (install %s)\n%s", library, err, packages["/usr/bin/python3"], out)
	}
	return strings.TrimSpace(out)
}

// TestPeers makes each format of disks of awkward sizes and has QEMU, 7-Zip,
// libvhdi, libvmdk and libqcow read them.
func TestPeers(t *testing.T) {
	for _, size := range []int64{512, 1<<20 - 512, 1 << 20, 1<<20 + 512, 1<<20 + 100, 64<<20 + 12288} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			d := newLeafDisk(size, 12, 21)
			dir := t.TempDir()
			raw := filepath.Join(dir, "source.raw")
			writeRaw(t, d, raw)
			sum := wholeSum(t, d, roundUp(size, sectorSize))
			for _, k := range made() {
				if k.Format.Name != "raw" {
					checkPeers(t, raw, sum, d, k)
				}
			}
		})
	}
}

func checkPeers(t *testing.T, raw, want string, d *leafDisk, k variant) {
	t.Helper()
	f := mustNew(t, d.source(), k.Format, k.Options)
	info, err := k.Format.Info()
	if err != nil {
		t.Fatal(err)
	}
	size := info.VirtualSize(d.size)
	// libvmdk opens the extent by the name in the descriptor.
	path := filepath.Join(filepath.Dir(raw), k.Options.Name+"."+f.Format().Extension())
	write(t, f, path)
	defer os.Remove(path)
	name := fmt.Sprintf("%s block %d", k.Format, k.Options.BlockSize)

	checkQEMUInfo(t, name, path, k.Format, size)
	if out := run(t, "qemu-img", "compare", "-f", "raw", "-F", k.Format.Name, raw, path); !strings.Contains(out, "identical") {
		t.Errorf("%s: qemu-img compare: %s", name, out)
	}
	checkQEMUCheck(t, name, path, k.Format)

	if got := libraryRead(t, path, fmt.Sprintf("0:%d", size)); got != fmt.Sprintf("%d %s", size, want) {
		t.Errorf("%s: library reads %s, want %d %s", name, got, size, want)
	}
	if k.Format.Name == "vhdx" && size%4096 != 0 {
		return // 7-Zip opens no such VHDX, QEMU's own neither; libvhdi stands for it
	}
	h := sha256.New()
	if stderr, err := start(t, h, "7zz", "e", "-so", path); err != nil || fmt.Sprintf("%x", h.Sum(nil)) != want {
		t.Errorf("%s: 7-Zip reads other bytes of %d: %v\n%s", name, size, err, stderr)
	}
}

// wholeSum is the SHA-256 of the disk and zeros up to size.
func wholeSum(t *testing.T, d *leafDisk, size int64) string {
	t.Helper()
	h := sha256.New()
	f := mustNew(t, d.source(), Format{Name: "raw"}, Options{})
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, f.Size())); err != nil {
		t.Fatal(err)
	}
	h.Write(make([]byte, size-d.size))
	return fmt.Sprintf("%x", h.Sum(nil))
}

func checkQEMUInfo(t *testing.T, name, path string, f Format, size int64) {
	t.Helper()
	var got struct {
		Size int64 `json:"virtual-size"`
		Data struct {
			Data struct {
				CreateType string `json:"create-type"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal([]byte(run(t, "qemu-img", "info", "--output=json", "-f", f.Name, path)), &got); err != nil {
		t.Fatal(err)
	}
	if got.Size != size {
		t.Errorf("%s: qemu-img sees %d bytes, want %d", name, got.Size, size)
	}
	info, err := f.Info()
	if err != nil {
		t.Fatal(err)
	}
	if want := info.Format.Subformat; f.Name == "vmdk" && got.Data.Data.CreateType != want {
		t.Errorf("%s: qemu-img sees type %q, want %q", name, got.Data.Data.CreateType, want)
	}
}

// checkQEMUCheck runs qemu-img check where QEMU can.
func checkQEMUCheck(t *testing.T, name, path string, f Format) {
	t.Helper()
	if f.Name == "vpc" {
		return
	}
	if out := run(t, "qemu-img", "check", "-f", f.Name, path); !strings.Contains(out, "No errors were found") || strings.Contains(out, "leaked") {
		t.Errorf("%s: qemu-img check: %s", name, out)
	}
}

// TestPeersLarge has sparse disks around and beyond 2 TiB read where they have
// data, and around.
func TestPeersLarge(t *testing.T) {
	for _, size := range []int64{vhdMaxDynamic, 2<<40 - 512, 2<<40 + 1<<20, 3 << 40} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			d := &leafDisk{size: size, flat: true, data: map[int64]bool{}}
			last := (size - 1) / disk.LeafSize
			for _, l := range []int64{0, 1, 5, 511, 512, 100_000, 20_000_001, last / 2, last - 700, last} {
				d.data[l] = true
			}
			dir := t.TempDir()
			for _, k := range made() {
				if k.Format.Name != "raw" {
					checkLarge(t, dir, d, k)
				}
			}
		})
	}
}

func checkLarge(t *testing.T, dir string, d *leafDisk, k variant) {
	t.Helper()
	f, err := New(d.source(), k.Format, k.Options)
	var tooLarge *SizeError
	if k.Format == (Format{Name: "vpc"}) && d.size > vhdMaxDynamic {
		if !errors.As(err, &tooLarge) {
			t.Errorf("%s: %v, want a size error", k.Format, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, k.Options.Name+"."+f.Format().Extension())
	write(t, f, path)
	defer os.Remove(path)
	name := fmt.Sprintf("%s block %d of %d bytes", k.Format, k.Options.BlockSize, d.size)

	look := d.looks()
	// QEMU opens no VHD of more than 2,040 GiB; a fixed one may be larger, as Azure
	// takes it.
	if k.Format.Name != "vpc" || d.size <= vhdMaxDynamic {
		checkQEMUInfo(t, name, path, k.Format, d.size)
		look.qemu(t, name, path, k.Format)
		if k.Format != (Format{Name: "vmdk"}) { // which takes QEMU seconds
			checkQEMUCheck(t, name, path, k.Format)
		}
	}
	look.library(t, name, path)
}

// looks are the places where a sparse disk is looked at: each leaf of data, and
// what follows it.
type looks struct {
	size   int64
	reads  []string // of qemu-io, with the pattern that must be there
	ranges []string // of libraryRead
	sum    string   // SHA-256 of the ranges
}

func (d *leafDisk) looks() looks {
	l := looks{size: d.size}
	h := sha256.New()
	for leaf := range d.data {
		off := leaf * disk.LeafSize
		n := min(disk.LeafSize, d.size-off)
		l.reads = append(l.reads, "-c", fmt.Sprintf("read -P %d %d %d", patternOf(leaf), off, n))
		l.ranges = append(l.ranges, fmt.Sprintf("%d:%d", off, n))
		h.Write(d.leaf(leaf)[:n])
		if next := off + n; !d.data[leaf+1] && next < d.size {
			l.reads = append(l.reads, "-c", fmt.Sprintf("read -P 0 %d %d", next, min(disk.LeafSize, d.size-next)))
			l.ranges = append(l.ranges, fmt.Sprintf("%d:4096", next))
			h.Write(make([]byte, 4096))
		}
	}
	l.sum = fmt.Sprintf("%x", h.Sum(nil))
	return l
}

func (l looks) qemu(t *testing.T, name, path string, f Format) {
	t.Helper()
	out := run(t, "qemu-io", append(append([]string{"-r", "-f", f.Name}, l.reads...), path)...)
	if strings.Contains(out, "Pattern verification failed") || strings.Count(out, "ops;") != len(l.reads)/2 {
		t.Errorf("%s: qemu-io: %s", name, out)
	}
}

func (l looks) library(t *testing.T, name, path string) {
	t.Helper()
	if got, want := libraryRead(t, path, l.ranges...), fmt.Sprintf("%d %s", l.size, l.sum); got != want {
		t.Errorf("%s: library reads %s, want %s", name, got, want)
	}
}

// TestFlatDescriptor has QEMU and libvmdk open a flat disk by its descriptor.
func TestFlatDescriptor(t *testing.T) {
	d := newLeafDisk(5<<20, 2, 1)
	dir := t.TempDir()
	raw := filepath.Join(dir, "Büro 1-flat.vmdk")
	writeRaw(t, d, raw)
	text, err := FlatDescriptor(filepath.Base(raw), d.size, Options{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "Büro 1.vmdk")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "qemu-img", "compare", "-f", "raw", "-F", "vmdk", raw, path); !strings.Contains(out, "identical") {
		t.Errorf("qemu-img compare: %s", out)
	}
	if got, want := libraryRead(t, path, fmt.Sprintf("0:%d", d.size)), fmt.Sprintf("%d %s", d.size, wholeSum(t, d, d.size)); got != want {
		t.Errorf("libvmdk reads %s, want %s", got, want)
	}
	for _, bad := range []string{"", "a/b", `a"b`, "a\nb", `a\b`, "a\xff", strings.Repeat("x", 300)} {
		if _, err := FlatDescriptor(bad, 512, Options{}); err == nil {
			t.Errorf("extent name %q was taken", bad)
		}
	}
	for _, size := range []int64{0, -1, disk.MaxSize + 1} {
		if _, err := FlatDescriptor("x-flat.vmdk", size, Options{}); err == nil {
			t.Errorf("a size of %d was taken", size)
		}
	}
}

// TestHostileName: a disk's name cannot bring lines of its own into a
// descriptor, nor outgrow its sectors.
func TestHostileName(t *testing.T) {
	d := newLeafDisk(1<<20, 2, 1)
	for name, want := range map[string]string{
		"": "disk.vmdk", "a.vmdk": "a.vmdk", "Büro": "Büro.vmdk", "../../x": ".._.._x.vmdk", "\xff\x00": "__.vmdk",
		"x\"\nRW 1 FLAT \"/etc/passwd": "x__RW 1 FLAT __etc_passwd.vmdk",
		strings.Repeat("ü", 5000):      strings.Repeat("ü", 127) + ".vmdk",
	} {
		for _, f := range []Format{{Name: "vmdk"}, {Name: "vmdk", Subformat: "streamOptimized", Compression: "stored"}} {
			file := mustNew(t, d.source(), f, Options{Name: name})
			path := filepath.Join(t.TempDir(), "x.vmdk")
			write(t, file, path)
			text := string(bytes.TrimRight(mustRead(t, file, 512, 20*512), "\x00"))
			line := "\nRW 2048 SPARSE \"" + want + "\"\n"
			if strings.Count(text, "\nRW ") != 1 || !strings.Contains(text, line) || !strings.HasSuffix(text, "\"\n") {
				t.Errorf("name %q gives the descriptor\n%s", name, text)
			}
			checkQEMUInfo(t, name, path, f, d.size)
		}
	}
}

package convert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/qemu"
	"ascend/internal/transfer"
)

func TestMain(m *testing.M) {
	qemu.Main()
	if os.Getenv("ASCEND_TEST_CONVERT") != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

// child is a conversion in a process of its own, slow enough to be killed.
func child() int {
	f, o, err := image.ParseFormat(os.Args[3], options(os.Args[4]), os.Args[5] == "c")
	if err == nil {
		_, err = Run(context.Background(), Options{Source: os.Args[1], Dest: os.Args[2], Format: f, Image: o, Limit: rate.NewLimiter(40<<20, 1<<20)})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func options(s string) map[string]string {
	m := map[string]string{}
	for _, kv := range strings.Split(s, ",") {
		if k, v, ok := strings.Cut(kv, "="); ok {
			m[k] = v
		}
	}
	return m
}

// kinds are the formats in qemu-img's words, which are ours.
type kind struct {
	name, format, opts string
	compress           bool
	sevenZip           bool // 7-Zip reads it, by itself
}

var kinds = []kind{
	{"raw", "raw", "", false, false},
	{"qcow2", "qcow2", "", false, true},
	{"qcow2-zlib", "qcow2", "", true, true},
	{"qcow2-zstd", "qcow2", "compression_type=zstd", true, false},
	{"vmdk", "vmdk", "", false, true},
	{"streamOptimized", "vmdk", "subformat=streamOptimized", false, true},
	{"vhd-fixed", "vpc", "subformat=fixed,force_size=on", false, true},
	{"vhd-dynamic", "vpc", "subformat=dynamic,force_size=on", false, true},
	{"vhdx", "vhdx", "", false, true},
}

// sourceOnly are formats that are read and not written.
var sourceOnly = []kind{
	{"vmdk-flat", "vmdk", "subformat=monolithicFlat", false, false},
	{"vmdk-2gb-sparse", "vmdk", "subformat=twoGbMaxExtentSparse", false, false},
	{"vmdk-2gb-flat", "vmdk", "subformat=twoGbMaxExtentFlat", false, false},
	{"vhdx-fixed", "vhdx", "subformat=fixed", false, false},
	{"qcow2-v2", "qcow2", "compat=0.10", false, false},
}

func sh(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s (see build/deps)", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// makeRaw writes a disk with data at its ends and scattered between.
func makeRaw(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(uint64(size), 2))
	words := strings.Repeat("what the backup held, compressible; ", 2000)
	put := func(off int64, n int) {
		b := []byte(words[r.IntN(1000):])[:n]
		for i := 0; i < n; i += 97 {
			b[i] = byte(r.Uint32())
		}
		if _, err := f.WriteAt(b[:min(int64(n), size-off)], off); err != nil {
			t.Fatal(err)
		}
	}
	put(0, 512)
	put(max(size-512, 0), 512)
	for range min(size>>20, 40) {
		put(r.Int64N(size-65536)&^511, 60<<10)
	}
}

// ext is the file name ending, by which 7-Zip tells a fixed VHD.
func (k kind) ext() string {
	if k.format == "vpc" {
		return ".vhd"
	}
	return "." + k.format
}

func (k kind) args() []string {
	a := []string{"-O", k.format}
	if k.compress {
		a = append(a, "-c")
	}
	if k.opts != "" {
		a = append(a, "-o", k.opts)
	}
	return a
}

func (k kind) run(t *testing.T, o Options) (*Result, error) {
	t.Helper()
	f, io, err := image.ParseFormat(k.format, options(k.opts), k.compress)
	if err != nil {
		t.Fatal(err)
	}
	o.Format, o.Image = f, io
	return Run(t.Context(), o)
}

func sumOf(t *testing.T, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// same checks that path holds the disk raw: by QEMU, and by 7-Zip where it reads
// the format.
func (k kind) same(t *testing.T, raw, path string, size int64) {
	t.Helper()
	sh(t, "qemu-img", "compare", "-f", "raw", "-F", k.format, raw, path)
	if k.format == "qcow2" || k.format == "vmdk" || k.format == "vhdx" {
		sh(t, "qemu-img", "check", "-q", "-f", k.format, path)
	}
	// 7-Zip takes VHDX of whole 4 KiB only.
	if !k.sevenZip || k.format == "vhdx" && size%4096 != 0 {
		return
	}
	cmd := exec.Command("7zz", "e", "-so", path)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("7zz (Debian package 7zip) cannot read %s: %v", path, err)
	}
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, want := sumOf(t, bytes.NewReader(out)), sumOf(t, f); got != want {
		t.Errorf("7zz reads other bytes of %s: %d bytes", path, len(out))
	}
}

// TestEverySourceToEveryTarget converts between all formats.
func TestEverySourceToEveryTarget(t *testing.T) {
	const size = 64<<20 + 12288
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	makeRaw(t, raw, size)
	first, err := kinds[0].run(t, Options{Source: raw, Dest: filepath.Join(dir, "first.raw")})
	if err != nil {
		t.Fatal(err)
	}
	for i, from := range append(kinds, sourceOnly...) {
		targets := kinds
		if i >= len(kinds) { // one target of each way of laying out
			targets = []kind{kinds[0], kinds[1], kinds[5], kinds[8]}
		}
		src := raw
		if from.name != "raw" {
			src = filepath.Join(dir, from.name+"-disk"+from.ext())
			sh(t, "qemu-img", append(append([]string{"convert", "-f", "raw"}, from.args()...), raw, src)...)
		}
		t.Run(from.name, func(t *testing.T) {
			t.Parallel()
			for _, to := range targets {
				dst := filepath.Join(t.TempDir(), "out"+to.ext())
				res, err := to.run(t, Options{Source: src, Dest: dst, Verify: from.name == "raw"})
				if err != nil {
					t.Errorf("to %s: %v", to.name, err)
					continue
				}
				to.same(t, raw, dst, size)
				if res.Verified != (from.name == "raw") {
					t.Errorf("to %s: verified %v", to.name, res.Verified)
				}
				if _, err := os.Stat(JournalPath(dst)); err == nil {
					t.Errorf("to %s: the journal is left behind", to.name)
				}
				if res.Digest != first.Digest {
					t.Errorf("to %s: digest %s, want %s", to.name, res.Digest, first.Digest)
				}
				os.Remove(dst)
			}
		})
	}
}

func TestOddSizes(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []int64{512, 1<<20 - 512, 1 << 20, 1<<20 + 512} {
		raw := filepath.Join(dir, fmt.Sprint(size, ".raw"))
		makeRaw(t, raw, size)
		for _, to := range kinds {
			dst := filepath.Join(dir, "out"+to.ext())
			if _, err := to.run(t, Options{Source: raw, Dest: dst}); err != nil {
				t.Errorf("%d bytes to %s: %v", size, to.name, err)
				continue
			}
			to.same(t, raw, dst, size)
		}
	}
}

// TestHugeSparse makes disks beyond 2 TiB and reads their data back with QEMU.
func TestHugeSparse(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []int64{2<<40 - 512, 2<<40 + 1<<20, 3 << 40} {
		raw := filepath.Join(dir, "huge.raw")
		os.Remove(raw)
		f, err := os.Create(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		marks := []int64{0, 1<<40 + 4096, size - 512}
		for i, off := range marks {
			if _, err := f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 512), off); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
		for _, to := range kinds {
			dst := filepath.Join(dir, "out"+to.ext())
			os.Remove(dst)
			res, err := to.run(t, Options{Source: raw, Dest: dst, Verify: true})
			if tooBig := new(image.SizeError); errors.As(err, &tooBig) {
				if to.name != "vhd-dynamic" {
					t.Errorf("%d bytes to %s: %v", size, to.name, err)
				}
				if _, err := os.Stat(dst); err == nil {
					t.Errorf("%s: a file was begun before the size was refused", to.name)
				}
				continue
			}
			if err != nil {
				t.Errorf("%d bytes to %s: %v", size, to.name, err)
				continue
			}
			if !res.Verified {
				t.Errorf("%d bytes to %s: not verified", size, to.name)
			}
			if to.format == "vpc" {
				continue // QEMU 7.2 reads no VHD above 2,040 GiB
			}
			args := []string{"-r", "-f", to.format}
			for i, off := range marks {
				args = append(args, "-c", fmt.Sprintf("read -q -P %d %d 512", i+1, off), "-c", fmt.Sprintf("read -q -P 0 %d 512", max(off-512, 512)))
			}
			if out := sh(t, "qemu-io", append(args, dst)...); out != "" {
				t.Errorf("%d bytes to %s: qemu-io: %s", size, to.name, out)
			}
		}
	}
}

// TestKillAndGoOn kills a conversion with SIGKILL at random moments and runs it
// again until it is done: the bytes are those of an undisturbed one.
func TestKillAndGoOn(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	b := make([]byte, 24<<20)
	r := rand.New(rand.NewPCG(9, 9))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	if err := os.WriteFile(raw, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		want := filepath.Join(dir, "want."+k.format)
		if _, err := k.run(t, Options{Source: raw, Dest: want}); err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(dir, "out"+k.ext())
		flag := "-"
		if k.compress {
			flag = "c"
		}
		kills := 0
		for try := 0; ; try++ {
			cmd := exec.Command(os.Args[0], raw, dst, k.format, k.opts, flag)
			cmd.Env = append(os.Environ(), "ASCEND_TEST_CONVERT=1")
			var errs bytes.Buffer
			cmd.Stderr = &errs
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if try < 3 {
				time.AfterFunc(time.Duration(100+r.IntN(250))*time.Millisecond, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
			}
			err := cmd.Wait()
			if err == nil {
				break
			}
			if try > 4 || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("%s: %v: %s", k.name, err, errs.String())
			}
			kills++
		}
		if kills == 0 {
			t.Errorf("%s: no run was killed in the middle", k.name)
		}
		x, err1 := os.ReadFile(want)
		y, err2 := os.ReadFile(dst)
		if err := errors.Join(err1, err2); err != nil || !bytes.Equal(x, y) {
			t.Errorf("%s: after %d kills the file differs from an undisturbed one: %v", k.name, kills, err)
		}
	}
}

func TestResumeWritesOnlyWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	b := make([]byte, 64<<20)
	r := rand.New(rand.NewPCG(9, 9))
	for i := 0; i < len(b); i += 8 {
		b[i] = byte(r.Uint32()) | 1
	}
	if err := os.WriteFile(raw, b, 0o600); err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(dir, "out.raw")
	ctx, cancel := context.WithCancel(t.Context())
	var meter *transfer.Meter
	o := Options{Source: raw, Dest: dst, Format: image.Format{Name: "raw"}, Limit: rate.NewLimiter(60<<20, 1<<20), Observe: func(_ string, m *transfer.Meter) { meter = m }}
	time.AfterFunc(400*time.Millisecond, cancel)
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	first := meter.Read().Sent
	o.Limit = nil
	res, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	// In flight at most: a unit of 3 MiB for each of 16 workers.
	if again := first + res.Sent - int64(len(b)); !res.Resumed || first == 0 || again > 48<<20 || res.Sent == int64(len(b)) {
		t.Errorf("first %d bytes, then %d of %d, resumed %v", first, res.Sent, len(b), res.Resumed)
	}
	if got, _ := os.ReadFile(dst); !bytes.Equal(got, b) {
		t.Error("bytes differ")
	}
}

func TestDenseZerosStayThin(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "fat.raw")
	b := make([]byte, 32<<20)
	b[5<<20] = 1
	if err := os.WriteFile(raw, b, 0o600); err != nil { // every byte is allocated
		t.Fatal(err)
	}
	for _, k := range kinds {
		dst := filepath.Join(dir, "out"+k.ext())
		if _, err := k.run(t, Options{Source: raw, Dest: dst}); err != nil {
			t.Fatal(err)
		}
		var st syscall.Stat_t
		if err := syscall.Stat(dst, &st); err != nil {
			t.Fatal(err)
		}
		if used := st.Blocks * 512; used > 8<<20 {
			t.Errorf("%s: %d bytes on disk for one byte of data", k.name, used)
		}
		k.same(t, raw, dst, int64(len(b)))
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	makeRaw(t, raw, 3<<20)
	qcow := filepath.Join(dir, "top.qcow2")
	sh(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw, qcow)
	before, _ := os.ReadFile(raw)
	o := Options{Format: image.Format{Name: "raw"}}
	for name, pair := range map[string][2]string{"itself": {raw, raw}, "its backing file": {qcow, raw}, "a folder": {raw, dir}, "a device": {raw, "/dev/null"}} {
		o.Source, o.Dest = pair[0], pair[1]
		if _, err := Run(t.Context(), o); err == nil {
			t.Errorf("written over %s", name)
		}
	}
	if after, _ := os.ReadFile(raw); !bytes.Equal(before, after) {
		t.Error("the source was changed")
	}
	o.Source, o.Dest, o.NoOverwrite = raw, filepath.Join(dir, "there"), true
	if err := os.WriteFile(o.Dest, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), o); err == nil {
		t.Error("overwritten")
	}
	if got, _ := os.ReadFile(o.Dest); string(got) != "mine" {
		t.Error("the other file was changed")
	}
}

// TestSourceThatChanges writes to the source in the middle.
func TestSourceThatChanges(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(raw, bytes.Repeat([]byte("x"), 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	o := Options{Source: raw, Dest: filepath.Join(dir, "out"), Format: image.Format{Name: "raw"}}
	o.Observe = func(string, *transfer.Meter) {
		f, err := os.OpenFile(raw, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt([]byte("y"), 7<<20)
			f.Close()
		}
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := Run(t.Context(), o); !errors.Is(err, disk.ErrChanged) {
		t.Errorf("%v", err)
	}
}

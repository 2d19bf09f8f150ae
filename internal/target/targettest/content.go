package targettest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// content is what a disk of the suite holds.
type content struct {
	name string
	size int64
	// runs are {offset, length} of random bytes; everything else is zeros.
	runs [][2]int64
}

// small is a disk for tests that are about something else.
func small() content {
	const size = 1<<20 + 512
	return content{"small", size, [][2]int64{{0, 70_000}, {200_192, 40_000}, {size - 700, 700}}}
}

// contents are disks that connectors and formats got wrong somewhere.
func contents() []content {
	const m = 1 << 20
	return []content{
		{"one sector", 512, [][2]int64{{0, 512}}},
		{"1 MiB less a sector", m - 512, [][2]int64{{0, 4096}, {m - 1024, 512}}},
		{"1 MiB and a sector", m + 512, [][2]int64{{0, m + 512}}},
		{"all zeros", 3 * m, nil},
		{"hole at the end", 4 * m, [][2]int64{{0, 300_000}}},
		{"last sector only", 2*m + 512, [][2]int64{{2 * m, 512}}},
		{"64 MiB and 24 sectors", 64*m + 12288, [][2]int64{{0, 4096}, {31*m + 512, 90_000}, {64 * m, 12288}}},
		{"3 MiB and 37 sectors", 3*m + 37*512, [][2]int64{{65536, 512}, {3*m - 5000, 5000 + 37*512}}},
	}
}

// lightContents are those of contents that a light run keeps.
func lightContents() []content {
	all := contents()
	return []content{all[0], all[3], all[6]}
}

func (c content) bytes() []byte {
	p := make([]byte, c.size)
	var seed [32]byte
	copy(seed[:], c.name)
	rnd := rand.NewChaCha8(seed)
	for _, r := range c.runs {
		_, _ = rnd.Read(p[r[0] : r[0]+r[1]]) // documented to never fail
	}
	return p
}

// parcel is one disk to be sent.
type parcel struct {
	file []byte // the bytes to send
	want []byte // what the guest must see
}

// shipment is an order with the bytes to send.
type shipment struct {
	order *target.Order
	disks []parcel
}

var names struct {
	sync.Mutex
	n int
}

// ship makes an order for a machine with these disks, under a name that no
// other order of the process has.
func (s *suite) ship(p Peer, disks ...content) *shipment {
	s.Helper()
	names.Lock()
	names.n++
	n := names.n
	names.Unlock()
	return s.shipAs(p, fmt.Sprintf("ascend conformance %d", n), fmt.Sprintf("job-%06d", n), disks...)
}

// shipAs is ship with the machine's name and the job's id given.
func (s *suite) shipAs(p Peer, name, job string, disks ...content) *shipment {
	s.Helper()
	d := s.h.Delivery
	o := &target.Order{
		Job: job,
		Machine: &vm.Machine{
			Name:     name,
			Platform: vm.Local,
			UUID:     "4c4c4544-0051-4810-8057-b4c04f4d3732",
			CPU:      vm.CPU{Sockets: 1, CoresPerSocket: 2},
			Memory:   512 << 20,
			Firmware: vm.BIOS,
			Guest:    vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "12", Arch: vm.AMD64},
			NICs:     []vm.NIC{{Name: "nic0", MAC: "00:50:56:01:02:03", Network: "source network"}},
		},
	}
	sh := &shipment{order: o}
	for i, c := range disks {
		raw := c.bytes()
		raw = append(raw, make([]byte, d.Padded(c.size)-c.size)...)
		file := Encode(s, raw, d.Format)
		size := int64(len(file))
		if d.Format.Ordered() && !d.NeedSize {
			size = -1
		}
		o.Machine.Disks = append(o.Machine.Disks, vm.Disk{Index: i, Size: int64(len(raw)), Unit: i, Boot: i == 0})
		o.Disks = append(o.Disks, target.DiskOrder{Delivery: d, Virtual: int64(len(raw)), FileSize: size})
		o.Placement.Storage = append(o.Placement.Storage, "")
		sh.disks = append(sh.disks, parcel{file: file, want: raw})
	}
	o.Placement.Networks = make([]string, len(o.Machine.NICs))
	p.Order(s, o)
	return sh
}

// memo remembers what qemu-img answered, by the digest of the question.
var memo struct {
	sync.Mutex
	m map[[32]byte][]byte
}

func remembered(key [32]byte, f func() []byte) []byte {
	memo.Lock()
	defer memo.Unlock()
	if v, ok := memo.m[key]; ok {
		return v
	}
	if memo.m == nil {
		memo.m = map[[32]byte][]byte{}
	}
	v := f()
	if len(v) <= 24<<20 {
		memo.m[key] = v
	}
	return v
}

// Encode makes an image file of the disk with qemu-img. Equal questions get
// the same bytes, which must not be written to. Stored streamOptimized VMDKs,
// which qemu-img does not make, are deflated ones.
func Encode(t testing.TB, raw []byte, f image.Format) []byte {
	t.Helper()
	if f.Name == "raw" {
		return raw
	}
	return remembered(question("encode "+f.String(), raw), func() []byte {
		args := []string{"convert", "-t", "unsafe", "-f", "raw", "-O", f.Name}
		switch {
		case f.Name == "vpc" && f.Subformat == "fixed":
			args = append(args, "-o", "subformat=fixed,force_size=on")
		case f.Name == "vpc":
			args = append(args, "-o", "subformat=dynamic,force_size=on")
		case f.Name == "vmdk" && f.Subformat != "":
			args = append(args, "-o", "subformat="+f.Subformat)
		case f.Name == "qcow2" && f.Compression != "":
			args = append(args, "-c", "-o", "compression_type="+f.Compression)
		}
		return convert(t, raw, args...)
	})
}

// Decode reads an image file with qemu-img as the guest would see it; format is
// qemu-img's name. Equal questions get the same bytes, which must not be
// written to.
func Decode(t testing.TB, file []byte, format string) []byte {
	t.Helper()
	if format == "raw" {
		return file
	}
	return remembered(question("decode "+format, file), func() []byte {
		return convert(t, file, "convert", "-t", "unsafe", "-f", format, "-O", "raw")
	})
}

func question(what string, p []byte) (key [32]byte) {
	h := sha256.New()
	fmt.Fprintln(h, what, len(p))
	h.Write(p)
	h.Sum(key[:0])
	return key
}

// convert runs qemu-img with two files after args.
func convert(t testing.TB, in []byte, args ...string) []byte {
	t.Helper()
	dir, err := os.MkdirTemp("", "targettest")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}()
	src, dst := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(src, in, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "qemu-img", append(args, src, dst)...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %v: %v\n%s", args, err, out)
	}
	b, err := os.ReadFile(dst)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// compare fails the test where got is not want, naming the first difference.
func compare(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	if len(got) != len(want) {
		t.Errorf("%s: the peer holds a disk of %d bytes, not %d", what, len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Errorf("%s: the peer holds byte %#02x at offset %d, not %#02x", what, got[i], i, want[i])
			return
		}
	}
}

// Package initrd reads an initial RAM file system as the Linux kernel does:
// cpio archives ("newc", Documentation/driver-api/early-userspace/buffer-format)
// one after another, each compressed or not, with zeros between them. Only
// names are kept, and the text of a few small files.
package initrd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"ascend/internal/guest/kmod"
)

// ErrFormat: no initial RAM file system, or a compression that is not read.
var ErrFormat = errors.New("not an initramfs that is read here")

// Marker is the file that tells a segment appended by Ascend.
const Marker = "etc/ascend-initrd.json"

// Bounds of what is read.
const (
	maxUnpacked = 2 << 30
	maxEntries  = 400_000
	maxSegments = 64
	maxKept     = 256 << 10
)

// Segment is one archive.
type Segment struct {
	Offset      int64  `json:"offset"`
	Size        int64  `json:"size"` // as stored
	Compression string `json:"compression,omitempty"`
	Entries     int    `json:"entries"`
	Microcode   bool   `json:"microcode,omitempty"`
	Ascend      bool   `json:"ascend,omitempty"` // appended by us
}

// Archive is what an initramfs holds.
type Archive struct {
	Segments []Segment `json:"segments"`
	// Modules maps a module's name to its path in the archive.
	Modules map[string]string `json:"-"`
	// ModuleDir is "lib/modules" or "usr/lib/modules" as the main archive has
	// it, "" when it holds no modules.
	ModuleDir string `json:"module_dir,omitempty"`
	// Generator is initramfs-tools, dracut, mkinitcpio, booster,
	// mkinitfs (Alpine) or "" when it cannot be told.
	Generator string            `json:"generator,omitempty"`
	Kernels   []string          `json:"kernels,omitempty"` // versions found below ModuleDir
	Files     map[string][]byte `json:"-"`                 // the kept texts
	Notes     []string          `json:"notes,omitempty"`
}

// source counts what is consumed and gives single bytes, so that decompressors
// take no more than is theirs.
type source struct {
	*bufio.Reader
	n int64
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.n += int64(n)
	return n, err
}

func (s *source) ReadByte() (byte, error) {
	b, err := s.Reader.ReadByte()
	if err == nil {
		s.n++
	}
	return b, err
}

// Parse reads the initramfs on r, which is size bytes long.
func Parse(r io.ReaderAt, size int64) (*Archive, error) {
	a := &Archive{Modules: map[string]string{}, Files: map[string][]byte{}}
	left := int64(maxUnpacked)
	entries := 0
	for off := int64(0); off < size; {
		if len(a.Segments) >= maxSegments {
			return nil, fmt.Errorf("%w: too many archives", ErrFormat)
		}
		off = skipZeros(r, off, size)
		if off >= size {
			break
		}
		seg := Segment{Offset: off}
		n, err := a.segment(r, off, size, &seg, &left, &entries)
		if err != nil {
			if len(a.Segments) == 0 {
				return nil, err
			}
			// The kernel reports junk after a good archive and goes on.
			a.Notes = append(a.Notes, fmt.Sprintf("the archive at byte %d is unreadable: %v", off, err))
			break
		}
		seg.Size = n
		a.Segments = append(a.Segments, seg)
		off += n
	}
	if len(a.Segments) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrFormat)
	}
	a.generator()
	return a, nil
}

func skipZeros(r io.ReaderAt, off, size int64) int64 {
	b := make([]byte, 4096)
	for off < size {
		n, _ := r.ReadAt(b[:min(int64(len(b)), size-off)], off)
		if n == 0 {
			return size
		}
		for i := range n {
			if b[i] != 0 {
				return off + int64(i)
			}
		}
		off += int64(n)
	}
	return off
}

func (a *Archive) segment(r io.ReaderAt, off, size int64, seg *Segment, left *int64, entries *int) (int64, error) {
	magic := make([]byte, 8)
	k, _ := r.ReadAt(magic, off)
	src := &source{Reader: bufio.NewReaderSize(io.NewSectionReader(r, off, size-off), 64<<10)}
	if bytes.HasPrefix(magic[:k], []byte("07070")) {
		err := a.cpio(src, seg, left, entries, true)
		return src.n, err
	}
	name, plain, length, err := decompress(magic[:k], src, r, off, size)
	if err != nil {
		return 0, err
	}
	defer plain.Close()
	seg.Compression = name
	in := bufio.NewReaderSize(plain, 256<<10)
	// Inside a compressed stream archives may again follow one another.
	for {
		for {
			b, err := in.Peek(1)
			if err != nil {
				if errors.Is(err, io.EOF) {
					if length < 0 {
						length = src.n
					}
					return length, nil
				}
				return 0, fmt.Errorf("cannot unpack %s: %w", name, err)
			}
			if b[0] != 0 {
				break
			}
			if _, err := in.Discard(1); err != nil {
				return 0, err
			}
			if *left--; *left < 0 {
				return 0, errTooLarge
			}
		}
		if err := a.cpio(in, seg, left, entries, false); err != nil {
			return 0, err
		}
	}
}

var errTooLarge = errors.New("initramfs unpacks to more than 2 GiB")

func (a *Archive) cpio(in io.Reader, seg *Segment, left *int64, entries *int, early bool) error {
	h := make([]byte, 110)
	for {
		if _, err := io.ReadFull(in, h); err != nil {
			return fmt.Errorf("%w: the archive ends early", ErrFormat)
		}
		if m := string(h[:6]); m != "070701" && m != "070702" {
			return fmt.Errorf("%w: cpio header %q", ErrFormat, h[:6])
		}
		var f [13]int64
		for i := range f {
			v, err := strconv.ParseUint(string(h[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				return fmt.Errorf("%w: cpio header", ErrFormat)
			}
			f[i] = int64(v)
		}
		mode, size, nameLen := f[1], f[6], f[11]
		if nameLen < 1 || nameLen > 4096 {
			return fmt.Errorf("%w: a name of %d bytes", ErrFormat, nameLen)
		}
		if *left -= 116 + nameLen + size; *left < 0 {
			return errTooLarge
		}
		if *entries++; *entries > maxEntries {
			return fmt.Errorf("%w: too many files", ErrFormat)
		}
		name := make([]byte, pad4(110+nameLen)-110)
		if _, err := io.ReadFull(in, name); err != nil {
			return fmt.Errorf("%w: the archive ends early", ErrFormat)
		}
		p := strings.TrimPrefix(path.Clean("/"+string(bytes.TrimRight(name[:nameLen], "\x00"))), "/")
		if p == "TRAILER!!!" {
			return discard(in, pad4(size))
		}
		seg.Entries++
		a.entry(p, mode, seg, early)
		if keep(p) && size <= maxKept && mode&0xf000 == 0x8000 {
			b := make([]byte, size)
			if _, err := io.ReadFull(in, b); err != nil {
				return fmt.Errorf("%w: the archive ends early", ErrFormat)
			}
			a.Files[p] = b
			size = pad4(size) - size
		} else {
			size = pad4(size)
		}
		if err := discard(in, size); err != nil {
			return err
		}
	}
}

func pad4(n int64) int64 { return (n + 3) &^ 3 }

func discard(in io.Reader, n int64) error {
	if _, err := io.CopyN(io.Discard, in, n); err != nil {
		return fmt.Errorf("%w: the archive ends early", ErrFormat)
	}
	return nil
}

// keep names the small files that say who made the archive and what it loads.
func keep(p string) bool {
	switch p {
	case Marker, "conf/modules", "etc/modules", "conf/initramfs.conf", "buildconfig", "config", "etc/booster.init.yaml", "etc/initramfs-release":
		return true
	}
	return strings.HasPrefix(p, "etc/modules-load.d/") || strings.HasPrefix(strings.TrimPrefix(p, "usr/"), "lib/dracut/dracut-")
}

func (a *Archive) entry(p string, mode int64, seg *Segment, early bool) {
	if early && strings.HasPrefix(p, "kernel/x86/microcode/") {
		seg.Microcode = true
	}
	if p == Marker {
		seg.Ascend = true
	}
	dir := ""
	for _, d := range []string{"lib/modules/", "usr/lib/modules/"} {
		if strings.HasPrefix(p, d) {
			dir = d
		}
	}
	if dir != "" {
		kv, rest, deep := strings.Cut(p[len(dir):], "/")
		if deep && (a.ModuleDir == "" || !seg.Ascend) {
			a.ModuleDir = strings.TrimSuffix(dir, "/")
		}
		if deep && strings.Contains(path.Base(rest), ".ko") && mode&0xf000 == 0x8000 {
			a.Modules[kmod.Name(p)] = p
			known := false
			for _, k := range a.Kernels {
				known = known || k == kv
			}
			if !known && len(a.Kernels) < 16 {
				a.Kernels = append(a.Kernels, kv)
			}
		}
	}
	// Told from files that only one of them has.
	switch strings.TrimPrefix(p, "usr/") {
	case "scripts/local", "scripts/functions", "conf/arch.conf":
		a.Files["\x00initramfs-tools"] = nil
	case "bin/dracut-cmdline", "lib/dracut-lib.sh", "lib/dracut/hooks":
		a.Files["\x00dracut"] = nil
	case "init_functions", "buildconfig":
		a.Files["\x00mkinitcpio"] = nil
	case "etc/booster.init.yaml":
		a.Files["\x00booster"] = nil
	case "bin/nlplug-findfs", "sbin/nlplug-findfs":
		a.Files["\x00mkinitfs"] = nil
	}
}

func (a *Archive) generator() {
	for _, g := range []string{"dracut", "booster", "mkinitcpio", "mkinitfs", "initramfs-tools"} {
		if _, ok := a.Files["\x00"+g]; ok {
			a.Generator = g
			delete(a.Files, "\x00"+g)
		}
	}
	for p := range a.Files {
		if strings.HasPrefix(strings.TrimPrefix(p, "usr/"), "lib/dracut/dracut-") {
			a.Generator = "dracut"
		}
	}
}

// Appended tells whether the last archive is one of ours, and where it begins.
func (a *Archive) Appended() (off int64, ok bool) {
	if n := len(a.Segments); n > 0 && a.Segments[n-1].Ascend {
		return a.Segments[n-1].Offset, true
	}
	return 0, false
}

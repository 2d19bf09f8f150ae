package initrd

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

func newc(files map[string]string, order ...string) []byte {
	var b bytes.Buffer
	put := func(name, data string, mode int) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
		b.WriteString(data)
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	for _, n := range order {
		put(n, files[n], 0o100644)
	}
	put("TRAILER!!!", "", 0)
	for b.Len()%512 != 0 {
		b.WriteByte(0)
	}
	return b.Bytes()
}

func pack(t testing.TB, in []byte, argv ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		t.Fatalf("%s is missing: run build/deps", argv[0])
	}
	c := exec.Command(argv[0], argv[1:]...)
	c.Stdin = bytes.NewReader(in)
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var packers = map[string][]string{
	"": nil, "gzip": {"gzip", "-c"}, "xz": {"xz", "--check=crc32", "-c"}, "zstd": {"zstd", "-c", "-q"},
	"lz4": {"lz4", "-l", "-c"}, "bzip2": {"bzip2", "-c"}, "lzma": {"xz", "--format=lzma", "-c"},
}

// Microcode, a main archive in each compression, and our own segment behind it.
func TestParse(t *testing.T) {
	early := newc(map[string]string{"kernel/x86/microcode/GenuineIntel.bin": "x"}, "kernel/x86/microcode/GenuineIntel.bin")
	big := strings.Repeat("0123456789abcdef", 4096)
	main := newc(map[string]string{"scripts/functions": "#", "usr/lib/modules/6.1/kernel/a/ata-piix.ko": big, "conf/modules": "loop\n"},
		"scripts/functions", "usr/lib/modules/6.1/kernel/a/ata-piix.ko", "conf/modules")
	ours := newc(map[string]string{"usr/lib/modules/6.1/kernel/b/virtio_blk.ko.xz": "m", Marker: "{}"}, "usr/lib/modules/6.1/kernel/b/virtio_blk.ko.xz", Marker)
	for name, argv := range packers {
		t.Run("compression "+name, func(t *testing.T) {
			m := main
			if argv != nil {
				m = pack(t, main, argv...)
			}
			img := append(append([]byte{}, early...), m...)
			tail := name != "lzma" // has no end of its own: nothing can follow
			if tail {
				for len(img)%4 != 0 { // as little as the kernel allows
					img = append(img, 0)
				}
				img = append(img, ours...)
			}
			a, err := Parse(bytes.NewReader(img), int64(len(img)))
			if err != nil {
				t.Fatal(err)
			}
			if len(a.Notes) > 0 || !a.Segments[0].Microcode || a.Segments[1].Compression != name || a.Segments[1].Offset != int64(len(early)) {
				t.Fatalf("segments %+v, notes %v", a.Segments, a.Notes)
			}
			if a.Generator != "initramfs-tools" || a.ModuleDir != "usr/lib/modules" || a.Modules["ata_piix"] == "" || string(a.Files["conf/modules"]) != "loop\n" {
				t.Fatalf("read %+v", a)
			}
			off, ok := a.Appended()
			if ok != tail || tail && (off != int64(len(img)-len(ours)) || a.Modules["virtio_blk"] == "") {
				t.Fatalf("our segment at %d (%v) of %d", off, ok, len(img))
			}
			for _, cut := range []int{0, 1, 5, 109, 511, len(early) + 3, len(early) + len(m)/2} {
				if a, err := Parse(bytes.NewReader(img[:cut]), int64(cut)); err == nil && len(a.Notes) == 0 && cut > len(early) {
					t.Errorf("an archive cut at %d was read without complaint", cut)
				}
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	img := newc(map[string]string{"a": "b"}, "a")
	f.Add(img)
	for _, argv := range packers {
		if argv != nil {
			f.Add(pack(f, img, argv...))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64<<10 {
			return
		}
		_, _ = Parse(bytes.NewReader(b), int64(len(b)))
	})
}

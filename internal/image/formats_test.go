package image

import (
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ascend/internal/disk"
)

func TestParseFormat(t *testing.T) {
	type m = map[string]string
	for _, c := range []struct {
		name     string
		opts     m
		compress bool
		want     string // format, block size, level; or the error
	}{
		{"raw", nil, false, "raw"},
		{"qcow2", nil, false, "qcow2"},
		{"qcow2", m{"cluster_size": "2M"}, false, "qcow2 2097152"},
		{"qcow2", nil, true, "qcow2+zlib"},
		{"qcow2", m{"compression_type": "zstd", "level": "3"}, true, "qcow2+zstd level 3"},
		{"vmdk", nil, false, "vmdk/monolithicSparse"},
		{"vmdk", m{"subformat": "streamOptimized"}, false, "vmdk/streamOptimized+deflate"},
		{"vmdk", m{"subformat": "streamOptimized"}, true, "vmdk/streamOptimized+deflate"},
		{"vmdk", m{"subformat": "streamOptimized", "compression": "stored"}, false, "vmdk/streamOptimized+stored"},
		{"vhdx", m{"subformat": "dynamic", "block_size": "32M"}, false, "vhdx/dynamic 33554432"},
		{"vpc", m{"force_size": "on"}, false, "vpc/dynamic"},
		{"vhd", m{"subformat": "fixed", "force_size": "off"}, false, "vpc/fixed"},

		{"vdi", nil, false, "invalid format vdi: not one of raw, qcow2, vmdk, vhdx or vpc"},
		{"", nil, false, "invalid format : not one of raw, qcow2, vmdk, vhdx or vpc"},
		{"raw", m{"size": "1"}, false, `invalid format raw: option "size": there are no options`},
		{"qcow2", m{"zz": "", "compat": "1.1"}, false, `invalid format qcow2: option "compat" is not one of cluster_size, compression_type or level`},
		{"qcow2", m{"cluster_size": "4M"}, false, "invalid format qcow2: cannot make qcow2 with blocks of 4194304 bytes: use a power of two from 65536 to 2097152"},
		{"qcow2", m{"cluster_size": "96k"}, false, "invalid format qcow2: cannot make qcow2 with blocks of 98304 bytes: use a power of two from 65536 to 2097152"},
		{"qcow2", m{"cluster_size": "0"}, false, `invalid format qcow2: cluster_size: "0" is not a size`},
		{"qcow2", m{"cluster_size": "big"}, false, `invalid format qcow2: cluster_size: invalid size "big": use a number with k, M, G or T`},
		{"qcow2", m{"compression_type": "zstd"}, false, "invalid format qcow2: compression_type needs -c"},
		{"qcow2", m{"compression_type": "lz4"}, true, "invalid format qcow2: compression_type=lz4: use zlib or zstd"},
		{"qcow2", m{"level": "3"}, false, "invalid format qcow2: cannot make qcow2 at level 3: it is not compressed"},
		{"qcow2", m{"level": "fast"}, true, `invalid format qcow2: level: "fast" is not a compression level`},
		{"qcow2", m{"level": "40"}, true, "invalid format qcow2: cannot make qcow2+zlib at level 40: use 1 to 9"},
		{"vmdk", m{"subformat": "twoGbMaxExtentFlat"}, false, "invalid format vmdk: subformat=twoGbMaxExtentFlat: use monolithicSparse or streamOptimized"},
		{"vmdk", nil, true, "invalid format vmdk: -c needs -o subformat=streamOptimized"},
		{"vmdk", m{"compression": "stored"}, false, "invalid format vmdk: compression needs subformat=streamOptimized"},
		{"vmdk", m{"subformat": "streamOptimized", "compression": "stored"}, true, "invalid format vmdk: -c and compression=stored exclude each other"},
		{"vhdx", m{"subformat": "fixed"}, false, "invalid format vhdx: subformat=fixed: use dynamic"},
		{"vhdx", nil, true, "invalid format vhdx: it cannot be compressed; qcow2 and vmdk can"},
		{"vhd", m{"force_size": "yes"}, false, "invalid format vhd: force_size=yes: use on or off"},
	} {
		f, o, err := ParseFormat(c.name, c.opts, c.compress)
		got := f.String()
		if o.BlockSize != 0 {
			got += " " + strconv.FormatInt(o.BlockSize, 10)
		}
		if o.Level != 0 {
			got += " level " + strconv.Itoa(o.Level)
		}
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s %v %t:\n got %s\nwant %s", c.name, c.opts, c.compress, got, c.want)
		}
		if err == nil {
			if info, err := f.Info(); err != nil || info.Format != f {
				t.Errorf("%s is not found again: %v, %v", f, info.Format, err)
			}
		}
	}
}

func TestFormats(t *testing.T) {
	if got := FormatNames(); !slices.Equal(got, []string{"raw", "qcow2", "vmdk", "vhdx", "vpc"}) {
		t.Errorf("names %v", got)
	}
	if !slices.Equal(slices.Sorted(maps.Keys(formatKeys)), slices.Sorted(slices.Values(FormatNames()))) {
		t.Error("formats and option keys name different formats")
	}
	src := newLeafDisk(1<<20, 2, 1).source()
	for _, i := range Formats() {
		again, err := i.Format.Info()
		if err != nil || again != i {
			t.Errorf("%s is not found: %v", i.Format, err)
		}
		f, err := New(src, i.Format, Options{})
		if i.Format.Ordered() {
			if err == nil || !strings.Contains(err.Error(), "made in order") {
				t.Errorf("%s at random: %v", i.Format, err)
			}
		} else if err != nil || f.Format() != i.Format {
			t.Errorf("%s: %v", i.Format, err)
		}
	}
	for _, f := range []Format{{}, {Name: "vdi"}, {Name: "vmdk", Subformat: "flat"}, {Name: "raw", Compression: "zlib"}, {Name: "vpc", Subformat: "dynamic", Compression: "zstd"}} {
		if _, err := New(src, f, Options{}); err == nil {
			t.Errorf("%+v was made", f)
		}
	}
	if !(Format{Name: "vmdk", Subformat: "streamOptimized"}).Ordered() {
		t.Error("streamOptimized is not ordered by default")
	}
	for _, c := range []variant{
		{Format{Name: "vpc"}, Options{BlockSize: 512 << 10}},
		{Format{Name: "raw"}, Options{BlockSize: 65536}},
		{Format{Name: "vhdx"}, Options{BlockSize: 512 << 20}},
		{Format{Name: "vhdx"}, Options{BlockSize: -1 << 20}},
		{Format{Name: "vhdx"}, Options{Level: 1}},
		{Format{Name: "vmdk"}, Options{Level: -1}},
	} {
		if _, err := New(src, c.Format, c.Options); err == nil {
			t.Errorf("%s was made with %+v", c.Format, c.Options)
		}
	}
	if _, err := New(Source{Map: src.Map.Coarse(1 << 20)}, Format{Name: "raw"}, Options{}); err == nil {
		t.Error("a coarse map was taken")
	}
}

// TestTooLarge: what a format cannot hold is refused before anything is read.
func TestTooLarge(t *testing.T) {
	full := func(size, data int64) Source {
		m := disk.NewMap(size, disk.LeafSize)
		m.Add(0, data)
		return Source{Disk: badDisk{err: errors.New("read")}, Map: m.Seal()}
	}
	stored := Format{Name: "vmdk", Subformat: "streamOptimized", Compression: "stored"}
	const tib = 1 << 40
	for _, c := range []struct {
		src  Source
		f    Format
		fits bool
	}{
		{full(0, 0), Format{Name: "raw"}, false},
		{full(0, 0), Format{Name: "vhdx"}, false},
		{full(disk.MaxSize, 1), Format{Name: "vhdx"}, true},
		{full(disk.MaxSize+1, 1), Format{Name: "raw"}, false},
		{full(disk.MaxSize, 1), Format{Name: "qcow2"}, true},
		{full(vhdMaxDynamic, vhdMaxDynamic), Format{Name: "vpc"}, true},
		{full(vhdMaxDynamic+1, 0), Format{Name: "vpc"}, false},
		{full(32*tib, 32*tib), Format{Name: "vpc", Subformat: "fixed"}, true},
		{full(disk.MaxSize, tib), Format{Name: "vmdk"}, true},
		{full(2*tib, 2*tib-1<<30), Format{Name: "vmdk"}, true},
		{full(2*tib, 2*tib), Format{Name: "vmdk"}, false},
		{full(3*tib, 2*tib-1<<28), Format{Name: "vmdk"}, false},
		{full(disk.MaxSize, tib), stored, true},
		{full(2*tib, 2*tib-1<<30), stored, false},
	} {
		_, err := New(c.src, c.f, Options{})
		var size *SizeError
		if c.fits && err != nil || !c.fits && !errors.As(err, &size) {
			t.Errorf("%d bytes, %d of data, as %s: %v", c.src.Size(), c.src.Map.Bytes(), c.f, err)
		}
	}
}

// TestHighOffsets looks table entries up for data that lies far beyond 1 TiB of
// the file, where 32-bit numbers are nearly used up.
func TestHighOffsets(t *testing.T) {
	const size = 2039 << 30
	m := disk.NewMap(size, disk.LeafSize)
	m.Add(0, 1900<<30)
	m.Add(size-1, 1)
	src := Source{Disk: badDisk{err: errors.New("read")}, Map: m.Seal()}
	lastLeaf := int64(size/disk.LeafSize - 1)
	for _, c := range []struct {
		f Format
		// entry gives where in the file the table entry is, and what it says.
		entry func(f *File) (int64, int64)
	}{
		{Format{Name: "vpc"}, func(f *File) (int64, int64) {
			at := vhdBATOffset + size/vhdBlock*4 - 4
			p := mustRead(t, f, int64(at), 4)
			// The leaf is the block's last; the bitmap stands before the block.
			return int64(at), int64(binary.BigEndian.Uint32(p))*512 + vhdBitmap + vhdBlock - disk.LeafSize
		}},
		{Format{Name: "vmdk"}, func(f *File) (int64, int64) {
			gd := int64(binary.LittleEndian.Uint64(mustRead(t, f, 56, 8))) * 512
			gt := int64(binary.LittleEndian.Uint32(mustRead(t, f, gd+lastLeaf/vmdkGTEs*4, 4))) * 512
			at := gt + lastLeaf%vmdkGTEs*4
			return at, int64(binary.LittleEndian.Uint32(mustRead(t, f, at, 4))) * 512
		}},
		{Format{Name: "vmdk", Subformat: "streamOptimized", Compression: "stored"}, func(f *File) (int64, int64) {
			footer := mustRead(t, f, f.Size()-1024, 512)
			gd := int64(binary.LittleEndian.Uint64(footer[56:])) * 512
			gt := int64(binary.LittleEndian.Uint32(mustRead(t, f, gd+lastLeaf/vmdkGTEs*4, 4))) * 512
			at := gt + lastLeaf%vmdkGTEs*4
			return at, int64(binary.LittleEndian.Uint32(mustRead(t, f, at, 4)))*512 + storedHead
		}},
		{Format{Name: "qcow2"}, func(f *File) (int64, int64) {
			l1 := int64(binary.BigEndian.Uint64(mustRead(t, f, 40, 8)))
			l2 := int64(binary.BigEndian.Uint64(mustRead(t, f, l1+lastLeaf/8192*8, 8)) &^ qcow2Copied)
			at := l2 + lastLeaf%8192*8
			return at, int64(binary.BigEndian.Uint64(mustRead(t, f, at, 8)) &^ qcow2Copied)
		}},
	} {
		f := mustNew(t, src, c.f, Options{})
		at, says := c.entry(f)
		var found []Segment
		err := f.Segments(max(says-1000, 0), disk.LeafSize+1000, func(s Segment) error {
			if s.Kind == Data && s.DiskOff == lastLeaf*disk.LeafSize {
				found = append(found, s)
			}
			return nil
		})
		if err != nil || len(found) != 1 || found[0].Off != says || says < 1900<<30 {
			t.Errorf("%s: the entry at %d says %d, data lie at %+v, %v", c.f, at, says, found, err)
		}
	}
}

func mustRead(t *testing.T, f *File, off, n int64) []byte {
	t.Helper()
	p := make([]byte, n)
	if _, err := f.ReadAt(p, off); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestTableSpeed: a piece of a table costs time by its own length, not by the
// disk's.
func TestTableSpeed(t *testing.T) {
	m := disk.NewMap(60<<40, disk.LeafSize)
	for l := int64(0); l < 1000; l++ {
		m.Add(l*60<<30, 64<<20)
	}
	src := Source{Disk: zeroDisk{}, Map: m.Seal()}
	for _, k := range made() {
		f, err := New(src, k.Format, k.Options)
		if err != nil {
			continue // dynamic VHD holds no 60 TiB
		}
		p := make([]byte, 64<<10)
		begin := time.Now()
		pieces := 0
		err = f.Segments(0, f.Size(), func(s Segment) error {
			if s.Kind != Meta {
				return nil
			}
			if pieces == 2000 {
				return io.EOF
			}
			pieces++
			s.Len = min(s.Len, int64(len(p)))
			return f.Fill(p[:s.Len], s)
		})
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if d := time.Since(begin); d > time.Minute {
			t.Errorf("%s: %d pieces of tables took %v", k.Format, pieces, d)
		} else {
			t.Logf("%s block %d: %d pieces of tables in %v", k.Format, k.Options.BlockSize, pieces, d)
		}
	}
}

type zeroDisk struct{}

func (zeroDisk) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

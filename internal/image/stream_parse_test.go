package image

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// parseStreamVMDK reads a streamOptimized VMDK from its first byte to its last,
// as VMware's readers do, and holds each table to what was seen before it. It
// gives the grains by number.
func parseStreamVMDK(file []byte, size int64) (map[int64][]byte, error) {
	le := binary.LittleEndian
	header := func(p []byte) (gd uint64, err error) {
		switch {
		case string(p[:4]) != "KDMV" || le.Uint32(p[4:]) != 3 || le.Uint32(p[8:]) != 0x30001:
			err = fmt.Errorf("magic, version and flags %x", p[:12])
		case le.Uint64(p[12:])*512 != uint64(size):
			err = fmt.Errorf("capacity of %d sectors", le.Uint64(p[12:]))
		case le.Uint64(p[20:]) != 128 || le.Uint32(p[44:]) != 512 || le.Uint16(p[77:]) != 1:
			err = fmt.Errorf("grain of %d, table of %d, algorithm %d", le.Uint64(p[20:]), le.Uint32(p[44:]), le.Uint16(p[77:]))
		case le.Uint64(p[28:]) != 1 || le.Uint64(p[36:]) != 20 || le.Uint64(p[64:]) != 128:
			err = fmt.Errorf("descriptor of %d at %d, overhead %d", le.Uint64(p[36:]), le.Uint64(p[28:]), le.Uint64(p[64:]))
		}
		return le.Uint64(p[56:]), err
	}
	if len(file) < 128*512 || len(file)%512 != 0 {
		return nil, fmt.Errorf("%d bytes", len(file))
	}
	if gd, err := header(file); err != nil || gd != 1<<64-1 {
		return nil, fmt.Errorf("header: %w, directory at %d", err, gd)
	}
	if text := string(bytes.TrimRight(file[512:21*512], "\x00")); !bytes.Contains(file[512:], []byte(fmt.Sprintf("RW %d SPARSE", size/512))) {
		return nil, fmt.Errorf("descriptor %q", text)
	}

	grains := map[int64][]byte{}
	sectors := map[int64]uint32{} // of the grains of the table that is next
	last := int64(-1)
	tables := make([]uint32, (size+32<<20-1)/(32<<20))
	gd := uint64(0)
	for at := 128 * 512; at < len(file); {
		m := file[at : at+512]
		val, length, kind := le.Uint64(m), le.Uint32(m[8:]), le.Uint32(m[12:])
		if length > 0 { // a grain
			total := (12 + int(length) + 511) / 512 * 512
			grain := int64(val / 128)
			if val%128 != 0 || grain <= last || grain*65536 >= size || total > 65536+512 || at+total > len(file) {
				return nil, fmt.Errorf("grain of %d bytes for sector %d at %d", length, val, at)
			}
			z := bytes.NewReader(file[at+12:][:length])
			r, err := zlib.NewReader(z)
			if err != nil {
				return nil, err
			}
			p, err := io.ReadAll(r)
			if err != nil || len(p) != 65536 || z.Len() != 0 {
				return nil, fmt.Errorf("grain %d: %d bytes, %d left: %w", grain, len(p), z.Len(), err)
			}
			if len(bytes.Trim(file[at+12+int(length):at+total], "\x00")) > 0 {
				return nil, fmt.Errorf("grain %d is not padded with zeros", grain)
			}
			if len(sectors) > 0 && grain/512 != last/512 {
				return nil, fmt.Errorf("grain %d stands before the table of grain %d", grain, last)
			}
			grains[grain], sectors[grain], last = p, uint32(at/512), grain
			at += total
			continue
		}
		body := file[at+512 : min(at+512+int(val)*512, len(file))]
		if len(body) != int(val)*512 {
			return nil, fmt.Errorf("marker %d at %d is cut", kind, at)
		}
		switch kind {
		case 1:
			if val != 4 || len(sectors) == 0 || gd != 0 {
				return nil, fmt.Errorf("table of %d sectors and %d grains", val, len(sectors))
			}
			for i := range int64(512) {
				if g := last/512*512 + i; le.Uint32(body[i*4:]) != sectors[g] {
					return nil, fmt.Errorf("grain %d stands at %d, the table says %d", g, sectors[g], le.Uint32(body[i*4:]))
				}
			}
			tables[last/512] = uint32(at/512) + 1
			clear(sectors)
		case 2:
			if len(sectors) > 0 || gd != 0 || len(body) != (len(tables)*4+511)/512*512 {
				return nil, fmt.Errorf("directory of %d sectors", val)
			}
			for i := range len(body) / 4 {
				want := uint32(0)
				if i < len(tables) {
					want = tables[i]
				}
				if got := le.Uint32(body[i*4:]); got != want {
					return nil, fmt.Errorf("table %d stands at %d, the directory says %d", i, want, got)
				}
			}
			gd = uint64(at/512) + 1
		case 3:
			if got, err := header(body); err != nil || gd == 0 || got != gd || val != 1 {
				return nil, fmt.Errorf("footer: %w, directory at %d, not %d", err, got, gd)
			}
			if at+3*512 != len(file) || len(bytes.Trim(file[at+2*512:], "\x00")) > 0 {
				return nil, fmt.Errorf("%d bytes behind the footer", len(file)-at-1024)
			}
			return grains, nil
		default:
			return nil, fmt.Errorf("marker %d at %d", kind, at)
		}
		at += 512 + len(body)
	}
	return nil, fmt.Errorf("no footer")
}

// parseQCOW2 reads a QCOW2 of 64 KiB clusters and holds every refcount to what
// the tables use. It gives the clusters by number.
func parseQCOW2(file []byte, size int64, compressionZstd bool) (map[int64][]byte, error) {
	be := binary.BigEndian
	const cluster = 65536
	length, incompatible, compression := uint32(104), uint64(0), byte(0)
	if compressionZstd {
		length, incompatible, compression = 112, 8, 1
	}
	switch {
	case len(file)%cluster != 0 || len(file) == 0:
		return nil, fmt.Errorf("%d bytes", len(file))
	case be.Uint32(file) != 0x514649fb || be.Uint32(file[4:]) != 3 || be.Uint32(file[20:]) != 16 || be.Uint32(file[96:]) != 4:
		return nil, fmt.Errorf("header %x", file[:104])
	case int64(be.Uint64(file[24:])) != size:
		return nil, fmt.Errorf("size %d", be.Uint64(file[24:]))
	case be.Uint64(file[72:]) != incompatible || be.Uint32(file[100:]) != length || file[104] != compression:
		return nil, fmt.Errorf("features %d, header of %d bytes, compression %d", be.Uint64(file[72:]), be.Uint32(file[100:]), file[104])
	case len(bytes.Trim(file[length:cluster], "\x00")) > 0 && length == 104, bytes.Count(file[8:20], []byte{0}) != 12:
		return nil, fmt.Errorf("extensions or a backing file")
	}
	used := make([]uint16, len(file)/cluster)
	table := func(off, clusters uint64) ([]byte, error) {
		if off%cluster != 0 || off+clusters*cluster > uint64(len(file)) {
			return nil, fmt.Errorf("table of %d clusters at %d", clusters, off)
		}
		for i := range clusters {
			used[off/cluster+i]++
		}
		return file[off:][:clusters*cluster], nil
	}
	used[0] = 1
	l1Entries := uint64(be.Uint32(file[36:]))
	if l1Entries != uint64((size+512<<20-1)/(512<<20)) {
		return nil, fmt.Errorf("%d L1 entries", l1Entries)
	}
	l1, err := table(be.Uint64(file[40:]), (l1Entries*8+cluster-1)/cluster)
	if err != nil {
		return nil, err
	}
	clusters := map[int64][]byte{}
	for i := range l1Entries {
		e := be.Uint64(l1[i*8:])
		if e == 0 {
			continue
		}
		if e>>63 != 1 {
			return nil, fmt.Errorf("L1 entry %x", e)
		}
		l2, err := table(e&^(1<<63), 1)
		if err != nil {
			return nil, err
		}
		entries := 0
		for k := range 8192 {
			e := be.Uint64(l2[k*8:])
			if e == 0 {
				continue
			}
			entries++
			p, err := qcow2Cluster(file, e, used, compressionZstd)
			if err != nil {
				return nil, fmt.Errorf("entry %d of L2 table %d, %x: %w", k, i, e, err)
			}
			clusters[int64(i)*8192+int64(k)] = p
		}
		if entries == 0 {
			return nil, fmt.Errorf("L2 table %d is empty", i)
		}
	}
	reftable, err := table(be.Uint64(file[48:]), uint64(be.Uint32(file[56:])))
	if err != nil {
		return nil, err
	}
	blocks := (len(used) + 32767) / 32768
	var counts []byte
	for i := range len(reftable) / 8 {
		e := be.Uint64(reftable[i*8:])
		if (e != 0) != (i < blocks) {
			return nil, fmt.Errorf("refcount block %d of %d at %d", i, blocks, e)
		}
		if e != 0 {
			b, err := table(e, 1)
			if err != nil {
				return nil, err
			}
			counts = append(counts, b...)
		}
	}
	for i := range len(counts) / 2 {
		got, want := be.Uint16(counts[i*2:]), uint16(0)
		if i < len(used) {
			want = used[i]
			if want == 0 {
				return nil, fmt.Errorf("cluster %d is not used", i)
			}
		}
		if got != want {
			return nil, fmt.Errorf("cluster %d is used %d times, its refcount is %d", i, want, got)
		}
	}
	return clusters, nil
}

func qcow2Cluster(file []byte, e uint64, used []uint16, compressionZstd bool) ([]byte, error) {
	const cluster = 65536
	if e>>62 == 2 {
		off := e &^ (1 << 63)
		if off%cluster != 0 || off+cluster > uint64(len(file)) {
			return nil, fmt.Errorf("offset %d", off)
		}
		used[off/cluster]++
		return file[off:][:cluster], nil
	}
	if e>>62 != 1 {
		return nil, fmt.Errorf("flags")
	}
	off, sectors := e&(1<<54-1), e>>54&255+1
	end := (off/512 + sectors) * 512
	if end > uint64(len(file)) {
		return nil, fmt.Errorf("ends at %d", end)
	}
	for c := off / cluster; c <= (end-1)/cluster; c++ {
		used[c]++
	}
	in := bytes.NewReader(file[off:end])
	if !compressionZstd {
		p, err := io.ReadAll(flate.NewReader(in))
		if err == nil && (len(p) != cluster || in.Len() >= 512) {
			err = fmt.Errorf("%d bytes, %d left", len(p), in.Len())
		}
		return p, err
	}
	// What follows the frame in its last sector is the next cluster's, so that it
	// must be read as a stream.
	zstdReader.Lock()
	defer zstdReader.Unlock()
	if zstdReader.Decoder == nil {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		zstdReader.Decoder = d
	}
	d := zstdReader.Decoder
	if err := d.Reset(in); err != nil {
		return nil, err
	}
	p := make([]byte, cluster)
	_, err := io.ReadFull(d, p)
	return p, err
}

var zstdReader struct {
	sync.Mutex
	*zstd.Decoder
}

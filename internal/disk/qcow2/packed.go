package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"ascend/internal/disk"
	"ascend/internal/disk/inflate"
)

// unpackedSlots bounds the decompressed clusters that a chain keeps: 16 MiB of
// clusters of the largest size, 512 KiB of the usual.
const unpackedSlots = 8

// unpackedCache keeps decompressed clusters of which a part was read, so that
// reading a large cluster in pieces inflates it once. Who wants a cluster that
// another is inflating waits for it.
type unpackedCache struct {
	slots [unpackedSlots]unpacked
}

type unpacked struct {
	mu    sync.RWMutex
	of    *layer
	entry uint64 // the L2 entry
	b     []byte
}

// readPacked reads the run r, a part of a compressed cluster, into p.
func (l *layer) readPacked(p []byte, r *run) error {
	in := r.off & int64(l.clusterMask)
	if int64(len(p)) == l.cluster {
		return l.unpack(p, r.host)
	}
	u := &l.shared.unpacked.slots[(uint64(r.off)>>l.clusterBits+l.salt)%unpackedSlots]
	u.mu.RLock()
	hit := u.of == l && u.entry == r.host
	if hit {
		copy(p, u.b[in:])
	}
	u.mu.RUnlock()
	if hit {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.of != l || u.entry != r.host {
		u.of = nil
		if int64(cap(u.b)) < l.cluster {
			u.b = make([]byte, l.cluster)
		}
		u.b = u.b[:l.cluster]
		if err := l.unpack(u.b, r.host); err != nil {
			return err
		}
		u.of, u.entry = l, r.host
	}
	copy(p, u.b[in:])
	return nil
}

// buffers holds compressed clusters while they are decompressed.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// unpack decompresses the cluster of an L2 entry into dst, which is as long as
// a cluster. Section "Compressed Clusters Descriptor": with x = 62 −
// (cluster_bits − 8), bits 0 to x−1 are the offset in the file, the bits above
// them the number of sectors behind the one that the offset is in.
func (l *layer) unpack(dst []byte, entry uint64) error {
	x := 62 - (l.clusterBits - 8)
	off := int64(entry & (1<<x - 1))
	sectors := int64(entry>>x&(1<<(l.clusterBits-8)-1)) + 1
	if off >= l.f.Size() {
		return l.damaged(off, errors.New("it lies beyond the end of the file"))
	}
	// The file may end in the last sector.
	n := int(min(sectors*512-off%512, l.f.Size()-off))
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	if cap(*buf) < n {
		*buf = make([]byte, n)
	}
	src := (*buf)[:n]
	if got, err := l.f.ReadAt(src, off); got < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = disk.ErrChanged
		}
		return fmt.Errorf("%s: cannot read compressed cluster at offset %d: %w", l.f.Name(), off, err)
	}
	if l.compression == compressionZstd {
		if err := unpackZstd(dst, src); err != nil {
			return l.damaged(off, err)
		}
		return nil
	}
	n, err := inflate.Deflate(dst, src)
	// A stream that would go on is taken as QEMU takes it, for its first bytes.
	if err != nil && !errors.Is(err, inflate.ErrFull) {
		return l.damaged(off, err)
	}
	if n < len(dst) {
		return l.damaged(off, io.ErrUnexpectedEOF)
	}
	return nil
}

func (l *layer) damaged(off int64, err error) error {
	return fmt.Errorf("%s: cannot decompress cluster at offset %d: %w: %w", l.f.Name(), off, err, disk.ErrCorrupt)
}

// decoder serves all goroutines, as many at once as there are processors. Its
// output is limited to the buffer it is given; a window may be as large as the
// C library's decoder allows by default.
var decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(1<<27), zstd.WithDecoderMaxWindow(1<<27))
})

// unpackZstd decompresses frames from the start of src until dst is full. What
// follows them in the last sector may be the start of another cluster's frame.
func unpackZstd(dst, src []byte) error {
	d, err := decoder()
	if err != nil {
		return err
	}
	// Given room behind the end the decoder does not look for the end at every
	// copy, which costs more than the copy from here.
	room := buffers.Get().(*[]byte)
	defer buffers.Put(room)
	if want := len(dst) + overAlloc; cap(*room) < want {
		*room = make([]byte, want)
	}
	for done := 0; done < len(dst); {
		n, err := frameLen(src)
		if err != nil {
			return err
		}
		rest := dst[done:]
		out, err := d.DecodeAll(src[:n], (*room)[:0:len(rest)+overAlloc])
		if err != nil {
			return err
		}
		if len(out) > len(rest) {
			return zstd.ErrDecoderSizeExceeded
		}
		copy(rest, out)
		done += len(out)
		src = src[n:]
	}
	return nil
}

// overAlloc is what the decoder wants to have free behind what it writes.
const overAlloc = 64

var errFrame = errors.New("no zstd frame")

// frameLen is the length of the zstd frame at the start of b, from its header
// and the headers of its blocks: RFC 8878, 3.1.1 and 3.1.2.
func frameLen(b []byte) (int, error) {
	if len(b) < 8 {
		return 0, io.ErrUnexpectedEOF
	}
	number := binary.LittleEndian.Uint32(b)
	if number&^15 == 0x184d2a50 { // a skippable frame
		if n := uint64(binary.LittleEndian.Uint32(b[4:])) + 8; n <= uint64(len(b)) {
			return int(n), nil
		}
		return 0, io.ErrUnexpectedEOF
	}
	if number != 0xfd2fb528 {
		return 0, errFrame
	}
	descriptor := b[4]
	single := descriptor >> 5 & 1
	n := 5 + int(1-single) + int([4]uint8{0, 1, 2, 4}[descriptor&3])
	if size := descriptor >> 6; size > 0 {
		n += 1 << size
	} else {
		n += int(single)
	}
	for last := false; !last; {
		if n+3 > len(b) {
			return 0, io.ErrUnexpectedEOF
		}
		block := uint32(b[n]) | uint32(b[n+1])<<8 | uint32(b[n+2])<<16
		last = block&1 != 0
		size := int(block >> 3)
		switch block >> 1 & 3 {
		case 1: // one byte, repeated size times
			size = 1
		case 3:
			return 0, errFrame
		}
		n += 3 + size
	}
	n += int(descriptor >> 2 & 1 * 4)
	if n > len(b) {
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}

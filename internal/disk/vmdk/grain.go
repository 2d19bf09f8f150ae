package vmdk

import (
	"encoding/binary"
	"fmt"
	"sync"

	"ascend/internal/disk"
	"ascend/internal/disk/inflate"
)

const (
	// packedHeader is the length of a compressed grain's marker before its
	// data: the grain's first sector on the disk (u64) and the data's length in
	// bytes (u32) (Virtual Disk Format 5.0, "Stream-Optimized Compressed Sparse
	// Extents").
	packedHeader = 12
	// keptBytes is what a disk keeps of inflated grains that were read in part.
	keptBytes = 1 << 20
)

// packedBuffers holds []byte for compressed grains, of any length.
var packedBuffers = sync.Pool{New: func() any { return new([]byte) }}

// readPacked fills p from the one compressed grain that r is, from off on.
func (s *sparse) readPacked(p []byte, off int64, r run) error {
	g := off >> s.grainShift
	if int64(len(p)) == s.grainBytes {
		return s.inflate(p, g, r)
	}
	data := s.kept.get(s, g)
	if data == nil {
		data = make([]byte, s.grainBytes)
		if err := s.inflate(data, g, r); err != nil {
			return err
		}
		s.kept.put(s, g, data)
	}
	copy(p, data[off-g<<s.grainShift:])
	return nil
}

// inflate decodes grain g into dst, which has a grain's length. A grain must
// say that it is grain g, and must decode to a grain's length, unless it is the
// last, of which the disk's part is enough.
func (s *sparse) inflate(dst []byte, g int64, r run) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("compressed grain %d at byte %d: %w", g, r.pos, fmt.Errorf(format+": %w", append(args, disk.ErrCorrupt)...))
	}
	pooled := packedBuffers.Get().(*[]byte)
	defer packedBuffers.Put(pooled)
	// Deflate makes incompressible data longer by 5 bytes for every 64 KiB or
	// so; nobody writes twice the grain.
	most := min(packedHeader+2*s.grainBytes, s.file.Size()-r.pos)
	if int64(cap(*pooled)) < most {
		*pooled = make([]byte, packedHeader+2*s.grainBytes)
	}
	// One read does where the next grain's place tells how long this one is.
	have := min(max(r.room, packedHeader), most)
	buf := (*pooled)[:most]
	if err := s.file.ReadFull(buf[:have], r.pos); err != nil {
		return err
	}
	if lba := binary.LittleEndian.Uint64(buf); lba != uint64(g*s.h.grain) {
		return bad("its marker says it is at sector %d of the disk, not %d", lba, g*s.h.grain)
	}
	n := int64(binary.LittleEndian.Uint32(buf[8:]))
	if n == 0 || n > most-packedHeader {
		return bad("its marker says %d bytes of data", n)
	}
	if have < packedHeader+n {
		if err := s.file.ReadFull(buf[have:packedHeader+n], r.pos+have); err != nil {
			return err
		}
	}
	got, err := inflate.Zlib(dst, buf[packedHeader:packedHeader+n])
	if err != nil {
		return bad("%w", err)
	}
	if whole := min(s.grainBytes, s.size-g<<s.grainShift); int64(got) < whole {
		return bad("it holds %d bytes of %d", got, whole)
	}
	clear(dst[got:])
	return nil
}

// grainCache keeps the grains that were last read in part, so that small reads
// do not inflate a grain again and again. What it holds is never written to.
type grainCache struct {
	mu   sync.Mutex
	kept []keptGrain
	turn int
}

type keptGrain struct {
	from *sparse
	g    int64
	data []byte
}

// newGrainCache makes a cache for grains of at most size bytes.
func newGrainCache(size int64) *grainCache {
	return &grainCache{kept: make([]keptGrain, 0, max(1, keptBytes/size))}
}

func (c *grainCache) get(from *sparse, g int64) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.kept {
		if c.kept[i].g == g && c.kept[i].from == from {
			return c.kept[i].data
		}
	}
	return nil
}

func (c *grainCache) put(from *sparse, g int64, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.kept) < cap(c.kept) {
		c.kept = append(c.kept, keptGrain{from, g, data})
		return
	}
	c.kept[c.turn] = keptGrain{from, g, data}
	c.turn = (c.turn + 1) % len(c.kept)
}

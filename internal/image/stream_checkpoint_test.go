package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"ascend/internal/disk"
)

// seal makes a checkpoint of s around a state.
func seal(t testing.TB, s *stream, state []byte) []byte {
	t.Helper()
	binding, err := s.binding()
	if err != nil {
		t.Fatal(err)
	}
	p := append([]byte{checkpointVersion}, binding[:]...)
	p = append(p, state...)
	return binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli))
}

// TestCheckpointHostile: a checkpoint of another stream, or damaged anywhere, is
// ErrCheckpoint and changes nothing.
func TestCheckpointHostile(t *testing.T) {
	d := kinds(5<<20, "tnt-0fnns-tthn0ttnnnt-f")
	src := d.source()
	for _, f := range ordered() {
		s := mustStream(t, src, f, streamOptions)
		enc := encodeAll(t, s, src)
		must(s.Start(nil))
		for b := range int64(3) {
			must(s.Append(nil, b, enc[b]))
		}
		cp := must(s.MarshalBinary())
		refuse := func(what string, s *stream, p []byte) {
			t.Helper()
			before := *s.layoutState()
			if err := s.UnmarshalBinary(p); !errors.Is(err, ErrCheckpoint) {
				t.Errorf("%s: %s: %v, want ErrCheckpoint", f, what, err)
			}
			if *s.layoutState() != before {
				t.Errorf("%s: %s changed the stream", f, what)
			}
		}
		for i := range cp {
			bad := bytes.Clone(cp)
			bad[i] ^= 1 << (i % 8)
			refuse(fmt.Sprintf("bit of byte %d", i), s, bad)
			refuse(fmt.Sprintf("the first %d bytes", i), s, cp[:i])
		}
		refuse("a byte more", s, append(bytes.Clone(cp), 0))
		refuse("nothing", s, nil)
		refuse("a byte more, sealed", s, seal(t, s, append(bytes.Clone(cp[1+bindingSize:len(cp)-4]), 0)))
		for i := range len(cp) - 4 - 1 - bindingSize {
			refuse(fmt.Sprintf("%d bytes, sealed", i), s, seal(t, s, cp[1+bindingSize:][:i]))
		}

		o := streamOptions
		o.Level = 5
		refuse("another level's", mustStream(t, src, f, o), cp)
		o = streamOptions
		o.Seed[9] = 1
		refuse("another seed's", mustStream(t, src, f, o), cp)
		refuse("another size's", mustStream(t, kinds(5<<20+512, "t").source(), f, streamOptions), cp)
		for _, other := range ordered() {
			if other != f {
				refuse(other.String(), mustStream(t, src, other, streamOptions), cp)
			}
		}
	}
}

// TestCheckpointStates: numbers that contradict each other behind a right seal.
func TestCheckpointStates(t *testing.T) {
	const c = streamPiece
	src := kinds(5<<20, "t").source()
	signed := func(v int64) uint64 { // as binary.AppendVarint writes it
		return uint64(v)<<1 ^ uint64(v>>63)
	}
	ones := func(n int, state ...uint64) []uint64 {
		for range n {
			state = append(state, 1)
		}
		return state
	}
	for k, states := range map[int]map[string][]uint64{
		0: { // next, offset; directory; table and one; grains
			"ok: just started":             {0, c, 0, 0, 0},
			"ok: a grain":                  {1, c + 512, 0, 1, 1, 0, 128},
			"nothing written":              {0, 0, 0, 0, 0},
			"half a sector":                {0, c + 256, 0, 0, 0},
			"block 6 of 5":                 {6, c, 0, 0, 0},
			"a table without grains":       {1, c, 0, 1, 0},
			"grains without a table":       {1, c + 512, 0, 0, 1, 0, 128},
			"a grain in the descriptor":    {1, c + 512, 0, 1, 1, 0, 127},
			"a grain at the end":           {1, c + 512, 0, 1, 1, 0, 129},
			"a grain that is not there":    {1, c + 512, 0, 1, 1, 512, 128},
			"more grains than a table has": {1, c + 512, 0, 1, 513, 0, 128},
			"table 1 of 1":                 {1, c + 512, 0, 2, 1, 0, 128},
			"the table is written already": {1, c + 8192, 1, 0, 128, 1, 1, 0, 140},
			"more tables than there are":   {1, c + 8192, 2, 0, 128, 0, 4, 0},
			"two grains in one place":      {1, c + 1024, 0, 1, 2, 0, 128, 0, 0},
		},
		1: { // next, offset; refcount table and its length; L1; table and one; entries; refcounts
			"ok: just started":          {0, c, 0, 0, 0, 0, 0, 1},
			"ok: a cluster":             {1, 2 * c, 0, 0, 0, 1, 1, 0, signed(c), 0, 1, 1},
			"ok: a small cluster":       {1, c + 100, 0, 0, 0, 1, 1, 0, signed(c), 1, 1, 1},
			"nothing written":           {0, 0, 0, 0, 0, 0, 0},
			"block 6 of 5":              {6, c, 0, 0, 0, 0, 0, 1},
			"cluster 0 is free":         {0, c, 0, 0, 0, 0, 0, 0},
			"a count too few":           {0, 2 * c, 0, 0, 0, 0, 0, 1},
			"a count too many":          {0, c, 0, 0, 0, 0, 0, 1, 1},
			"a count too large":         {0, c, 0, 0, 0, 0, 0, 1 << 16},
			"no refcount block":         ones(qcow2PerRef, 0, qcow2PerRef*c, 0, 0, 0, 0, 0),
			"a refcount block too many": {0, c, 1, 1, 0, 0, 0, 0, 0, 1},
			"a file beyond all bounds":  {0, 1 << 62, 0, 0, 0, 0, 0, 1},
			"a table without entries":   {0, c, 0, 0, 0, 1, 0, 1},
			"entries without a table":   {1, 2 * c, 0, 0, 0, 0, 1, 0, signed(c), 0, 1, 1},
			"table 1 of 1":              {1, 2 * c, 0, 0, 0, 2, 1, 0, signed(c), 0, 1, 1},
			"the table is written":      {1, 3 * c, 0, 1, 0, 2, 1, 1, 0, signed(c), 0, 1, 1, 1},
			"a cluster at the end":      {1, 2 * c, 0, 0, 0, 1, 1, 0, signed(2 * c), 0, 1, 1},
			"a cluster at 0":            {1, 2 * c, 0, 0, 0, 1, 1, 0, signed(0), 0, 1, 1},
			"a cluster before 0":        {1, 2 * c, 0, 0, 0, 1, 1, 0, signed(-c), 0, 1, 1},
			"a cluster not aligned":     {1, 3 * c, 0, 0, 0, 1, 1, 0, signed(c + 512), 0, 1, 1, 1},
			"a cluster beyond the end":  {1, c + 600, 0, 0, 0, 1, 1, 0, signed(c), 3, 1, 1},
			"entry 8192 of 8192":        {1, 2 * c, 0, 0, 0, 1, 1, 8192, signed(c), 0, 1, 1},
			"an L2 table at 0":          {1, 2 * c, 0, 1, 0, 0, 0, 0, 1, 1},
		},
	} {
		s := mustStream(t, src, ordered()[k], streamOptions)
		for name, numbers := range states {
			var state []byte
			for _, n := range numbers {
				state = binary.AppendUvarint(state, n)
			}
			want := ErrCheckpoint
			if strings.HasPrefix(name, "ok") {
				want = nil
			}
			p := seal(t, s, state)
			if err := s.UnmarshalBinary(p); !errors.Is(err, want) {
				t.Errorf("%s, %s: %v, want %v", s.format, name, err, want)
			} else if err == nil && !bytes.Equal(must(s.MarshalBinary()), p) {
				t.Errorf("%s, %s: comes out differently", s.format, name)
			}
		}
	}
}

// position is what shows that a stream was changed.
type position struct {
	layout    layout
	phase     phase
	off, next int64
}

func (s *stream) layoutState() *position { return &position{s.layout, s.phase, s.off, s.next} }

// TestCheckpointSize fills all tables of a checkpoint and holds it to the bounds
// that NewStream states.
func TestCheckpointSize(t *testing.T) {
	const size = 64 << 30
	src := Source{Map: disk.NewMap(size, disk.LeafSize).Seal()}
	noise := kinds(1<<20, "n").source()
	for _, f := range ordered() {
		s := mustStream(t, src, f, streamOptions)
		// The same encoded bytes for every block; VMDK's have the grain's number.
		enc := must(s.Encode(nil, 0, readBlock(t, noise, 0)))
		if f.Name == "qcow2" {
			enc = nil
			for i := range uint32(blockPieces) {
				enc = binary.LittleEndian.AppendUint32(enc, i<<24|200)
				enc = append(enc, make([]byte, 200)...)
			}
		}
		buf := must(s.Start(nil))
		var most, at int64
		for b := int64(0); b < s.blocks(); b += 1 + b*b%7 {
			if f.Name == "vmdk" {
				at = 0
				for g := range int64(blockPieces) {
					binary.LittleEndian.PutUint64(enc[at:], uint64((b*blockPieces+g)*vmdkGrainSectors))
					at += vmdkGrain + sectorSize
				}
				if b%32 > 5 && b < s.blocks()-32 {
					continue // some grains of each table, all of the last
				}
			}
			buf = must(s.Append(buf[:0], b, enc))
			if b%97 == 0 || b > s.blocks()-40 {
				most = max(most, int64(len(must(s.MarshalBinary()))))
			}
		}
		limit := int64(3<<10 + size/(32<<20)*10)
		if f.Name == "qcow2" {
			limit = 200<<10 + size/(512<<20)*20
		}
		if most > limit || most < limit/20 {
			t.Errorf("%s: a checkpoint of %d bytes, want at most %d", f, most, limit)
		}
	}
}

// FuzzCheckpoint gives states behind a right seal: whatever is taken must
// neither panic later nor come out differently.
func FuzzCheckpoint(f *testing.F) {
	// About 2 GiB, so that a state may hold more than one of every table.
	d := &kindDisk{2<<30 + 5<<20, func(l int64) byte { return "tnt-0fnns-tthn"[l%14] }}
	m := disk.NewMap(d.size, disk.LeafSize)
	m.Add(0, d.size)
	src := Source{Disk: d, Map: m.Seal()}
	list := ordered()
	enc := make([]map[int64][]byte, len(list))
	last := ceilDiv(d.size, streamBlock) - 1
	for k, format := range list {
		s := mustStream(f, src, format, streamOptions)
		enc[k] = map[int64][]byte{}
		must(s.Start(nil))
		for _, b := range []int64{0, 1, 31, 32, 512, 513, last - 1, last} {
			enc[k][b] = must(s.Encode(nil, b, readBlock(f, src, b)))
			cp := must(s.MarshalBinary())
			f.Add(uint8(k), cp[1+bindingSize:len(cp)-4])
			must(s.Append(nil, b, enc[k][b]))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, state []byte) {
		k := int(which) % len(list)
		s := mustStream(t, src, list[k], streamOptions)
		p := seal(t, s, state)
		if err := s.UnmarshalBinary(p); err != nil {
			if !errors.Is(err, ErrCheckpoint) {
				t.Fatal(err)
			}
			return
		}
		again := must(s.MarshalBinary())
		r := mustStream(t, src, list[k], streamOptions)
		if err := r.UnmarshalBinary(again); err != nil {
			t.Fatalf("a checkpoint of what was taken: %v", err)
		}
		if !bytes.Equal(must(r.MarshalBinary()), again) {
			t.Fatal("a checkpoint comes out differently")
		}
		for _, b := range []int64{last - 1, last} {
			if b >= s.next {
				if _, err := s.Append(nil, b, enc[k][b]); err != nil {
					return
				}
			}
		}
		_, _ = s.Finish(nil) // may fail, must not panic
	})
}

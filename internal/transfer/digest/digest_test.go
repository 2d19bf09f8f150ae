package digest

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/zeebo/blake3"
)

// plain computes the definition literally, from the whole disk in memory.
func plain(disk []byte) Sum {
	all := binary.LittleEndian.AppendUint64([]byte("ascend disk digest 1\n"), uint64(len(disk)))
	for off := 0; off < len(disk); off += BlockSize {
		block := disk[off:min(off+BlockSize, len(disk))]
		var leaves []byte
		for l := 0; l < len(block); l += LeafSize {
			s := blake3.Sum256(block[l:min(l+LeafSize, len(block))])
			leaves = append(leaves, s[:]...)
		}
		s := blake3.Sum256(leaves)
		all = append(all, s[:]...)
	}
	return blake3.Sum256(all)
}

func TestRootEqualsDefinition(t *testing.T) {
	for _, size := range []int{0, 1, 512, LeafSize - 1, LeafSize, BlockSize - 512, BlockSize, BlockSize + 512, 5*BlockSize + 12288} {
		disk := make([]byte, size)
		r := rand.New(rand.NewPCG(1, uint64(size)))
		for off := 0; off < size; off += LeafSize {
			if r.IntN(2) == 0 {
				disk[min(off+r.IntN(LeafSize), size-1)] = 7
			}
		}
		blocks := (size + BlockSize - 1) / BlockSize
		hole := func(b int64) bool { return IsZero(disk[b*BlockSize : min(int(b+1)*BlockSize, size)]) }
		root := NewRoot(int64(size), hole)
		for _, b := range r.Perm(blocks) {
			if hole(int64(b)) {
				continue
			}
			block := disk[b*BlockSize : min((b+1)*BlockSize, size)]
			root.Put(int64(b), Block(len(block), func(i int) (Sum, bool) {
				s, zero := Leaf(block[i*LeafSize : min((i+1)*LeafSize, len(block))])
				return s, !zero
			}))
		}
		got, err := root.Sum()
		if err != nil || got != plain(disk) {
			t.Errorf("size %d: %v %v, want %v", size, got, err, plain(disk))
		}
		back, err := Parse(got.String())
		if err != nil || back != got {
			t.Errorf("text form: %v %v", back, err)
		}
	}
}

func TestMissingBlockIsAnError(t *testing.T) {
	r := NewRoot(3*BlockSize, func(b int64) bool { return b == 1 })
	r.Put(2, Sum{1})
	if s, err := r.Sum(); err == nil {
		t.Errorf("block 0 was never given, and the digest is %v", s)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{"", "b3d1:", "b3d1:zz", "sha256:" + Sum{}.String()[5:], Sum{}.String() + "00"} {
		if _, err := Parse(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func BenchmarkLeaf(b *testing.B) {
	p := make([]byte, LeafSize)
	for i := range p {
		p[i] = byte(i)
	}
	p[0] = 1
	b.SetBytes(LeafSize)
	for b.Loop() {
		Leaf(p)
	}
}

// TestWideLeaf holds the two ways to hash a leaf against each other.
func TestWideLeaf(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var p [LeafSize]byte
	for range 50 {
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		if got, want := wideLeaf(&p), Sum(blake3.Sum256(p[:])); got != want {
			t.Fatalf("%v, want %v", got, want)
		}
	}
}

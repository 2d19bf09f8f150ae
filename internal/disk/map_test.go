package disk

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// slow is a map as a plain slice, to compare with.
type slow []bool

func (s slow) rank(b int64) (n int64) {
	for _, v := range s[:min(max(b, 0), int64(len(s)))] {
		if v {
			n++
		}
	}
	return n
}

func random(seed uint64, leaves, tail int64) (*Map, slow) {
	r := rand.New(rand.NewPCG(seed, 0))
	size := leaves*LeafSize - tail
	m, s := NewMap(size, LeafSize), make(slow, leaves)
	for range 1 + r.IntN(40) {
		first := r.Int64N(leaves)
		n := 1 + r.Int64N(min(leaves-first, 9000))
		if r.IntN(3) == 0 {
			n = min(1+r.Int64N(3), leaves-first)
		}
		m.Add(first*LeafSize, n*LeafSize)
		for i := first; i < first+n; i++ {
			s[i] = true
		}
	}
	for range r.IntN(50) {
		l := r.Int64N(leaves)
		m.Clear(l)
		s[l] = false
	}
	return m.Seal(), s
}

func TestMapAgainstASlice(t *testing.T) {
	for seed := range uint64(60) {
		leaves := []int64{1, 63, 64, 65, 4095, 4096, 4097, 20000}[seed%8]
		tail := []int64{0, 1, 512, LeafSize - 1}[seed%4]
		m, s := random(seed, leaves, tail)
		if m.Count() != s.rank(leaves) || m.Size() != leaves*LeafSize-tail {
			t.Fatalf("seed %d: count %d, want %d", seed, m.Count(), s.rank(leaves))
		}
		rank := int64(0)
		for b := range leaves {
			if m.Has(b) != s[b] {
				t.Fatalf("seed %d: block %d", seed, b)
			}
			if m.Rank(b) != rank {
				t.Fatalf("seed %d: rank of %d is %d, want %d", seed, b, m.Rank(b), rank)
			}
			if s[b] {
				if got := m.Select(rank); got != b {
					t.Fatalf("seed %d: select %d is %d, want %d", seed, rank, got, b)
				}
				rank++
			}
		}
		if m.Select(rank) != -1 || m.Select(-1) != -1 || m.Has(leaves) || m.Has(-1) {
			t.Fatalf("seed %d: beyond the end", seed)
		}
		for b := int64(0); b < leaves; {
			n, data := m.Run(b, leaves)
			if n <= 0 {
				t.Fatalf("seed %d: empty run at %d", seed, b)
			}
			for i := b; i < b+n; i++ {
				if s[i] != data {
					t.Fatalf("seed %d: run at %d", seed, b)
				}
			}
			if b+n < leaves && s[b+n] == data {
				t.Fatalf("seed %d: run at %d stops early", seed, b)
			}
			b += n
		}
		bin, err := m.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseMap(bin)
		if err != nil {
			t.Fatal(err)
		}
		bin2, _ := back.AppendBinary(nil)
		if !bytes.Equal(bin, bin2) || back.Count() != m.Count() {
			t.Fatalf("seed %d: the binary form is not the same again", seed)
		}
		coarse := m.Coarse(16 * LeafSize)
		for b := range coarse.Len() {
			if coarse.Has(b) != (s.rank(min((b+1)*16, leaves)) > s.rank(b*16)) {
				t.Fatalf("seed %d: coarse block %d", seed, b)
			}
		}
	}
}

func TestMapOfAGiantDiskIsSmall(t *testing.T) {
	m := NewMap(MaxSize, LeafSize)
	m.Add(0, 1)
	m.Add(MaxSize-1, 1)
	m.Add(1<<40, 8<<40)
	m.Seal()
	if m.Count() != 2+(8<<40)/LeafSize {
		t.Errorf("count %d", m.Count())
	}
	if m.Select(m.Count()-1) != MaxSize/LeafSize-1 {
		t.Error("select of the last")
	}
	bin, _ := m.AppendBinary(nil)
	if len(bin) > 64 {
		t.Errorf("binary form of %d bytes", len(bin))
	}
}

func FuzzParseMap(f *testing.F) {
	m, _ := random(3, 5000, 512)
	bin, _ := m.AppendBinary(nil)
	f.Add(bin)
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x80, 0x80, 4, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMap(b)
		if err != nil {
			return
		}
		for l := int64(0); l < m.Len(); {
			n, _ := m.Run(l, m.Len()-l)
			if n <= 0 {
				t.Fatal("empty run")
			}
			l += n
		}
	})
}

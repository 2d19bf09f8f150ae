package backing

import "testing"

// FuzzBitRun compares with counting bit by bit.
func FuzzBitRun(f *testing.F) {
	f.Add([]byte{0, 0, 0x80}, uint16(3))
	f.Add([]byte{0xff, 0xff, 0x7f}, uint16(7))
	f.Add([]byte{0xf0, 0x0f}, uint16(4))
	f.Fuzz(func(t *testing.T, p []byte, from uint16) {
		if int(from) >= len(p)*8 {
			return
		}
		bit := func(i int) bool { return p[i/8]>>(i%8)&1 == 1 }
		want := int64(0)
		for i := int(from); i < len(p)*8 && bit(i) == bit(int(from)); i++ {
			want++
		}
		if n, set := BitRun(p, int64(from)); n != want || set != bit(int(from)) {
			t.Fatalf("BitRun(%x, %d) = %d, %v, want %d", p, from, n, set, want)
		}
	})
}

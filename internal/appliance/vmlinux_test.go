package appliance

import "testing"

func TestLZ4Block(t *testing.T) {
	// "abc" and a match of 9 bytes 3 back; then the literals "xy" that end a block.
	got, ok := lz4Block(nil, []byte{0x35, 'a', 'b', 'c', 3, 0, 0x20, 'x', 'y'}, 100)
	if !ok || string(got) != "abcabcabcabcxy" {
		t.Errorf("%q %v", got, ok)
	}
	for _, bad := range [][]byte{{0x35, 'a', 'b', 'c', 4, 0}, {0xf0}, {0x10}, {0x10, 'a', 1}, {0x1f, 'a', 1, 0, 255, 255, 0}} {
		if got, ok := lz4Block(nil, bad, 100); ok {
			t.Errorf("%x gave %q", bad, got)
		}
	}
}

func FuzzLZ4Block(f *testing.F) {
	f.Add([]byte{0x35, 'a', 'b', 'c', 3, 0, 0x20, 'x', 'y'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, ok := lz4Block(nil, b, 1<<16); ok && len(out) > 1<<16 {
			t.Error("beyond the limit")
		}
		unpackKernel(b)
	})
}

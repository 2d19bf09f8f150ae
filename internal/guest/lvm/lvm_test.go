package lvm

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

const uuids = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg"

// volume builds a physical volume: label, metadata that wraps around the end
// of its ring, and extents of 8 sectors whose bytes are their number.
func volume(text string) []byte {
	b := make([]byte, 1<<20)
	l := b[512:]
	copy(l, "LABELONE")
	le.PutUint32(l[20:], 32)
	copy(l[24:], "LVM2 001")
	copy(l[32:], strings.ReplaceAll(uuids, "-", ""))
	le.PutUint64(l[64:], uint64(len(b)))
	le.PutUint64(l[72:], 64<<10)
	le.PutUint64(l[104:], 4096)
	le.PutUint64(l[112:], 32<<10)
	m := b[4096 : 4096+32<<10]
	at := len(m) - 100
	copy(m[512:], text[copy(m[at:], text):])
	copy(m[4:], mdaMark)
	le.PutUint64(m[40:], uint64(at))
	le.PutUint64(m[48:], uint64(len(text)))
	le.PutUint32(m[56:], crc([]byte(text)))
	le.PutUint32(m, crc(m[4:512]))
	for i := 64 << 10; i < len(b); i++ {
		b[i] = byte((i - 64<<10) / 4096)
	}
	return b
}

func meta(segments string) string {
	return fmt.Sprintf("vg {\nid = \"vvvvvv\"\nseqno = 3\nextent_size = 8 # 4 KiB\nphysical_volumes {\npv0 {\nid = %q\npe_start = 128\n}\n}\nlogical_volumes {\nroot {\nid = \"l\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\n%s}\n}\n}\n# tail\n", uuids, segments)
}

func TestLinear(t *testing.T) {
	seg := func(n, start, count, pe int, typ string) string {
		return fmt.Sprintf("segment%d {\nstart_extent = %d\nextent_count = %d\ntype = %q\nstripe_count = 1\nstripes = [\n\"pv0\", %d\n]\n}\n", n, start, count, typ, pe)
	}
	b := volume(meta(seg(1, 0, 2, 5, "striped") + seg(2, 2, 1, 9, "striped")))
	pv, err := OpenPV(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	vgs, err := Groups([]*PV{pv})
	if err != nil || len(vgs) != 1 || vgs[0].Name != "vg" || len(vgs[0].LVs) != 1 {
		t.Fatalf("%+v, %v", vgs, err)
	}
	l := &vgs[0].LVs[0]
	got := make([]byte, l.Size)
	if n, err := l.ReadAt(got, 0); n != 3*4096 || err != nil || got[0] != 5 || got[4096] != 6 || got[8192] != 9 {
		t.Errorf("%d bytes, %v: %d %d %d", n, err, got[0], got[4096], got[8192])
	}
	b[4096+600] ^= 1
	if _, err := OpenPV(bytes.NewReader(b), int64(len(b))); err == nil {
		t.Error("a wrong checksum is not noticed")
	}
	b = volume(meta(seg(1, 0, 2, 5, "thin")))
	pv, _ = OpenPV(bytes.NewReader(b), int64(len(b)))
	if vgs, _ := Groups([]*PV{pv}); vgs[0].LVs[0].Gap == "" {
		t.Error("a thin volume is no gap")
	}
}

func FuzzPV(f *testing.F) {
	f.Add(meta("segment1 {\nstart_extent = 0\nextent_count = 1\ntype = \"striped\"\nstripes = [ \"pv0\", 0 ]\n}\n"))
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) < 101 || len(text) > 16<<10 {
			return
		}
		b := volume(text)
		pv, err := OpenPV(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		vgs, _ := Groups([]*PV{pv})
		for i := range vgs {
			for j := range vgs[i].LVs {
				_, _ = vgs[i].LVs[j].ReadAt(make([]byte, 8192), 0)
			}
		}
	})
}

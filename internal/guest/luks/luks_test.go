package luks

import (
	"bytes"
	"crypto/aes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"golang.org/x/crypto/xts"

	"ascend/internal/guest/vfs"
)

// container makes a LUKS1 container by the specification, with one stripe: the
// containers that cryptsetup makes are read in internal/files.
func container(t testing.TB, key, content []byte) []byte {
	t.Helper()
	const offset, material = 4096, 2048
	master := bytes.Repeat([]byte{7, 9}, 32)
	b := make([]byte, offset+len(content))
	copy(b, "LUKS\xba\xbe\x00\x01aes")
	copy(b[40:], "xts-plain64")
	copy(b[72:], "sha256")
	be := binary.BigEndian
	be.PutUint32(b[104:], offset/sector)
	be.PutUint32(b[108:], 64)
	be.PutUint32(b[164:], 1000)
	sum, err := pbkdf2.Key(sha256.New, string(master), b[132:164], 1000, 20)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[112:], sum)
	s := b[208:]
	be.PutUint32(s, 0x00AC71F3)
	be.PutUint32(s[4:], 2000)
	copy(s[8:], "salt")
	be.PutUint32(s[40:], material/sector)
	be.PutUint32(s[44:], 1)
	wrap, err := pbkdf2.Key(sha256.New, string(key), s[8:40], 2000, 64)
	if err != nil {
		t.Fatal(err)
	}
	seal := func(k, to, from []byte) {
		c, err := xts.NewCipher(aes.NewCipher, k)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+sector <= len(from); i += sector {
			c.Encrypt(to[i:], from[i:i+sector], uint64(i/sector))
		}
	}
	seal(wrap, b[material:], append(bytes.Clone(master), make([]byte, sector-64)...))
	seal(master, b[offset:], content)
	return b
}

func TestContainer(t *testing.T) {
	content := bytes.Repeat([]byte("what is inside the container... "), 300)[:9216]
	b := container(t, []byte("key"), content)
	v, err := Open(bytes.NewReader(b), int64(len(b)), []byte("key"))
	if err != nil || v.Size() != int64(len(content)) {
		t.Fatal(v, err)
	}
	for _, r := range [][2]int{{0, 9216}, {1, 1}, {511, 2}, {700, 5000}, {9215, 1}} {
		got := make([]byte, r[1])
		if n, err := v.ReadAt(got, int64(r[0])); n != r[1] || err != nil || !bytes.Equal(got, content[r[0]:r[0]+r[1]]) {
			t.Errorf("%v: %d, %v", r, n, err)
		}
	}
	if n, err := v.ReadAt(make([]byte, 20), 9210); n != 6 || !errors.Is(err, io.EOF) {
		t.Errorf("over the end: %d, %v", n, err)
	}
	if _, err := Open(bytes.NewReader(b), int64(len(b)), []byte("other")); !errors.Is(err, ErrKey) {
		t.Errorf("another key: %v", err)
	}
	if _, err := Open(bytes.NewReader(make([]byte, 8192)), 8192, nil); !errors.Is(err, vfs.ErrFormat) {
		t.Errorf("no container: %v", err)
	}
	b[168+40+4] = 0xff // iterations without end
	if _, err := Open(bytes.NewReader(b), int64(len(b)), []byte("key")); !errors.Is(err, vfs.ErrCorrupt) {
		t.Errorf("%v", err)
	}
}

// FuzzOpen reads headers; what they ask for is bounded before it is done.
func FuzzOpen(f *testing.F) {
	f.Add(container(f, []byte("k"), make([]byte, 512)))
	two := make([]byte, 16384)
	copy(two, "LUKS\xba\xbe\x00\x02\x00\x00\x00\x00\x00\x00\x30\x00")
	copy(two[4096:], `{"keyslots":{"0":{"type":"luks2","key_size":64,"af":{"type":"luks1","stripes":4,"hash":"sha256"},"area":{"type":"raw","encryption":"aes-xts-plain64","key_size":64,"offset":"12288","size":"512"},"kdf":{"type":"pbkdf2","salt":"AAAA","hash":"sha256","iterations":1}}},"segments":{"0":{"type":"crypt","offset":"12288","size":"dynamic","iv_tweak":"0","encryption":"aes-xts-plain64","sector_size":512}},"digests":{"0":{"type":"pbkdf2","keyslots":["0"],"segments":["0"],"salt":"AAAA","digest":"AAAA","hash":"sha256","iterations":1}}}`)
	f.Add(two)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := header(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, s := range h.slots {
			if s.iterations > 1000 || s.memory > 1024 {
				return // slow by right
			}
		}
		for _, d := range h.digests {
			if d.iterations > 1000 {
				return
			}
		}
		v, err := Open(bytes.NewReader(b), int64(len(b)), []byte("k"))
		if err == nil {
			_, _ = v.ReadAt(make([]byte, 4096), 0)
		}
	})
}

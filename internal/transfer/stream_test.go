package transfer

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"path/filepath"
	"testing"

	"ascend/internal/image"
	"ascend/internal/transfer/journal"
)

func streams() []image.Format {
	return []image.Format{{Name: "vmdk", Subformat: "streamOptimized", Compression: "deflate"}, {Name: "qcow2", Compression: "zlib"}, {Name: "qcow2", Compression: "zstd"}}
}

func TestStreamsGiveTheSameBytesHoweverOftenBroken(t *testing.T) {
	for _, format := range streams() {
		src, plain := sparse(40<<20+512, 2, 5)
		run := func(sink *memory, j *journal.Journal) (*Result, error) {
			s, err := image.NewStream(src, format, image.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return Stream(t.Context(), src, s, sink, j, Options{Sums: []string{"sha1"}})
		}
		whole := &memory{}
		res, err := run(whole, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.Digest != plainDigest(t, plain) || res.Bytes != int64(len(whole.b)) {
			t.Fatalf("%s: digest or length differs", format)
		}
		path := filepath.Join(t.TempDir(), "journal")
		sink := &memory{}
		for tries := 1; ; tries++ {
			j, err := journal.Load(path, "k")
			if errors.Is(err, journal.ErrNone) {
				j, err = journal.Create(path, "k", src.Map)
			}
			if err != nil {
				t.Fatal(err)
			}
			sink.failAt, sink.n = 5<<20, 0
			res2, err := run(sink, j)
			j.Close()
			if err == nil {
				if res2.Digest != res.Digest || !bytes.Equal(res2.Sums["sha1"], res.Sums["sha1"]) {
					t.Fatalf("%s: digests differ after %d tries", format, tries)
				}
				break
			}
			if !errors.Is(err, errBroken) || tries > 30 {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(sink.b, whole.b) {
			t.Fatalf("%s: bytes differ from those of an undisturbed stream", format)
		}
		if head, _ := image.NewStream(src, format, image.Options{}); !head.NeedsPatch() {
			if sum := sha1.Sum(sink.b); !bytes.Equal(sum[:], res.Sums["sha1"]) {
				t.Fatalf("%s: the sha1 is not that of the bytes", format)
			}
		}
	}
}

func TestSourceThatFailsFailsTheStream(t *testing.T) {
	src, plain := sparse(8<<20, 1, 1)
	src.Disk = failing{bytes.NewReader(plain), 5 << 20}
	for _, format := range streams() {
		s, err := image.NewStream(src, format, image.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Stream(t.Context(), src, s, &memory{}, nil, Options{}); err == nil {
			t.Errorf("%s: no error", format)
		}
	}
}

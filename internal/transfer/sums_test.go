package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"path/filepath"
	"sync"
	"testing"

	"ascend/internal/image"
	"ascend/internal/transfer/journal"
)

const sumBlock = 512 << 10

// blockSink keeps blocks and fails for good after some.
type blockSink struct {
	mu     sync.Mutex
	blocks map[int64][sha256.Size]byte
	left   int
	t      *testing.T
}

func (s *blockSink) WriteRange(context.Context, int64, []byte) error {
	return errors.New("a block came without its digest")
}

func (s *blockSink) WriteBlock(_ context.Context, off int64, p []byte, sum [sha256.Size]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left--; s.left < 0 {
		return errors.New("broken")
	}
	if sha256.Sum256(p) != sum || len(p) != sumBlock {
		s.t.Errorf("the block at %d has another digest, or is of %d bytes", off, len(p))
	}
	if cap(p) > sumBlock {
		s.t.Errorf("a worker's buffer is of more than %d bytes, and as many workers as fit in InFlight have one", cap(p))
	}
	s.blocks[off/sumBlock] = sum
	return nil
}

func (*blockSink) Sync(context.Context) error { return nil }

// TestBlockSums breaks a transfer off and goes on with it from the journal: the
// digests are those of every block that was sent, by both.
func TestBlockSums(t *testing.T) {
	src, _ := sparse(9<<20+512, 3, 7)
	f := newFile(t, src, image.Format{Name: "raw"})
	sink := &blockSink{blocks: map[int64][sha256.Size]byte{}, left: 4, t: t}
	path := filepath.Join(t.TempDir(), "j")
	j, err := journal.Create(path, "k", src.Map)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Block: sumBlock, MaxRange: sumBlock, BlockSums: true, Workers: 2}
	if _, err := Ranges(t.Context(), f, sink, j, o); err == nil {
		t.Fatal("a broken sink is no error")
	}
	_ = j.Close()
	if j, err = journal.Load(path, "k"); err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	sink.left = 1000
	res, err := Ranges(t.Context(), f, sink, j, o)
	if err != nil {
		t.Fatal(err)
	}
	if got := maps.Collect(res.Blocks); !maps.Equal(got, sink.blocks) {
		t.Errorf("%d digests are kept of %d blocks, or others", len(got), len(sink.blocks))
	}
}

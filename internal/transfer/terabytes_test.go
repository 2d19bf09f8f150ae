package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/transfer/journal"
)

const tib = 1 << 40

// vast is a disk of any size in no memory: each leaf's bytes are a function of
// where it lies.
type vast struct{ size int64 }

func (v vast) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), v.size-off))
	for done := 0; done < n; {
		at := off + int64(done)
		leaf := at / disk.LeafSize
		part := p[done:min(int64(n), int64(done)+(leaf+1)*disk.LeafSize-at)]
		for i := range min(256, len(part)) {
			part[i] = byte(leaf) ^ byte(leaf>>8) ^ byte(at+int64(i))
		}
		for k := 256; k < len(part); k *= 2 {
			copy(part[k:], part[:k])
		}
		done += len(part)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// scattered is a vast disk with so many leaves of data all over it.
func scattered(size int64, leaves int) image.Source {
	m := disk.NewMap(size, disk.LeafSize)
	for i := range int64(leaves) {
		m.Add(size/int64(leaves)*i/disk.LeafSize*disk.LeafSize, disk.LeafSize)
	}
	m.Add(size-disk.LeafSize, disk.LeafSize)
	return image.Source{Disk: vast{size}, Map: m.Seal()}
}

// drain takes ranges and blocks and keeps nothing but their number.
type drain struct {
	n, most atomic.Int64
	stopAt  int64 // ranges until it fails; 0: never
}

func (d *drain) WriteRange(_ context.Context, off int64, p []byte) error {
	if n := d.n.Add(1); d.stopAt > 0 && n > d.stopAt {
		return errBroken
	}
	for end := off + int64(len(p)); ; {
		if m := d.most.Load(); m >= end || d.most.CompareAndSwap(m, end) {
			return nil
		}
	}
}

func (d *drain) WriteBlock(ctx context.Context, off int64, p []byte, sum [sha256.Size]byte) error {
	if binary.BigEndian.Uint64(sum[:]) == 0 {
		return errors.New("a block without its digest")
	}
	return d.WriteRange(ctx, off, p)
}

func (d *drain) Sync(context.Context) error { return nil }

// heap samples the bytes of the heap until the result is called, which gives the
// most that there were above those at the start.
func heap(t *testing.T) func() int64 {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	base, most := int64(m.HeapInuse), int64(0)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			runtime.ReadMemStats(&m)
			most = max(most, int64(m.HeapInuse)-base)
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	}()
	return func() int64 { close(end); <-ended; return most }
}

// TestTerabytes sends disks of 2.5 and 16 TiB that hold little: memory, writes and
// the journal are bounded by what is there and not by the disk's size, and a
// transfer that broke off half way sends only what is missing.
func TestTerabytes(t *testing.T) {
	const (
		leaves = 600
		memory = 200 << 20 // of the heap, what is in flight included
	)
	for _, size := range []int64{tib * 5 / 2, 16 * tib} {
		type way struct {
			format image.Format
			o      Options
		}
		ways := []way{
			{image.Format{Name: "raw"}, Options{Block: 512 << 10, MaxRange: 512 << 10, BlockSums: true, Workers: 128}}, // as EBS direct
			{image.Format{Name: "vhdx"}, Options{}},
			{image.Format{Name: "qcow2"}, Options{}},
			{image.Format{Name: "raw"}, Options{}},
		}
		if size > 4*tib {
			// The tables of the others are no larger for what is not there, and the
			// digest of 16 million blocks takes a race detector's minute.
			ways = ways[:1]
			ways[0].o.NoDigest = true
		}
		for _, c := range ways {
			t.Run(fmt.Sprintf("%.1f TiB %v block %d", float64(size)/tib, c.format, c.o.Block), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "journal")
				// attempt is one process's: it loads or makes the journal and sends.
				attempt := func(stopAt int64) (wrote int64, res *Result, err error) {
					src := scattered(size, leaves)
					peak := heap(t)
					jn, err := journal.Load(path, "big")
					if errors.Is(err, journal.ErrNone) {
						jn, err = journal.Create(path, "big", src.Map)
					}
					if err != nil {
						t.Fatal(err)
					}
					defer jn.Close()
					f, err := image.New(src, c.format, image.Options{Seed: [32]byte{1}})
					if err != nil {
						t.Fatal(err)
					}
					sink := &drain{stopAt: stopAt}
					res, err = Ranges(t.Context(), f, sink, jn, c.o)
					if most := peak(); most > memory {
						t.Errorf("%d MiB of heap", most>>20)
					}
					if err == nil && (res.Bytes != f.Size() || sink.most.Load() > f.Size()) {
						t.Errorf("%d bytes of a file of %d", res.Bytes, f.Size())
					}
					return sink.n.Load(), res, err
				}
				all, whole, err := attempt(0)
				if err != nil {
					t.Fatal(err)
				}
				if all > 3*leaves {
					t.Errorf("%d writes for %d leaves", all, leaves)
				}
				if st, err := os.Stat(path); err != nil || st.Size() > 4<<20 {
					t.Errorf("a journal of %d bytes: %v", st.Size(), err)
				}
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if _, _, err := attempt(all / 2); !errors.Is(err, errBroken) {
					t.Fatalf("not broken: %v", err)
				}
				rest, res, err := attempt(0)
				if err != nil {
					t.Fatal(err)
				}
				// What was in flight when it broke is sent again: a write a worker.
				if most := all - all/2 + int64(max(c.o.Workers, 16)); rest > most || rest == 0 {
					t.Errorf("%d writes, then %d of %d", all/2, rest, all)
				}
				if res.Digest != whole.Digest {
					t.Error("the digest differs after a break")
				}
				if c.o.BlockSums {
					n := 0
					for range res.Blocks {
						n++
					}
					if n < leaves || n > leaves+1 {
						t.Errorf("%d blocks have digests", n)
					}
				}
			})
		}
	}
}

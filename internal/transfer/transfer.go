// Package transfer moves the bytes of computed files to where they go: ranges
// in parallel or an ordered stream, with back-pressure by bytes in flight,
// holes left out, a bandwidth cap, a digest of the disk taken in passing, a
// journal of what has landed that survives kill -9, and progress in allocated
// bytes.
//
// It knows neither formats nor platforms: a file is segments, a sink takes
// bytes. See package digest for the digest and package journal for the journal.
package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"time"

	"golang.org/x/time/rate"

	"ascend/internal/transfer/digest"
	"ascend/internal/transfer/journal"
)

// RangeSink takes bytes at any offset; see target.RangeUpload, which has the
// same methods.
type RangeSink interface {
	WriteRange(ctx context.Context, off int64, p []byte) error
	Sync(ctx context.Context) error
}

// BlockSink is a RangeSink that wants the SHA-256 of each block together with
// it; used with Options.BlockSums.
type BlockSink interface {
	WriteBlock(ctx context.Context, off int64, p []byte, sum [sha256.Size]byte) error
}

// StreamSink takes bytes in order; see target.StreamUpload.
type StreamSink interface {
	Offset(ctx context.Context) (int64, error)
	Append(ctx context.Context, p []byte) error
	Sync(ctx context.Context) error
	Patch(ctx context.Context, p []byte) error
}

// Rewinder is a StreamSink on this machine's own storage, where bytes that were
// not flushed are not to be trusted after a power loss. Rewind drops everything
// from off on.
type Rewinder interface {
	Rewind(ctx context.Context, off int64) error
}

// Options of one transfer. The zero value is usable.
type Options struct {
	// Workers is the number of ranges read and sent at once; 0: two for each
	// processor, at least 4 and at most 16.
	Workers int
	// InFlight bounds the bytes that were read and have not yet landed: memory,
	// and what is sent again after a kill. 0: 64 MiB. At least one write a worker
	// is always allowed.
	InFlight int64
	// MaxRange bounds one write to the sink in bytes. What lies together in the
	// file is joined up to it. 0: 4 MiB and at most an eighth of InFlight, or one
	// Block.
	MaxRange int64
	// Block, when not 0, sends whole aligned blocks of so many bytes, filled
	// with zeros, several in one write where MaxRange allows; a power of two of at
	// most 1 MiB.
	Block int64
	// BlockSums keeps the SHA-256 of every block that is sent, in the journal when
	// there is one, for Result.Blocks; with Block only.
	BlockSums bool
	// Dirty: the sink does not promise zeros where nothing was written, so zeros
	// are sent too.
	Dirty bool
	// Sums asks for digests of the file's bytes of an ordered stream: "sha1",
	// "sha256".
	Sums []string
	// Limit caps the bytes sent a second, shared by whoever shares it. Its burst
	// must be at least MaxRange.
	Limit *rate.Limiter
	// NoDigest leaves the disk's digest out, to measure reading alone.
	NoDigest bool
	// Meter is told the progress; may be nil.
	Meter *Meter
	// SyncEvery is the time between flushes to stable storage; 0: 5 s.
	SyncEvery time.Duration
}

// Result is what a finished transfer knows.
type Result struct {
	Digest digest.Sum // of the disk; zero with NoDigest
	Bytes  int64      // length of the file
	Sent   int64      // bytes given to the sink by this process
	Sums   map[string][]byte
	// Blocks yields, with BlockSums, number and SHA-256 of every block that was
	// sent, by this process and those that the journal knows of, in ascending order.
	Blocks iter.Seq2[int64, [sha256.Size]byte]
}

const unitSize = digest.BlockSize

// joinSize is how much is sent in one write where the sink sets no bound: the
// round trip and the request's own cost are small against it.
const joinSize = 4 << 20

func (o Options) withDefaults() Options {
	if o.Workers <= 0 {
		o.Workers = min(max(2*runtime.GOMAXPROCS(0), 4), 16)
	}
	if o.InFlight <= 0 {
		o.InFlight = 64 << 20
	}
	if o.MaxRange <= 0 {
		o.MaxRange = max(min(joinSize, o.InFlight/8), unitSize)
		if o.Block > 0 {
			o.MaxRange = o.Block
		}
	}
	if o.SyncEvery <= 0 {
		o.SyncEvery = 5 * time.Second
	}
	if o.Meter == nil {
		o.Meter = NewMeter()
	}
	return o
}

// wait holds n bytes back until the cap allows them.
func (o Options) wait(ctx context.Context, n int) error {
	if o.Limit == nil {
		return ctx.Err()
	}
	for n > 0 {
		k := min(n, max(o.Limit.Burst(), 1))
		if err := o.Limit.WaitN(ctx, k); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// syncer flushes the sink and marks the journal now and then while a transfer
// runs, and once at its end.
type syncer struct {
	sink interface {
		Sync(ctx context.Context) error
	}
	j    *journal.Journal
	stop chan struct{}
	done chan error
}

func startSyncer(ctx context.Context, sink interface {
	Sync(ctx context.Context) error
}, j *journal.Journal, every time.Duration) *syncer {
	s := &syncer{sink: sink, j: j, stop: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				s.done <- nil
				return
			case <-ctx.Done():
				s.done <- nil
				return
			case <-tick.C:
				if err := s.sync(ctx); err != nil && ctx.Err() == nil {
					s.done <- err
					return
				}
			}
		}
	}()
	return s
}

func (s *syncer) sync(ctx context.Context) error {
	pos := int64(0)
	if s.j != nil {
		pos = s.j.Position()
	}
	if err := s.sink.Sync(ctx); err != nil {
		return fmt.Errorf("cannot flush: %w", err)
	}
	if s.j == nil {
		return nil
	}
	return s.j.Synced(pos)
}

// finish stops the flushing and flushes once more when the transfer succeeded.
func (s *syncer) finish(ctx context.Context, err error) error {
	close(s.stop)
	err = errors.Join(err, <-s.done)
	if err != nil {
		return err
	}
	return s.sync(ctx)
}

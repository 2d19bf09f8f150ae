// Package parts sends a stream in numbered parts of one size, several at once, as
// multipart uploads want it. It knows no service.
package parts

import (
	"context"
	"errors"
	"sync"
)

// Options of a Sender.
type Options struct {
	Size int64 // bytes of every part but the last
	Most int   // parts on their way at once; each, and the one being filled, is held in memory
	// Landed are the numbers, from 1, of parts of full size that an earlier sender
	// of the same stream has sent.
	Landed map[int]bool
	// Put sends one part and returns when it has landed. It is called concurrently
	// and does not keep p. Its error is the sender's, for good.
	Put func(ctx context.Context, number int, p []byte) error
}

// Sender takes a stream in order. Its methods are called by one goroutine, but for
// Offset and Stop, which may be called at any time.
type Sender struct {
	o     Options
	life  context.Context //nolint:containedctx // of the parts on their way, which outlive Append
	stop  context.CancelCauseFunc
	slots chan struct{}
	free  chan []byte // buffers that are not in use
	all   sync.Mutex  // held by who takes every slot

	mu   sync.Mutex
	off  int64
	next int // number of the part that is being filled
	buf  []byte
}

// New begins behind the parts that landed without a gap.
func New(o Options) *Sender {
	s := &Sender{o: o, slots: make(chan struct{}, o.Most), free: make(chan []byte, o.Most+1), next: 1}
	s.life, s.stop = context.WithCancelCause(context.Background())
	for o.Landed[s.next] {
		s.next++
		s.off += o.Size
	}
	return s
}

// Offset is the number of bytes that need not be appended again.
func (s *Sender) Offset() (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.off, context.Cause(s.life)
}

// Append takes the next bytes. It waits while as many parts as allowed are on their
// way. It does not keep p.
func (s *Sender) Append(ctx context.Context, p []byte) error {
	for len(p) > 0 {
		if err := errors.Join(ctx.Err(), context.Cause(s.life)); err != nil {
			return err
		}
		if s.buf == nil {
			s.buf = s.buffer()
		}
		n := min(int64(len(p)), s.o.Size-int64(len(s.buf)))
		s.buf = append(s.buf, p[:n]...)
		p = p[n:]
		s.mu.Lock()
		s.off += n
		s.mu.Unlock()
		if int64(len(s.buf)) == s.o.Size {
			if err := s.send(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Sender) buffer() []byte {
	select {
	case b := <-s.free:
		return b[:0]
	default:
		return make([]byte, 0, s.o.Size)
	}
}

// send puts the part on its way, unless it landed before.
func (s *Sender) send(ctx context.Context) error {
	if s.o.Landed[s.next] && int64(len(s.buf)) == s.o.Size {
		s.next++
		s.buf = s.buf[:0]
		return nil
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.life.Done():
		return context.Cause(s.life)
	}
	number, buf := s.next, s.buf
	s.next, s.buf = number+1, nil
	go func() {
		defer func() { <-s.slots }()
		if err := s.o.Put(s.life, number, buf); err != nil {
			s.stop(err)
			return
		}
		select {
		case s.free <- buf:
		default:
		}
	}()
	return nil
}

// Sync returns when every full part has landed. What is in the part that is being
// filled has not.
func (s *Sender) Sync(ctx context.Context) error {
	s.all.Lock()
	defer s.all.Unlock()
	for n := range cap(s.slots) {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			for range n {
				<-s.slots
			}
			return ctx.Err()
		}
	}
	for range cap(s.slots) {
		<-s.slots
	}
	return context.Cause(s.life)
}

// Finish sends what is left and returns when all has landed: the number of parts.
func (s *Sender) Finish(ctx context.Context) (int, error) {
	if len(s.buf) > 0 {
		if err := s.send(ctx); err != nil {
			return 0, err
		}
	}
	return s.next - 1, s.Sync(ctx)
}

// Stop gives up for a reason and returns when no part is on its way.
func (s *Sender) Stop(reason error) {
	s.stop(reason)
	_ = s.Sync(context.Background()) // the reason is known
}

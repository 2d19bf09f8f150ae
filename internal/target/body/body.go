// Package body feeds the body of one HTTP request piece by piece, for uploads
// that a platform takes as one request and that cannot be continued.
package body

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// piece is how much is written between two looks at the clock.
const piece = 256 << 10

var (
	errAborted = errors.New("the upload was aborted")
	errEarly   = errors.New("the server answered before it had all bytes")
)

// Body is one request's body. Begin, Write and Close are called by one goroutine
// at a time, the other methods by any.
type Body struct {
	// Stall is the longest time without a byte being taken, and for the answer
	// after the last one.
	Stall time.Duration

	sent atomic.Int64

	mu      sync.Mutex
	w       *io.PipeWriter
	r       *io.PipeReader
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when send has returned
	err     error         // of send; valid once done is closed
	failed  error         // why nothing more can be sent
	settled bool
}

// Begin calls send, which makes the request and returns when it is answered, in
// a goroutine of its own with a context below life; ended is called after it. It
// returns why nothing can be sent any more, if that is so, and calls neither then.
func (b *Body) Begin(life context.Context, send func(ctx context.Context, body io.ReadCloser) error, ended func()) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed != nil {
		return b.failed
	}
	ctx, cancel := context.WithCancelCause(life)
	b.r, b.w = io.Pipe()
	b.cancel, b.done = cancel, make(chan struct{})
	go func() {
		defer close(b.done)
		b.err = send(ctx, b.r)
		if b.err == nil {
			_ = b.r.CloseWithError(errEarly)
		} else {
			_ = b.r.CloseWithError(b.err)
		}
		cancel(nil)
		ended()
	}()
	return nil
}

// Begun tells whether Begin was called.
func (b *Body) Begun() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.w != nil
}

// Sent is the number of bytes that the request has taken.
func (b *Body) Sent() int64 { return b.sent.Load() }

// Failed is why nothing more can be sent, or nil.
func (b *Body) Failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// Fail ends the request, if err is the first reason to.
func (b *Body) Fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed == nil && !b.settled {
		b.failed = err
	}
	if b.r != nil {
		_ = b.r.CloseWithError(err)
		b.cancel(err)
	}
}

// Settle says that the upload is complete: nothing fails it any more.
func (b *Body) Settle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settled = true
}

// Reason is why the request broke; it waits for it to end, which it does at
// once, because the body is closed.
func (b *Body) Reason() error {
	<-b.done
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed == nil {
		if b.failed = b.err; b.failed == nil {
			b.failed = errEarly
		}
	}
	return b.failed
}

// Write sends the next bytes. A context that ends breaks the request.
func (b *Body) Write(ctx context.Context, p []byte) error {
	stop := context.AfterFunc(ctx, func() { b.Fail(ctx.Err()) })
	defer stop()
	clock := time.AfterFunc(b.Stall, func() { b.Fail(fmt.Errorf("nothing could be sent for %s", b.Stall)) })
	defer clock.Stop()
	for len(p) > 0 {
		n, err := b.w.Write(p[:min(len(p), piece)])
		b.sent.Add(int64(n))
		p = p[n:]
		if err != nil {
			return b.Reason()
		}
		clock.Reset(b.Stall)
	}
	return nil
}

// Close ends the body, waits for the answer and returns the request's own error.
// The end of ctx and a server that does not answer break the request.
func (b *Body) Close(ctx context.Context) error {
	_ = b.w.Close()
	clock := time.NewTimer(b.Stall)
	defer clock.Stop()
	select {
	case <-b.done:
	case <-ctx.Done():
		b.Fail(ctx.Err())
	case <-clock.C:
		b.Fail(fmt.Errorf("no answer for %s after the last byte", b.Stall))
	}
	<-b.done
	return b.err
}

// Abort breaks a request that is not answered and waits for its end.
func (b *Body) Abort() {
	b.Fail(errAborted)
	b.mu.Lock()
	done := b.done
	b.mu.Unlock()
	if done != nil {
		<-done
	}
}

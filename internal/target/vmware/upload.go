package vmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"ascend/internal/target"
)

// piece is how much is written between two looks at the clock.
const piece = 256 << 10

// stream is the upload of one disk: what is appended becomes the body of one
// HTTP request. Append, Complete and Offset are called by one goroutine at a
// time; Abort by any.
type stream struct {
	what  string
	size  int64 // of the file; -1: known at the end
	stall time.Duration
	life  context.Context // the session's
	gate  chan struct{}   // bounds the streams of a session that run at once
	// send makes the request and returns when it is answered.
	send func(ctx context.Context, body io.ReadCloser) error
	// land is called after send succeeded and may be called again.
	land func(ctx context.Context, sum target.Sum) (*target.Landed, error)

	sent atomic.Int64

	mu     sync.Mutex
	w      *io.PipeWriter
	r      *io.PipeReader
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when send has returned
	err    error         // of send; valid once done is closed
	failed error         // why nothing more can be sent
	landed *target.Landed
	sum    target.Sum // of what landed
}

var (
	_ target.StreamUpload = (*stream)(nil)

	errAborted = errors.New("the upload was aborted")
	errEarly   = errors.New("the server answered before it had all bytes")
)

// landedStream is an upload that an earlier session completed.
func landedStream(what string, sum target.Sum, l target.Landed) *stream {
	s := &stream{what: what, size: l.Bytes, landed: &l, sum: sum}
	s.sent.Store(l.Bytes)
	return s
}

// start makes the request, once.
func (s *stream) start(ctx context.Context) (*io.PipeWriter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.landed != nil:
		return nil, target.Permanent(s.what+" is already complete", "")
	case s.failed != nil:
		return nil, s.failed
	case s.w != nil:
		return s.w, nil
	}
	s.mu.Unlock()
	var err error
	select {
	case s.gate <- struct{}{}:
	case <-ctx.Done():
		err = ctx.Err()
	case <-s.life.Done():
		err = context.Cause(s.life)
	}
	s.mu.Lock()
	if err != nil {
		return nil, err
	}
	if s.failed != nil { // aborted while waiting
		<-s.gate
		return nil, s.failed
	}
	sctx, cancel := context.WithCancelCause(s.life)
	s.r, s.w = io.Pipe()
	s.cancel, s.done = cancel, make(chan struct{})
	go func(r *io.PipeReader, done chan struct{}) {
		defer close(done)
		s.err = s.send(sctx, r)
		if s.err == nil {
			_ = r.CloseWithError(errEarly)
		} else {
			_ = r.CloseWithError(s.err)
		}
		cancel(nil)
		<-s.gate
	}(s.r, s.done)
	return s.w, nil
}

// fail ends the request, if err is the first reason to.
func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil && s.landed == nil {
		s.failed = err
	}
	if s.r != nil {
		_ = s.r.CloseWithError(err)
		s.cancel(err)
	}
}

// reason is why the stream broke; it waits for the request to end, which it
// does at once, because the body is closed.
func (s *stream) reason() error {
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		if s.failed = s.err; s.failed == nil {
			s.failed = errEarly
		}
	}
	return s.failed
}

func (s *stream) stalled() {
	s.fail(fmt.Errorf("nothing could be sent for %s", s.stall))
}

// Offset is what was sent; a broken stream is opened anew and begins at 0.
func (s *stream) Offset(context.Context) (int64, error) { return s.sent.Load(), nil }

// Append sends the next bytes. A context that ends breaks the stream.
func (s *stream) Append(ctx context.Context, p []byte) error {
	w, err := s.start(ctx)
	if err != nil {
		return fmt.Errorf("cannot send %s: %w", s.what, err)
	}
	if s.size >= 0 && s.sent.Load()+int64(len(p)) > s.size {
		err := target.Permanent(fmt.Sprintf("it is longer than the %d bytes that were announced", s.size), "")
		s.fail(err)
		return fmt.Errorf("cannot send %s: %w", s.what, err)
	}
	stop := context.AfterFunc(ctx, func() { s.fail(ctx.Err()) })
	defer stop()
	clock := time.AfterFunc(s.stall, s.stalled)
	defer clock.Stop()
	for len(p) > 0 {
		n, err := w.Write(p[:min(len(p), piece)])
		s.sent.Add(int64(n))
		p = p[n:]
		if err != nil {
			return fmt.Errorf("cannot send %s: %w", s.what, s.reason())
		}
		clock.Reset(s.stall)
	}
	return nil
}

// Sync does nothing: a broken stream begins again anyway.
func (s *stream) Sync(context.Context) error { return nil }

// Patch is not possible: the bytes are gone.
func (s *stream) Patch(context.Context, []byte) error {
	return target.Permanent("the start of a stream cannot be overwritten", "")
}

// Complete ends the body, waits for the platform's answer and compares.
func (s *stream) Complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	s.mu.Lock()
	landed, failed, w, done := s.landed, s.failed, s.w, s.done
	s.mu.Unlock()
	wrap := func(err error) (*target.Landed, error) {
		return nil, fmt.Errorf("cannot complete %s: %w", s.what, err)
	}
	sent := s.sent.Load()
	switch {
	case landed != nil:
		if known := s.sum.SHA1; len(known) > 0 && len(sum.SHA1) > 0 && !bytes.Equal(known, sum.SHA1) {
			return wrap(fmt.Errorf("%w: sha1 %x landed earlier, now %x", target.ErrDigest, known, sum.SHA1))
		}
		out := *landed
		return &out, nil
	case failed != nil:
		return wrap(failed)
	case w == nil:
		return wrap(target.Permanent("nothing was sent", ""))
	case sum.Bytes != 0 && sum.Bytes != sent || s.size >= 0 && sent != s.size:
		err := target.Permanent(fmt.Sprintf("%d bytes were sent, %d were announced and %d counted", sent, s.size, sum.Bytes), "")
		s.fail(err)
		return wrap(err)
	}
	_ = w.Close()
	clock := time.NewTimer(s.stall)
	defer clock.Stop()
	select {
	case <-done:
	case <-ctx.Done():
		s.fail(ctx.Err())
	case <-clock.C:
		s.fail(fmt.Errorf("no answer for %s after the last byte", s.stall))
	}
	<-done
	if s.err != nil {
		return wrap(s.reason())
	}
	l, err := s.land(ctx, sum)
	if err != nil {
		if errors.Is(err, target.ErrDigest) {
			s.fail(err)
		}
		return wrap(err)
	}
	s.mu.Lock()
	s.landed, s.sum = l, sum
	s.mu.Unlock()
	out := *l
	return &out, nil
}

// Abort breaks an upload that is not complete.
func (s *stream) Abort() error {
	s.fail(errAborted)
	s.mu.Lock()
	done := s.done
	s.mu.Unlock()
	if done != nil {
		<-done
	}
	return nil
}

// setVerdict notes what a later look at the platform's digests said.
func (s *stream) setVerdict(verdict string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if verdict != "" {
		l := *s.landed
		l.Verdict = verdict
		s.landed = &l
	}
}

func (s *stream) complete() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.landed != nil
}

// request sends body to a disk or file endpoint and returns when that has
// answered. The address may hold a token, so no error repeats it.
func request(client *http.Client, req *http.Request, what string) error {
	res, err := client.Do(req)
	if err != nil {
		if cause := context.Cause(req.Context()); cause != nil && !errors.Is(cause, context.Canceled) {
			return cause
		}
		return fmt.Errorf("the transfer to %s broke: %w", req.URL.Host, translate(err))
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	if p := statusProblem(res, what); p != nil {
		return p
	}
	return err
}

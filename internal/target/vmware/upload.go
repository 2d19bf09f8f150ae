package vmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"ascend/internal/target"
	"ascend/internal/target/body"
)

// stream is the upload of one disk: what is appended becomes the body of one
// HTTP request. Append, Complete and Offset are called by one goroutine at a
// time; Abort by any.
type stream struct {
	what string
	size int64           // of the file; -1: known at the end
	life context.Context // the session's
	gate chan struct{}   // bounds the streams of a session that run at once
	// send makes the request and returns when it is answered.
	send func(ctx context.Context, body io.ReadCloser) error
	// land is called after send succeeded and may be called again.
	land func(ctx context.Context, sum target.Sum) (*target.Landed, error)

	body body.Body

	mu     sync.Mutex
	landed *target.Landed
	sum    target.Sum // of what landed
}

var _ target.StreamUpload = (*stream)(nil)

// landedStream is an upload that an earlier session completed.
func landedStream(what string, sum target.Sum, l target.Landed) *stream {
	return &stream{what: what, size: l.Bytes, landed: &l, sum: sum}
}

// start makes the request, once.
func (s *stream) start(ctx context.Context) error {
	switch {
	case s.complete():
		return target.Permanent(s.what+" is already complete", "")
	case s.body.Failed() != nil:
		return s.body.Failed()
	case s.body.Begun():
		return nil
	}
	select {
	case s.gate <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.life.Done():
		return context.Cause(s.life)
	}
	err := s.body.Begin(s.life, s.send, func() { <-s.gate })
	if err != nil { // aborted while waiting
		<-s.gate
	}
	return err
}

// bytes is what was sent.
func (s *stream) bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.landed != nil {
		return s.landed.Bytes
	}
	return s.body.Sent()
}

// Offset is what was sent; a broken stream is opened anew and begins at 0.
func (s *stream) Offset(context.Context) (int64, error) { return s.bytes(), nil }

// Append sends the next bytes. A context that ends breaks the stream.
func (s *stream) Append(ctx context.Context, p []byte) error {
	err := s.start(ctx)
	if err == nil && s.size >= 0 && s.body.Sent()+int64(len(p)) > s.size {
		err = target.Permanent(fmt.Sprintf("it is longer than the %d bytes that were announced", s.size), "")
		s.body.Fail(err)
	}
	if err == nil {
		err = s.body.Write(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("cannot send %s: %w", s.what, err)
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
	landed := s.landed
	s.mu.Unlock()
	wrap := func(err error) (*target.Landed, error) {
		return nil, fmt.Errorf("cannot complete %s: %w", s.what, err)
	}
	sent, failed := s.body.Sent(), s.body.Failed()
	switch {
	case landed != nil:
		if known := s.sum.SHA1; len(known) > 0 && len(sum.SHA1) > 0 && !bytes.Equal(known, sum.SHA1) {
			return wrap(fmt.Errorf("%w: sha1 %x landed earlier, now %x", target.ErrDigest, known, sum.SHA1))
		}
		out := *landed
		return &out, nil
	case failed != nil:
		return wrap(failed)
	case !s.body.Begun():
		return wrap(target.Permanent("nothing was sent", ""))
	case sum.Bytes != 0 && sum.Bytes != sent || s.size >= 0 && sent != s.size:
		err := target.Permanent(fmt.Sprintf("%d bytes were sent, %d were announced and %d counted", sent, s.size, sum.Bytes), "")
		s.body.Fail(err)
		return wrap(err)
	}
	if err := s.body.Close(ctx); err != nil {
		return wrap(s.body.Reason())
	}
	l, err := s.land(ctx, sum)
	if err != nil {
		if errors.Is(err, target.ErrDigest) {
			s.body.Fail(err)
		}
		return wrap(err)
	}
	s.mu.Lock()
	s.landed, s.sum = l, sum
	s.mu.Unlock()
	s.body.Settle()
	out := *l
	return &out, nil
}

// Abort breaks an upload that is not complete.
func (s *stream) Abort() error {
	s.body.Abort()
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

package nutanix

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"ascend/internal/target"
)

// fileUpload sends one disk's file to v3's image service: one request of exact
// length. A broken one begins again, as another image.
type fileUpload struct {
	s    *session
	i    int
	name string // of the image
	id   string
	size int64
	w    *io.PipeWriter
	life context.Context
	stop context.CancelCauseFunc
	done chan struct{} // closed when the request has ended
	err  error         // how; after done

	mu     sync.Mutex
	off    int64
	failed error
	landed *target.Landed
}

// openFile makes the image of disk i and begins to send its file.
func (s *session) openFile(ctx context.Context, i int) (target.Upload, error) {
	s.mu.Lock()
	landed := s.landed[i]
	s.mu.Unlock()
	u := &fileUpload{s: s, i: i, name: thing(s.order.Job, i), size: s.order.Disks[i].FileSize, landed: landed, done: make(chan struct{})}
	u.life, u.stop = context.WithCancelCause(s.life)
	if landed != nil {
		u.off = u.size
		close(u.done)
		return u, nil
	}
	old, err := s.api.imageNamed(ctx, u.name)
	if err != nil {
		return nil, err
	}
	if old != nil && s.resource(kindImage, u.name).Name != "" {
		if err := s.api.deleteImage(ctx, old.ID); err != nil {
			return nil, err
		}
	}
	r := target.Resource{Kind: kindImage, Name: u.name}
	if err := s.record(ctx, r); err != nil {
		return nil, err
	}
	e, err := s.t.c.entity(ctx, call{method: http.MethodPost, path: "images", once: true, body: map[string]any{
		"api_version": "3.1", "metadata": map[string]any{"kind": "image"},
		"spec": map[string]any{"name": u.name, "description": mark(s.order.Job), "resources": map[string]any{
			"image_type": "DISK_IMAGE", "initial_placement_ref_list": []v3Ref{{"cluster", s.place.cluster.ID}},
		}},
	}})
	if err != nil {
		return nil, err
	}
	if r.ID = e.UUID; r.ID == "" {
		return nil, errors.New("the platform does not tell which image it made")
	}
	if err := s.record(ctx, r); err != nil {
		return nil, err
	}
	if t := e.task(); t != "" {
		if _, err := s.api.wait(ctx, t); err != nil {
			return nil, err
		}
	}
	u.id = r.ID
	u.begin()
	return u, nil
}

// begin starts the request whose body Append writes.
func (u *fileUpload) begin() {
	r, w := io.Pipe()
	u.w = w
	go func() {
		defer close(u.done)
		u.err = u.put(r)
		_ = r.CloseWithError(cmp.Or(u.err, io.ErrClosedPipe))
	}()
}

func (u *fileUpload) put(r io.Reader) error {
	c := u.s.t.c
	at := *c.cfg.base
	at.Path = apiV3Base + "images/" + u.id + "/file"
	req, err := http.NewRequestWithContext(u.life, http.MethodPut, at.String(), io.NopCloser(r))
	if err != nil {
		return err
	}
	req.ContentLength = u.size
	req.SetBasicAuth(c.cfg.user, c.cfg.password.Reveal())
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("User-Agent", "ascend")
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode >= 300 {
		err = refusal(call{method: http.MethodPut, path: at.Path}, res.StatusCode, b)
	}
	return err
}

func (u *fileUpload) fail(err error) {
	u.mu.Lock()
	if u.failed == nil && u.landed == nil {
		u.failed = err
	}
	u.mu.Unlock()
	u.stop(err)
	if u.w != nil {
		_ = u.w.CloseWithError(err) // never fails
	}
}

// Offset is what was sent; a broken file is opened anew and begins at 0.
func (u *fileUpload) Offset(context.Context) (int64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.off, u.failed
}

// Sync does nothing: a broken file begins again.
func (*fileUpload) Sync(context.Context) error { return nil }

// Patch is not offered.
func (*fileUpload) Patch(context.Context, []byte) error {
	return target.Permanent("the start of a stream cannot be overwritten", "")
}

// Append sends the next bytes. A context that ends breaks the request.
func (u *fileUpload) Append(ctx context.Context, p []byte) error {
	wrap := func(err error) error { return fmt.Errorf("cannot send disk %d: %w", u.i, translate(err)) }
	u.mu.Lock()
	landed, failed, off := u.landed, u.failed, u.off
	u.mu.Unlock()
	switch {
	case failed != nil:
		return wrap(failed)
	case landed != nil:
		return wrap(target.Permanent("the upload is complete", ""))
	case off+int64(len(p)) > u.size:
		err := target.Permanent(fmt.Sprintf("it is longer than the %d bytes that were announced", u.size), "")
		u.fail(err)
		return wrap(err)
	}
	defer context.AfterFunc(ctx, func() { u.fail(ctx.Err()) })()
	stall := u.s.t.cfg.stall
	clock := time.AfterFunc(stall, func() { u.fail(fmt.Errorf("nothing could be sent for %s", stall)) })
	defer clock.Stop()
	n, err := u.w.Write(p)
	u.mu.Lock()
	u.off += int64(n)
	u.mu.Unlock()
	if err == nil {
		return nil
	}
	<-u.done
	u.fail(cmp.Or(u.err, errors.New("the server answered before it had everything")))
	u.mu.Lock()
	defer u.mu.Unlock()
	return wrap(u.failed)
}

// Complete waits for the image and reads its file back: v3 takes a digest only
// before the first byte.
func (u *fileUpload) Complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	l, err := u.complete(ctx, sum)
	if err != nil {
		return nil, fmt.Errorf("cannot complete disk %d: %w", u.i, translate(err))
	}
	out := *l
	return &out, nil
}

func (u *fileUpload) complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	u.mu.Lock()
	landed, failed, off := u.landed, u.failed, u.off
	u.mu.Unlock()
	switch {
	case landed != nil:
		return landed, nil
	case failed != nil:
		return nil, failed
	case sum.Bytes != off || off != u.size:
		err := target.Permanent(fmt.Sprintf("%d bytes were sent, %d were announced and %d counted", off, u.size, sum.Bytes), "")
		u.fail(err)
		return nil, err
	case len(sum.SHA256) == 0:
		return nil, target.Permanent("the SHA-256 of the file was not computed", "")
	}
	_ = u.w.Close() // never fails
	clock := time.NewTimer(u.s.t.cfg.idle)
	defer clock.Stop()
	select {
	case <-u.done:
	case <-clock.C:
		err := fmt.Errorf("no answer for %s after the last byte", u.s.t.cfg.idle)
		u.fail(err)
		return nil, err
	case <-ctx.Done():
		u.fail(ctx.Err())
		return nil, ctx.Err()
	}
	if u.err != nil {
		u.fail(u.err)
		return nil, u.err
	}
	have, n, err := u.readBack(ctx)
	if err != nil {
		return nil, err
	}
	if n != u.size || !bytes.Equal(have, sum.SHA256) {
		return nil, &target.Problem{Msg: fmt.Sprintf("the image service holds other bytes than were sent (%d of %d)", n, u.size), Hint: "undo the job and restore again; no machine was made of it", Kind: target.ErrDigest}
	}
	s := u.s
	r := target.Resource{Kind: kindImage, Name: u.name, ID: u.id, Done: true, Data: map[string]string{dataBytes: strconv.FormatInt(u.size, 10)}}
	if err := s.record(ctx, r); err != nil {
		return nil, err
	}
	l := s.landing(u.id, u.i)
	s.mu.Lock()
	s.landed[u.i] = l
	s.mu.Unlock()
	u.mu.Lock()
	u.landed = l
	u.mu.Unlock()
	return l, nil
}

// readBack is the SHA-256 and the length of the image's file.
func (u *fileUpload) readBack(ctx context.Context) (sum []byte, n int64, err error) {
	c := u.s.t.c
	at := *c.cfg.base
	at.Path = apiV3Base + "images/" + u.id + "/file"
	err = c.again(ctx, false, func() error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		clock := time.AfterFunc(c.cfg.stall, func() { cancel(fmt.Errorf("nothing came for %s", c.cfg.stall)) })
		defer clock.Stop()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), http.NoBody)
		if err != nil {
			return err
		}
		req.SetBasicAuth(c.cfg.user, c.cfg.password.Reveal())
		res, err := c.http.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusOK {
			b, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20)) // only for the error's text
			return refusal(call{method: http.MethodGet, path: at.Path}, res.StatusCode, b)
		}
		h := sha256.New()
		if n, err = io.Copy(h, &ticking{res.Body, func() { clock.Reset(c.cfg.stall) }}); err != nil {
			return cmp.Or(context.Cause(ctx), err)
		}
		sum = h.Sum(nil)
		return nil
	})
	return sum, n, err
}

// Abort breaks an upload that is not complete.
func (u *fileUpload) Abort() error {
	u.fail(errAborted)
	<-u.done
	return nil
}

package hyperv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"ascend/internal/target"
	"ascend/internal/target/hyperv/hostshare"
)

var (
	_ target.RangeUpload = (*upload)(nil)
	_ target.Identified  = (*upload)(nil)
)

var (
	errAborted  = errors.New("the upload was aborted")
	errComplete = fmt.Errorf("the upload is complete: %w", target.ErrPermanent)
)

// upload writes one disk's file into a share, over a connection of its own.
type upload struct {
	s        *session
	i        int
	size     int64
	identity string
	share    *hostshare.Share
	file     *hostshare.File
	life     context.Context
	stop     context.CancelCauseFunc

	dirty  atomic.Bool  // something was written since it landed
	mu     sync.RWMutex // held for reading by writers
	landed *target.Landed
	closed error // why nothing more is written
}

func (u *upload) what() string { return fmt.Sprintf("disk %d", u.i) }

// openUpload makes the file of disk i, or opens the one that was made for the job.
func (s *session) openUpload(ctx context.Context, i int) (*upload, error) {
	u := &upload{s: s, i: i, size: s.order.Disks[i].FileSize}
	s.mu.Lock()
	u.landed = s.landed[i]
	s.mu.Unlock()
	u.life, u.stop = context.WithCancelCause(s.life)
	err := u.open(ctx)
	switch {
	case err == nil:
		return u, nil
	case u.landed != nil && ctx.Err() == nil: // a machine that runs holds its files
		u.closed, u.identity = errComplete, s.resource(kindFile, s.place.files[i]).Data[dataFile]
		return u, nil
	}
	u.stop(err)
	return nil, err
}

// open connects, and makes or opens the file.
func (u *upload) open(ctx context.Context) (err error) {
	s, name := u.s, u.s.place.files[u.i]
	r := s.resource(kindFile, name)
	if r.Name == "" || r.Gone {
		r = target.Resource{Kind: kindFile, Name: name}
		if err := s.record(ctx, r); err != nil {
			return err
		}
	}
	at := s.place.shares[u.i]
	if u.share, err = s.t.share(ctx, at.share); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			u.share.Break()
			_ = u.share.Close() // it is broken
		}
	}()
	// What the host does not answer ends with ctx, and later with the upload.
	unwatch := context.AfterFunc(ctx, u.share.Break)
	defer unwatch()
	fresh := false
	u.file, err = u.share.Continue(u.life, at.name)
	if errors.Is(err, fs.ErrNotExist) {
		fresh = true
		u.file, err = u.share.Create(u.life, at.name, u.size)
	}
	if err == nil && !fresh && !r.Done { // made by a process that died before it wrote
		fresh = true
		err = errors.Join(u.file.Resize(0), u.file.Resize(u.size))
	}
	if err == nil && !fresh {
		var n int64
		if n, err = u.file.Size(); err == nil && n != u.size {
			err = target.Permanent(fmt.Sprintf("its file has %d bytes and not %d: somebody changed it", n, u.size), "undo the job and restore again")
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return err
	}
	if fresh {
		r = target.Resource{Kind: kindFile, Name: name, ID: name, Done: true, Data: map[string]string{dataFile: rand.Text()}}
		if err := s.record(ctx, r); err != nil {
			return err
		}
		u.landed = nil
		s.mu.Lock()
		s.landed[u.i] = nil
		s.mu.Unlock()
	}
	u.identity = r.Data[dataFile]
	return nil
}

// Identity changes when the file had to be made anew.
func (u *upload) Identity() string { return u.identity }

// begin enters what needs the file; leave is called afterwards.
func (u *upload) begin(ctx context.Context) (leave func(), err error) {
	u.mu.RLock()
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case u.closed != nil:
		err = u.closed
	case u.life.Err() != nil:
		err = context.Cause(u.life)
	}
	if err != nil {
		u.mu.RUnlock()
		return nil, err
	}
	unwatch := context.AfterFunc(ctx, func() { u.stop(ctx.Err()); u.share.Break() })
	return func() { unwatch(); u.mu.RUnlock() }, nil
}

// reason is why something failed: who was cancelled sees that and not the
// connection that was broken for it.
func (u *upload) reason(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case u.life.Err() != nil:
		return context.Cause(u.life)
	}
	return err
}

// WriteRange writes p at off; the host has it when it returns.
func (u *upload) WriteRange(ctx context.Context, off int64, p []byte) error {
	wrap := func(err error) error { return fmt.Errorf("cannot write %s: %w", u.what(), translate(err)) }
	if off < 0 || off > u.size || int64(len(p)) > u.size-off {
		return wrap(target.Permanent(fmt.Sprintf("%d bytes at %d do not lie in a file of %d", len(p), off, u.size), ""))
	}
	leave, err := u.begin(ctx)
	if err != nil {
		return wrap(err)
	}
	defer leave()
	u.dirty.Store(true)
	if _, err := u.file.WriteAt(p, off); err != nil {
		return wrap(u.reason(ctx, err))
	}
	return nil
}

// Sync returns when what was written is on the host's storage.
func (u *upload) Sync(ctx context.Context) error {
	leave, err := u.begin(ctx)
	if errors.Is(err, errComplete) {
		return nil
	}
	if err == nil {
		defer leave()
		err = u.reason(ctx, u.file.Sync())
	}
	if err != nil {
		return fmt.Errorf("cannot flush %s: %w", u.what(), translate(err))
	}
	return nil
}

// Complete flushes and closes the file, and has Hyper-V look at it. Idempotent.
func (u *upload) Complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	l, err := u.complete(ctx, sum)
	if err != nil {
		return nil, fmt.Errorf("cannot complete %s: %w", u.what(), translate(err))
	}
	out := *l
	return &out, nil
}

func (u *upload) complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	if sum.Bytes != u.size {
		return nil, target.Permanent(fmt.Sprintf("%d bytes were announced and %d sent", u.size, sum.Bytes), "")
	}
	if err := u.Sync(ctx); err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.landed != nil && !u.dirty.Load():
		return u.landed, nil
	case u.closed != nil && !errors.Is(u.closed, errComplete):
		return nil, u.closed
	case u.closed == nil:
		unwatch := context.AfterFunc(ctx, u.share.Break)
		err := u.file.Close()
		unwatch()
		if err != nil {
			return nil, u.reason(ctx, err)
		}
		u.closed = errComplete
		_ = u.share.Close() // everything was flushed
	}
	l, err := u.s.settle(ctx, u.i, "")
	if err != nil {
		return nil, err
	}
	u.landed = l
	u.dirty.Store(false)
	return l, nil
}

// Abort gives up; what was written stays.
func (u *upload) Abort() error {
	u.stop(errAborted)
	if u.share != nil {
		u.share.Break()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed == nil {
		u.closed = errAborted
		_ = u.share.Close() // it is broken
	}
	return nil
}

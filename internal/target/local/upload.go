package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"ascend/internal/target"
)

// What is kept of a disk with its resource, under session.key.
const (
	keyBytes  = "bytes"  // length of the file; set once it has landed
	keySHA256 = "sha256" // of the file, in hex, where it is known
	keySynced = "synced" // bytes of a stream that survive a power loss
	keyBoot   = "boot"   // identity of the system's run in which the last bytes were written
)

var errComplete = fmt.Errorf("the upload is complete: %w", target.ErrPermanent)

// recall restores the state of a disk from what was recorded.
func (s *session) recall(l *landing) {
	n, err := strconv.ParseInt(s.ledger.data(l.entry, s.key(l, keyBytes)), 10, 64)
	if err != nil {
		return
	}
	sum, err := hex.DecodeString(s.ledger.data(l.entry, s.key(l, keySHA256)))
	if err != nil || len(sum) != sha256.Size {
		sum = nil
	}
	s.settle(l, n, sum)
}

// settle marks a disk as landed.
func (s *session) settle(l *landing, n int64, sum []byte) *target.Landed {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.landed == nil {
		close(l.done)
	}
	l.landed = &target.Landed{Object: s.object(l), Bytes: n}
	if len(sum) > 0 && slices.Contains(l.order.Delivery.Digests, "sha256") {
		l.landed.Verdict = "sha256"
	}
	l.sum = sum
	done := *l.landed
	return &done
}

// object names a disk: its path and, for a member of an OVA, memberMark and
// the member's name.
func (s *session) object(l *landing) string {
	path := filepath.Join(s.dir, l.entry)
	if filepath.Base(path) != l.name {
		path += memberMark + l.name
	}
	return path
}

// commit makes a disk durable and records that it has landed.
func (s *session) commit(ctx context.Context, l *landing, n int64, sum []byte) (*target.Landed, error) {
	if err := s.pack.landed(ctx, s, l.i, n); err != nil {
		return nil, err
	}
	if err := dataSync(l.file); err != nil {
		return nil, err
	}
	values := map[string]string{s.key(l, keyBytes): strconv.FormatInt(n, 10)}
	if len(sum) > 0 {
		values[s.key(l, keySHA256)] = hex.EncodeToString(sum)
	}
	if err := s.ledger.keep(ctx, l.entry, values); err != nil {
		return nil, err
	}
	return s.settle(l, n, sum), nil
}

// rangeUpload writes a file, or a window of an OVA, at any offset.
type rangeUpload struct {
	s           *session
	l           *landing
	start, size int64 // of the window

	mu     sync.RWMutex // held for reading by writers
	closed error
}

var _ target.RangeUpload = (*rangeUpload)(nil)

func (u *rangeUpload) WriteRange(ctx context.Context, off int64, p []byte) error {
	if off < 0 || off > u.size || int64(len(p)) > u.size-off {
		return fmt.Errorf("cannot write %d bytes at %d of %s: it has %d bytes: %w", len(p), off, u.l.name, u.size, target.ErrPermanent)
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	if u.closed != nil {
		return u.closed
	}
	return wrapWrite(ctx, u.l, writeAt(ctx, u.l.file, p, u.start+off))
}

func (u *rangeUpload) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return dataSync(u.l.file)
}

func (u *rangeUpload) Complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed != nil && !errors.Is(u.closed, errComplete) {
		return nil, u.closed
	}
	if sum.Bytes != u.size {
		return nil, fmt.Errorf("%s: %d bytes were ordered and %d sent: %w", u.l.name, u.size, sum.Bytes, target.ErrDigest)
	}
	st, err := u.l.file.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() < u.start+u.size {
		return nil, fmt.Errorf("%s was shortened by somebody: it ends at %d: %w", u.l.file.Name(), st.Size(), target.ErrDigest)
	}
	landed, err := u.s.commit(ctx, u.l, u.size, nil)
	if err != nil {
		return nil, err
	}
	u.closed = errComplete
	return landed, nil
}

func (u *rangeUpload) Abort() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed == nil {
		u.closed = fmt.Errorf("%s: the upload was aborted", u.l.name)
	}
	return nil
}

// streamUpload writes a file, or the growing end of an OVA, in order.
type streamUpload struct {
	s     *session
	l     *landing
	start int64

	mu     sync.Mutex
	off    int64 // bytes written; -1: not looked at yet
	synced int64
	tail   *follower // hashes what was written; nil where nobody asks
	closed error
}

var _ target.StreamUpload = (*streamUpload)(nil)

func newStreamUpload(s *session, l *landing, start int64) *streamUpload {
	u := &streamUpload{s: s, l: l, start: start, off: -1}
	if l.complete() != nil {
		u.closed = errComplete
	} else if slices.Contains(l.order.Delivery.Digests, "sha256") {
		u.tail = follow(l.file, start)
	}
	return u
}

// find looks at how much is there. The file's length counts while the system
// runs that wrote it. After a power loss the length may stand for bytes that
// were never written, so that only what was synced counts.
func (u *streamUpload) find(ctx context.Context) error {
	if u.off >= 0 {
		return nil
	}
	if done := u.l.complete(); done != nil {
		u.off, u.synced = done.Bytes, done.Bytes
		return nil
	}
	st, err := u.l.file.Stat()
	if err != nil {
		return err
	}
	off := max(st.Size()-u.start, 0)
	boot, err := bootID()
	if err != nil {
		return err
	}
	u.synced, _ = strconv.ParseInt(u.s.ledger.data(u.l.entry, u.s.key(u.l, keySynced)), 10, 64)
	if u.s.ledger.data(u.l.entry, u.s.key(u.l, keyBoot)) != boot {
		off = min(off, max(u.synced, 0))
		u.synced = off
		if err := u.l.file.Truncate(u.start + off); err != nil {
			return writeError(u.l.file.Name(), err)
		}
		if err := u.s.ledger.keep(ctx, u.l.entry, map[string]string{u.s.key(u.l, keyBoot): boot}); err != nil {
			return err
		}
	}
	u.off = off
	u.tail.advance(off)
	return nil
}

func (u *streamUpload) Offset(ctx context.Context) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.find(ctx); err != nil {
		return 0, err
	}
	return u.off, nil
}

func (u *streamUpload) Append(ctx context.Context, p []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed != nil {
		return u.closed
	}
	if err := u.find(ctx); err != nil {
		return err
	}
	if err := writeAt(ctx, u.l.file, p, u.start+u.off); err != nil {
		// How much of p is in the file is found out by the next upload.
		u.closed = fmt.Errorf("%s: an append failed before", u.l.name)
		return wrapWrite(ctx, u.l, err)
	}
	u.off += int64(len(p))
	u.tail.advance(u.off)
	return nil
}

func (u *streamUpload) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.off <= u.synced || errors.Is(u.closed, errComplete) {
		return nil
	}
	off := u.off
	if err := dataSync(u.l.file); err != nil {
		return err
	}
	if err := u.s.ledger.keep(ctx, u.l.entry, map[string]string{u.s.key(u.l, keySynced): strconv.FormatInt(off, 10)}); err != nil {
		return err
	}
	u.synced = off
	return nil
}

func (u *streamUpload) Patch(ctx context.Context, p []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case errors.Is(u.closed, errComplete):
		return nil // what completed was patched
	case u.closed != nil:
		return u.closed
	case !u.l.order.Delivery.Patchable:
		return fmt.Errorf("%s cannot be patched: %w", u.l.name, target.ErrPermanent)
	}
	if err := u.find(ctx); err != nil {
		return err
	}
	if int64(len(p)) > u.off {
		return fmt.Errorf("cannot patch %d bytes of %s, which has %d: %w", len(p), u.l.name, u.off, target.ErrPermanent)
	}
	u.synced = 0
	return wrapWrite(ctx, u.l, writeAt(ctx, u.l.file, p, u.start))
}

func (u *streamUpload) Complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed != nil && !errors.Is(u.closed, errComplete) {
		return nil, u.closed
	}
	if err := u.find(ctx); err != nil {
		return nil, err
	}
	if sum.Bytes != u.off {
		return nil, fmt.Errorf("%s has %d bytes and %d were sent: %w", u.l.name, u.off, sum.Bytes, target.ErrDigest)
	}
	if done := u.l.complete(); done != nil {
		u.l.mu.Lock()
		defer u.l.mu.Unlock()
		if len(sum.SHA256) > 0 && len(u.l.sum) > 0 && !bytes.Equal(sum.SHA256, u.l.sum) {
			return nil, fmt.Errorf("%s: %w", u.l.name, target.ErrDigest)
		}
		again := *done
		return &again, nil
	}
	var digest []byte
	if u.tail != nil {
		var err error
		if digest, err = u.tail.sum(ctx, u.off); err != nil {
			return nil, err
		}
		if len(sum.SHA256) > 0 && !bytes.Equal(sum.SHA256, digest) {
			return nil, fmt.Errorf("%s reads back with SHA-256 %x, sent was %x: %w", u.l.name, digest, sum.SHA256, target.ErrDigest)
		}
	}
	landed, err := u.s.commit(ctx, u.l, u.off, digest)
	if err != nil {
		return nil, err
	}
	u.closed = errComplete
	u.tail.stop()
	return landed, nil
}

func (u *streamUpload) Abort() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed == nil {
		u.closed = fmt.Errorf("%s: the upload was aborted", u.l.name)
	}
	u.tail.stop()
	return nil
}

// wrapWrite explains a failed write; a cancelled one needs no explanation.
func wrapWrite(ctx context.Context, l *landing, err error) error {
	if err == nil || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return err
	}
	return writeError(l.file.Name(), err)
}

// bootID is the kernel's random name for the time since it was started
// (random(4), /proc/sys/kernel/random/boot_id).
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("cannot tell whether the system was restarted: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// follower hashes a file that grows, reading back what was written a moment
// ago, while it is in memory still. A nil follower does nothing.
type follower struct {
	file  *os.File
	start int64

	mu      sync.Mutex
	changed *sync.Cond
	hash    hash.Hash
	done    int64 // bytes hashed
	goal    int64 // bytes that are there
	err     error
	stopped bool
}

func follow(file *os.File, start int64) *follower {
	f := &follower{file: file, start: start, hash: sha256.New()}
	f.changed = sync.NewCond(&f.mu)
	go f.run()
	return f
}

func (f *follower) run() {
	buf := make([]byte, 256<<10)
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		for f.done == f.goal && !f.stopped {
			f.changed.Wait()
		}
		if f.stopped {
			return
		}
		n, off := min(int64(len(buf)), f.goal-f.done), f.start+f.done
		f.mu.Unlock()
		_, err := io.ReadFull(io.NewSectionReader(f.file, off, n), buf[:n])
		if err == nil {
			_, _ = f.hash.Write(buf[:n]) // hash.Hash never fails
		}
		f.mu.Lock()
		if err != nil {
			f.err, f.stopped = fmt.Errorf("cannot read back %s: %w", f.file.Name(), err), true
		} else {
			f.done += n
		}
		f.changed.Broadcast()
	}
}

// advance says that the file has n bytes now.
func (f *follower) advance(n int64) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.goal = n
	f.changed.Broadcast()
}

// sum waits until n bytes, all there are, are hashed.
func (f *follower) sum(ctx context.Context, n int64) ([]byte, error) {
	wake := context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.changed.Broadcast()
	})
	defer wake()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.goal = n
	f.changed.Broadcast()
	for f.done != n {
		if f.err != nil {
			return nil, f.err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if f.stopped {
			return nil, errors.New("the upload was aborted")
		}
		f.changed.Wait()
	}
	return f.hash.Sum(nil), nil
}

func (f *follower) stop() {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	f.changed.Broadcast()
}

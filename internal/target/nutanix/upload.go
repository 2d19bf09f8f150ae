package nutanix

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"

	"ascend/internal/target"
)

// maxPart is S3's limit of a part, and perRecord how many parts' ETags one
// recorded resource holds.
const (
	maxPart   = 5 << 30
	perRecord = 100
)

// partSize is the size of every part but the last: such that there are enough
// part numbers for the file.
func partSize(least, file int64) int64 {
	n := (file + liteParts - 1) / liteParts
	if n <= least {
		return least
	}
	return (n + 1<<20 - 1) >> 20 << 20
}

// sent is a part that landed.
type sent struct {
	tag  string
	size int64
}

// upload sends one disk's file to Objects Lite, part by part, and has an image
// made of it.
type upload struct {
	s    *session
	i    int
	key  string // of the object; the image's name too
	size int64  // of the file
	part int64
	life context.Context
	stop context.CancelCauseFunc
	// slots bounds the parts on their way.
	slots chan struct{}
	free  chan []byte // buffers that are not in use

	recording sync.Mutex // one record of parts at a time

	mu     sync.Mutex
	id     string // of the multipart upload; "" when the object is whole
	parts  map[int]sent
	next   int    // number of the part that is being filled
	buf    []byte // what is in it
	off    int64  // bytes appended
	failed error
	landed *target.Landed
	moved  chan struct{} // closed when a part lands or the upload breaks
}

func (u *upload) what() string { return fmt.Sprintf("disk %d", u.i) }

// openUpload continues disk i's upload where the records say it is, or begins it.
func (s *session) openUpload(ctx context.Context, i int) (*upload, error) {
	size := s.order.Disks[i].FileSize
	u := &upload{
		s: s, i: i, key: thing(s.order.Job, i), size: size, part: partSize(s.t.cfg.part, size), slots: make(chan struct{}, inFlight), free: make(chan []byte, inFlight+1),
		parts: map[int]sent{}, next: 1, moved: make(chan struct{}),
	}
	u.life, u.stop = context.WithCancelCause(s.life)
	s.mu.Lock()
	u.landed = s.landed[i]
	s.mu.Unlock()
	r := s.resource(kindObject, u.key)
	switch {
	case u.landed != nil:
		u.off = size
		return u, nil
	case r.Done && !r.Gone && r.Data[dataBytes] == strconv.FormatInt(size, 10):
		have, err := s.t.c.objectSize(ctx, u.key)
		if err != nil {
			return nil, err
		}
		if have == size {
			u.off = size
			return u, nil
		}
	case r.Data[dataUpload] != "" && !r.Done && !r.Gone:
		u.id = r.Data[dataUpload]
		u.resume()
		if len(u.parts) > 0 {
			return u, nil
		}
		// Nothing to lose, and the upload may have been dropped when recording it
		// failed.
		if err := s.t.c.abortUpload(ctx, u.key, u.id); err != nil {
			return nil, err
		}
	}
	return u, u.begin(ctx)
}

// begin begins a multipart upload.
func (u *upload) begin(ctx context.Context) error {
	r := target.Resource{Kind: kindObject, Name: u.key}
	if err := u.s.record(ctx, r); err != nil {
		return err
	}
	id, err := u.s.t.c.createUpload(ctx, u.key)
	if err != nil {
		return err
	}
	r.Data = map[string]string{dataUpload: id}
	if err := u.s.record(ctx, r); err != nil {
		// Nobody would know of it: Objects Lite does not list uploads.
		return errors.Join(err, u.s.t.c.abortUpload(context.WithoutCancel(ctx), u.key, id))
	}
	u.id = id
	return nil
}

func partsName(key string, n int) string { return fmt.Sprintf("%s parts %d", key, (n-1)/perRecord) }

// resume takes over the parts that landed: it goes on after those without a gap,
// and does not send again those after a gap.
func (u *upload) resume() {
	whole := true
	for n := 1; n <= liteParts; n++ {
		r := u.s.resource(kindParts, partsName(u.key, n))
		if r.Data[dataUpload] != u.id {
			return
		}
		tag, size, _ := strings.Cut(r.Data[strconv.Itoa(n)], " ")
		length, err := strconv.ParseInt(size, 10, 64)
		if err != nil || tag == "" || length != min(u.part, u.size-int64(n-1)*u.part) {
			whole = false
			continue
		}
		u.parts[n] = sent{tag, length}
		if whole {
			u.off, u.next = u.off+length, n+1
		}
	}
}

// Offset is the number of bytes appended; after a crash those of the parts that
// landed without a gap.
func (u *upload) Offset(context.Context) (int64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.off, u.failed
}

// Sync waits until the parts that are full have landed and are recorded. What is
// in the part that is being filled has not: that is the Delivery's Lag.
func (u *upload) Sync(ctx context.Context) error {
	u.mu.Lock()
	last := u.next
	u.mu.Unlock()
	for n := 1; n < last; n++ {
		for {
			u.mu.Lock()
			_, there := u.parts[n]
			failed, moved := u.failed, u.moved
			there = there || u.landed != nil
			u.mu.Unlock()
			if failed != nil {
				return failed
			}
			if there {
				break
			}
			select {
			case <-moved:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// Patch is not offered.
func (u *upload) Patch(context.Context, []byte) error {
	return target.Permanent("the start of a stream cannot be overwritten", "")
}

// fail breaks the upload; the first reason stays.
func (u *upload) fail(err error) {
	u.mu.Lock()
	if u.failed == nil && u.landed == nil {
		u.failed = err
		u.tell()
	}
	u.mu.Unlock()
	u.stop(err)
}

// tell wakes who waits for parts; callers hold the lock.
func (u *upload) tell() {
	close(u.moved)
	u.moved = make(chan struct{})
}

// Append sends the next bytes: it returns when they are in a part that is filled
// or on its way, and waits when too many are.
func (u *upload) Append(ctx context.Context, p []byte) error {
	wrap := func(err error) error { return fmt.Errorf("cannot send %s: %w", u.what(), translate(err)) }
	u.mu.Lock()
	landed, failed, off, id := u.landed, u.failed, u.off, u.id
	u.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		u.fail(ctx.Err())
		return wrap(ctx.Err())
	case failed != nil:
		return wrap(failed)
	case landed != nil || id == "":
		return wrap(target.Permanent("the upload is complete", ""))
	case off+int64(len(p)) > u.size:
		err := target.Permanent(fmt.Sprintf("it is longer than the %d bytes that were announced", u.size), "")
		u.fail(err)
		return wrap(err)
	}
	for len(p) > 0 {
		if u.buf == nil {
			u.buf = u.buffer()
		}
		n := min(int64(len(p)), u.part-int64(len(u.buf)))
		u.buf = append(u.buf, p[:n]...)
		p = p[n:]
		u.mu.Lock()
		u.off += n
		u.mu.Unlock()
		if int64(len(u.buf)) == u.part {
			if err := u.send(ctx); err != nil {
				return wrap(err)
			}
		}
	}
	return nil
}

func (u *upload) buffer() []byte {
	select {
	case b := <-u.free:
		return b[:0]
	default:
		return make([]byte, 0, min(u.part, u.size))
	}
}

// send puts the filled part on its way, unless it landed before a crash.
func (u *upload) send(ctx context.Context) error {
	u.mu.Lock()
	old, there := u.parts[u.next]
	if there && old.size == int64(len(u.buf)) {
		u.next++
		u.buf = u.buf[:0]
	}
	u.mu.Unlock()
	if there && len(u.buf) == 0 {
		return nil
	}
	select {
	case u.slots <- struct{}{}:
	case <-ctx.Done():
		u.fail(ctx.Err())
		return ctx.Err()
	case <-u.life.Done():
		return u.reason()
	}
	u.mu.Lock()
	buf, n, id := u.buf, u.next, u.id
	u.buf, u.next = nil, n+1
	u.mu.Unlock()
	go func() {
		defer func() { <-u.slots }()
		if err := u.put(id, n, buf); err != nil {
			u.fail(err)
			return
		}
		select {
		case u.free <- buf:
		default:
		}
	}()
	return nil
}

// put sends a part and records that it landed.
func (u *upload) put(id string, n int, buf []byte) error {
	tag, err := u.s.t.c.putPart(u.life, u.key, id, n, buf)
	if isGone(err) {
		return u.expired(u.life)
	}
	if err != nil {
		return err
	}
	u.recording.Lock()
	defer u.recording.Unlock()
	name := partsName(u.key, n)
	r := u.s.resource(kindParts, name)
	data := map[string]string{dataUpload: id}
	if r.Data[dataUpload] == id {
		data = maps.Clone(r.Data)
	}
	data[strconv.Itoa(n)] = fmt.Sprintf("%s %d", tag, len(buf))
	// What landed is recorded even when the upload is being stopped.
	if err := u.s.record(context.WithoutCancel(u.life), target.Resource{Kind: kindParts, Name: name, Data: data}); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.parts[n] = sent{tag, int64(len(buf))}
	u.tell()
	return nil
}

// expired notes that Prism Central has dropped the upload: the next one begins anew.
func (u *upload) expired(ctx context.Context) error {
	err := u.s.record(context.WithoutCancel(ctx), target.Resource{Kind: kindObject, Name: u.key})
	return errors.Join(fmt.Errorf("the parts that were sent are no longer known: %w", target.ErrExpired), err)
}

// reason is why the upload broke.
func (u *upload) reason() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failed != nil {
		return u.failed
	}
	return context.Cause(u.life)
}

// drain waits until no part is on its way.
func (u *upload) drain(ctx context.Context) error {
	for n := range inFlight {
		select {
		case u.slots <- struct{}{}:
		case <-ctx.Done():
			for range n {
				<-u.slots
			}
			return ctx.Err()
		}
	}
	for range inFlight {
		<-u.slots
	}
	return nil
}

// Complete puts the parts together and has an image made of the object, for
// which Prism Central compares the SHA-256 of the file. Idempotent.
func (u *upload) Complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	l, err := u.complete(ctx, sum)
	if err != nil {
		return nil, fmt.Errorf("cannot complete %s: %w", u.what(), translate(err))
	}
	out := *l
	return &out, nil
}

func (u *upload) complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	u.mu.Lock()
	landed, failed, off := u.landed, u.failed, u.off
	u.mu.Unlock()
	switch {
	case landed != nil:
		return landed, nil
	case failed != nil:
		return nil, failed
	case sum.Bytes != off || off != u.size:
		return nil, target.Permanent(fmt.Sprintf("%d bytes were sent, %d were announced and %d counted", off, u.size, sum.Bytes), "")
	case len(sum.SHA256) == 0:
		return nil, target.Permanent("the SHA-256 of the file was not computed", "")
	}
	if u.id != "" {
		if len(u.buf) > 0 {
			if err := u.send(ctx); err != nil {
				return nil, err
			}
		}
		if err := u.drain(ctx); err != nil {
			return nil, err
		}
		if err := u.join(ctx); err != nil {
			return nil, err
		}
	}
	s := u.s
	r, err := s.make(ctx, made{
		kind: kindImage, name: u.key, data: map[string]string{dataBytes: strconv.FormatInt(u.size, 10)},
		find: func() (string, error) {
			i, err := s.api.imageNamed(ctx, u.key)
			if err != nil || i == nil {
				return "", err
			}
			return i.ID, nil
		},
		ready: func(string) error {
			i, err := s.api.imageNamed(ctx, u.key)
			if err == nil && (i == nil || i.Size <= 0) {
				err = errHalf
			}
			return err
		},
		start: func(request string) (string, error) {
			v, ok := s.api.(*v4)
			if !ok {
				return "", errNoV4
			}
			return v.createImage(ctx, request, u.key, mark(s.order.Job), hex.EncodeToString(sum.SHA256), s.place.cluster.ID)
		},
		remove: func(id string) error { return s.api.deleteImage(ctx, id) },
	})
	if err != nil {
		var t *taskError
		if errors.As(err, &t) && strings.Contains(strings.ToLower(t.text), "checksum") {
			return nil, &target.Problem{Msg: "Prism Central does not hold what was sent: " + t.Error(), Hint: "undo the job and restore again; no machine was made of it", Kind: target.ErrDigest, Cause: err}
		}
		return nil, err
	}
	if err := s.t.c.deleteObject(ctx, u.key); err != nil {
		return nil, err
	}
	if err := s.gone(ctx, kindObject, u.key); err != nil {
		return nil, err
	}
	l := s.landing(r.ID, u.i)
	s.mu.Lock()
	s.landed[u.i] = l
	s.mu.Unlock()
	u.mu.Lock()
	u.landed = l
	u.mu.Unlock()
	return l, nil
}

// join makes the object of its parts.
func (u *upload) join(ctx context.Context) error {
	u.mu.Lock()
	if u.failed != nil {
		u.mu.Unlock()
		return u.failed
	}
	var tags []string
	for n := 1; n < u.next; n++ {
		tags = append(tags, u.parts[n].tag)
	}
	id := u.id
	u.mu.Unlock()
	if err := u.s.t.c.completeUpload(ctx, u.key, id, tags, u.size); err != nil {
		if isGone(err) {
			return u.expired(ctx)
		}
		return err
	}
	data := map[string]string{dataBytes: strconv.FormatInt(u.size, 10)}
	if err := u.s.record(ctx, target.Resource{Kind: kindObject, Name: u.key, ID: u.key, Done: true, Data: data}); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.id = ""
	return nil
}

var errAborted = errors.New("the upload was aborted")

// Abort stops what is on its way.
func (u *upload) Abort() error {
	u.fail(errAborted)
	return u.drain(context.Background())
}

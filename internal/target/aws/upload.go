package aws

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"ascend/internal/awsapi"
	"ascend/internal/target"
)

// upload writes one disk into its snapshot.
type upload struct {
	s    *session
	i    int
	id   string
	size int64

	mu     sync.Mutex
	landed bool // complete at EBS
	sealed bool // by this upload
	gone   bool // aborted
	seen   bool // EBS has answered for this snapshot: it is not too new

	// past is the snapshot when it was complete before this upload was opened.
	past     *awsapi.Snapshot
	pastErr  error
	openPast sync.Once
}

func (u *upload) fail(err error) error {
	return fmt.Errorf("cannot upload disk %d: %w", u.i, translate(err))
}

// WriteRange implements target.RangeUpload: p is whole blocks.
func (u *upload) WriteRange(ctx context.Context, off int64, p []byte) error {
	if len(p)%awsapi.BlockSize != 0 {
		return u.fail(target.Permanent(fmt.Sprintf("%d bytes are not whole blocks", len(p)), ""))
	}
	for n := 0; n < len(p); n += awsapi.BlockSize {
		b := p[n : n+awsapi.BlockSize]
		if err := u.WriteBlock(ctx, off+int64(n), b, sha256.Sum256(b)); err != nil {
			return err
		}
	}
	return nil
}

// WriteBlock implements target.BlockUpload.
func (u *upload) WriteBlock(ctx context.Context, off int64, p []byte, sum [sha256.Size]byte) error {
	u.mu.Lock()
	over, gone, past := u.sealed, u.gone, u.landed && !u.sealed
	u.mu.Unlock()
	switch {
	case over:
		return u.fail(target.Permanent("the upload is complete", ""))
	case gone:
		return u.fail(errors.New("the upload was aborted"))
	case off < 0 || off >= u.size || off%awsapi.BlockSize != 0 || len(p) != awsapi.BlockSize:
		return u.fail(target.Permanent(fmt.Sprintf("%d bytes at %d are no block of a file of %d bytes", len(p), off, u.size), ""))
	}
	if past {
		return u.compare(ctx, off, p)
	}
	// A snapshot that was only just started may not be known everywhere yet.
	for tries, pause := 1, 50*time.Millisecond; ; tries, pause = tries+1, pause*2 {
		young := u.young()
		if err := u.s.t.pace.wait(ctx); err != nil {
			return u.fail(err)
		}
		err := u.s.t.c.PutBlock(ctx, u.id, off/awsapi.BlockSize, p, sum, u.s.t.pace.throttled)
		if err == nil {
			u.known()
			return nil
		}
		if awsapi.Code(err) != "ResourceNotFoundException" {
			return u.fail(u.whetherLost(ctx, err))
		}
		if !young && tries > 3 || pause > 30*time.Second {
			return fmt.Errorf("cannot upload disk %d: snapshot %s: %w", u.i, u.id, target.ErrExpired)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return u.fail(ctx.Err())
		}
	}
}

// whetherLost is a refusal as ErrExpired when EBS has given the snapshot up, as it
// does with one that waited longer than its Timeout for the next block.
func (u *upload) whetherLost(ctx context.Context, err error) error {
	switch awsapi.Code(err) {
	case "ValidationException", "ConflictException":
	default:
		return err
	}
	sn, serr := u.s.t.snapshot(ctx, u.id)
	if serr == nil && (sn == nil || sn.State == "error") {
		return &target.Problem{Msg: "EBS has given the snapshot " + u.id + " up: " + err.Error(), Kind: target.ErrExpired}
	}
	return err
}

// compare is WriteBlock of what an earlier process completed without noting it:
// the same bytes are there already, and others never can be.
func (u *upload) compare(ctx context.Context, off int64, p []byte) error {
	u.openPast.Do(func() { u.past, u.pastErr = u.s.t.c.OpenSnapshot(ctx, u.id, 0) })
	if u.pastErr != nil {
		return u.fail(u.pastErr)
	}
	have := make([]byte, len(p))
	if _, err := u.past.ReadAt(have, off); err != nil {
		return u.fail(err)
	}
	if !bytes.Equal(have, p) {
		return u.fail(&target.Problem{Msg: fmt.Sprintf("the completed snapshot %s holds other bytes at %d", u.id, off), Kind: target.ErrDigest})
	}
	return nil
}

func (u *upload) known() { u.mu.Lock(); u.seen = true; u.mu.Unlock() }

// young tells that the snapshot may be too new to be found.
func (u *upload) young() bool { u.mu.Lock(); defer u.mu.Unlock(); return !u.seen }

// Sync implements target.RangeUpload: a block that was taken is kept.
func (*upload) Sync(context.Context) error { return nil }

// Abort implements target.Upload.
func (u *upload) Abort() error { u.mu.Lock(); u.gone = true; u.mu.Unlock(); return nil }

// Identity implements target.Identified: a snapshot that EBS gave up is followed
// by another one.
func (u *upload) Identity() string { return u.id }

// Complete implements target.Upload: EBS compares number and digest of all
// blocks, those of earlier processes included, with what it holds.
func (u *upload) Complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	fail := func(err error) (*target.Landed, error) {
		return nil, fmt.Errorf("cannot complete disk %d: %w", u.i, translate(err))
	}
	if sum.Bytes != u.size {
		return fail(target.Permanent(fmt.Sprintf("%d bytes were sent of %d", sum.Bytes, u.size), ""))
	}
	u.mu.Lock()
	over := u.landed || u.sealed
	u.mu.Unlock()
	if !over {
		if sum.Blocks == nil {
			return fail(target.Permanent("the digests of the blocks were not computed", ""))
		}
		var n int64
		h := sha256.New()
		for _, s := range sum.Blocks {
			n++
			h.Write(s[:])
		}
		err := u.whetherLost(ctx, u.seal(ctx, n, h.Sum(nil)))
		if awsapi.Code(err) == "ValidationException" {
			return fail(&target.Problem{
				Msg: "EBS does not hold what was sent: " + err.Error(), Kind: target.ErrDigest, Cause: err,
				Hint: "undo the job and restore again; nothing was made of this snapshot",
			})
		}
		if err != nil {
			return fail(err)
		}
		u.mu.Lock()
		u.sealed = true
		u.mu.Unlock()
	}
	err := await(ctx, 6*time.Hour, "completing the snapshot "+u.id, func() (bool, error) {
		sn, err := u.s.t.snapshot(ctx, u.id)
		switch {
		case err != nil:
			return false, err
		case sn == nil:
			return false, nil // not everywhere yet
		case sn.State == "error":
			return false, &target.Problem{Msg: "EBS gave the snapshot up: " + sn.Message, Kind: target.ErrDigest}
		}
		return sn.State == "completed", nil
	})
	if err != nil {
		return fail(err)
	}
	u.mu.Lock()
	u.landed, u.sealed = true, true
	u.mu.Unlock()
	return &target.Landed{Object: u.id, Bytes: u.size, Verdict: "sha256 of each block and of all blocks"}, nil
}

// seal completes the snapshot, which may be too new to be found when it is empty.
func (u *upload) seal(ctx context.Context, n int64, sum []byte) (err error) {
	return errors.Join(await(ctx, 2*time.Minute, "finding the snapshot "+u.id, func() (bool, error) {
		err = u.s.t.c.CompleteSnapshot(ctx, u.id, n, sum)
		if awsapi.Code(err) == "ResourceNotFoundException" && u.young() {
			return false, nil
		}
		return true, nil
	}), err)
}

package azure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"ascend/internal/target"
)

// pageSize is what writes are whole, aligned pieces of (Put Page).
const pageSize = 512

// attempts is how often one write is tried in a row without success.
const attempts = 10

// verdict tells how the service checked the bytes: each write carries the CRC-64
// of its bytes, and a write whose bytes do not match is refused.
const verdict = "crc64 of each range"

// upload is the direct upload of one disk. What WriteRange returned for is on
// the platform's disks; nothing needs to be synced.
type upload struct {
	s      *session
	i      int
	id     string
	size   int64 // of the file
	flow   *flow
	access *access // nil once landed

	mu      sync.Mutex
	landed  bool
	aborted bool
	commit  sync.Mutex // held by Complete

	// past: an earlier upload completed the disk. What is written is compared
	// with what is there, which back reads.
	past bool
	back *remoteDisk
}

// compare is WriteRange of what has landed already: the same bytes are there, or
// the disk holds others.
func (u *upload) compare(ctx context.Context, off int64, p []byte) error {
	u.mu.Lock()
	if u.back == nil {
		d, err := u.s.t.read(ctx, u.id)
		if err != nil {
			u.mu.Unlock()
			return err
		}
		u.back = d
	}
	back := u.back
	u.mu.Unlock()
	got := make([]byte, len(p))
	if err := back.file(ctx, got, off); err != nil {
		return err
	}
	if !bytes.Equal(got, p) {
		return fmt.Errorf("%w: the disk was completed with other bytes", target.ErrDigest)
	}
	return nil
}

// shutBack ends comparing; access to the disk is revoked.
func (u *upload) shutBack() error {
	u.mu.Lock()
	back := u.back
	u.back = nil
	u.mu.Unlock()
	if back == nil {
		return nil
	}
	return back.Close()
}

// state is why nothing may be written; nil when something may.
func (u *upload) state() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.landed && !u.past:
		return target.Permanent("the disk is already complete", "")
	case u.aborted:
		return errors.New("the upload was aborted")
	}
	return nil
}

// WriteRange writes whole pages.
func (u *upload) WriteRange(ctx context.Context, off int64, p []byte) error {
	fail := func(err error) error {
		return fmt.Errorf("cannot write %d bytes at %d of disk %d: %w", len(p), off, u.i, translate(err))
	}
	if err := u.state(); err != nil {
		return fail(err)
	}
	if off < 0 || off%pageSize != 0 || len(p)%pageSize != 0 || off > u.size || int64(len(p)) > u.size-off {
		return fail(target.Permanent(fmt.Sprintf("these are not whole pages of a file of %d bytes", u.size), ""))
	}
	if u.past {
		if err := u.compare(ctx, off, p); err != nil {
			return fail(err)
		}
		return nil
	}
	for rest, at := p, off; len(rest) > 0; {
		n := min(len(rest), u.flow.size())
		if err := u.write(ctx, at, rest[:n]); err != nil {
			return fail(err)
		}
		rest, at = rest[n:], at+int64(n)
	}
	return nil
}

// write writes one chunk, again and again while that may help. A chunk that has
// become too large for the link is written in smaller ones.
func (u *upload) write(ctx context.Context, off int64, p []byte) error {
	mismatches, renewals := 0, 0
	for try := 1; ; try++ {
		if n := u.flow.size(); n < len(p) {
			for len(p) > 0 {
				k := min(n, len(p))
				if err := u.write(ctx, off, p[:k]); err != nil {
					return err
				}
				off, p = off+int64(k), p[k:]
			}
			return nil
		}
		blob, err := u.access.open(ctx)
		if err != nil {
			return u.ended(err)
		}
		if err := u.flow.enter(ctx); err != nil {
			return err
		}
		began := time.Now()
		err = u.put(ctx, blob, off, p)
		out, wait := judge(err)
		u.flow.leave(out, time.Since(began), time.Now())
		if err == nil {
			return nil
		}
		if cerr := ctx.Err(); cerr != nil {
			return cerr
		}
		switch status := statusOf(err); {
		case status == http.StatusForbidden:
			// The signature has ended, or was revoked.
			if renewals++; renewals > 2 {
				return &target.Problem{Msg: "access to the disk's bytes is refused", Hint: "a firewall of the subscription or a policy may forbid public access to managed disks", Kind: target.ErrPermanent, Cause: err}
			}
			if err := u.access.renewed(ctx, blob); err != nil {
				return u.ended(err)
			}
			continue
		case status == http.StatusNotFound:
			return &target.Problem{Msg: "the disk is no longer there", Kind: target.ErrExpired, Cause: err}
		case status == http.StatusBadRequest && (codeOf(err) == "Crc64Mismatch" || codeOf(err) == "Md5Mismatch"):
			if mismatches++; mismatches > 2 {
				return fmt.Errorf("%w: the service received other bytes three times in a row", target.ErrDigest)
			}
		case status >= 400 && status < 500 && out == lost:
			return &target.Problem{Msg: fmt.Sprintf("the service refuses the write (%s)", codeOf(err)), Kind: target.ErrPermanent, Cause: err}
		}
		if try >= attempts {
			return fmt.Errorf("%d attempts failed, the last: %w", try, blobError(err))
		}
		if wait == 0 {
			wait = min(u.s.t.cfg.delay<<(try-1), 30*time.Second)
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// ended tells whether access cannot be had any more because the upload is over.
func (u *upload) ended(err error) error {
	if notFound(err) || codeOf(err) == "OperationNotAllowed" {
		return &target.Problem{Msg: "the upload was ended from outside: " + translate(err).Error(), Kind: target.ErrExpired, Cause: err}
	}
	return err
}

// judge tells what a write's outcome says of the load, and how long the service
// asks to wait; 0: not said.
func judge(err error) (outcome, time.Duration) {
	var re *azcore.ResponseError
	switch {
	case err == nil:
		return went, 0
	case errors.Is(err, context.DeadlineExceeded):
		return slow, 0
	case !errors.As(err, &re):
		return lost, 0
	}
	switch re.StatusCode {
	case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return busy, retryAfter(re.RawResponse, 0)
	case http.StatusRequestTimeout:
		return slow, 0
	}
	return lost, 0
}

// blobError is an error about bytes without the address, which holds a signature.
func blobError(err error) error {
	var re *azcore.ResponseError
	if errors.As(err, &re) {
		return &target.Problem{Msg: fmt.Sprintf("the service answers HTTP %d (%s)", re.StatusCode, re.ErrorCode), Cause: err,
			Hint: "the storage service is busy: run the restore again, it goes on where it was"}
	}
	return strip(err)
}

// put is one Put Page.
func (u *upload) put(ctx context.Context, b *pageblob.Client, off int64, p []byte) error {
	ctx, cancel := context.WithTimeout(ctx, u.s.t.cfg.put)
	defer cancel()
	body := &body{r: bytes.NewReader(p)}
	// The transport may read on after it returned; p is the caller's then.
	defer body.shut()
	_, err := b.UploadPages(ctx, body, blob.HTTPRange{Offset: off, Count: int64(len(p))},
		&pageblob.UploadPagesOptions{TransactionalValidation: blob.TransferValidationTypeComputeCRC64()})
	return err
}

// body reads borrowed bytes until it is shut.
type body struct {
	mu   sync.Mutex
	r    *bytes.Reader
	over bool
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, errors.New("the write is over")
	}
	return b.r.Read(p)
}

func (b *body) Seek(off int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.r.Seek(off, whence)
}

// Close does nothing: a body may be sent again after it was closed.
func (b *body) Close() error { return nil }

func (b *body) shut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
}

var _ io.ReadSeekCloser = (*body)(nil)

// Sync does nothing: what was answered is kept.
func (u *upload) Sync(ctx context.Context) error { return ctx.Err() }

// Complete ends the upload: access is revoked, after which nothing can be
// written any more and the disk can be attached.
func (u *upload) Complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	u.commit.Lock()
	defer u.commit.Unlock()
	fail := func(err error) (*target.Landed, error) {
		return nil, fmt.Errorf("cannot complete disk %d: %w", u.i, translate(err))
	}
	if sum.Bytes != 0 && sum.Bytes != u.size {
		return fail(target.Permanent(fmt.Sprintf("%d bytes were sent and %d announced", sum.Bytes, u.size), ""))
	}
	if err := u.shutBack(); err != nil {
		return fail(err)
	}
	u.mu.Lock()
	landed := u.landed
	u.mu.Unlock()
	if !landed {
		if err := u.state(); err != nil {
			return fail(err)
		}
		if err := u.end(ctx); err != nil {
			return fail(err)
		}
	}
	u.mu.Lock()
	u.landed, u.past = true, false
	u.mu.Unlock()
	return &target.Landed{Object: u.id, Bytes: u.size, Verdict: verdict}, nil
}

// end revokes access and checks what became of the disk.
func (u *upload) end(ctx context.Context) error {
	if err := u.s.stage(ctx, u.i, stageCommitting); err != nil {
		return err
	}
	if err := u.s.c.revoke(ctx, u.id); err != nil {
		return err
	}
	var d managedDisk
	if err := u.s.c.get(ctx, u.id, apiDisks, &d); err != nil {
		return err
	}
	if d.Properties.DiskState != "Unattached" {
		return fmt.Errorf("the disk is in state %s after access was revoked", d.Properties.DiskState)
	}
	if want := u.size - footerSize; d.Properties.Bytes != 0 && d.Properties.Bytes != want {
		return fmt.Errorf("%w: the disk has %d bytes and %d were sent", target.ErrDigest, d.Properties.Bytes, want)
	}
	return u.s.stage(ctx, u.i, stageLanded)
}

// Abort breaks the upload off. The disk stays, and so does access to it,
// so that another session goes on.
func (u *upload) Abort() error {
	u.mu.Lock()
	u.aborted = true
	u.mu.Unlock()
	return u.shutBack()
}

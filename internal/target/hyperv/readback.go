package hyperv

import (
	"context"
	"errors"
	"fmt"

	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/target/hyperv/hostshare"
)

// ReadBack opens disk i's file in its share, as the guest will see it.
func (s *session) ReadBack(ctx context.Context, i int) (disk.Disk, error) {
	fail := func(err error) (disk.Disk, error) {
		return nil, fmt.Errorf("cannot read back disk %d: %w", i, translate(err))
	}
	if i < 0 || i >= len(s.order.Disks) {
		return fail(target.Permanent(fmt.Sprintf("the machine has %d disks", len(s.order.Disks)), ""))
	}
	s.mu.Lock()
	l := s.landed[i]
	s.mu.Unlock()
	if l == nil {
		return fail(target.Permanent("it has not been completed", ""))
	}
	at := s.place.shares[i]
	if at.share == "" { // it was fetched
		look, err := s.t.look(ctx)
		if err != nil {
			return fail(err)
		}
		if at, err = s.t.spot(look, s.place.files[i]); err != nil {
			return fail(err)
		}
	}
	d, err := s.t.read(ctx, at, s.order.Disks[i].Delivery.Format)
	if err != nil {
		return fail(err)
	}
	return d, nil
}

// ReadLanded opens a disk's file that a receipt names. A machine that runs holds
// its files locked.
func (t *host) ReadLanded(ctx context.Context, object string, f image.Format) (disk.Disk, error) {
	d, err := t.readLanded(ctx, object, f)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", object, translate(err))
	}
	return d, nil
}

func (t *host) readLanded(ctx context.Context, object string, f image.Format) (disk.Disk, error) {
	path, err := cleanPath(object)
	if err != nil {
		return nil, target.Permanent(err.Error(), "")
	}
	l, err := t.look(ctx)
	if err != nil {
		return nil, err
	}
	at, err := t.spot(l, path)
	if err != nil {
		return nil, err
	}
	return t.read(ctx, at, f)
}

// read opens an image in a share. The disk owns the connection.
func (t *host) read(ctx context.Context, at spot, f image.Format) (disk.Disk, error) {
	sh, err := t.share(ctx, at.share)
	if err != nil {
		return nil, err
	}
	done := func(err error) (disk.Disk, error) { return nil, errors.Join(err, sh.Close()) }
	// The disk is read after this call: what cancels the reads is closing it.
	file, err := sh.Read(context.WithoutCancel(ctx), at.name)
	if err != nil {
		return done(err)
	}
	size, err := file.Size()
	if err != nil {
		return done(err)
	}
	img, err := open.File(nil, disk.Remote(at.name, size, &remote{file, sh}), open.Options{Format: f.Name})
	if err != nil {
		return nil, err // it closed the file
	}
	return img, nil
}

// remote is a file of a share with the connection that it is read over.
type remote struct {
	*hostshare.File
	share *hostshare.Share
}

func (r *remote) Close() error { return errors.Join(r.File.Close(), r.share.Close()) }

package azure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/target"
)

// diskID is the identifier of a managed disk.
var diskID = regexp.MustCompile(`(?i)^/subscriptions/[0-9a-f-]{36}/resourceGroups/[^/?#]+/providers/Microsoft\.Compute/disks/[A-Za-z0-9_.-]+$`)

// ReadLanded opens the managed disk that a receipt names. A disk whose machine
// runs cannot be read, and one that has run has other bytes.
func (t *azure) ReadLanded(ctx context.Context, object string, _ image.Format) (disk.Disk, error) {
	if !diskID.MatchString(object) {
		return nil, fmt.Errorf("cannot read %s: %w", object, target.Permanent("this connector made no such disk", ""))
	}
	d, err := t.read(ctx, object)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", object, translate(err))
	}
	return d, nil
}

// reading is access to read a disk, shared by all that read it.
type reading struct {
	users  int
	access *access
}

// read opens a managed disk. Access to it is revoked when the last that reads
// it is closed.
func (t *azure) read(ctx context.Context, id string) (*remoteDisk, error) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, errors.New("the target is closed")
	}
	r := t.reading[id]
	if r == nil {
		r = &reading{access: &access{c: t.c, id: id, kind: "Read"}}
		t.reading[id] = r
	}
	r.users++
	t.mu.Unlock()
	d := &remoteDisk{t: t, r: r, id: id}
	if err := d.look(ctx); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

// remoteDisk is a managed disk, read by ranges.
type remoteDisk struct {
	t    *azure
	r    *reading
	id   string
	size int64 // of the disk, without the footer
	once sync.Once
}

// look finds the disk's size.
func (d *remoteDisk) look(ctx context.Context) error {
	return d.with(ctx, func(ctx context.Context, b *pageblob.Client) error {
		p, err := b.GetProperties(ctx, nil)
		if err != nil {
			return err
		}
		if p.ContentLength == nil || *p.ContentLength < footerSize || *p.ContentLength%pageSize != 0 {
			return target.Permanent("its file has no length that a fixed VHD can have", "")
		}
		d.size = *p.ContentLength - footerSize
		return nil
	})
}

// with runs f with the blob: again with a new signature when the old has ended,
// and again later when the service is busy.
func (d *remoteDisk) with(ctx context.Context, f func(ctx context.Context, b *pageblob.Client) error) error {
	renewed := false
	for try := 1; ; try++ {
		b, err := d.r.access.open(ctx)
		if err != nil {
			return err
		}
		err = f(ctx, b)
		if err == nil || ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		if statusOf(err) == http.StatusForbidden && !renewed {
			renewed = true
			if err := d.r.access.renewed(ctx, b); err != nil {
				return err
			}
			continue
		}
		out, wait := judge(err)
		var p *target.Problem
		if errors.As(err, &p) || try >= attempts || out == lost && statusOf(err) != 0 {
			return blobError(err)
		}
		if wait == 0 {
			wait = min(d.t.cfg.delay<<(try-1), 30*time.Second)
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// Size is what the guest sees, in bytes.
func (d *remoteDisk) Size() int64 { return d.size }

// Unchanged is nil: a disk that can be read cannot be written.
func (d *remoteDisk) Unchanged() error { return nil }

// Close ends reading and, with the last that reads the disk, revokes access.
func (d *remoteDisk) Close() (err error) {
	d.once.Do(func() {
		d.t.mu.Lock()
		d.r.users--
		last := d.r.users == 0
		if last {
			delete(d.t.reading, d.id)
		}
		d.t.mu.Unlock()
		if !last {
			return
		}
		d.r.access.mu.Lock()
		granted := d.r.access.blob != nil
		d.r.access.mu.Unlock()
		if !granted {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), d.t.cfg.call)
		defer cancel()
		if err = d.t.c.revoke(ctx, d.id); err != nil {
			err = fmt.Errorf("cannot revoke access to %s: %w", d.id, translate(err))
		}
	})
	return err
}

// ReadAt reads one range; see disk.Disk.
func (d *remoteDisk) ReadAt(p []byte, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, errors.New("negative offset")
	case off >= d.size:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	want := p[:min(int64(len(p)), d.size-off)]
	if err := d.file(d.t.life, want, off); err != nil {
		return 0, fmt.Errorf("cannot read %d bytes at %d: %w", len(want), off, translate(err))
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(want), nil
}

// file reads a range of the file, the disk's footer included.
func (d *remoteDisk) file(ctx context.Context, p []byte, off int64) error {
	return d.with(ctx, func(ctx context.Context, b *pageblob.Client) error {
		ctx, cancel := context.WithTimeout(ctx, d.t.cfg.put)
		defer cancel()
		res, err := b.DownloadStream(ctx, &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: off, Count: int64(len(p))}})
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		_, err = io.ReadFull(res.Body, p)
		return err
	})
}

// Extents tells which pages were written; see disk.Disk.
func (d *remoteDisk) Extents(ctx context.Context, off, n int64, yield func(disk.Extent) error) error {
	if off < 0 {
		return errors.New("negative offset")
	}
	if n = min(n, d.size-off); n <= 0 {
		return nil
	}
	end := off + n
	const window = 1 << 30 // a question about more may be refused as too large
	for off < end {
		stop := min(off+window, end)
		var runs [][2]int64
		err := d.with(ctx, func(ctx context.Context, b *pageblob.Client) error {
			runs = runs[:0]
			pager := b.NewGetPageRangesPager(&pageblob.GetPageRangesOptions{Range: blob.HTTPRange{Offset: off, Count: stop - off}})
			for pager.More() {
				page, err := pager.NextPage(ctx)
				if err != nil {
					return err
				}
				for _, r := range page.PageRange {
					if r != nil && r.Start != nil && r.End != nil {
						runs = append(runs, [2]int64{*r.Start, *r.End + 1})
					}
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("cannot find what was written: %w", translate(err))
		}
		for _, r := range runs {
			from, to := max(r[0], off), min(r[1], stop)
			if from >= to {
				continue
			}
			if from > off {
				if err := yield(disk.Extent{Off: off, Len: from - off}); err != nil {
					return err
				}
			}
			if err := yield(disk.Extent{Off: from, Len: to - from, Data: true}); err != nil {
				return err
			}
			off = to
		}
		if off < stop {
			if err := yield(disk.Extent{Off: off, Len: stop - off}); err != nil {
				return err
			}
			off = stop
		}
	}
	return nil
}

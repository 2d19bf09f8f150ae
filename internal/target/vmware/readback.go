package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"ascend/internal/disk"
	"ascend/internal/image"
)

// ReadBack opens the flat file that disk i was uploaded as.
func (d *storeSession) ReadBack(ctx context.Context, i int) (disk.Disk, error) {
	if i < 0 || i >= len(d.files) || !d.has(i) {
		return nil, fmt.Errorf("cannot read back disk %d: %w", i, permanent("it has not been completed", ""))
	}
	f, want := d.files[i], d.order.Disks[i].FileSize
	size, err := d.c.sizeOf(ctx, d.place.dc, f)
	if err != nil {
		return nil, err
	}
	if size != want {
		return nil, fmt.Errorf("cannot read back disk %d: the file has %d bytes instead of %d", i, size, want)
	}
	return &remoteDisk{
		client: d.c.http, address: d.c.address(d.place.dc, f, suffixFlat),
		name: f.path(suffixFlat), size: size, stall: d.t.cfg.stall, life: d.life,
	}, nil
}

// ReadLanded opens the flat file beside a descriptor that a receipt names. A
// disk that was imported has no such name: the platform's verdict stands for it.
func (t *vmware) ReadLanded(ctx context.Context, object string, f image.Format) (disk.Disk, error) {
	fail := func(err error) (disk.Disk, error) { return nil, fmt.Errorf("cannot read %s: %w", object, err) }
	m := landedPath.FindStringSubmatch(object)
	if m == nil || f.Name != "raw" {
		return fail(permanent("an imported disk cannot be read back", "the receipt's verdict is the platform's own"))
	}
	c, err := t.connect(ctx)
	if err != nil {
		return fail(err)
	}
	tr, err := c.readTree(ctx, false)
	if err != nil {
		return fail(err)
	}
	dcs := tr.kind(kindsDatacenter)
	if want := t.cfg.datacenter; want != "" {
		dc, err := choose("datacenter", want, t.cfg.sdk.Host, dcs)
		if err != nil {
			return fail(err)
		}
		dcs = []*node{dc}
	}
	var stores []*node
	at := map[*node]*node{}
	for _, dc := range dcs {
		for _, n := range tr.under(tr.kind(kindsDatastore), dc.one("datastoreFolder")) {
			if n.raw == m[1] {
				stores, at[n] = append(stores, n), dc
			}
		}
	}
	store, err := only("datastore named "+m[1], t.cfg.sdk.Host, stores)
	if err != nil {
		return fail(err)
	}
	file := storeFile{store: store, folder: m[2], name: m[3]}
	size, err := c.sizeOf(ctx, at[store], file)
	switch {
	case err != nil:
		return fail(err)
	case size < 0:
		return fail(permanent("it is no longer there", ""))
	}
	return &remoteDisk{
		client: c.http, address: c.address(at[store], file, suffixFlat),
		name: file.path(suffixFlat), size: size, stall: t.cfg.stall, life: context.Background(),
	}, nil
}

// landedPath reads the Object of a disk that was uploaded to a datastore.
var landedPath = regexp.MustCompile(`^\[([^\]]+)\] ([^/]+)/(disk-\d+)\.vmdk$`)

// remoteDisk is a flat file on a datastore, read by ranges.
type remoteDisk struct {
	client  *http.Client
	address *url.URL
	name    string
	size    int64
	stall   time.Duration
	life    context.Context
}

// Size is the file's length in bytes.
func (r *remoteDisk) Size() int64 { return r.size }

// Close does nothing: the connection is the session's.
func (r *remoteDisk) Close() error { return nil }

// Unchanged is nil: nobody but the job knows the file.
func (r *remoteDisk) Unchanged() error { return nil }

// Extents says that everything is data: a flat file does not tell its holes.
func (r *remoteDisk) Extents(ctx context.Context, off, n int64, yield func(disk.Extent) error) error {
	if off < 0 {
		return errors.New("negative offset")
	}
	if n = min(n, r.size-off); n <= 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return yield(disk.Extent{Off: off, Len: n, Data: true})
}

// ReadAt asks for one range; see disk.Disk.
func (r *remoteDisk) ReadAt(p []byte, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, errors.New("negative offset")
	case off >= r.size:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	want := p[:min(int64(len(p)), r.size-off)]
	ctx, cancel := context.WithTimeout(r.life, r.stall)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.address.String(), nil)
	if err != nil {
		return 0, errors.New("the address of the file is not valid")
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+int64(len(want))-1))
	res, err := r.client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("cannot read %s: %w", r.name, translate(err))
	}
	defer func() { _ = res.Body.Close() }()
	whole := res.StatusCode == http.StatusOK && off == 0 && int64(len(want)) == r.size
	if res.StatusCode != http.StatusPartialContent && !whole {
		if err := statusProblem(res, "reading "+r.name); err != nil {
			return 0, err
		}
		return 0, permanent("the server does not read files by ranges", "")
	}
	n, err := io.ReadFull(res.Body, want)
	if err != nil {
		return n, fmt.Errorf("cannot read %s at offset %d: %w", r.name, off+int64(n), err)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

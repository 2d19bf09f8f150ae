package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/target"
)

// ReadBack opens the flat file that disk i was uploaded as.
func (d *storeSession) ReadBack(ctx context.Context, i int) (disk.Disk, error) {
	if i < 0 || i >= len(d.files) || !d.has(i) {
		return nil, fmt.Errorf("cannot read back disk %d: %w", i, target.Permanent("it has not been completed", ""))
	}
	r, err := d.c.read(ctx, d.life, d.files[i])
	if err == nil && r.size != d.order.Disks[i].FileSize {
		err = fmt.Errorf("the file has %d bytes instead of %d", r.size, d.order.Disks[i].FileSize)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read back disk %d: %w", i, err)
	}
	return r, nil
}

// ReadLanded opens the flat file of a disk that a receipt names: by its file's
// path, or, where it had none that could be told, by its machine and slot there. Machines
// that run hold their files locked, and one that has run has other bytes.
func (t *vmware) ReadLanded(ctx context.Context, name string, _ image.Format) (disk.Disk, error) {
	fail := func(err error) (disk.Disk, error) { return nil, fmt.Errorf("cannot read %s: %w", name, err) }
	c, err := t.connect(ctx)
	if err != nil {
		return fail(err)
	}
	tr, err := c.readTree(ctx, false)
	if err != nil {
		return fail(err)
	}
	var (
		file  string
		store *types.ManagedObjectReference
		size  int64 // -1: whatever the file has
	)
	if m := landedSlot.FindStringSubmatch(name); m != nil {
		file, store, size, err = c.backing(ctx, m)
		if err != nil {
			return fail(err)
		}
	} else if file, size = name, -1; !landedPath.MatchString(name) {
		return fail(target.Permanent("this connector made no such disk", ""))
	}
	f, err := t.locateFile(tr, file, store)
	if err != nil {
		return fail(err)
	}
	r, err := c.read(ctx, context.Background(), f)
	if err == nil && size >= 0 && r.size != size {
		err = target.Permanent(fmt.Sprintf("its file has %d bytes and the disk %d", r.size, size), "this storage keeps no plain files")
	}
	if err != nil {
		return fail(err)
	}
	return r, nil
}

var (
	// landedPath is the Object of a disk: its descriptor, in a folder of its machine.
	landedPath = regexp.MustCompile(`^\[[^\]]+\] [^/.][^/]*/[^/.][^/]*\.vmdk$`)
	// landedSlot is the Object of an imported disk whose file is not told.
	landedSlot = regexp.MustCompile(`^/([A-Za-z0-9-]+)/([A-Za-z]+)(\d+):(\d+)$`)
)

// backing is the descriptor, the datastore and the size of the disk in a machine's slot,
// which m, a match of landedSlot, names.
func (c *conn) backing(ctx context.Context, m []string) (file string, store *types.ManagedObjectReference, size int64, err error) {
	number, err1 := strconv.ParseInt(m[3], 10, 32)
	unit, err2 := strconv.ParseInt(m[4], 10, 32)
	if err1 != nil || err2 != nil {
		return "", nil, 0, target.Permanent("this connector made no such disk", "")
	}
	var x mo.VirtualMachine
	err = c.get(ctx, types.ManagedObjectReference{Type: kindsVM[0], Value: m[1]}, &x, "config.hardware.device")
	if err != nil {
		return "", nil, 0, translate(err)
	}
	if x.Config == nil {
		return "", nil, 0, errors.New("the platform does not tell the machine's configuration")
	}
	d := slotsOf(x.Config.Hardware.Device)[slotKey{m[2], int32(number), int32(unit)}]
	if d == nil {
		return "", nil, 0, target.Permanent("the machine has no such disk", "")
	}
	b, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok || b.Parent != nil {
		return "", nil, 0, target.Permanent("the disk is no plain file: it has snapshots or lies on storage without files", "")
	}
	return b.FileName, b.Datastore, d.CapacityInBytes, nil
}

// locateFile finds the datastore and datacenter of a file, by reference when
// that is known, else by the datastore's name.
func (t *vmware) locateFile(tr *tree, file string, ref *types.ManagedObjectReference) (storeFile, error) {
	var p object.DatastorePath
	if !p.FromString(file) || !strings.HasSuffix(p.Path, suffixDescriptor) {
		return storeFile{}, target.Permanent("its file has no name that can be read", "")
	}
	dcs := tr.kind(kindsDatacenter)
	if want := t.cfg.datacenter; want != "" {
		dc, err := choose("datacenter", want, t.cfg.sdk.Host, dcs)
		if err != nil {
			return storeFile{}, err
		}
		dcs = []*node{dc}
	}
	var stores []*node
	at := map[*node]*node{}
	for _, dc := range dcs {
		for _, n := range tr.under(tr.kind(kindsDatastore), dc.one("datastoreFolder")) {
			if ref != nil && n.ref == *ref || ref == nil && n.raw == p.Datastore {
				stores, at[n] = append(stores, n), dc
			}
		}
	}
	store, err := only("datastore named "+p.Datastore, t.cfg.sdk.Host, stores)
	if err != nil {
		return storeFile{}, err
	}
	return storeFile{dc: at[store], store: store, base: strings.TrimSuffix(p.Path, suffixDescriptor)}, nil
}

// read opens a flat file that is there. It can be read while life lasts.
func (c *conn) read(ctx, life context.Context, f storeFile) (*remoteDisk, error) {
	size, err := c.sizeOf(ctx, f)
	if err != nil {
		return nil, err
	}
	if size < 0 {
		return nil, target.Permanent("it is not there, or not any more", "")
	}
	return &remoteDisk{client: c.http, address: c.address(f, suffixFlat), name: f.path(suffixFlat), size: size, stall: c.cfg.stall, life: life}, nil
}

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
		return 0, target.Permanent("the server does not read files by ranges", "")
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

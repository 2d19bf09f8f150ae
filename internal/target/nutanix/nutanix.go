// Package nutanix restores machines to Nutanix AHV through Prism Central.
//
// With the v4 API a disk's file is sent in parts to Objects Lite, Prism Central's
// S3 service; an image is made of it, for which Prism Central compares the SHA-256
// of the whole file; the machine is created with a copy of each image as its disk;
// and the images are deleted. With v3, where there is no v4, a file is one request
// to the image service, and is read back.
//
// An upload to Objects Lite continues after the process was killed: the parts that
// landed are recorded, because Objects Lite does not list them.
//
// Everything made bears the job's id: objects and images in their names, machines
// in their description. Undo removes what is recorded and bears the job's id, and
// nothing else.
package nutanix

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

var (
	_ target.Target  = (*prism)(nil)
	_ target.Session = (*session)(nil)
)

// Names of the ways, as in Delivery.Path: by Objects Lite with v4, by the image
// service with v3.
const (
	pathObjects = "objects"
	pathImage   = "image"
)

// Placement fields.
const (
	fieldCluster   = "cluster"
	fieldContainer = "storage_container"
	fieldCategory  = "category"
	fieldProject   = "project"
)

// Options of an order.
const (
	optMAC      = "mac"
	optTimezone = "timezone"
)

// prism is a configured Prism Central.
type prism struct {
	cfg *config
	c   *client
	old bool // v3 is used

	mu     sync.Mutex
	vmm    string // version of the vmm API, once it is known
	open   map[*session]bool
	closed bool
}

// connect reads the settings and, unless they say which API is used, asks. No
// answer is no failure: Validate says what is wrong.
func connect(ctx context.Context, s target.Settings) (*prism, error) {
	cfg, err := newConfig(s)
	if err != nil {
		return nil, err
	}
	t := &prism{cfg: cfg, c: newClient(cfg), old: cfg.api == apiV3, open: map[*session]bool{}}
	if cfg.api == apiAuto {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		v, err := t.c.version(ctx, true)
		t.vmm, t.old = v, errors.Is(err, errNoV4) && t.c.hasV3(ctx)
	}
	return t, nil
}

// Close stops the restores that are under way. Nothing is deleted.
func (t *prism) Close() error {
	t.mu.Lock()
	t.closed = true
	sessions := slices.Collect(maps.Keys(t.open))
	t.mu.Unlock()
	for _, s := range sessions {
		s.end(errClosed)
	}
	t.c.http.CloseIdleConnections()
	return nil
}

// inFlight is how many parts of one disk are on their way at once.
const inFlight = 4

// deliveries are the forms a disk can travel in, the cheapest first.
func (t *prism) deliveries() []target.Delivery {
	if t.old {
		return []target.Delivery{{
			Format: image.Format{Name: "qcow2"}, Mode: target.Ordered, Clean: true, NeedSize: true, Digests: []string{"sha256"}, Align: 512, Path: pathImage,
		}}
	}
	d := target.Delivery{
		Format: image.Format{Name: "qcow2"}, Mode: target.Ordered, Clean: true, Resumable: true, Lag: t.cfg.part,
		NeedSize: true, Digests: []string{"sha256"}, Align: 512, Path: pathObjects,
	}
	raw := d
	raw.Format, raw.Clean = image.Format{Name: "raw"}, false
	return []target.Delivery{d, raw}
}

// Capabilities is what AHV takes.
func (t *prism) Capabilities() target.Capabilities {
	c := caps.For(vm.Nutanix)
	c.Deliveries = t.deliveries()
	c.Fields = []target.Field{
		{Name: fieldCluster, Help: "cluster, by name or identifier; needed where there are several", Default: t.cfg.cluster},
		{Name: fieldContainer, Help: "storage container of disks that name none; needed where there are several", Default: t.cfg.container},
		{Name: fieldCategory, Help: "categories that exist, KEY:VALUE, comma-separated"},
		{Name: fieldProject, Help: "project, by name or identifier", Default: t.cfg.project},
	}
	c.Options = []target.Field{
		{Name: optMAC, Help: "keep the adapters' MAC addresses, or let the platform make new ones", Default: "keep", Values: []string{"keep", "new"}},
		{Name: optTimezone, Help: "time zone that the hardware clock shows, as in Europe/Berlin; Windows expects its own", Default: "UTC"},
	}
	return c
}

// Begin starts or continues a restore.
func (t *prism) Begin(ctx context.Context, o *target.Order, rec target.Recorder) (target.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot begin: %w", err)
	}
	if err := t.checkOrder(o); err != nil {
		return nil, fmt.Errorf("cannot begin: %w", err)
	}
	recorded, err := rec.Recorded(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the job's resources: %w", err)
	}
	s, err := t.newSession(ctx, o, rec, recorded)
	if err != nil {
		return nil, fmt.Errorf("cannot begin restoring %q: %w", o.Machine.Name, translate(err))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		s.stop(errClosed)
		return nil, errors.New("cannot begin: the target is closed")
	}
	t.open[s] = true
	return s, nil
}

// checkOrder checks what can be checked without asking.
func (t *prism) checkOrder(o *target.Order) error {
	bad := func(format string, args ...any) error { return target.Permanent(fmt.Sprintf(format, args...), "") }
	if err := t.Capabilities().Check(o); err != nil {
		return err
	}
	if len(o.Disks) == 0 {
		return bad("the machine has no disks")
	}
	for i, d := range o.Disks {
		switch {
		case d.FileSize <= 0:
			return bad("disk %d: the length of the file must be known before it is sent", i)
		case partSize(t.cfg.part, d.FileSize) > maxPart:
			return bad("disk %d: its file of %d bytes is larger than Objects Lite takes", i, d.FileSize)
		}
	}
	_, err := displayName(o.Machine.Name)
	return err
}

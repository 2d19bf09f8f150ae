// Package cloudstack restores machines to Apache CloudStack with KVM.
//
// A machine gets there in one of four ways, as each order's Delivery.Path says:
//
//   - "template": the boot disk is uploaded as a template and the others as
//     volumes, each one POST of exact length to the secondary storage VM; the
//     machine is deployed from the template, the volumes are attached, and the
//     template is deleted. Every cloud since 4.6 takes this.
//   - "volume": the boot disk is uploaded as a volume too and the machine deployed
//     from it (4.21, KVM, zone-wide primary storage). A cloud also wants the
//     volume to be known as a root disk, so this is used only when settings ask.
//   - "import": the disks are written into an export of primary storage that is
//     mounted here, and taken over by importVm and importVolume; for
//     administrators (4.19.1). Nothing is copied a second time.
//   - "hotadd": Ascend runs in a machine of the cloud; new volumes are attached to
//     it and written as block devices. The boot disk's volume is made a template
//     inside the cloud.
//
// An upload to the secondary storage VM cannot be continued: after a break the
// half-made volume is deleted and new upload parameters are asked for. The other
// two ways continue where they were.
//
// Everything made bears the job's id: volumes, templates and files in their
// names, machines in the detail "ascend.job"; all that have tags in the tag of
// that name too. Undo removes what is recorded and bears the job's id, and
// nothing else.
package cloudstack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

var (
	_ target.Target  = (*cloud)(nil)
	_ target.Session = (*session)(nil)
)

// Names of the ways, as in Delivery.Path.
const (
	pathTemplate = "template"
	pathVolume   = "volume"
	pathImport   = "import"
	pathHotAdd   = "hotadd"
)

// Options of an order.
const (
	optMAC      = "mac"
	optKeyPair  = "ssh_key"
	optAffinity = "affinity_groups"
	optSpeed    = "cpu_speed"
	optHostName = "host_name"
)

// Placement fields.
const (
	fieldZone     = "zone"
	fieldOffering = caps.ServiceOffering
	fieldDisk     = "disk_offering"
	fieldCluster  = "cluster"
	fieldHost     = "host"
)

// cloud is a configured CloudStack. It asks nothing before it is used.
type cloud struct {
	cfg *config
	c   *client

	mu     sync.Mutex
	facts  *facts
	open   map[*session]bool
	closed bool
}

func connect(_ context.Context, s target.Settings) (*cloud, error) {
	cfg, err := newConfig(s)
	if err != nil {
		return nil, err
	}
	return &cloud{cfg: cfg, c: newClient(cfg), open: map[*session]bool{}}, nil
}

// Close stops the restores that are under way. Nothing is deleted.
func (t *cloud) Close() error {
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

// deliveries are the ways that the settings allow, the cheapest first.
func (t *cloud) deliveries() []target.Delivery {
	qcow2 := image.Format{Name: "qcow2"}
	var out []target.Delivery
	if t.cfg.pool != "" {
		out = append(out, target.Delivery{Format: qcow2, Mode: target.Ranges, Clean: true, Resumable: true, Align: 512, Path: pathImport})
	}
	if t.cfg.worker != "" {
		// What a new volume holds depends on its storage: nothing is left out.
		out = append(out, target.Delivery{Format: image.Format{Name: "raw"}, Mode: target.Ranges, Resumable: true, Align: t.cfg.unit, Path: pathHotAdd})
	}
	return append(out, target.Delivery{Format: qcow2, Mode: target.Ordered, Clean: true, NeedSize: true, Align: 512, Path: t.cfg.path})
}

// Capabilities is what CloudStack with KVM takes.
func (t *cloud) Capabilities() target.Capabilities {
	c := caps.For(vm.CloudStack)
	c.Deliveries = t.deliveries()
	c.Fields = []target.Field{
		{Name: fieldZone, Help: "zone, by name or identifier", Default: t.cfg.zone, Required: t.cfg.zone == ""},
		{Name: fieldOffering, Help: "compute offering, by name or identifier; a custom one gets the machine's own processors and memory", Required: true},
		{Name: fieldDisk, Help: "disk offering of disks that name none; it must be of custom size", Default: ""},
		{Name: fieldCluster, Help: "cluster, for administrators"},
		{Name: fieldHost, Help: "host, for administrators"},
	}
	c.Options = []target.Field{
		{Name: optMAC, Help: "keep the adapters' MAC addresses, or let the platform make new ones", Default: "keep", Values: []string{"keep", "new"}},
		{Name: optKeyPair, Help: "SSH key pair, by name, for guests with CloudStack's scripts"},
		{Name: optAffinity, Help: "affinity groups, by name, comma-separated"},
		{Name: optSpeed, Help: "MHz of each processor, for custom compute offerings that leave it open", Default: "1000"},
		{Name: optHostName, Help: "host name known to the platform, instead of one made of the machine's name"},
	}
	return c
}

// Begin starts or continues a restore.
func (t *cloud) Begin(ctx context.Context, o *target.Order, rec target.Recorder) (target.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot begin: %w", err)
	}
	path, err := t.checkOrder(o)
	if err != nil {
		return nil, fmt.Errorf("cannot begin: %w", err)
	}
	recorded, err := rec.Recorded(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the job's resources: %w", err)
	}
	s, err := t.newSession(ctx, o, path, rec, recorded)
	if err != nil {
		return nil, fmt.Errorf("cannot begin restoring %q: %w", o.Machine.Name, translate(err))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		s.end(errClosed)
		return nil, errors.New("cannot begin: the target is closed")
	}
	t.open[s] = true
	if path == pathImport {
		return importSession{s}, nil
	}
	return s, nil
}

// checkOrder checks what can be checked without asking and returns the way the
// disks travel.
func (t *cloud) checkOrder(o *target.Order) (path string, err error) {
	bad := func(format string, args ...any) (string, error) {
		return "", target.Permanent(fmt.Sprintf(format, args...), "")
	}
	if err := t.Capabilities().Check(o); err != nil {
		return "", err
	}
	if len(o.Disks) == 0 {
		return bad("the machine has no disks")
	}
	for i, d := range o.Disks {
		switch {
		case path != "" && d.Delivery.Path != path:
			return bad("the disks of one machine cannot be sent partly by %s and partly by %s", path, d.Delivery.Path)
		case d.FileSize <= 0:
			return bad("disk %d: the length of the file must be known before it is sent", i)
		case d.Delivery.Path == pathHotAdd && (d.Virtual%t.cfg.unit != 0 || d.FileSize != d.Virtual):
			return bad("disk %d: a volume is of whole GiB and has the disk's size, not %d and %d bytes", i, d.Virtual, d.FileSize)
		}
		path = d.Delivery.Path
	}
	if _, err := displayName(o.Machine.Name); err != nil {
		return "", err
	}
	if strings.ContainsAny(o.Job, "/\\\x00") || len(o.Job) > 128 {
		return bad("the job's id %q cannot stand in a name", o.Job)
	}
	return path, nil
}

// Package vmware restores machines to vCenter and ESXi.
//
// Disks travel one of two ways, as each order's Delivery.Path says:
//
//   - "nfc": the machine is created by ResourcePool.ImportVApp from a
//     VirtualMachineConfigSpec of our own, which gives an import lease with one
//     URL per disk; each disk is one streamOptimized VMDK in one HTTP POST, and
//     the platform's SHA-1 of what it received is compared with what was sent.
//     A lease does not survive the process: a restore that was killed undoes
//     the half-made machine and starts again, unless the lease was complete.
//   - "datastore": each disk is a flat file put into a folder of the job's own
//     on the datastore, zeros included; then the machine is created around the
//     files. Finished files survive the process.
//
// Everything made bears the job's id: machines in the extraConfig key
// "ascend.job", folders in their name. Undo removes what is recorded and bears
// the job's id, and nothing else.
package vmware

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/vm"
)

var (
	_ target.Target     = (*vmware)(nil)
	_ target.Session    = (*nfcSession)(nil)
	_ target.Session    = (*storeSession)(nil)
	_ target.ReadBacker = (*storeSession)(nil)
	_ target.Reader     = (*vmware)(nil)
)

// Names of the ways, as in Delivery.Path.
const (
	pathNFC       = "nfc"
	pathDatastore = "datastore"
)

// Limits: VMware Configuration Maximums, vSphere 8.0.
const (
	maxCPUs   = 768
	maxMemory = 24 * vm.TiB
	maxDisk   = 62 * vm.TiB
	maxNICs   = 10
	maxDisks  = 60 // four SCSI controllers
)

// vmware is a configured vCenter or ESXi host. It signs in on first use.
type vmware struct {
	cfg *config

	mu     sync.Mutex
	shared *conn // for everything but restores, which have one each
	open   map[*session]bool
	closed bool
}

func open(_ context.Context, s target.Settings) (*vmware, error) {
	cfg, err := newConfig(s)
	if err != nil {
		return nil, err
	}
	return &vmware{cfg: cfg, open: map[*session]bool{}}, nil
}

// connect is the shared connection.
func (t *vmware) connect(ctx context.Context) (*conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, errors.New("the target is closed")
	}
	if t.shared == nil {
		c, err := dial(ctx, t.cfg)
		if err != nil {
			return nil, err
		}
		t.shared = c
	}
	return t.shared, nil
}

// Close stops the restores that are under way and signs out. Nothing is deleted
// here; the platform itself removes a machine whose import was not completed.
func (t *vmware) Close() error {
	t.mu.Lock()
	t.closed = true
	conns := []*conn{t.shared}
	t.shared = nil
	open := slices.Collect(maps.Keys(t.open))
	t.mu.Unlock()
	for _, s := range open {
		s.end(errClosed)
		conns = append(conns, s.c)
	}
	var errs []error
	for _, c := range conns {
		if c != nil {
			errs = append(errs, c.close(context.Background()))
		}
	}
	return errors.Join(errs...)
}

// Capabilities is what vSphere takes. With link=fast the stored stream comes
// before the deflated one.
func (t *vmware) Capabilities() target.Capabilities {
	stream := func(compression string) target.Delivery {
		return target.Delivery{
			Format: image.Format{Name: "vmdk", Subformat: "streamOptimized", Compression: compression},
			Mode:   target.Ordered, Clean: true, Digests: []string{"sha1"}, Align: 512, Path: pathNFC,
		}
	}
	nfc := []target.Delivery{stream("deflate"), stream("stored")}
	if t.cfg.fast {
		slices.Reverse(nfc)
	}
	return target.Capabilities{
		Platform: vm.VMware,
		Deliveries: append(nfc, target.Delivery{
			Format: image.Format{Name: "raw"}, Mode: target.Ordered, NeedSize: true, Align: 512, Path: pathDatastore,
		}),
		Firmware:     []vm.Firmware{vm.BIOS, vm.UEFI},
		SecureBoot:   true,
		TPM:          true,
		Arch:         []vm.Arch{vm.AMD64, vm.I386},
		Controllers:  buses(),
		NICModels:    []vm.NICModel{vm.VMXNET3, vm.E1000E, vm.E1000, vm.PCNet32},
		KeepsMAC:     true,
		KeepsUUID:    true,
		MaxDisks:     maxDisks,
		MaxNICs:      maxNICs,
		MaxCPUs:      maxCPUs,
		MaxMemory:    maxMemory,
		MaxDiskSize:  maxDisk,
		NeedsNetwork: true,
		Fields: []target.Field{
			{Name: fieldDatacenter, Help: "datacenter, by name or inventory path", Default: t.cfg.datacenter},
			{Name: fieldCluster, Help: "cluster or standalone host, by name or inventory path"},
			{Name: fieldHost, Help: "host inside the cluster; without one the platform chooses"},
			{Name: fieldPool, Help: "resource pool or vApp; without one the cluster's own"},
			{Name: fieldFolder, Help: "folder of machines, by name or inventory path; without one the datacenter's own"},
			{Name: fieldDatastore, Help: "datastore of the machine and of every disk that names none"},
		},
		Options: []target.Field{
			{Name: optUUID, Help: "keep the source's SMBIOS UUID, or let the platform make a new one", Default: "new", Values: []string{"new", "keep"}},
			{Name: optDisk, Help: "provisioning of the disks made by import", Default: "thin", Values: []string{"thin", "thick"}},
			{Name: optGuestID, Help: "guest operating system identifier, instead of the one found"},
			{Name: optHardware, Help: "virtual hardware version such as vmx-19, instead of the cluster's default"},
		},
	}
}

func buses() []vm.Bus {
	var out []vm.Bus
	for _, k := range controllerKinds {
		out = append(out, k.bus)
	}
	return out
}

// Inventory lists what a restore can be placed on.
func (t *vmware) Inventory(ctx context.Context) (*target.Inventory, error) {
	c, err := t.connect(ctx)
	if err != nil {
		return nil, err
	}
	tr, err := c.readTree(ctx, true)
	if err != nil {
		return nil, err
	}
	return tr.inventory(), nil
}

// Begin starts or continues a restore; see the package comment for what of an
// interrupted one survives.
func (t *vmware) Begin(ctx context.Context, o *target.Order, rec target.Recorder) (target.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot begin: %w", err)
	}
	path, err := t.checkOrder(o)
	if err != nil {
		return nil, err
	}
	recorded, err := rec.Recorded(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the job's resources: %w", err)
	}
	c, err := dial(ctx, t.cfg)
	if err != nil {
		return nil, err
	}
	s, err := newSession(ctx, t, c, o, rec)
	if err != nil {
		_ = c.close(ctx)
		return nil, err
	}
	if !t.track(s) {
		_ = c.close(ctx)
		return nil, errors.New("cannot begin: the target is closed")
	}
	var out target.Session
	if path == pathNFC {
		out, err = beginNFC(ctx, s, recorded)
	} else {
		out, err = beginStore(ctx, s, recorded)
	}
	if err != nil {
		s.end(err)
		_ = s.signOut(ctx)
		return nil, fmt.Errorf("cannot begin restoring %q: %w", o.Machine.Name, err)
	}
	return out, nil
}

// track notes an open restore, unless the target is closed.
func (t *vmware) track(s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.open[s] = true
	}
	return !t.closed
}

// checkOrder checks what can be checked without asking and returns the way the
// disks travel.
func (t *vmware) checkOrder(o *target.Order) (path string, err error) {
	bad := func(format string, args ...any) (string, error) {
		return "", fmt.Errorf("cannot begin: %w", target.Permanent(fmt.Sprintf(format, args...), ""))
	}
	if err := t.Capabilities().Check(o); err != nil {
		return "", fmt.Errorf("cannot begin: %w", err)
	}
	for i, d := range o.Disks {
		switch {
		case path != "" && d.Delivery.Path != path:
			return bad("the disks of one machine cannot be sent partly by %s and partly by %s", path, d.Delivery.Path)
		case d.Delivery.Path == pathDatastore && d.FileSize != d.Virtual:
			return bad("disk %d: a flat file has the disk's own size of %d bytes, not %d", i, d.Virtual, d.FileSize)
		}
		path = d.Delivery.Path
	}
	return path, nil
}

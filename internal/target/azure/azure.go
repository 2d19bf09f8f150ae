// Package azure restores machines to Azure.
//
// Each disk becomes a managed disk by direct upload ("Upload a VHD to Azure or
// copy a managed disk to another region"): the disk is made empty with the exact
// size of the file, access to its bytes is granted as a shared access signature,
// pages are written in parallel, each checked by the service by its CRC-64, and
// access is revoked before the disk is attached. Nothing passes through a storage
// account of the user's. The file is a fixed VHD: the disk, a multiple of 1 MiB,
// and its footer of 512 bytes.
//
// The machine is made of those disks as they are (specialised). Azure starts
// every machine that it makes: one that is to stay off is deallocated at once,
// and one that is to be started is only made by PowerOn, after its disks were
// verified, so that the guest starts once.
//
// Everything made bears the job's id in the tag "ascend-job". Undo removes what
// is recorded and bears it, and nothing else. Resource groups, networks, and
// groups of rules must be there; none is made or changed.
package azure

import (
	"context"
	"fmt"
	"sync"

	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

var (
	_ target.Target      = (*azure)(nil)
	_ target.Reader      = (*azure)(nil)
	_ target.Session     = (*session)(nil)
	_ target.ReadBacker  = (*session)(nil)
	_ target.RangeUpload = (*upload)(nil)
)

// footerSize is the bytes of a fixed VHD's footer.
const footerSize = 512

// Placement fields besides caps.VMSize.
const (
	fieldGroup    = "resource_group"
	fieldSKU      = "sku"
	fieldZone     = "zone"
	fieldNetwork  = "network"
	fieldSecurity = "security_group"
	fieldSet      = "availability_set"
	fieldDES      = "disk_encryption_set"
)

// Options.
const (
	optPublicIP    = "public_ip"
	optDiagnostics = "boot_diagnostics"
	optSecurity    = "security_type"
	optAccelerated = "accelerated_networking"
	optLicense     = "license_type"
	optController  = "disk_controller"
	optTags        = "tags"
)

// azure is a configured subscription.
type azure struct {
	cfg *config
	c   *client

	life context.Context // of what reads go on with
	stop context.CancelFunc

	mu      sync.Mutex
	sizes   map[string]map[string]machineSize // by region
	reading map[string]*reading               // by identifier of a disk
	closed  bool
}

func open(s target.Settings) (*azure, error) {
	cfg, err := newConfig(s)
	if err != nil {
		return nil, err
	}
	t := &azure{cfg: cfg, c: &client{cfg: cfg}, sizes: map[string]map[string]machineSize{}, reading: map[string]*reading{}}
	t.life, t.stop = context.WithCancel(context.Background())
	return t, nil
}

// Close ends what is under way. It deletes nothing.
func (t *azure) Close() error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.stop()
	t.cfg.http.CloseIdleConnections()
	return nil
}

// Capabilities is what Azure takes.
func (t *azure) Capabilities() target.Capabilities {
	c := caps.For(vm.Azure)
	for i := range c.Deliveries {
		c.Deliveries[i].Workers = startWorkers
	}
	field := func(name, help, def string) target.Field { return target.Field{Name: name, Help: help, Default: def} }
	for i := range c.Fields {
		if c.Fields[i].Name == fieldGroup {
			c.Fields[i].Default = t.cfg.group
		}
	}
	c.Fields = append(c.Fields,
		field(fieldNetwork, "subnet of adapters that name none: network/subnet, group/network/subnet or an identifier", ""),
		field(fieldSecurity, "network security group of adapters that name none", ""),
		field(fieldSet, "availability set", ""),
		field(fieldDES, "disk encryption set of the disks", ""),
	)
	c.Options = []target.Field{
		{Name: optPublicIP, Help: "give the first adapter a public address of its own", Default: "none", Values: []string{"none", "new"}},
		{Name: optDiagnostics, Help: "boot diagnostics: screen and serial log, kept by the platform", Default: "managed", Values: []string{"managed", "none"}},
		{Name: optSecurity, Help: "auto: trusted launch where the machine had secure boot or a TPM", Default: "auto", Values: []string{"auto", "standard", "trusted-launch"}},
		{Name: optAccelerated, Help: "accelerated networking; the guest needs the driver", Default: "false", Values: []string{"false", "true"}},
		{Name: optLicense, Help: "licence brought along", Default: "none", Values: []string{"none", "Windows_Server", "Windows_Client", "RHEL_BYOS", "SLES_BYOS"}},
		{Name: optController, Help: "disk controller; auto: NVMe where the size has no other", Default: "auto", Values: []string{"auto", "SCSI", "NVMe"}},
		{Name: optTags, Help: "tags of all that is made: NAME=VALUE, comma-separated"},
	}
	return c
}

// Begin starts or continues a restore: it checks the placement and makes the
// disks that are not there yet, empty.
func (t *azure) Begin(ctx context.Context, o *target.Order, rec target.Recorder) (target.Session, error) {
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
	p, err := t.locate(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("cannot place %q: %w", o.Machine.Name, translate(err))
	}
	s := &session{t: t, c: t.c, order: o, rec: rec, place: p, known: map[string]target.Resource{}, uploads: make([]*upload, len(o.Disks))}
	for _, r := range recorded {
		s.known[r.Kind+"\x00"+r.Name] = r
	}
	if err := s.begin(ctx); err != nil {
		return nil, fmt.Errorf("cannot begin restoring %q: %w", o.Machine.Name, translate(err))
	}
	return s, nil
}

// checkOrder checks what can be checked without asking.
func (t *azure) checkOrder(o *target.Order) error {
	c := t.Capabilities()
	if err := c.Check(o); err != nil {
		return err
	}
	if len(o.Disks) == 0 {
		return target.Permanent("the machine has no disks", "")
	}
	if err := checkName(o.Machine.Name); err != nil {
		return err
	}
	for i, d := range o.Disks {
		if d.FileSize != d.Virtual+footerSize || c.Deliveries[0].Padded(d.Virtual) != d.Virtual || d.Virtual > c.MaxDiskSize {
			return target.Permanent(fmt.Sprintf("disk %d has %d bytes as a file of %d: Azure takes whole MiB from 20 MiB to 32,767 GiB and a footer", i, d.Virtual, d.FileSize), "")
		}
	}
	return nil
}

// Package aws restores machines to Amazon EC2.
//
// Disks are written block by block into EBS snapshots by the EBS direct APIs:
// there is no staging, no S3 bucket and no import role. Finish registers an AMI
// of the snapshots, which is the machine powered off; PowerOn launches an
// instance of it and waits for EC2's status checks. An order that is not
// powered on stops at the AMI. With the option attach-to, Finish makes volumes
// of the snapshots and attaches them to an instance that exists instead.
//
// Everything made bears the tag ascend:job, and is found by it when the process
// died between making and recording. Undo removes what is recorded and bears
// the job's tag, and nothing else.
package aws

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ascend/internal/awsapi"
	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/vm"
)

var (
	_ target.Target      = (*cloud)(nil)
	_ target.Reader      = (*cloud)(nil)
	_ target.Session     = (*session)(nil)
	_ target.ReadBacker  = (*session)(nil)
	_ target.BlockUpload = (*upload)(nil)
)

// pathEBS is the way by the EBS direct APIs, as in Delivery.Path.
const pathEBS = "ebs-direct"

// workers is the number of blocks on their way at once for one disk: 128 of
// 512 KiB reach 980 a second at a latency of 130 ms.
const workers = 128

// Limits (Amazon EC2 and EBS documentation, 2026): volumes of at most 64 TiB
// need io2 or gp3; the largest instance types.
const (
	maxDisk   = 64 * vm.TiB
	maxDisks  = 24 // device names: the root and deviceNames
	maxCPUs   = 896
	maxMemory = 32 * vm.TiB
	maxNICs   = 15
)

// Names of placement fields and options.
const (
	fieldSubnet  = "subnet"
	fieldGroups  = "security-groups"
	fieldKeyPair = "key-pair"
	fieldType    = "instance-type"
	fieldVolume  = "volume-type"

	optProfile    = "iam-profile"
	optAddress    = "private-address"
	optIMDS       = "imds"
	optUserData   = "user-data"
	optIOPS       = "iops"
	optThroughput = "throughput"
	optEncrypt    = "encrypt"
	optKMS        = "kms-key"
	optAttach     = "attach-to"
)

// cloud is one account in one region. Methods may be called concurrently.
type cloud struct {
	c    *awsapi.Client
	pace *pacer // of the account, for all restores of this process
}

// Close implements target.Target.
func (t *cloud) Close() error { t.c.Close(); return nil }

// Capabilities implements target.Target.
func (t *cloud) Capabilities() target.Capabilities {
	return target.Capabilities{
		Platform: vm.AWS,
		Deliveries: []target.Delivery{{
			Format: image.Format{Name: "raw"}, Mode: target.Ranges, Clean: true, Resumable: true, NeedSize: true,
			Block: awsapi.BlockSize, BlockSums: true, MaxRange: awsapi.BlockSize, Workers: workers, Align: 1 << 30, Path: pathEBS,
		}},
		Firmware:    []vm.Firmware{vm.BIOS, vm.UEFI},
		TPM:         true,
		Arch:        []vm.Arch{vm.AMD64, vm.ARM64},
		Controllers: []vm.Bus{vm.BusNVMe},
		NICModels:   []vm.NICModel{vm.ENA},
		MaxDisks:    maxDisks, MaxNICs: maxNICs, MaxCPUs: maxCPUs, MaxMemory: maxMemory, MaxDiskSize: maxDisk,
		Fields: []target.Field{
			{Name: fieldSubnet, Help: "subnet of every NIC that is not mapped to one; without one the default VPC's"},
			{Name: fieldGroups, Help: "security groups, by id, separated by commas"},
			{Name: fieldKeyPair, Help: "key pair of the instance"},
			{Name: fieldType, Help: "instance type; without one the smallest that holds the machine"},
			{Name: fieldVolume, Help: "volume type of every disk that names none", Default: "gp3", Values: volumeTypes()},
		},
		Options: []target.Field{
			{Name: optProfile, Help: "IAM instance profile, by name or ARN"},
			{Name: optAddress, Help: "private IPv4 address of the first NIC"},
			{Name: optIMDS, Help: "instance metadata: required asks for tokens (IMDSv2)", Default: "required", Values: []string{"required", "optional"}},
			{Name: optUserData, Help: "user data of the instance, as text"},
			{Name: optIOPS, Help: "IOPS of gp3, io1 and io2 volumes"},
			{Name: optThroughput, Help: "throughput of gp3 volumes in MiB/s"},
			{Name: optEncrypt, Help: "encrypt the snapshots, with the account's key or kms-key", Default: "no", Values: []string{"yes", "no"}},
			{Name: optKMS, Help: "ARN of the KMS key to encrypt with"},
			{Name: optAttach, Help: "attach the disks as volumes to this instance, and make no machine"},
		},
	}
}

func volumeTypes() []string { return []string{"gp3", "gp2", "io1", "io2", "st1", "sc1", "standard"} }

// Inventory implements target.Target.
func (t *cloud) Inventory(ctx context.Context) (*target.Inventory, error) {
	fail := func(err error) (*target.Inventory, error) {
		return nil, fmt.Errorf("cannot list what the account has: %w", translate(err))
	}
	inv := &target.Inventory{Places: map[string][]target.Place{}, Asked: time.Now()}
	add := func(field, name, note string) {
		inv.Places[field] = append(inv.Places[field], target.Place{Name: name, Note: note})
	}
	subnets, err := t.c.Subnets(ctx)
	if err != nil {
		return fail(err)
	}
	for _, s := range subnets {
		note := strings.TrimSpace(s.Name + " " + s.Note)
		add(fieldSubnet, s.ID, note)
		inv.Networks = append(inv.Networks, target.Place{Name: s.ID, Note: note})
	}
	groups, err := t.c.SecurityGroups(ctx)
	if err != nil {
		return fail(err)
	}
	for _, g := range groups {
		add(fieldGroups, g.ID, g.Note)
	}
	pairs, err := t.c.KeyPairs(ctx)
	if err != nil {
		return fail(err)
	}
	for _, k := range pairs {
		add(fieldKeyPair, k, "")
	}
	types, err := t.types(ctx, vm.AMD64)
	if err != nil {
		return fail(err)
	}
	for _, y := range types {
		add(fieldType, y.Name, fmt.Sprintf("%d vCPU, %d MiB", y.CPUs, y.MiB))
	}
	for _, v := range volumeTypes() {
		add(fieldVolume, v, "")
	}
	images, err := t.c.Images(ctx, awsapi.Params{"Owner.1": "self"})
	if err != nil {
		return fail(err)
	}
	for _, im := range images {
		inv.Taken = append(inv.Taken, im.Name)
		if n := awsapi.TagValue(im.Tags, "Name"); n != "" {
			inv.Taken = append(inv.Taken, n)
		}
	}
	slices.Sort(inv.Taken)
	inv.Taken = slices.Compact(inv.Taken)
	return inv, nil
}

// ReadLanded implements target.Reader.
func (t *cloud) ReadLanded(ctx context.Context, object string, f image.Format) (disk.Disk, error) {
	if f.Name != "raw" {
		return nil, fmt.Errorf("cannot read %s: a snapshot is raw, not %s: %w", object, f, target.ErrPermanent)
	}
	list, err := t.c.Snapshots(ctx, awsapi.Params{"SnapshotId.1": object})
	if err != nil || len(list) == 0 {
		return nil, fmt.Errorf("cannot read snapshot %s: %w", object, translate(err))
	}
	var size int64
	if _, err := fmt.Sscan(awsapi.TagValue(list[0].Tags, tagSize), &size); err != nil {
		size = 0 // not one of ours, or the tag was removed: the volume's size
	}
	d, err := t.c.OpenSnapshot(ctx, object, size)
	if err != nil {
		return nil, fmt.Errorf("cannot read snapshot %s: %w", object, translate(err))
	}
	return d, nil
}

// Begin implements target.Target. It asks nothing and makes nothing: snapshots
// are started by Upload.
func (t *cloud) Begin(ctx context.Context, o *target.Order, rec target.Recorder) (target.Session, error) {
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
	return newSession(t, o, rec, recorded), nil
}

func (t *cloud) checkOrder(o *target.Order) error {
	caps := t.Capabilities()
	bad := func(format string, args ...any) error { return target.Permanent(fmt.Sprintf(format, args...), "") }
	switch {
	case o.Job == "" || o.Machine == nil:
		return bad("the order has no job or no machine")
	case len(o.Disks) != len(o.Machine.Disks) || len(o.Disks) == 0:
		return bad("the order has %d disks and the machine %d", len(o.Disks), len(o.Machine.Disks))
	case len(o.Disks) > maxDisks:
		return bad("%d disks, and %d are the most", len(o.Disks), maxDisks)
	}
	for i, d := range o.Disks {
		switch {
		case d.Delivery.Path != pathEBS || d.Delivery.Format.Name != "raw" || d.Delivery.Mode != target.Ranges:
			return bad("disk %d is to be delivered as %s by %q, which is not offered", i, d.Delivery.Format, d.Delivery.Path)
		case d.FileSize != d.Virtual || d.Virtual <= 0 || d.Virtual > maxDisk:
			return bad("disk %d: a file of %d bytes for a disk of %d, at most %d", i, d.FileSize, d.Virtual, maxDisk)
		}
	}
	for i, s := range o.Placement.Storage {
		if s != "" && !slices.Contains(volumeTypes(), s) {
			return bad("disk %d: unknown volume type %q", i, s)
		}
	}
	for _, g := range []struct {
		have   map[string]string
		fields []target.Field
	}{{o.Placement.Fields, caps.Fields}, {o.Options, caps.Options}} {
		for name, v := range g.have {
			k := slices.IndexFunc(g.fields, func(f target.Field) bool { return f.Name == name })
			if k < 0 {
				return bad("unknown placement field or option %q", name)
			}
			if vals := g.fields[k].Values; v != "" && len(vals) > 0 && !slices.Contains(vals, v) {
				return bad("%s is %q, and not one of %s", name, v, strings.Join(vals, ", "))
			}
		}
	}
	return nil
}

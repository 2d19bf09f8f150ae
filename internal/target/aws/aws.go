// Package aws restores machines to Amazon EC2.
//
// Disks are written block by block into EBS snapshots by the EBS direct APIs:
// there is no staging and no S3 bucket. Finish registers an AMI
// of the snapshots, which is the machine powered off; PowerOn launches an
// instance of it and waits for EC2's status checks. An order that is not
// powered on stops at the AMI. The AMI of a Windows guest is made by ImportImage of
// the snapshots. With the option attach_to, Finish makes volumes of the snapshots and
// attaches them to an instance that exists instead.
//
// Everything made bears the tag ascend:job, and is found by it when the process
// died between making and recording. Undo removes what is recorded and nothing
// else.
package aws

import (
	"context"
	"fmt"
	"slices"

	"ascend/internal/awsapi"
	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

var (
	_ target.Target      = (*cloud)(nil)
	_ target.Reader      = (*cloud)(nil)
	_ target.Session     = (*session)(nil)
	_ target.ReadBacker  = (*session)(nil)
	_ target.BlockUpload = (*upload)(nil)
	_ target.Identified  = (*upload)(nil)
)

// Ways of a disk, as in Delivery.Path: by the EBS direct APIs, and by an object in S3
// that ImportSnapshot reads.
const (
	pathEBS = "ebs"
	pathS3  = "s3"
)

// workers is the number of blocks on their way at once for one disk: 128 of
// 512 KiB reach 980 a second at a latency of 130 ms.
const workers = 128

// maxUserData is the most bytes of user data, before it is encoded (RunInstances).
const maxUserData = 16 << 10

// maxDisks is the number of device names: the root and those of devices.
const maxDisks = 64

// Names of placement fields and options.
const (
	fieldSubnet = "subnet"
	fieldGroups = "security_groups"
	fieldKey    = "key_name"
	fieldVolume = "volume_type"
	fieldZone   = "availability_zone"

	optProfile  = "iam_profile"
	optIMDS     = "imds"
	optUserData = "user_data"
	optEncrypt  = "encrypt"
	optKMS      = "kms_key"
	optAttach   = "attach_to"
	optImport   = "import"
	optLicense  = "license"
	optRole     = "import_role"
)

// cloud is one account in one region. Methods may be called concurrently.
type cloud struct {
	c    *awsapi.Client
	pace *pacer // of the account, for all restores of this process
	// bucket takes disks on their way by S3; "": that way is not offered.
	bucket string
}

// Close implements target.Target.
func (t *cloud) Close() error { t.c.Close(); return nil }

// Capabilities implements target.Target: the platform's, without what this
// connector does not do. Secure Boot needs a store of UEFI variables with keys,
// which no backup holds in a form that RegisterImage takes.
func (t *cloud) Capabilities() target.Capabilities {
	c := caps.For(vm.AWS)
	c.SecureBoot, c.MaxDisks = false, maxDisks
	for i := range c.Deliveries {
		d := &c.Deliveries[i]
		d.NeedSize, d.BlockSums, d.Workers = true, true, workers
		d.Rights = rightsOf(pathEBS)
	}
	if t.bucket != "" {
		c.Deliveries = append(c.Deliveries, byS3())
	}
	for i := range c.Fields {
		if c.Fields[i].Name == fieldVolume {
			c.Fields[i].Default, c.Fields[i].Values = "gp3", volumeTypes(c)
		}
	}
	c.Fields = append(c.Fields,
		target.Field{Name: fieldSubnet, Help: "subnet of every adapter that is not mapped to one; without one the default VPC's"},
		target.Field{Name: fieldGroups, Help: "security groups of adapters that name none, by id, separated by commas"},
	)
	c.Options = []target.Field{
		{Name: optProfile, Help: "IAM instance profile, by name or ARN"},
		{Name: optIMDS, Help: "instance metadata: required asks for tokens (IMDSv2)", Default: "required", Values: []string{"required", "optional"}},
		{Name: optUserData, Help: "user data of the instance, as text"},
		{Name: optEncrypt, Help: "encrypt the snapshots, with the account's key or kms_key", Default: "no", Values: []string{"yes", "no"}},
		{Name: optKMS, Help: "ARN of the KMS key to encrypt with"},
		{Name: optImport, Help: "make the image by ImportImage, which converts and licenses the guest; auto: for Windows", Default: "auto", Values: []string{"auto", "yes", "no"}},
		{Name: optLicense, Help: "licence of an imported guest: AWS's, or the one it brings along (BYOL); auto: AWS decides", Default: "auto", Values: []string{"auto", "AWS", "BYOL"}},
		{Name: optRole, Help: "role that AWS imports with; without one vmimport"},
		{Name: optAttach, Help: "attach the disks as volumes to this instance, and make no machine"},
	}
	return c
}

func volumeTypes(c target.Capabilities) (out []string) {
	for _, k := range c.Traits.Classes {
		out = append(out, k.Name)
	}
	return out
}

// ReadLanded implements target.Reader.
func (t *cloud) ReadLanded(ctx context.Context, object string, f image.Format) (disk.Disk, error) {
	if f.Name != "raw" && f != byS3().Format {
		return nil, fmt.Errorf("cannot read %s: no snapshot is made of %s: %w", object, f, target.ErrPermanent)
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
	c := t.Capabilities()
	bad := func(format string, args ...any) error { return target.Permanent(fmt.Sprintf(format, args...), "") }
	if err := c.Check(o); err != nil {
		return err
	}
	if len(o.Disks) == 0 || len(o.Disks) > maxDisks {
		return bad("%d disks, and a machine has 1 to %d", len(o.Disks), maxDisks)
	}
	for i, d := range o.Disks {
		if d.Virtual <= 0 || d.Virtual > c.MaxDiskSize || d.Delivery.Path == pathEBS && d.FileSize != d.Virtual {
			return bad("disk %d: a file of %d bytes for a disk of %d, at most %d", i, d.FileSize, d.Virtual, c.MaxDiskSize)
		}
	}
	if err := checkImport(o); err != nil {
		return err
	}
	for i, s := range o.Placement.Storage {
		if s != "" && !slices.Contains(volumeTypes(c), s) {
			return bad("disk %d: unknown volume type %q", i, s)
		}
	}
	for i := range o.Disks {
		if v := volumeOf(o, i); v["Iops"] == "" && (v["VolumeType"] == "io1" || v["VolumeType"] == "io2") {
			return target.Permanent(fmt.Sprintf("disk %d: a volume of type %s needs its IOPS", i, v["VolumeType"]), "state them with the type: --storage disk0=io2:iops=4000")
		}
	}
	if n := len(o.Options[optUserData]); n > maxUserData {
		return bad("%d bytes of user data, and %d are the most", n, maxUserData)
	}
	for i, a := range o.Placement.Adapters {
		if _, err := addresses(o, i); err != nil {
			return err
		}
		if a.Address != "" && !slices.Contains(c.Traits.Addresses, a.Address) {
			return bad("nic %d: unknown address policy %q", i, a.Address)
		}
	}
	return nil
}

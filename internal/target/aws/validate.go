package aws

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ascend/internal/awsapi"
	"ascend/internal/target"
)

// Validate implements target.Target. Permissions to change things are asked
// for with DryRun, or with a request that fails after they were looked at.
func (t *cloud) Validate(ctx context.Context) []target.Check {
	var out []target.Check
	add := func(name, detail string, err error) bool {
		c := target.Check{Name: name, OK: err == nil, Detail: detail}
		if err != nil {
			err = translate(err)
			c.Detail, c.Hint, _ = strings.Cut(err.Error(), "\nhint: ")
			if c.Hint == "" {
				c.Hint = "check region, endpoint, proxy and ca-file"
			}
		}
		out = append(out, c)
		return c.OK
	}
	if !add("credentials", "found", t.c.CheckCredentials(ctx)) {
		return out
	}
	account, arn, err := t.c.CallerIdentity(ctx)
	if !add("identity", fmt.Sprintf("%s in account %s", arn, account), err) {
		return out
	}
	zones, err := t.c.Zones(ctx)
	if !add("region", fmt.Sprintf("%s, zones %s", t.c.Region(), strings.Join(zones, ", ")), err) {
		return out
	}
	t.checkRights(ctx, add)
	for _, q := range []struct{ service, code, name string }{
		{"ec2", quotaStandard, "vCPUs of running on-demand standard instances"}, {"ebs", quotaGP3, "TiB of gp3 volumes"},
	} {
		v, err := t.c.Quota(ctx, q.service, q.code)
		detail := fmt.Sprintf("%s: %g", q.name, v.Value)
		if code := awsapi.Code(err); strings.HasPrefix(code, "AccessDenied") || code == "NoSuchResourceException" {
			// Plans say that quotas were not checked; a restore does without.
			detail, err = q.name+": not told ("+code+"); allow servicequotas:GetServiceQuota to have plans check it", nil
		}
		add("quota "+q.code, detail, err)
	}
	return out
}

// checkRights checks the bucket and every right. What only one way of disks lacks is no
// failure while another has all that it needs: plans take that.
func (t *cloud) checkRights(ctx context.Context, add func(name, detail string, err error) bool) {
	type answer struct {
		name, way, detail string
		err               error
	}
	var all []answer
	shut := map[string]bool{pathS3: t.bucket == ""}
	if t.bucket != "" {
		all = append(all, answer{"bucket", pathS3, t.bucket, t.c.Bucket(ctx, t.bucket)})
	}
	for _, r := range t.needs() {
		a := answer{"permission " + r.name(), "", "granted", t.ask(ctx, r)}
		for _, way := range []string{pathEBS, pathS3} {
			if slices.Contains(rightsOf(way), r.name()) {
				a.way = way
			}
		}
		all = append(all, a)
	}
	for _, a := range all {
		shut[a.way] = shut[a.way] || a.err != nil
	}
	another := !shut[pathEBS] || !shut[pathS3]
	for _, a := range all {
		if a.err != nil && a.way != "" && another {
			a.detail, a.err = "no disk travels by "+a.way+": "+translate(a.err).Error(), nil
		}
		add(a.name, a.detail, a.err)
	}
}

// right is one permission, and a request that needs it and changes nothing: it
// is a dry run, or it names what cannot exist.
type right struct {
	service, action string
	p               awsapi.Params
	absent          string // how codes begin that come after the permission was looked at
}

func (r right) name() string { return r.service + ":" + r.action }

const (
	noSnapshot = "snap-00000000000000000"
	noImage    = "ami-00000000000000000"
	noInstance = "i-00000000000000000"
	noVolume   = "vol-00000000000000000"
)

// rights are those that a restore needs besides describing things. EC2 looks at
// the permission before it looks for what a dry run names.
var rights = []right{
	{service: "ebs", action: "ListSnapshotBlocks"},
	{service: "ebs", action: "PutSnapshotBlock"},
	{service: "ebs", action: "CompleteSnapshot"},
	{"ec2", "RegisterImage", awsapi.Params{
		"Name": "ascend permission check", "Architecture": "x86_64", "VirtualizationType": "hvm", "RootDeviceName": rootDevice,
		"BlockDeviceMapping.1.DeviceName": rootDevice, "BlockDeviceMapping.1.Ebs.SnapshotId": noSnapshot,
	}, "InvalidSnapshot"},
	{"ec2", "RunInstances", awsapi.Params{"ImageId": noImage, "InstanceType": "t3.micro", "MinCount": "1", "MaxCount": "1"}, "InvalidAMIID"},
	{"ec2", "TerminateInstances", awsapi.Params{"InstanceId.1": noInstance}, "InvalidInstanceID"},
	{"ec2", "DeregisterImage", awsapi.Params{"ImageId": noImage}, "InvalidAMIID"},
	{"ec2", "DeleteSnapshot", awsapi.Params{"SnapshotId": noSnapshot}, "InvalidSnapshot"},
	{"ec2", "CreateTags", awsapi.Params{"ResourceId.1": noSnapshot, "Tag.1.Key": tagJob, "Tag.1.Value": ""}, "InvalidSnapshot"},
	{"ec2", "DeleteVolume", awsapi.Params{"VolumeId": noVolume}, "InvalidVolume"},
}

// s3Rights are those of disks that travel by S3.
var s3Rights = []right{
	{service: "s3", action: "PutObject"},
	{"ec2", "ImportSnapshot", awsapi.Params{"DiskContainer.Format": "VMDK", "DiskContainer.UserBucket.S3Key": "ascend/none"}, "InvalidParameter"},
}

// needs are the rights that restores by this target need.
func (t *cloud) needs() []right {
	if t.bucket == "" {
		return rights
	}
	return append(slices.Clone(rights), s3Rights...)
}

// rightsOf names what one way of a disk alone needs.
func rightsOf(path string) (out []string) {
	if path == pathS3 {
		for _, r := range s3Rights {
			out = append(out, r.name())
		}
		return out
	}
	for _, r := range rights {
		if r.service == "ebs" {
			out = append(out, r.name())
		}
	}
	return out
}

// ask is nil when a right is granted.
func (t *cloud) ask(ctx context.Context, r right) (err error) {
	switch r.action {
	case "ListSnapshotBlocks":
		_, _, err = t.c.ListBlocks(ctx, noSnapshot, "")
	case "PutSnapshotBlock":
		zeros := make([]byte, awsapi.BlockSize)
		err = t.c.PutBlock(ctx, noSnapshot, 0, zeros, sha256.Sum256(zeros), nil)
	case "CompleteSnapshot":
		err = t.c.CompleteSnapshot(ctx, noSnapshot, 0, nil)
	case "PutObject":
		_, err = t.c.PutPart(ctx, t.bucket, "ascend/none", "none", 1, nil)
	default:
		p := maps.Clone(r.p)
		p["DryRun"] = "true"
		if r.action == "ImportSnapshot" {
			p["DiskContainer.UserBucket.S3Bucket"] = t.bucket
		}
		err = t.c.EC2(ctx, r.action, p, nil)
	}
	switch code := awsapi.Code(err); {
	case err == nil:
		return errors.New("a request that was to change nothing was carried out")
	case r.service == "ebs" && (code == "ResourceNotFoundException" || code == "ValidationException"):
		return nil // after AccessDeniedException would have come
	case r.service == "s3" && code == "NoSuchUpload":
		return nil // likewise
	case code == "DryRunOperation" || r.absent != "" && strings.HasPrefix(code, r.absent):
		return nil
	}
	return err
}

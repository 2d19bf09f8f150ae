package aws

import (
	"context"
	"errors"
	"fmt"
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
	// A snapshot that cannot exist: EBS direct answers that it does not exist when
	// the endpoint is reached and the action is allowed.
	_, _, err = t.c.ListBlocks(ctx, "snap-00000000000000000", "")
	if awsapi.Code(err) == "ResourceNotFoundException" {
		err = nil
	}
	add("EBS direct APIs", "reachable", err)
	for _, d := range []struct {
		action string
		p      awsapi.Params
		absent string // answers that come after the permission was looked at
	}{
		{"DeleteSnapshot", awsapi.Params{"SnapshotId": "snap-00000000000000000"}, "InvalidSnapshot.NotFound"},
		{"DeregisterImage", awsapi.Params{"ImageId": "ami-00000000000000000"}, "InvalidAMIID"},
		{"TerminateInstances", awsapi.Params{"InstanceId.1": "i-00000000000000000"}, "InvalidInstanceID"},
		{"RunInstances", awsapi.Params{"ImageId": "ami-00000000000000000", "InstanceType": "t3.micro", "MinCount": "1", "MaxCount": "1"}, "InvalidAMIID"},
	} {
		d.p["DryRun"] = "true"
		err := t.c.EC2(ctx, d.action, d.p, nil)
		switch code := awsapi.Code(err); {
		case code == "DryRunOperation" || strings.HasPrefix(code, d.absent):
			err = nil
		case err == nil:
			err = errors.New("a dry run was carried out")
		}
		add("permission ec2:"+d.action, "granted", err)
	}
	return out
}

package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ascend/internal/awsapi"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

// Inventory implements target.Target.
func (t *cloud) Inventory(ctx context.Context) (*target.Inventory, error) {
	inv := &target.Inventory{Places: map[string][]target.Place{}, Region: t.c.Region(), Asked: time.Now()}
	for _, add := range []func(context.Context, *target.Inventory) error{t.networks, t.sizes, t.taken, t.quotas, t.rights} {
		if err := add(ctx, inv); err != nil {
			return nil, fmt.Errorf("cannot list what the account has: %w", translate(err))
		}
	}
	for _, v := range volumeTypes(t.Capabilities()) {
		inv.Places[fieldVolume] = append(inv.Places[fieldVolume], target.Place{Name: v})
	}
	return inv, nil
}

// networks lists zones, subnets, security groups and key pairs.
func (t *cloud) networks(ctx context.Context, inv *target.Inventory) error {
	zones, err := t.c.Zones(ctx)
	if err != nil {
		return err
	}
	for _, z := range zones {
		inv.Places[fieldZone] = append(inv.Places[fieldZone], target.Place{Name: z})
	}
	subnets, err := t.c.Subnets(ctx)
	if err != nil {
		return err
	}
	for _, s := range subnets {
		p := target.Place{Name: s.ID, Note: strings.TrimSpace(s.Name + " " + s.Note)}
		inv.Places[fieldSubnet] = append(inv.Places[fieldSubnet], p)
		inv.Networks = append(inv.Networks, p)
	}
	groups, err := t.c.SecurityGroups(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		inv.SecurityGroups = append(inv.SecurityGroups, target.Place{Name: g.ID, Note: g.Note})
	}
	pairs, err := t.c.KeyPairs(ctx)
	for _, k := range pairs {
		inv.Places[fieldKey] = append(inv.Places[fieldKey], target.Place{Name: k})
	}
	return err
}

// sizes lists the instance types that the region offers.
func (t *cloud) sizes(ctx context.Context, inv *target.Inventory) error {
	all, err := t.c.InstanceTypes(ctx, awsapi.Params{})
	if err != nil {
		return err
	}
	for _, y := range all {
		inv.Sizes = append(inv.Sizes, sizeOf(y))
	}
	slices.SortFunc(inv.Sizes, func(a, b target.Size) int { return strings.Compare(a.Name, b.Name) })
	for _, s := range inv.Sizes {
		inv.Places[caps.InstanceType] = append(inv.Places[caps.InstanceType],
			target.Place{Name: s.Name, Note: fmt.Sprintf("%d vCPUs, %s", s.CPUs, vm.FormatSize(s.Memory))})
	}
	return nil
}

// sizeOf reads a type (Amazon EC2 API, InstanceTypeInfo).
func sizeOf(y awsapi.InstanceType) target.Size {
	s := target.Size{
		Name: y.Name, CPUs: y.CPUs, Memory: y.MiB << 20, MaxDisks: y.Attachments, Shared: y.AttachmentLimit == "shared", MaxNICs: y.NICs,
		NVMe: y.NVMe == "required", ENA: y.ENA == "required", Premium: true, TPM: y.TPM == "supported", Old: !y.Current,
		Special: y.BareMetal || len(y.Accelerators) > 0, Burst: y.Burst,
	}
	for name, a := range map[string]vm.Arch{"x86_64": vm.AMD64, "i386": vm.I386, "arm64": vm.ARM64} {
		if slices.Contains(y.Archs, name) {
			s.Arch = append(s.Arch, a)
		}
	}
	slices.Sort(s.Arch)
	for name, f := range map[string]vm.Firmware{"legacy-bios": vm.BIOS, "uefi": vm.UEFI} {
		if slices.Contains(y.BootModes, name) {
			s.Firmware = append(s.Firmware, f)
		}
	}
	slices.Sort(s.Firmware)
	return s
}

// taken lists the names of machines: of the account's images and instances.
func (t *cloud) taken(ctx context.Context, inv *target.Inventory) error {
	images, err := t.c.Images(ctx, awsapi.Params{"Owner.1": "self"})
	if err != nil {
		return err
	}
	for _, im := range images {
		inv.Taken = append(inv.Taken, im.Name, awsapi.TagValue(im.Tags, "Name"))
	}
	instances, err := t.c.Instances(ctx, awsapi.Params{})
	if err != nil {
		return err
	}
	for _, in := range instances {
		if in.State != "terminated" {
			inv.Taken = append(inv.Taken, awsapi.TagValue(in.Tags, "Name"))
		}
	}
	slices.Sort(inv.Taken)
	inv.Taken = slices.DeleteFunc(slices.Compact(inv.Taken), func(s string) bool { return s == "" })
	return nil
}

// Codes of Service Quotas, and what they count.
const (
	quotaStandard = "L-1216C47A" // vCPUs of running on-demand instances of the standard families
	quotaGP3      = "L-7A658B76" // TiB of gp3 volumes
)

// standard are the families that quotaStandard counts ("Amazon EC2 on-demand
// instance limits").
const standard = "acdhimrtz"

// quotas adds those that a restore runs into. An account that may not ask for
// them is told none, and its plans say that they were not checked.
func (t *cloud) quotas(ctx context.Context, inv *target.Inventory) error {
	cpus, err := t.c.Quota(ctx, "ec2", quotaStandard)
	var gp3 awsapi.Quota
	if err == nil {
		gp3, err = t.c.Quota(ctx, "ebs", quotaGP3)
	}
	if err != nil {
		if e := (*awsapi.Error)(nil); errors.As(err, &e) && !e.Throttled() && e.Status < 500 {
			err = nil
		}
		return err
	}
	running, err := t.c.Instances(ctx, awsapi.Params{}.Filter("instance-state-name", "pending", "running"))
	if err != nil {
		return err
	}
	size := map[string]int{}
	for _, s := range inv.Sizes {
		size[s.Name] = s.CPUs
	}
	var used int64
	for _, in := range running {
		if in.Lifecycle == "" && strings.ContainsAny(in.Type[:min(1, len(in.Type))], standard) {
			n := in.Cores * in.Threads
			if n == 0 {
				n = size[in.Type]
			}
			used += int64(n)
		}
	}
	volumes, err := t.c.Volumes(ctx, awsapi.Params{}.Filter("volume-type", "gp3"))
	if err != nil {
		return err
	}
	var bytes int64
	for _, v := range volumes {
		bytes += v.GiB << 30
	}
	inv.Quotas = []target.Quota{
		{Kind: "cpus", Name: cpus.Name, Used: used, Limit: int64(cpus.Value)},
		{Kind: "disk", Name: gp3.Name, Used: bytes, Limit: int64(gp3.Value * float64(vm.TiB))},
	}
	return nil
}

// rights adds the permissions that can be asked for without changing anything.
// One that got no answer is left out, not taken for refused.
func (t *cloud) rights(ctx context.Context, inv *target.Inventory) error {
	unreached := ""
	for _, r := range t.needs() {
		if r.service == unreached {
			inv.Permissions = append(inv.Permissions, target.Permission{Name: r.name()})
			continue
		}
		err := t.ask(ctx, r)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && awsapi.Code(err) == "" && r.service == "ebs" && t.bucket != "" {
			// EC2 answers and the EBS direct APIs cannot be reached: no endpoint in this
			// region or network. There is another way, which the plan takes.
			unreached = r.service
			inv.Permissions = append(inv.Permissions, target.Permission{Name: r.name()})
			continue
		}
		if e := (*awsapi.Error)(nil); err == nil || errors.As(err, &e) && !e.Throttled() && e.Status < 500 {
			inv.Permissions = append(inv.Permissions, target.Permission{Name: r.name(), Granted: err == nil})
		}
	}
	return nil
}

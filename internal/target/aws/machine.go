package aws

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"ascend/internal/awsapi"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

// rootDevice is the name of the disk an HVM image starts from (EC2 User Guide,
// "Device names for volumes").
const rootDevice = "/dev/sda1"

// devices names the disks: the boot disk is the root, the others take the names
// that are recommended and then those that are allowed.
func devices(n, boot int) []string {
	free := []string{}
	for c := 'f'; c <= 'p'; c++ {
		free = append(free, "/dev/sd"+string(c))
	}
	for _, b := range []string{"/dev/xvdb", "/dev/xvdc"} {
		for c := 'a'; c <= 'z'; c++ {
			free = append(free, b+string(c))
		}
	}
	out := make([]string, n)
	for i := range out {
		if i == boot {
			out[i] = rootDevice
			continue
		}
		out[i], free = free[0], free[1:]
	}
	return out
}

// Finish implements target.Session.
func (s *session) Finish(ctx context.Context) (*target.VM, error) {
	fail := func(err error) (*target.VM, error) {
		return nil, fmt.Errorf("cannot make the machine %q: %w", s.order.Machine.Name, translate(err))
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	snaps, err := s.landed(ctx)
	if err != nil {
		return fail(err)
	}
	if inst := s.order.Options[optAttach]; inst != "" {
		if err := s.attach(ctx, inst, snaps); err != nil {
			return fail(err)
		}
		return &target.VM{ID: inst, Name: s.order.Machine.Name, URL: s.url("InstanceDetails:instanceId=" + inst)}, nil
	}
	r, err := s.makeImage(ctx, snaps)
	if err != nil {
		return fail(err)
	}
	err = await(ctx, time.Hour, "registering the image "+r.ID, func() (bool, error) {
		im, err := s.t.image(ctx, r.ID)
		if err == nil && im != nil && im.State != "available" && im.State != "pending" {
			err = target.Permanent(fmt.Sprintf("the image %s is %s: %s", r.ID, im.State, im.Reason), "")
		}
		return im != nil && im.State == "available", err
	})
	if err != nil {
		return fail(err)
	}
	return &target.VM{ID: r.ID, Name: s.order.Machine.Name, URL: s.url("ImageDetails:imageId=" + r.ID)}, nil
}

// makeImage registers the snapshots as an image, or has them imported.
func (s *session) makeImage(ctx context.Context, snaps []string) (target.Resource, error) {
	if imports(s.order) {
		return s.importImage(ctx, snaps)
	}
	return s.make(ctx, kindImage, s.order.Machine.Name, func(id string) (bool, error) {
		im, err := s.t.image(ctx, id)
		return im != nil, err
	}, func(_ string, tags []awsapi.Tag) (string, error) {
		return s.t.c.ID(ctx, "RegisterImage", s.imageParams(snaps).Tags("image", tags))
	})
}

func (s *session) url(page string) string {
	r := s.t.c.Region()
	return "https://" + r + ".console.aws.amazon.com/ec2/home?region=" + r + "#" + page
}

// image describes one; nil when it is not there.
func (t *cloud) image(ctx context.Context, id string) (*awsapi.ImageInfo, error) {
	list, err := t.c.Images(ctx, awsapi.Params{"ImageId.1": id})
	if awsapi.Missing(err) || err == nil && len(list) == 0 {
		return nil, nil //nolint:nilnil // absence is an answer
	}
	if err != nil {
		return nil, err
	}
	return &list[0], nil
}

// imageName is unique in the account and of the characters an AMI's name may
// have (RegisterImage, Name); the machine's own name is in the tag Name.
func imageName(machine, job string) string {
	name := strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("()[] ./-'@_", r)) {
			return r
		}
		return '_'
	}, machine)
	sum := sha256.Sum256([]byte(job + "\x00" + machine))
	return name[:min(len(name), 100)] + " " + hex.EncodeToString(sum[:8])
}

// imageParams is what RegisterImage is asked. Nothing is left to its defaults,
// which are i386 and paravirtual.
func (s *session) imageParams(snaps []string) awsapi.Params {
	m := s.order.Machine
	p := awsapi.Params{
		"Name": imageName(m.Name, s.order.Job), "Description": tagText("restored by ascend"), "VirtualizationType": "hvm", "EnaSupport": "true",
		"SriovNetSupport": "simple", "RootDeviceName": rootDevice, "Architecture": arch(m.Guest.Arch), "BootMode": "legacy-bios",
	}
	if m.Firmware == vm.UEFI || m.Guest.Arch == vm.ARM64 {
		p["BootMode"] = "uefi"
		if m.TPM {
			p["TpmSupport"] = "v2.0"
		}
	}
	for i, dev := range devices(len(snaps), m.BootDisk()) {
		at := "BlockDeviceMapping." + strconv.Itoa(i+1)
		p[at+".DeviceName"] = dev
		p[at+".Ebs.SnapshotId"] = snaps[i]
		p[at+".Ebs.DeleteOnTermination"] = "true"
		for k, v := range volumeOf(s.order, i) {
			p[at+".Ebs."+k] = v
		}
	}
	return p
}

func arch(a vm.Arch) string {
	switch a {
	case vm.ARM64:
		return "arm64"
	case vm.I386:
		return "i386"
	}
	return "x86_64"
}

// volumeOf is type and performance of disk i's volume, as EC2 names them.
func volumeOf(o *target.Order, i int) map[string]string {
	kind := o.Placement.Fields[fieldVolume]
	if i < len(o.Placement.Storage) && o.Placement.Storage[i] != "" {
		kind = o.Placement.Storage[i]
	}
	if kind == "" {
		kind = "gp3"
	}
	out := map[string]string{"VolumeType": kind}
	if i < len(o.Placement.Volumes) {
		v := o.Placement.Volumes[i]
		if v.IOPS > 0 {
			out["Iops"] = strconv.Itoa(v.IOPS)
		}
		if v.Throughput > 0 {
			out["Throughput"] = strconv.Itoa(v.Throughput)
		}
	}
	return out
}

// types are the region's current instance types of an architecture that start
// from EBS, the smallest first.
func (t *cloud) types(ctx context.Context, a vm.Arch) ([]awsapi.InstanceType, error) {
	all, err := t.c.InstanceTypes(ctx, awsapi.Params{}.Filter("current-generation", "true").Filter("processor-info.supported-architecture", arch(a)))
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(y awsapi.InstanceType) bool { return y.BareMetal })
	slices.SortFunc(all, func(a, b awsapi.InstanceType) int {
		if a.CPUs != b.CPUs {
			return a.CPUs - b.CPUs
		}
		if a.MiB != b.MiB {
			return int(a.MiB - b.MiB)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all, nil
}

// instanceType is the one asked for, or the smallest that holds the machine.
func (s *session) instanceType(ctx context.Context) (string, error) {
	if n := s.order.Placement.Fields[caps.InstanceType]; n != "" {
		return n, nil
	}
	m := s.order.Machine
	all, err := s.t.types(ctx, m.Guest.Arch)
	if err != nil {
		return "", err
	}
	mode := s.imageParams(make([]string, len(s.order.Disks)))["BootMode"]
	for _, y := range all {
		if y.CPUs >= m.CPU.Total() && y.MiB<<20 >= m.Memory && slices.Contains(y.BootModes, mode) {
			return y.Name, nil
		}
	}
	return "", target.Permanent(fmt.Sprintf("no instance type of the region has %d vCPUs and %d MiB", m.CPU.Total(), m.Memory>>20), "choose one with instance_type")
}

// PowerOn implements target.Session: it launches an instance of the image, once
// for a job, and waits until EC2's own checks of it pass. v becomes the instance.
func (s *session) PowerOn(ctx context.Context, v *target.VM) error {
	fail := func(err error) error { return fmt.Errorf("cannot launch %q: %w", s.order.Machine.Name, translate(err)) }
	if s.order.Options[optAttach] != "" {
		return nil // the instance that the volumes were attached to is its owner's to start
	}
	ami := s.resource(kindImage, s.order.Machine.Name).ID
	if ami == "" {
		return fail(target.Permanent("there is no image yet", ""))
	}
	r, err := s.make(ctx, kindInstance, s.order.Machine.Name, func(id string) (bool, error) {
		in, err := s.t.instance(ctx, id)
		return in != nil, err
	}, func(token string, tags []awsapi.Tag) (string, error) {
		p, err := s.launchParams(ctx, ami, token)
		if err != nil {
			return "", err
		}
		return s.t.c.ID(ctx, "RunInstances", p.Tags("instance", tags).Tags("volume", tags))
	})
	if err != nil {
		return fail(err)
	}
	if err := s.running(ctx, r.ID); err != nil {
		return fail(err)
	}
	v.ID, v.URL = r.ID, s.url("InstanceDetails:instanceId="+r.ID)
	return nil
}

// launchParams is what RunInstances is asked.
func (s *session) launchParams(ctx context.Context, ami, token string) (awsapi.Params, error) {
	typ, err := s.instanceType(ctx)
	if err != nil {
		return nil, err
	}
	f, o := s.order.Placement.Fields, s.order.Options
	p := awsapi.Params{
		"ImageId": ami, "InstanceType": typ, "MinCount": "1", "MaxCount": "1", "ClientToken": token,
		"MetadataOptions.HttpTokens": "required", "MetadataOptions.HttpEndpoint": "enabled",
	}
	if o[optIMDS] == "optional" {
		p["MetadataOptions.HttpTokens"] = "optional"
	}
	if v := f[fieldKey]; v != "" {
		p["KeyName"] = v
	}
	if v := o[optProfile]; strings.HasPrefix(v, "arn:") {
		p["IamInstanceProfile.Arn"] = v
	} else if v != "" {
		p["IamInstanceProfile.Name"] = v
	}
	if v := o[optUserData]; v != "" {
		p["UserData"] = base64.StdEncoding.EncodeToString([]byte(v))
	}
	if err := s.performance(ctx, ami, p); err != nil {
		return nil, err
	}
	if z := f[fieldZone]; z != "" {
		p["Placement.AvailabilityZone"] = z
	}
	nics := max(len(s.order.Machine.NICs), 1) // an instance has at least one
	for i := range nics {
		at := "NetworkInterface." + strconv.Itoa(i+1)
		subnet := f[fieldSubnet]
		if n := s.order.Placement.Networks; i < len(n) && n[i] != "" {
			subnet = n[i]
		}
		p[at+".DeviceIndex"] = strconv.Itoa(i)
		if subnet != "" {
			p[at+".SubnetId"] = subnet
		} else if i > 0 {
			return nil, target.Permanent(fmt.Sprintf("adapter %d has no subnet", i), "map it to one, or set "+fieldSubnet)
		}
		p.List(at+".SecurityGroupId", s.groups(i)...)
		ips, err := addresses(s.order, i)
		if err != nil {
			return nil, err
		}
		v4, v6 := 0, 0
		for _, a := range ips {
			if a.Is6() {
				v6++
				p[fmt.Sprintf("%s.Ipv6Addresses.%d.Ipv6Address", at, v6)] = a.String()
				continue
			}
			v4++
			p[fmt.Sprintf("%s.PrivateIpAddresses.%d.PrivateIpAddress", at, v4)] = a.String()
			p[fmt.Sprintf("%s.PrivateIpAddresses.%d.Primary", at, v4)] = strconv.FormatBool(v4 == 1)
		}
	}
	return p, nil
}

// performance gives the volumes of an imported image, which are of the type that
// AWS chose, those asked for. The first disk imported is the boot disk.
func (s *session) performance(ctx context.Context, ami string, p awsapi.Params) error {
	if !imports(s.order) {
		return nil // the image says it
	}
	im, err := s.t.image(ctx, ami)
	if err != nil || im == nil {
		return err
	}
	boot := s.order.Machine.BootDisk()
	rest := make([]int, 0, len(s.order.Disks))
	for i := range s.order.Disks {
		if i != boot {
			rest = append(rest, i)
		}
	}
	for n, d := range im.Devices {
		i := boot
		if d.Name != im.Root {
			if len(rest) == 0 {
				continue
			}
			i, rest = rest[0], rest[1:]
		}
		at := "BlockDeviceMapping." + strconv.Itoa(n+1)
		p[at+".DeviceName"] = d.Name
		for k, v := range volumeOf(s.order, i) {
			p[at+".Ebs."+k] = v
		}
	}
	return nil
}

// groups are adapter i's security groups: its own, else the placement's.
func (s *session) groups(i int) []string {
	if a := s.order.Placement.Adapters; i < len(a) && len(a[i].SecurityGroups) > 0 {
		return a[i].SecurityGroups
	}
	var out []string
	for _, g := range strings.Split(s.order.Placement.Fields[fieldGroups], ",") {
		if g = strings.TrimSpace(g); g != "" {
			out = append(out, g)
		}
	}
	return out
}

// addresses are those that adapter i is to have; empty leaves them to the subnet.
func addresses(o *target.Order, i int) (out []netip.Addr, err error) {
	var want []string
	if i < len(o.Placement.Adapters) {
		switch a := o.Placement.Adapters[i]; a.Address {
		case target.AddressKeep:
			if i < len(o.Machine.NICs) {
				want = o.Machine.NICs[i].Addresses
			}
		case target.AddressNew:
			want = a.Addresses
		}
	}
	for _, s := range want {
		host, _, _ := strings.Cut(s, "/")
		a, err := netip.ParseAddr(host)
		if err != nil {
			return nil, target.Permanent(fmt.Sprintf("nic %d: %q is no address", i, s), "")
		}
		if a = a.Unmap(); a.IsLinkLocalUnicast() {
			continue // the guest makes its own
		}
		out = append(out, a)
	}
	return out, nil
}

// instance describes one; nil when it is not there or was terminated.
func (t *cloud) instance(ctx context.Context, id string) (*awsapi.InstanceInfo, error) {
	list, err := t.c.Instances(ctx, awsapi.Params{"InstanceId.1": id})
	if awsapi.Missing(err) || err == nil && (len(list) == 0 || list[0].State == "terminated") {
		return nil, nil //nolint:nilnil // absence is an answer
	}
	if err != nil {
		return nil, err
	}
	return &list[0], nil
}

// running waits for the state and for both status checks. What the guest wrote
// to its console says more than EC2 when it does not come up.
func (s *session) running(ctx context.Context, id string) error {
	err := await(ctx, 20*time.Minute, "starting the instance "+id, func() (bool, error) {
		in, err := s.t.instance(ctx, id)
		switch {
		case err != nil || in == nil:
			return false, err
		case in.State == "shutting-down" || in.State == "stopped":
			return false, target.Permanent(fmt.Sprintf("the instance %s is %s: %s", id, in.State, in.Reason), "")
		case in.State != "running":
			return false, nil
		}
		system, inside, err := s.t.c.InstanceStatus(ctx, id)
		return system == "ok" && inside == "ok", err
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	text, cerr := s.t.c.ConsoleOutput(ctx, id)
	if cerr != nil || text == "" {
		return err
	}
	return fmt.Errorf("%w\nthe console's end: %s", err, text[max(0, len(text)-1000):])
}

// attach makes volumes of the snapshots in the instance's zone and attaches them.
func (s *session) attach(ctx context.Context, inst string, snaps []string) error {
	in, err := s.t.instance(ctx, inst)
	if err != nil {
		return err
	}
	if in == nil {
		return target.Permanent("there is no instance "+inst, "check attach_to")
	}
	taken := map[string]bool{}
	for _, d := range in.Devices {
		taken[d.Name] = true
	}
	free := slices.DeleteFunc(devices(maxDisks, 0)[1:], func(n string) bool { return taken[n] })
	for i, snap := range snaps {
		r, err := s.make(ctx, kindVolume, diskName(i), func(id string) (bool, error) {
			v, err := s.t.volume(ctx, id)
			return v != nil, err
		}, func(token string, tags []awsapi.Tag) (string, error) {
			p := awsapi.Params{"SnapshotId": snap, "AvailabilityZone": in.Zone, "ClientToken": token}
			for k, v := range volumeOf(s.order, i) {
				p[k] = v
			}
			return s.t.c.ID(ctx, "CreateVolume", p.Tags("volume", tags))
		})
		if err != nil {
			return err
		}
		err = await(ctx, time.Hour, "attaching the volume "+r.ID, func() (bool, error) {
			v, err := s.t.volume(ctx, r.ID)
			if err != nil || v == nil || v.State == "creating" {
				return false, err
			}
			if len(v.Attached) > 0 {
				return v.Attached[0].State == "attached", nil
			}
			if len(free) == 0 {
				return false, target.Permanent("the instance "+inst+" has no device name left", "")
			}
			dev := free[0]
			free = free[1:]
			return false, s.t.c.EC2(ctx, "AttachVolume", awsapi.Params{"VolumeId": r.ID, "InstanceId": inst, "Device": dev}, nil)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// volume describes one; nil when it is not there.
func (t *cloud) volume(ctx context.Context, id string) (*awsapi.VolumeInfo, error) {
	list, err := t.c.Volumes(ctx, awsapi.Params{"VolumeId.1": id})
	if awsapi.Missing(err) || err == nil && len(list) == 0 {
		return nil, nil //nolint:nilnil // absence is an answer
	}
	if err != nil {
		return nil, err
	}
	return &list[0], nil
}

package awssim

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

type mapping struct {
	device, snapshot, kind string
	gib                    int64
	iops, throughput       string
	keep                   bool // not deleted with the instance
}

type image struct {
	id, name, desc, arch, virt, root, boot, tpm, imds, platform string
	ena                                                         bool
	created                                                     time.Time
	polls                                                       int
	maps                                                        []mapping
	tags                                                        []tag
}

type instance struct {
	id, image, typ, state, subnet, key, arch, boot, root, token string

	groups, vols  []string
	nics          []nic
	polls, checks int
	tags          []tag
}

// nic is one network interface of an instance.
type nic struct {
	subnet, mac string
	groups, ips []string
}

type volume struct {
	id, snapshot, kind, zone, inst, device string
	lineage                                string
	gib                                    int64
	polls                                  int
	drop                                   bool // with its instance
	blocks                                 map[int64][]byte
	tags                                   []tag
}

// The account's network and what it can be chosen from.
const (
	Subnet  = "subnet-0a1b2c3d4e5f60718"
	Group   = "sg-0a1b2c3d4e5f60718"
	KeyName = "operator"
	VPC     = "vpc-0a1b2c3d4e5f60718"

	subnetCIDR = "10.0.0.0/24"
)

type instType struct {
	name, arch string
	cpus       int
	mib        int64
	modes      []string
}

var types = []instType{
	{"t3.micro", "x86_64", 2, 1024, []string{"legacy-bios", "uefi"}},
	{"t3.small", "x86_64", 2, 2048, []string{"legacy-bios", "uefi"}},
	{"m5.large", "x86_64", 2, 8192, []string{"legacy-bios", "uefi"}},
	{"m5.xlarge", "x86_64", 4, 16384, []string{"legacy-bios", "uefi"}},
	{"m5.24xlarge", "x86_64", 96, 393216, []string{"legacy-bios", "uefi"}},
	{"m6g.large", "arm64", 2, 8192, []string{"uefi"}},
}

var ec2Actions, stsActions map[string]handler

func init() { //nolint:gochecknoinits // breaks the cycle from handlers to the table
	ec2Actions = map[string]handler{
		"DescribeSnapshots": (*Sim).describeSnapshots, "DeleteSnapshot": (*Sim).deleteSnapshot,
		"RegisterImage": (*Sim).registerImage, "DescribeImages": (*Sim).describeImages, "DeregisterImage": (*Sim).deregisterImage,
		"RunInstances": (*Sim).runInstances, "DescribeInstances": (*Sim).describeInstances, "TerminateInstances": (*Sim).terminateInstances,
		"DescribeInstanceStatus": (*Sim).instanceStatus, "GetConsoleOutput": (*Sim).console,
		"CreateVolume": (*Sim).createVolume, "AttachVolume": (*Sim).attachVolume, "DetachVolume": (*Sim).detachVolume,
		"DeleteVolume": (*Sim).deleteVolume, "DescribeVolumes": (*Sim).describeVolumes,
		"DescribeInstanceTypes": (*Sim).describeTypes, "DescribeSubnets": (*Sim).subnets, "DescribeSecurityGroups": (*Sim).securityGroups,
		"CreateTags": (*Sim).createTags, "ImportImage": (*Sim).importImage, "DescribeImportImageTasks": (*Sim).importTasks, "CancelImportTask": (*Sim).cancelImport,
		"ImportSnapshot": (*Sim).importSnapshot, "DescribeImportSnapshotTasks": (*Sim).describeDiskImports,
		"CreateSnapshots": (*Sim).createSnapshots, "DescribeKeyPairs": (*Sim).keyPairs, "DescribeAvailabilityZones": (*Sim).zones,
	}
	stsActions = map[string]handler{"GetCallerIdentity": (*Sim).identity, "AssumeRole": (*Sim).assumeRole}
}

func (s *Sim) identity(*params) ([]el, *apiError) {
	return []el{e("UserId", "AIDASIM"), e("Account", Account), e("Arn", "arn:aws:iam::"+Account+":user/restore")}, nil
}

func (s *Sim) assumeRole(p *params) ([]el, *apiError) {
	arn, name := p.get("RoleArn"), p.get("RoleSessionName")
	p.get("DurationSeconds")
	p.get("ExternalId")
	if !strings.HasPrefix(arn, "arn:aws:iam::"+Account+":role/") || name == "" {
		return nil, &apiError{status: 403, code: "AccessDenied", msg: "not authorized to perform: sts:AssumeRole on resource: " + arn}
	}
	id := "ASIA" + strings.ToUpper(s.newID("k")[3:])
	k := key{secret: s.newID("secret"), token: s.newID("token"), expires: time.Now().Add(time.Hour)}
	s.keys[id] = k
	return []el{
		e("Credentials", []el{
			e("AccessKeyId", id), e("SecretAccessKey", k.secret), e("SessionToken", k.token),
			e("Expiration", k.expires.UTC().Format(time.RFC3339)),
		}),
		e("AssumedRoleUser", []el{e("AssumedRoleId", "AROASIM:"+name), e("Arn", arn+"/"+name)}),
	}, nil
}

// passing counts one description of something that passes through a state.
func passing(polls *int) bool { *polls--; return *polls >= 0 }

func (s *Sim) describeSnapshots(p *params) ([]el, *apiError) {
	ids, f := p.list("SnapshotId"), p.filters()
	p.list("Owner")
	for _, id := range ids {
		if s.snaps[id] == nil {
			return nil, bad("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", id)
		}
	}
	var out [][]el
	for _, id := range slices.Sorted(maps.Keys(s.snaps)) {
		sn := s.snaps[id]
		ok, err := match(f, sn.tags, map[string]string{"status": sn.state, "snapshot-id": id, "description": sn.desc})
		if err != nil {
			return nil, err
		}
		if !ok || len(ids) > 0 && !slices.Contains(ids, id) {
			continue
		}
		if sn.sealed && sn.state == "pending" && !passing(&sn.polls) {
			sn.state = "completed"
		}
		out = append(out, []el{
			e("snapshotId", id), e("volumeId", cmp.Or(sn.volume, "vol-ffffffff")), e("status", sn.state), e("startTime", sn.started.Format(isoMillis)),
			e("progress", "100%"), e("ownerId", Account), e("volumeSize", sn.gib), e("description", sn.desc),
			e("encrypted", sn.encrypted), e("storageTier", "standard"), e("fullSnapshotSizeInBytes", int64(len(sn.blocks))*blockSize), tagSet(sn.tags),
		})
	}
	return []el{items("snapshotSet", out)}, nil
}

func (s *Sim) deleteSnapshot(p *params) ([]el, *apiError) {
	id := p.get("SnapshotId")
	if s.snaps[id] == nil {
		return nil, bad("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", id)
	}
	for _, im := range s.images {
		for _, m := range im.maps {
			if m.snapshot == id {
				return nil, bad("InvalidSnapshot.InUse", "The snapshot %s is currently in use by %s", id, im.id)
			}
		}
	}
	delete(s.snaps, id)
	return []el{e("return", true)}, nil
}

// mappings reads a block device mapping.
func (s *Sim) mappings(p *params) (out []mapping, _ *apiError) {
	for _, g := range p.groups("BlockDeviceMapping") {
		m := mapping{
			device: p.get(g + "DeviceName"), snapshot: p.get(g + "Ebs.SnapshotId"), kind: cmp.Or(p.get(g+"Ebs.VolumeType"), "standard"),
			iops: p.get(g + "Ebs.Iops"), throughput: p.get(g + "Ebs.Throughput"), keep: p.get(g+"Ebs.DeleteOnTermination") == "false",
		}
		size := p.get(g + "Ebs.VolumeSize")
		sn := s.snaps[m.snapshot]
		switch {
		case m.device == "":
			return nil, bad("MissingParameter", "The request must contain the parameter DeviceName")
		case sn == nil:
			return nil, bad("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", m.snapshot)
		case sn.state != "completed":
			return nil, bad("InvalidParameterValue", "Snapshot '%s' is not in a completed state", m.snapshot)
		case !slices.Contains([]string{"standard", "gp2", "gp3", "io1", "io2", "st1", "sc1"}, m.kind):
			return nil, bad("InvalidParameterValue", "Volume type '%s' is invalid", m.kind)
		case m.iops == "" && (m.kind == "io1" || m.kind == "io2"):
			return nil, bad("MissingParameter", "The parameter iops must be specified for %s volumes.", m.kind)
		case m.iops != "" && !slices.Contains([]string{"gp3", "io1", "io2"}, m.kind), m.throughput != "" && m.kind != "gp3":
			return nil, bad("InvalidParameterCombination", "iops or throughput is not supported for %s volumes", m.kind)
		case slices.ContainsFunc(out, func(o mapping) bool { return o.device == m.device }):
			return nil, bad("InvalidBlockDeviceMapping", "Duplicate device name %s", m.device)
		}
		m.gib = sn.gib
		if size != "" {
			n, err := strconv.ParseInt(size, 10, 64)
			if err != nil || n < sn.gib {
				return nil, bad("InvalidBlockDeviceMapping", "Volume of size %sGB is smaller than snapshot '%s', expect size >= %dGB", size, sn.id, sn.gib)
			}
			m.gib = n
		}
		out = append(out, m)
	}
	return out, nil
}

var amiName = regexp.MustCompile(`^[A-Za-z0-9()\[\] ./'@_-]{3,128}$`)

func (s *Sim) registerImage(p *params) ([]el, *apiError) {
	im := &image{
		name: p.get("Name"), desc: p.get("Description"), arch: cmp.Or(p.get("Architecture"), "i386"), virt: cmp.Or(p.get("VirtualizationType"), "paravirtual"),
		root: p.get("RootDeviceName"), boot: p.get("BootMode"), tpm: p.get("TpmSupport"), imds: p.get("ImdsSupport"), ena: p.get("EnaSupport") == "true", polls: s.o.Polls,
	}
	sriov := p.get("SriovNetSupport")
	var aerr *apiError
	if im.tags, aerr = p.tags("image"); aerr != nil {
		return nil, aerr
	}
	if im.maps, aerr = s.mappings(p); aerr != nil {
		return nil, aerr
	}
	for _, o := range s.images {
		if o.name == im.name {
			return nil, bad("InvalidAMIName.Duplicate", "AMI name %s is already in use by AMI %s", im.name, o.id)
		}
	}
	switch {
	case !amiName.MatchString(im.name):
		return nil, bad("InvalidAMIName.Malformed", "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.', '-', '/' and '_'")
	case len(im.desc) > 255:
		return nil, bad("InvalidParameterValue", "Description is too long")
	case !slices.Contains([]string{"i386", "x86_64", "arm64"}, im.arch), !slices.Contains([]string{"", "legacy-bios", "uefi", "uefi-preferred"}, im.boot):
		return nil, bad("InvalidParameterValue", "architecture %s or boot mode %s is invalid", im.arch, im.boot)
	case im.virt != "hvm" && (im.ena || im.boot != "" || sriov != "" || im.arch == "arm64"):
		return nil, bad("InvalidParameterCombination", "ENA, boot modes, SR-IOV and arm64 need the virtualization type hvm")
	case im.arch == "arm64" && im.boot == "legacy-bios", im.arch == "i386" && im.boot != "" && im.boot != "legacy-bios":
		return nil, bad("InvalidParameterCombination", "boot mode %s is not supported for %s", im.boot, im.arch)
	case im.tpm != "" && (im.tpm != "v2.0" || im.boot != "uefi"):
		return nil, bad("InvalidParameterCombination", "TpmSupport v2.0 needs the boot mode uefi")
	case !slices.ContainsFunc(im.maps, func(m mapping) bool { return m.device == im.root }):
		return nil, bad("InvalidParameterValue", "Root device %s is not in the block device mapping", im.root)
	}
	im.id, im.created = s.newID("ami"), time.Now().UTC()
	s.images[im.id] = im
	return []el{e("imageId", im.id)}, nil
}

func (im *image) state() string {
	if im.polls > 0 {
		return "pending"
	}
	return "available"
}

func mapSet(ms []mapping) el {
	var l [][]el
	for _, m := range ms {
		l = append(l, []el{e("deviceName", m.device), e("ebs", []el{
			e("snapshotId", m.snapshot), e("volumeSize", m.gib), e("deleteOnTermination", !m.keep), e("volumeType", m.kind), e("encrypted", false),
		})})
	}
	return items("blockDeviceMapping", l)
}

func (s *Sim) describeImages(p *params) ([]el, *apiError) {
	ids, f := p.list("ImageId"), p.filters()
	p.list("Owner")
	for _, id := range ids {
		if s.images[id] == nil {
			return nil, bad("InvalidAMIID.NotFound", "The image id '[%s]' does not exist", id)
		}
	}
	var out [][]el
	for _, id := range slices.Sorted(maps.Keys(s.images)) {
		im := s.images[id]
		ok, err := match(f, im.tags, map[string]string{"state": im.state(), "name": im.name})
		if err != nil {
			return nil, err
		}
		if !ok || len(ids) > 0 && !slices.Contains(ids, id) {
			continue
		}
		x := []el{
			e("imageId", id), e("imageLocation", Account+"/"+im.name), e("imageState", im.state()), e("imageOwnerId", Account), e("isPublic", false),
			e("architecture", im.arch), e("imageType", "machine"), e("name", im.name), e("description", im.desc), e("rootDeviceType", "ebs"),
			e("rootDeviceName", im.root), e("creationDate", im.created.Format(isoMillis)), mapSet(im.maps), e("virtualizationType", im.virt), tagSet(im.tags), e("hypervisor", "xen"), e("enaSupport", im.ena),
		}
		if im.boot != "" {
			x = append(x, e("bootMode", im.boot))
		}
		if im.platform == "Windows" {
			x = append(x, e("platform", "Windows"))
		}
		if im.tpm != "" {
			x = append(x, e("tpmSupport", im.tpm))
		}
		out = append(out, x)
		im.polls--
	}
	return []el{items("imagesSet", out)}, nil
}

func (s *Sim) deregisterImage(p *params) ([]el, *apiError) {
	id := p.get("ImageId")
	if s.images[id] == nil {
		return nil, bad("InvalidAMIID.Unavailable", "The image ID '%s' is no longer available", id)
	}
	delete(s.images, id)
	return []el{e("return", true)}, nil
}

func (s *Sim) runInstances(p *params) ([]el, *apiError) {
	in := &instance{
		image: p.get("ImageId"), typ: p.get("InstanceType"), state: "pending", polls: s.o.Polls, checks: s.o.Polls,
		subnet: cmp.Or(p.get("SubnetId"), p.get("NetworkInterface.1.SubnetId")), key: p.get("KeyName"), groups: p.list("SecurityGroupId"),
		token: p.get("ClientToken"),
	}
	single := p.get("PrivateIpAddress")
	if len(p.groups("NetworkInterface")) > 0 && (p.get("SubnetId") != "" || single != "" || len(in.groups) > 0) {
		return nil, bad("InvalidParameterCombination", "Network interfaces and an instance-level subnet, address or security groups may not be specified on the same request")
	}
	if z := p.get("Placement.AvailabilityZone"); z != "" && z != s.o.Region+"a" {
		return nil, bad("InvalidParameterValue", "Invalid availability zone: [%s]", z)
	}
	for i, g := range p.groups("NetworkInterface") {
		n := nic{subnet: cmp.Or(p.get(g+"SubnetId"), Subnet), groups: p.list(g + "SecurityGroupId"), mac: fmt.Sprintf("0a:00:%02x:00:00:%02x", s.n, i)}
		p.get(g + "AssociatePublicIpAddress")
		if p.get(g+"DeviceIndex") != strconv.Itoa(i) {
			return nil, bad("InvalidParameterValue", "device indexes must be consecutive")
		}
		if n.subnet != Subnet {
			return nil, bad("InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist", n.subnet)
		}
		for _, sg := range n.groups {
			if sg != Group {
				return nil, bad("InvalidGroup.NotFound", "The security group '%s' does not exist", sg)
			}
		}
		for j, a := range p.groups(g + "PrivateIpAddresses") {
			ip := p.get(a + "PrivateIpAddress")
			if addr, err := netip.ParseAddr(ip); err != nil || !netip.MustParsePrefix(subnetCIDR).Contains(addr) {
				return nil, bad("InvalidParameterValue", "Address %s does not fall within the subnet's address range", ip)
			}
			if p.get(a+"Primary") != strconv.FormatBool(j == 0) {
				return nil, bad("InvalidParameterValue", "one address must be primary")
			}
			n.ips = append(n.ips, ip)
		}
		if len(n.ips) == 0 {
			n.ips = []string{fmt.Sprintf("10.0.0.%d", 17+i)}
		}
		in.nics = append(in.nics, n)
	}
	if len(in.nics) == 0 {
		in.nics = []nic{{subnet: Subnet, groups: in.groups, mac: fmt.Sprintf("0a:00:%02x:00:00:00", s.n), ips: []string{cmp.Or(single, "10.0.0.17")}}}
	}
	what := p.v.Encode()
	minN, maxN := p.get("MinCount"), p.get("MaxCount")
	for _, n := range []string{"IamInstanceProfile.Name", "IamInstanceProfile.Arn", "MetadataOptions.HttpTokens", "MetadataOptions.HttpEndpoint"} {
		p.get(n)
	}
	data, derr := base64.StdEncoding.DecodeString(p.get("UserData"))
	var aerr *apiError
	if in.tags, aerr = p.tags("instance"); aerr != nil {
		return nil, aerr
	}
	voltags, aerr := p.tags("volume")
	if aerr != nil {
		return nil, aerr
	}
	if id, err := s.once("instance", in.token, what); err != nil {
		return nil, err
	} else if id != "" {
		return s.reservation(s.insts[id]), nil
	}
	im := s.images[in.image]
	ti := slices.IndexFunc(types, func(t instType) bool { return t.name == in.typ })
	switch {
	case im == nil:
		return nil, bad("InvalidAMIID.NotFound", "The image id '[%s]' does not exist", in.image)
	case im.state() != "available":
		return nil, bad("InvalidAMIID.Unavailable", "The image ID '%s' is not available", in.image)
	case minN != "1" || maxN != "1":
		return nil, bad("MissingParameter", "MinCount and MaxCount must be 1 here")
	case ti < 0:
		return nil, bad("InvalidParameterValue", "Invalid value '%s' for InstanceType.", in.typ)
	case im.arch != types[ti].arch:
		return nil, bad("InvalidParameterValue", "The architecture '%s' of the specified instance type does not match the architecture '%s' of the specified AMI.", types[ti].arch, im.arch)
	case im.virt != "hvm":
		return nil, bad("InvalidParameterCombination", "Virtualization type 'paravirtual' is not supported for instances of type '%s'", in.typ)
	case !im.ena:
		return nil, bad("InvalidParameterCombination", "Enhanced networking with the Elastic Network Adapter (ENA) is required for the '%s' instance type.", in.typ)
	case im.boot != "" && im.boot != "uefi-preferred" && !slices.Contains(types[ti].modes, im.boot):
		return nil, bad("InvalidParameterCombination", "The boot mode %s is not supported for '%s'", im.boot, in.typ)
	case in.subnet != "" && in.subnet != Subnet:
		return nil, bad("InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist", in.subnet)
	case slices.ContainsFunc(in.groups, func(g string) bool { return g != Group }):
		return nil, bad("InvalidGroup.NotFound", "The security group '%v' does not exist", in.groups)
	case in.key != "" && in.key != KeyName:
		return nil, bad("InvalidKeyPair.NotFound", "The key pair '%s' does not exist", in.key)
	case derr != nil || len(data) > 16<<10:
		return nil, bad("InvalidParameterValue", "Invalid BASE64 encoding of user data, or more than 16384 bytes")
	}
	in.id, in.arch, in.boot, in.root = s.newID("i"), im.arch, cmp.Or(im.boot, types[ti].modes[0]), im.root
	want := map[string][3]string{}
	for _, g := range p.groups("BlockDeviceMapping") {
		name := p.get(g + "DeviceName")
		if !slices.ContainsFunc(im.maps, func(m mapping) bool { return m.device == name }) {
			return nil, bad("InvalidBlockDeviceMapping", "Device %s is not of the image", name)
		}
		want[name] = [3]string{p.get(g + "Ebs.VolumeType"), p.get(g + "Ebs.Iops"), p.get(g + "Ebs.Throughput")}
	}
	for _, m := range im.maps {
		if w, ok := want[m.device]; ok {
			m.kind = w[0]
		}
		v := &volume{id: s.newID("vol"), snapshot: m.snapshot, kind: m.kind, zone: s.o.Region + "a", inst: in.id, device: m.device, gib: m.gib, drop: !m.keep, tags: voltags, blocks: maps.Clone(s.snaps[m.snapshot].blocks), lineage: s.snaps[m.snapshot].lineage}
		s.vols[v.id] = v
		in.vols = append(in.vols, v.id)
	}
	s.insts[in.id] = in
	s.used("instance", in.token, what, in.id)
	return s.reservation(in), nil
}

func (s *Sim) reservation(in *instance) []el {
	return []el{e("reservationId", "r-"+in.id[2:]), e("ownerId", Account), items("groupSet", nil), items("instancesSet", [][]el{s.instanceXML(in)})}
}

func nicSet(in *instance) (out [][]el) {
	for i, n := range in.nics {
		out = append(out, []el{
			e("networkInterfaceId", fmt.Sprintf("eni-%s%d", in.id[3:], i)), e("subnetId", n.subnet), e("vpcId", VPC), e("macAddress", n.mac),
			e("privateIpAddress", n.ips[0]), e("status", "in-use"), e("attachment", e("deviceIndex", i)),
		})
	}
	return out
}

var states = map[string]int{"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopped": 80}

func (s *Sim) instanceXML(in *instance) []el {
	var devs [][]el
	for _, id := range in.vols {
		if v := s.vols[id]; v != nil {
			devs = append(devs, []el{e("deviceName", v.device), e("ebs", []el{e("volumeId", id), e("status", "attached"), e("deleteOnTermination", v.drop)})})
		}
	}
	return []el{
		e("instanceId", in.id), e("imageId", in.image), e("instanceState", []el{e("code", states[in.state]), e("name", in.state)}),
		e("keyName", in.key), e("instanceType", in.typ), e("launchTime", "2026-01-01T00:00:00.000Z"),
		e("placement", []el{e("availabilityZone", s.o.Region+"a"), e("tenancy", "default")}),
		e("subnetId", Subnet), e("vpcId", VPC), e("privateIpAddress", in.nics[0].ips[0]), items("networkInterfaceSet", nicSet(in)), e("architecture", in.arch), e("rootDeviceType", "ebs"), e("rootDeviceName", in.root),
		items("blockDeviceMapping", devs), e("virtualizationType", "hvm"), e("clientToken", in.token), tagSet(in.tags), e("currentInstanceBootMode", in.boot),
	}
}

func (s *Sim) describeInstances(p *params) ([]el, *apiError) {
	ids, f := p.list("InstanceId"), p.filters()
	for _, id := range ids {
		if s.insts[id] == nil {
			return nil, bad("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
		}
	}
	var out [][]el
	for _, id := range slices.Sorted(maps.Keys(s.insts)) {
		in := s.insts[id]
		if len(ids) > 0 && !slices.Contains(ids, id) {
			continue
		}
		fs := map[string]string{"instance-state-name": in.state, "client-token": in.token}
		ok, err := match(f, in.tags, fs)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		out = append(out, s.reservation(in))
		if next := map[string]string{"pending": "running", "shutting-down": "terminated"}[in.state]; next != "" && !passing(&in.polls) {
			in.state = next
		}
	}
	return []el{items("reservationSet", out)}, nil
}

func (s *Sim) terminateInstances(p *params) ([]el, *apiError) {
	var out [][]el
	for _, id := range p.list("InstanceId") {
		in := s.insts[id]
		if in == nil {
			return nil, bad("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
		}
		old := in.state
		if in.state != "terminated" {
			in.state, in.polls = "shutting-down", s.o.Polls
		}
		for _, v := range in.vols {
			if vol := s.vols[v]; vol != nil && vol.drop {
				delete(s.vols, v)
			} else if vol != nil {
				vol.inst, vol.device = "", ""
			}
		}
		out = append(out, []el{
			e("instanceId", id), e("currentState", []el{e("code", states[in.state]), e("name", in.state)}),
			e("previousState", []el{e("code", states[old]), e("name", old)}),
		})
	}
	return []el{items("instancesSet", out)}, nil
}

func (s *Sim) instanceStatus(p *params) ([]el, *apiError) {
	var out [][]el
	for _, id := range p.list("InstanceId") {
		in := s.insts[id]
		if in == nil {
			return nil, bad("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
		}
		if in.state != "running" {
			continue
		}
		st := "ok"
		if passing(&in.checks) {
			st = "initializing"
		}
		out = append(out, []el{
			e("instanceId", id), e("availabilityZone", s.o.Region+"a"), e("instanceState", []el{e("code", 16), e("name", "running")}),
			e("systemStatus", e("status", st)), e("instanceStatus", e("status", st)),
		})
	}
	return []el{items("instanceStatusSet", out)}, nil
}

func (s *Sim) console(p *params) ([]el, *apiError) {
	id := p.get("InstanceId")
	p.get("Latest")
	if s.insts[id] == nil {
		return nil, bad("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
	}
	return []el{e("instanceId", id), e("timestamp", "2026-01-01T00:00:00.000Z"), e("output", base64.StdEncoding.EncodeToString([]byte("login: ")))}, nil
}

package awssim

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

func (s *Sim) createVolume(p *params) ([]el, *apiError) {
	v := &volume{snapshot: p.get("SnapshotId"), kind: cmp.Or(p.get("VolumeType"), "gp2"), zone: p.get("AvailabilityZone"), polls: s.o.Polls}
	size, token, what := p.get("Size"), p.get("ClientToken"), p.v.Encode()
	iops, through := p.get("Iops"), p.get("Throughput")
	p.get("Encrypted")
	p.get("KmsKeyId")
	var aerr *apiError
	if v.tags, aerr = p.tags("volume"); aerr != nil {
		return nil, aerr
	}
	id, aerr := s.once("volume", token, what)
	if aerr != nil {
		return nil, aerr
	}
	if id != "" && s.vols[id] != nil {
		return s.volumeXML(s.vols[id]), nil
	}
	sn := s.snaps[v.snapshot]
	switch {
	case !strings.HasPrefix(v.zone, s.o.Region):
		return nil, bad("InvalidZone.NotFound", "The zone '%s' does not exist.", v.zone)
	case sn == nil:
		return nil, bad("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", v.snapshot)
	case sn.state != "completed":
		return nil, bad("IncorrectState", "Snapshot is in invalid state - %s", sn.state)
	case iops != "" && v.kind != "gp3" && !strings.HasPrefix(v.kind, "io"), through != "" && v.kind != "gp3":
		return nil, bad("InvalidParameterCombination", "iops or throughput is not supported for %s volumes", v.kind)
	}
	v.gib = sn.gib
	if n, err := strconv.ParseInt(size, 10, 64); err == nil && n > v.gib {
		v.gib = n
	}
	v.id = s.newID("vol")
	s.vols[v.id] = v
	s.used("volume", token, what, v.id)
	return s.volumeXML(v), nil
}

func (v *volume) state() string {
	switch {
	case v.inst != "":
		return "in-use"
	case v.polls > 0:
		return "creating"
	}
	return "available"
}

func (s *Sim) volumeXML(v *volume) []el {
	var at [][]el
	if v.inst != "" {
		at = append(at, []el{e("volumeId", v.id), e("instanceId", v.inst), e("device", v.device), e("status", "attached"), e("deleteOnTermination", v.drop)})
	}
	return []el{
		e("volumeId", v.id), e("size", v.gib), e("snapshotId", v.snapshot), e("availabilityZone", v.zone), e("status", v.state()),
		e("createTime", "2026-01-01T00:00:00.000Z"), items("attachmentSet", at), tagSet(v.tags), e("volumeType", v.kind), e("encrypted", false),
	}
}

func (s *Sim) describeVolumes(p *params) ([]el, *apiError) {
	ids, f := p.list("VolumeId"), p.filters()
	for _, id := range ids {
		if s.vols[id] == nil {
			return nil, bad("InvalidVolume.NotFound", "The volume '%s' does not exist.", id)
		}
	}
	var out [][]el
	for _, id := range slices.Sorted(maps.Keys(s.vols)) {
		v := s.vols[id]
		ok, err := match(f, v.tags, map[string]string{"status": v.state(), "attachment.instance-id": v.inst})
		if err != nil {
			return nil, err
		}
		if ok && (len(ids) == 0 || slices.Contains(ids, id)) {
			out = append(out, s.volumeXML(v))
			v.polls--
		}
	}
	return []el{items("volumeSet", out)}, nil
}

func (s *Sim) attachVolume(p *params) ([]el, *apiError) {
	id, inst, dev := p.get("VolumeId"), p.get("InstanceId"), p.get("Device")
	v := s.vols[id]
	switch {
	case v == nil:
		return nil, bad("InvalidVolume.NotFound", "The volume '%s' does not exist.", id)
	case s.insts[inst] == nil:
		return nil, bad("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", inst)
	case v.state() != "available":
		return nil, bad("IncorrectState", "%s is not 'available'.", id)
	}
	for _, o := range s.vols {
		if o.inst == inst && o.device == dev {
			return nil, bad("InvalidParameterValue", "Invalid value '%s' for unixDevice. Attachment point %s is already in use", dev, dev)
		}
	}
	v.inst, v.device = inst, dev
	return []el{e("volumeId", id), e("instanceId", inst), e("device", dev), e("status", "attaching")}, nil
}

func (s *Sim) detachVolume(p *params) ([]el, *apiError) {
	id := p.get("VolumeId")
	v := s.vols[id]
	p.get("InstanceId")
	switch {
	case v == nil:
		return nil, bad("InvalidVolume.NotFound", "The volume '%s' does not exist.", id)
	case v.inst == "":
		return nil, bad("IncorrectState", "Volume '%s' is in the 'available' state.", id)
	}
	v.inst, v.device = "", ""
	return []el{e("volumeId", id), e("status", "detaching")}, nil
}

func (s *Sim) deleteVolume(p *params) ([]el, *apiError) {
	id := p.get("VolumeId")
	v := s.vols[id]
	switch {
	case v == nil:
		return nil, bad("InvalidVolume.NotFound", "The volume '%s' does not exist.", id)
	case v.inst != "":
		return nil, bad("VolumeInUse", "Volume %s is currently attached to %s", id, v.inst)
	}
	delete(s.vols, id)
	return []el{e("return", true)}, nil
}

func (s *Sim) describeTypes(p *params) ([]el, *apiError) {
	ids := p.list("InstanceType")
	for _, id := range ids {
		if !slices.ContainsFunc(types, func(t instType) bool { return t.name == id }) {
			return nil, bad("InvalidInstanceType", "The following supplied instance types do not exist: [%s]", id)
		}
	}
	f := p.filters()
	var out [][]el
	for _, t := range types {
		ok, err := match(f, nil, map[string]string{"current-generation": "true", "processor-info.supported-architecture": t.arch})
		if err != nil {
			return nil, err
		}
		if !ok || len(ids) > 0 && !slices.Contains(ids, t.name) {
			continue
		}
		list := func(name string, v ...string) el {
			x := el{name: name}
			for _, s := range v {
				x.kids = append(x.kids, e("item", s))
			}
			return x
		}
		out = append(out, []el{
			e("instanceType", t.name), e("currentGeneration", true), e("bareMetal", false), e("hypervisor", "nitro"),
			e("processorInfo", list("supportedArchitectures", t.arch)), e("vCpuInfo", e("defaultVCpus", t.cpus)), e("memoryInfo", e("sizeInMiB", t.mib)),
			e("ebsInfo", e("nvmeSupport", "required")), e("networkInfo", e("enaSupport", "required")), list("supportedBootModes", t.modes...),
		})
	}
	return []el{items("instanceTypeSet", out)}, nil
}

func (s *Sim) subnets(p *params) ([]el, *apiError) {
	for _, id := range p.list("SubnetId") {
		if id != Subnet {
			return nil, bad("InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist", id)
		}
	}
	return []el{items("subnetSet", [][]el{{
		e("subnetId", Subnet), e("state", "available"), e("vpcId", VPC), e("cidrBlock", "10.0.0.0/24"), e("availableIpAddressCount", 250),
		e("availabilityZone", s.o.Region+"a"), tagSet([]tag{{"Name", "servers"}}),
	}})}, nil
}

func (s *Sim) securityGroups(*params) ([]el, *apiError) {
	return []el{items("securityGroupInfo", [][]el{{
		e("ownerId", Account), e("groupId", Group), e("groupName", "default"), e("groupDescription", "default"), e("vpcId", VPC),
	}})}, nil
}

func (s *Sim) keyPairs(*params) ([]el, *apiError) {
	return []el{items("keySet", [][]el{{e("keyPairId", "key-0123456789abcdef0"), e("keyName", KeyName)}})}, nil
}

func (s *Sim) zones(p *params) ([]el, *apiError) {
	p.filters()
	return []el{items("availabilityZoneInfo", [][]el{{
		e("zoneName", s.o.Region+"a"), e("zoneState", "available"), e("regionName", s.o.Region),
	}})}, nil
}

// Inventory is a line for each thing that exists and is billed, with a digest
// of what a snapshot holds.
func (s *Sim) Inventory() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, sn := range s.snaps {
		h := sha256.New()
		for _, i := range slices.Sorted(maps.Keys(sn.blocks)) {
			fmt.Fprintln(h, i)
			h.Write(sn.blocks[i])
		}
		out = append(out, fmt.Sprintf("snapshot %s %d GiB %x %q", id, sn.gib, h.Sum(nil)[:8], sn.tags))
	}
	for id, im := range s.images {
		out = append(out, fmt.Sprintf("image %s %q", id, im.name))
	}
	for id, v := range s.vols {
		out = append(out, fmt.Sprintf("volume %s of %s at %s", id, v.snapshot, v.inst))
	}
	for id, in := range s.insts {
		if in.state != "terminated" && in.state != "shutting-down" {
			out = append(out, fmt.Sprintf("instance %s %s", id, in.typ))
		}
	}
	return out
}

// State is an instance's state, "" without it.
func (s *Sim) State(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in := s.insts[id]; in != nil {
		return in.state
	}
	return ""
}

// Running lists the instances of a tag's value that run.
func (s *Sim) Running(key, value string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, in := range s.insts {
		if in.state == "running" && slices.Contains(in.tags, tag{key, value}) {
			out = append(out, id)
		}
	}
	return out
}

// Blocks is what a snapshot holds, by block index; nil without it.
func (s *Sim) Blocks(id string) map[int64][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sn := s.snaps[id]; sn != nil {
		return maps.Clone(sn.blocks)
	}
	return nil
}

package awssim

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
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
	v.gib, v.blocks, v.lineage = sn.gib, maps.Clone(sn.blocks), sn.lineage
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
		ok, err := match(f, v.tags, map[string]string{"status": v.state(), "attachment.instance-id": v.inst, "volume-type": v.kind})
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
			e("ebsInfo", []el{e("nvmeSupport", "required"), e("maximumEbsAttachments", 27), e("attachmentLimitType", "shared")}),
			e("networkInfo", []el{e("enaSupport", "required"), e("maximumNetworkInterfaces", 3)}), list("supportedBootModes", t.modes...),
			e("burstablePerformanceSupported", strings.HasPrefix(t.name, "t")), e("nitroTpmSupport", "supported"),
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
		e("subnetId", Subnet), e("state", "available"), e("vpcId", VPC), e("cidrBlock", subnetCIDR), e("availableIpAddressCount", 250),
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
	for key, o := range s.objects {
		out = append(out, fmt.Sprintf("object %s of %d bytes", key, len(o)))
	}
	for _, u := range s.uploads {
		out = append(out, fmt.Sprintf("multipart upload of %s", u.key))
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

// Spoil makes a snapshot that is not complete end in an error, as one does that
// waited too long for its next block; gone removes it altogether. It tells
// whether there was one.
func (s *Sim) Spoil(id string, gone bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sn := s.snaps[id]
	if sn == nil || sn.state != "pending" || sn.sealed {
		return false
	}
	sn.state, sn.sealed = "error", true
	if gone {
		delete(s.snaps, id)
	}
	return true
}

// Snapshots lists all snapshots, in no order.
func (s *Sim) Snapshots() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.snaps))
}

// createTags adds tags to a snapshot.
func (s *Sim) createTags(p *params) ([]el, *apiError) {
	var tags []tag
	for _, g := range p.groups("Tag") {
		tags = append(tags, tag{p.get(g + "Key"), p.get(g + "Value")})
	}
	if err := checkTags(tags); err != nil {
		return nil, err
	}
	for _, id := range p.list("ResourceId") {
		sn := s.snaps[id]
		if sn == nil {
			return nil, bad("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", id)
		}
		sn.tags = append(slices.DeleteFunc(sn.tags, func(o tag) bool {
			return slices.ContainsFunc(tags, func(t tag) bool { return t.Key == o.Key })
		}), tags...)
	}
	return []el{e("return", true)}, nil
}

// quotas of the account, by code.
var quotas = map[string]struct {
	service, name string
	value         float64
}{
	"L-1216C47A": {"ec2", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", 64},
	"L-7A658B76": {"ebs", "Storage for General Purpose SSD (gp3) volumes, in TiB", 50},
}

// serveQuotas is Service Quotas' GetServiceQuota (JSON 1.1).
func (s *Sim) serveQuotas(w http.ResponseWriter, body []byte, aerr *apiError) {
	var in struct{ ServiceCode, QuotaCode string }
	if err := json.Unmarshal(body, &in); err != nil && aerr == nil {
		aerr = bad("SerializationException", "%v", err)
	}
	q, ok := quotas[in.QuotaCode]
	if aerr == nil && (!ok || q.service != in.ServiceCode) {
		aerr = bad("NoSuchResourceException", "The request failed because the specified service or quota does not exist.")
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if aerr != nil {
		w.WriteHeader(aerr.status)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": aerr.code, "Message": aerr.msg}) // the client may be gone
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"Quota": map[string]any{
		"ServiceCode": q.service, "QuotaCode": in.QuotaCode, "QuotaName": q.name, "Value": q.value, "Unit": "None", "Adjustable": true, "GlobalQuota": false,
	}})
}

// createSnapshots takes snapshots of an instance's volumes at one moment.
func (s *Sim) createSnapshots(p *params) ([]el, *apiError) {
	id, desc := p.get("InstanceSpecification.InstanceId"), p.get("Description")
	tags, aerr := p.tags("snapshot")
	if aerr != nil {
		return nil, aerr
	}
	in := s.insts[id]
	if in == nil {
		return nil, bad("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
	}
	skip, now := p.get("InstanceSpecification.ExcludeBootVolume") == "true", s.now()
	var out [][]el
	for _, v := range in.vols {
		vol := s.vols[v]
		if vol == nil || skip && vol.device == in.root {
			continue
		}
		sn := &snapshot{
			id: s.newID("snap"), desc: desc, gib: vol.gib, state: "pending", sealed: true, polls: s.o.Polls, volume: v, started: now,
			tags: tags, blocks: maps.Clone(vol.blocks), lineage: vol.lineage,
		}
		s.snaps[sn.id] = sn
		out = append(out, []el{
			e("snapshotId", sn.id), e("volumeId", v), e("volumeSize", vol.gib), e("state", sn.state), e("startTime", now.Format(isoMillis)), e("description", desc),
		})
	}
	return []el{items("snapshotSet", out)}, nil
}

// WriteVolume has a volume's guest write one block, or with nil trim it.
func (s *Sim) WriteVolume(id string, index int64, block []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if block == nil {
		delete(s.vols[id].blocks, index)
		return
	}
	s.vols[id].blocks[index] = block
}

// isoMillis is a time as EC2 writes it.
const isoMillis = "2006-01-02T15:04:05.000Z"

// SetPolls is Options.Polls from now on.
func (s *Sim) SetPolls(n int) { s.mu.Lock(); s.o.Polls = n; s.mu.Unlock() }

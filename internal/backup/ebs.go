package backup

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"ascend/internal/awsapi"
	"ascend/internal/disk"
	"ascend/internal/vm"
)

// ebsScheme begins the name of a repository that is an AWS account:
//
//	ebs:REGION?profile=NAME&role=ARN&external-id=ID&endpoint=URL&ca-file=FILE
//
// All of it is optional: the SDK's chain finds region and credentials. A name
// holds no secret, for it stands in plans, jobs and receipts.
const ebsScheme = "ebs:"

// ebs is an AWS account in one region. The machines in it are its images, and
// its instances at the times that snapshots of their volumes were taken; a
// snapshot that belongs to neither is a disk by itself.
type ebs struct {
	config awsapi.Config

	mu     sync.Mutex
	client *awsapi.Client
}

func parseEBS(name string) (*ebs, error) {
	u, err := url.Parse(name)
	if err != nil || u.Opaque == "" && (u.Host != "" || u.Path != "") {
		return nil, fmt.Errorf("%q is not ebs:REGION, with ?profile=, role=, external-id=, endpoint= or ca-file= behind it", name)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("%q: its parameters cannot be read", name)
	}
	e := &ebs{config: awsapi.Config{Region: u.Opaque}}
	for k, v := range q {
		switch k {
		case "profile":
			e.config.Profile = v[0]
		case "role":
			e.config.RoleARN = v[0]
		case "external-id":
			e.config.ExternalID = v[0]
		case "endpoint":
			e.config.Endpoint = v[0]
		case "ca-file":
			e.config.CAFile = v[0]
		default:
			return nil, fmt.Errorf("ebs: has no parameter %q; keys are found by the AWS SDK's own chain, as with profile=", k)
		}
	}
	return e, nil
}

// account is the client, made once.
func (e *ebs) account(ctx context.Context) (*awsapi.Client, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		return e.client, nil
	}
	c, err := awsapi.New(ctx, e.config)
	if err == nil {
		e.client = c
	}
	return c, err
}

func (e *ebs) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		e.client.Close()
	}
}

// ebsDisk is a snapshot as an image.
type ebsDisk struct {
	*awsapi.Snapshot
	info disk.Info
}

// Info implements disk.Image. The only layer is the snapshot: each is whole.
func (d *ebsDisk) Info() disk.Info { return d.info }

func (e *ebs) open(ctx context.Context, d Disk) (disk.Image, error) {
	c, err := e.account(ctx)
	if err != nil {
		return nil, err
	}
	s, err := c.OpenSnapshot(ctx, d.Path, d.Size)
	if err != nil {
		return nil, err
	}
	return &ebsDisk{s, disk.Info{
		Format: "raw", Subformat: "EBS snapshot", Size: s.Size(), Allocated: s.Allocated(), FileBytes: s.Allocated(), Cluster: awsapi.BlockSize,
		Chain: []disk.Layer{{Path: d.Path, Format: "raw", Size: s.Size(), Modified: d.Time}},
	}}, nil
}

// ebsListing is what an account holds.
type ebsListing struct {
	snaps map[string]awsapi.SnapshotInfo
	types map[string]awsapi.InstanceType
	insts map[string]awsapi.InstanceInfo
	used  map[string]bool // snapshots that a machine was made of
	// parent is for each snapshot the one of the same volume before it.
	parent map[string]string
}

// noVolume is the volume of snapshots that were made of none: copies, imports and
// those that the EBS direct APIs wrote.
const noVolume = "vol-ffffffff"

// parents finds the snapshot before each one that can be read.
func (l *ebsListing) parents() map[string]string {
	of := map[string][]awsapi.SnapshotInfo{}
	for _, s := range l.snaps {
		if s.VolumeID != "" && s.VolumeID != noVolume && s.State == "completed" && s.Tier != "archive" {
			of[s.VolumeID] = append(of[s.VolumeID], s)
		}
	}
	out := map[string]string{}
	for _, list := range of {
		slices.SortFunc(list, func(a, b awsapi.SnapshotInfo) int {
			return cmp.Or(ebsTime(a.Started).Compare(ebsTime(b.Started)), cmp.Compare(a.ID, b.ID))
		})
		for i := 1; i < len(list); i++ {
			out[list[i].ID] = list[i-1].ID
		}
	}
	return out
}

// Change is what of a disk differs from its parent.
type Change struct {
	Disk   int    `json:"disk"` // Disk.Index
	Parent string `json:"parent"`
	// Bytes is that of the blocks of 512 KiB that were written or given back since.
	Bytes int64 `json:"bytes"`
}

// Changes asks what each disk of b with a Parent has changed since; nil for backups
// in files, whose increments are files of their own. It is not part of List: every
// 5 GiB that changed is a request.
func (r *Repository) Changes(ctx context.Context, b Backup) ([]Change, error) {
	if r.ebs == nil {
		return nil, nil
	}
	c, err := r.ebs.account(ctx)
	if err != nil {
		return nil, err
	}
	var out []Change
	for _, d := range b.Disks {
		if d.Parent != "" {
			out = append(out, Change{Disk: d.Index, Parent: d.Parent})
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxWorkers)
	for i := range out {
		g.Go(func() error {
			k := slices.IndexFunc(b.Disks, func(d Disk) bool { return d.Index == out[i].Disk })
			_, err := c.EachBlocks(ctx, b.Disks[k].Path, out[i].Parent, 0, 0, func(page []awsapi.Block) bool {
				out[i].Bytes += int64(len(page)) * awsapi.BlockSize
				return true
			})
			if err != nil {
				return fmt.Errorf("cannot tell what %s changed since %s: %w", b.Disks[k].Path, out[i].Parent, err)
			}
			return nil
		})
	}
	return out, g.Wait()
}

func (e *ebs) list(ctx context.Context) ([]Backup, error) {
	c, err := e.account(ctx)
	if err != nil {
		return nil, err
	}
	snaps, err := c.Snapshots(ctx, awsapi.Params{"Owner.1": "self"})
	if err != nil {
		return nil, err
	}
	images, err := c.Images(ctx, awsapi.Params{"Owner.1": "self"})
	if err != nil {
		return nil, err
	}
	insts, err := c.Instances(ctx, awsapi.Params{})
	if err != nil {
		return nil, err
	}
	types, err := c.InstanceTypes(ctx, awsapi.Params{})
	if err != nil {
		return nil, err
	}
	l := &ebsListing{snaps: map[string]awsapi.SnapshotInfo{}, types: map[string]awsapi.InstanceType{}, insts: map[string]awsapi.InstanceInfo{}, used: map[string]bool{}}
	for _, s := range snaps {
		l.snaps[s.ID] = s
	}
	for _, y := range types {
		l.types[y.Name] = y
	}
	l.parent = l.parents()
	var out []Backup
	for _, in := range insts {
		l.insts[in.ID] = in
	}
	for _, im := range images {
		out = append(out, l.image(im))
	}
	for _, in := range insts {
		if in.State != "terminated" {
			out = append(out, l.instance(in)...)
		}
	}
	for _, id := range sortedKeys(l.snaps) {
		if !l.used[id] {
			out = append(out, l.alone(l.snaps[id]))
		}
	}
	return out, nil
}

// disk adds one snapshot to a backup.
func (l *ebsListing) disk(b *Backup, index int, name, id string, gib int64) {
	s, ok := l.snaps[id]
	d := Disk{Index: index, ID: id, Name: name, Path: id, Format: "raw", Size: gib << 30, Type: Full, Chain: 1}
	l.used[id] = true
	switch {
	case !ok:
		d.Fault = "the snapshot " + id + " is not of this account, or is gone"
	case s.State != "completed":
		d.Fault = fmt.Sprintf("the snapshot %s is %s", id, cmp.Or(s.State, "in no known state"))
	case s.Tier == "archive":
		d.Fault = "the snapshot " + id + " is archived: restore it from the archive first"
	}
	if ok {
		d.Time, d.Size = ebsTime(s.Started), s.GiB<<30
	}
	if d.Bytes = d.Size; s.Bytes > 0 {
		d.Bytes = s.Bytes
	}
	if d.Parent = l.parent[id]; d.Parent != "" {
		d.Type, b.Type = Incremental, Incremental
	}
	if d.Fault != "" {
		b.fail("%s: %s", name, d.Fault)
	}
	b.Disks = append(b.Disks, d)
	b.Machine.Disks = append(b.Machine.Disks, vm.Disk{Index: index, Name: name, Size: d.Size, Controller: vm.BusNVMe, Boot: index == 0})
}

// image is an AMI as a backup.
func (l *ebsListing) image(im awsapi.ImageInfo) Backup {
	b := Backup{
		ID: im.ID, VM: clean(cmp.Or(awsapi.TagValue(im.Tags, "Name"), im.Name, im.ID)), Origin: vm.AWS, Type: Full, Created: ebsTime(im.Created),
		Layout: LayoutEBS, Path: im.ID, Machine: &vm.Machine{},
	}
	if in, ok := l.insts[im.Instance]; ok {
		b.Machine = l.machine(in)
	}
	m := b.Machine
	m.Name, m.Platform = b.VM, vm.AWS
	m.Guest.Arch, m.Firmware = ebsArch(im.Arch), ebsFirmware(im.BootMode, im.Arch)
	m.TPM, m.Tags = im.TPM != "", ebsTags(im.Tags)
	if strings.EqualFold(im.Platform, "windows") {
		m.Guest.Family = vm.Windows
	}
	if im.State != "available" {
		b.fail("the image is %s", im.State)
	}
	n := 1
	for _, d := range im.Devices {
		switch {
		case d.Snapshot == "":
			b.note("%s is an instance store, which no image holds", clean(d.Name))
		case d.Name == im.Root:
			l.disk(&b, 0, clean(d.Name), d.Snapshot, d.GiB)
		default:
			l.disk(&b, n, clean(d.Name), d.Snapshot, d.GiB)
			n++
		}
	}
	b.inOrder()
	if m.CPU.Total() == 0 {
		b.note("an image does not say how many processors and how much memory its machine had")
	}
	return b
}

// inOrder puts the disks in the order of their numbers.
func (b *Backup) inOrder() {
	slices.SortStableFunc(b.Disks, func(a, c Disk) int { return a.Index - c.Index })
	slices.SortStableFunc(b.Machine.Disks, func(a, c vm.Disk) int { return a.Index - c.Index })
	if len(b.Disks) == 0 || b.Disks[0].Index != 0 {
		b.fail("the boot disk has no snapshot")
	}
}

// instance is a backup for every time that snapshots of an instance's volumes
// were taken. Snapshots that CreateSnapshots took together bear one time.
func (l *ebsListing) instance(in awsapi.InstanceInfo) []Backup {
	number, device := map[string]int{}, map[string]string{}
	n := 1
	for _, d := range in.Devices {
		device[d.Volume] = clean(d.Name)
		if d.Name == in.Root {
			number[d.Volume] = 0
			continue
		}
		number[d.Volume] = n
		n++
	}
	var all []*layer
	for _, id := range sortedKeys(l.snaps) {
		s := l.snaps[id]
		if i, ok := number[s.VolumeID]; ok && !l.used[id] {
			t := ebsTime(s.Started)
			all = append(all, &layer{path: id, number: i, time: t, created: t})
		}
	}
	slices.SortStableFunc(all, func(a, b *layer) int { return a.time.Compare(b.time) })
	var out []Backup
	for _, p := range group(all, len(number)) {
		m := l.machine(in)
		b := Backup{VM: m.Name, Origin: vm.AWS, Type: Full, Created: p.created, Layout: LayoutEBS, Path: in.ID, Machine: m}
		for _, i := range sortedKeys(p.layers) {
			s := l.snaps[p.layers[i].path]
			l.disk(&b, i, device[s.VolumeID], s.ID, s.GiB)
		}
		for _, v := range sortedKeys(number) {
			if p.layers[number[v]] == nil {
				b.note("%s (%s) has no snapshot of this time and is left out", device[v], v)
			}
		}
		b.inOrder()
		out = append(out, b)
	}
	return out
}

// alone is a snapshot of a volume that no instance has.
func (l *ebsListing) alone(s awsapi.SnapshotInfo) Backup {
	b := Backup{
		ID: s.ID, VM: clean(cmp.Or(awsapi.TagValue(s.Tags, "Name"), s.Text, s.ID)), Origin: vm.AWS, Type: Full, Created: ebsTime(s.Started),
		Layout: LayoutEBS, Path: s.ID, Machine: &vm.Machine{Platform: vm.AWS, Tags: ebsTags(s.Tags)},
	}
	b.Machine.Name = b.VM
	l.disk(&b, 0, cmp.Or(s.VolumeID, s.ID), s.ID, s.GiB)
	b.note("the snapshot belongs to no image and to no instance: what its machine was like is not known")
	return b
}

// machine is an instance without its disks.
func (l *ebsListing) machine(in awsapi.InstanceInfo) *vm.Machine {
	m := &vm.Machine{
		Name: clean(cmp.Or(awsapi.TagValue(in.Tags, "Name"), in.ID)), Platform: vm.AWS, Firmware: ebsFirmware(in.BootMode, in.Arch),
		Guest: vm.GuestOS{Arch: ebsArch(in.Arch)}, Tags: ebsTags(in.Tags), HardwareNote: clean(in.Type),
	}
	if strings.EqualFold(in.Platform, "windows") {
		m.Guest.Family = vm.Windows
	}
	y := l.types[in.Type]
	m.Memory = y.MiB << 20
	if m.CPU = (vm.CPU{Sockets: 1, CoresPerSocket: in.Cores * in.Threads}); m.CPU.CoresPerSocket == 0 {
		m.CPU.CoresPerSocket = y.CPUs
	}
	if m.CPU.CoresPerSocket == 0 {
		m.CPU = vm.CPU{}
	}
	for _, n := range in.NICs {
		nic := vm.NIC{MAC: strings.ToLower(n.MAC), Model: vm.ENA, Network: n.Subnet}
		if n.Private != "" {
			nic.Addresses = []string{n.Private}
		}
		m.NICs = append(m.NICs, nic)
	}
	return m
}

func ebsArch(a string) vm.Arch {
	return map[string]vm.Arch{"x86_64": vm.AMD64, "i386": vm.I386, "arm64": vm.ARM64}[a]
}

// ebsFirmware reads a boot mode. One that is not stated is the architecture's
// ("Instance type boot modes": Intel and AMD legacy-bios, Graviton uefi).
func ebsFirmware(mode, arch string) vm.Firmware {
	if strings.HasPrefix(mode, "uefi") || mode == "" && arch == "arm64" {
		return vm.UEFI
	}
	return vm.BIOS
}

func ebsTags(tags []awsapi.Tag) map[string]string {
	out := map[string]string{}
	for _, t := range tags {
		if t.Key != "Name" && !strings.HasPrefix(t.Key, "aws:") {
			out[clean(t.Key)] = clean(t.Value)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// ebsTime reads a time of EC2; zero where there is none.
func ebsTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

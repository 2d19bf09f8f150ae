package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ascend/internal/backup"
	"ascend/internal/disk"
	"ascend/internal/guest/winpack"
	"ascend/internal/image"
	"ascend/internal/plan"
	"ascend/internal/restore"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// requestFlags are the flags that plan and restore share: what is wanted.
type requestFlags struct {
	repo, to, name, memory, firmware, machine, format, path string
	cpus, sourceFormat                                      string
	options, networks, places, storage, set                 []string
	compress, powerOn                                       bool

	maps, groups, addresses         []string
	source, region, mac, uuid, rate string
	// cached lets a recent inventory of the target stand for a new one.
	cached  bool
	guest   string // auto, off
	drivers string // pack of Windows drivers
	app     *app

	hostname       string // of the guest
	guestAddresses []string
	guestKeys      []string // files
	agents         bool     // of the source are left enabled
}

// register registers the flags; short is the short form of --option.
func (r *requestFlags) register(c *cobra.Command, a *app, short string) {
	r.app = a
	f := c.Flags()
	f.StringVar(&r.repo, "repo", "", "the repository's `folder`, or ebs:REGION for the snapshots of an AWS account; without it, name image files")
	f.StringVarP(&r.sourceFormat, "source-format", "f", "", "format of the image files named (default: told from their signatures)")
	f.StringVar(&r.to, "to", "", "a configured target's name, or local:DIR")
	f.StringVar(&r.name, "name", "", "name of the new machine (default: as backed up)")
	f.StringVar(&r.cpus, "cpus", "", "processors: `N`, or SOCKETSxCORES")
	f.StringVar(&r.memory, "memory", "", "memory, as `4G`")
	f.StringVar(&r.firmware, "firmware", "", "bios or uefi")
	f.StringVar(&r.machine, "machine", "", "`file` that describes the machine (vm.json), in place of what the backup says")
	f.StringVar(&r.format, "format", "", "format of the disks, where the target takes several: "+strings.Join(image.FormatNames(), ", ")+"; local: also ova")
	f.StringArrayVarP(&r.options, "option", short, nil, "options of the format, `KEY=VALUE,…`, as of convert")
	f.BoolVarP(&r.compress, "compress", "c", false, "compress the disks (qcow2)")
	f.StringVar(&r.path, "path", "", "the way disks travel, where the target has several (vmware: nfc, datastore; local: file, ova)")
	f.StringArrayVar(&r.networks, "network", nil, "`NETWORK` for every adapter, or SOURCE=NETWORK, or nicN=NETWORK")
	f.StringArrayVar(&r.places, "place", nil, "`FIELD=NAME`: where it goes (vmware: datacenter, cluster, host, resource_pool, folder, datastore)")
	f.StringArrayVar(&r.storage, "storage", nil, "`diskN=NAME`: storage of one disk; for AWS and Azure also diskN=CLASS:iops=N,throughput=N")
	f.StringArrayVar(&r.maps, "map", nil, "mapping of networks and storage: a `FILE`, or a named set of the configuration; the first that matches counts")
	f.StringArrayVar(&r.groups, "security-group", nil, "security `GROUP` of every adapter, or nicN=GROUP")
	f.StringArrayVar(&r.addresses, "address", nil, "addresses of every adapter, or nicN=…: keep, dhcp, or the `ADDRESS`")
	f.StringVar(&r.mac, "mac", "", "MAC addresses: keep (where the target can) or new")
	f.StringVar(&r.uuid, "uuid", "", "the machine's UUID: keep (where the target can) or new")
	f.StringVar(&r.source, "source-platform", "", "where the machine ran, instead of what the backup speaks for")
	f.StringVar(&r.region, "region", "", "region of prices and sizes, where the target does not tell it")
	f.StringVar(&r.rate, "rates", "", "rate card of on-premises targets, a `file` (default: rates of the configuration)")
	f.StringArrayVar(&r.set, "set", nil, "`KEY=VALUE`: an option of the platform (see: ascend target settings PLATFORM)")
	f.BoolVar(&r.powerOn, "power-on", false, "start the machine when it is restored")
	_ = c.MarkFlagDirname("repo")
	_ = c.RegisterFlagCompletionFunc("to", a.completeTargets)
	r.registerGuest(c)
	complete(c, "mac", "keep", "new")
	complete(c, "uuid", "keep", "new")
	complete(c, "format", append(image.FormatNames(), "ova")...)
	complete(c, "firmware", string(vm.BIOS), string(vm.UEFI))
}

// key names the request to the target named to: the same one resumes an
// unfinished job.
func (r *requestFlags) key(b backup.Backup, dir, to string) string {
	h := sha256.New()
	_ = json.NewEncoder(h).Encode([]any{dir, b.ID, to, r.name, r.memory, r.firmware, r.machine, r.format, r.path, r.cpus,
		r.options, r.networks, r.places, r.storage, r.set, r.compress, r.powerOn,
		r.maps, r.groups, r.addresses, r.source, r.region, r.mac, r.uuid, r.guest, r.drivers, r.hostname, r.guestAddresses, r.guestKeys, r.agents})
	return fmt.Sprintf("%x", h.Sum(nil))
}

// prepared is a plan with what it was made from.
type prepared struct {
	plan   *plan.Plan
	images []disk.Image
	maps   []*disk.Map
	guest  *restore.Guest // nil: not inspected
	pack   *winpack.Pack  // nil: none is given
}

func (p *prepared) close() {
	for _, i := range p.images {
		i.Close()
	}
	if p.pack != nil {
		p.pack.Close()
	}
}

// prepare opens the backup's disks and makes the plan.
func (r *requestFlags) prepare(ctx context.Context, ch *chosen, t target.Target, s target.Settings) (*prepared, error) {
	return r.prepareWith(ctx, ch, func(sources []plan.Source) (*plan.Request, error) {
		req, err := r.request(ch, sources, t, s)
		if err != nil {
			return nil, err
		}
		return req, r.app.complete(ctx, req, ch, t, s, r.rate, r.cached)
	})
}

// prepareWith opens the backup's disks and makes the plan of the request that
// build gives.
func (r *requestFlags) prepareWith(ctx context.Context, ch *chosen, build func(sources []plan.Source) (*plan.Request, error)) (_ *prepared, err error) {
	p, err := openDisks(ctx, ch)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	sources, err := plan.Measure(ctx, p.images)
	if err != nil {
		return nil, err
	}
	for _, src := range sources {
		p.maps = append(p.maps, src.Map)
	}
	req, err := build(sources)
	if err != nil {
		return nil, err
	}
	if err := r.inspect(ctx, ch, p, req); err != nil {
		return nil, err
	}
	return p, p.make(r.app, req)
}

// openDisks opens the backup's disks; the caller closes the result.
func openDisks(ctx context.Context, ch *chosen) (*prepared, error) {
	if ch.b.Fault != "" {
		return nil, withHint(fmt.Errorf("backup %s is broken: %s", ch.b.ID, ch.b.Fault), "choose another point in time")
	}
	p := &prepared{}
	for i := range ch.b.Disks {
		img, err := ch.repo.OpenDisk(ctx, ch.b, i)
		if err != nil {
			p.close()
			return nil, err
		}
		p.images = append(p.images, img)
	}
	return p, nil
}

// complete adds what plans are made from and no flag states: the target's
// inventory, measured rates, prices, the evidence of the source.
func (a *app) complete(ctx context.Context, req *plan.Request, ch *chosen, t target.Target, s target.Settings, card string, cached bool) (err error) {
	if req.Inventory, err = a.inventory(ctx, t, s, cached); err != nil {
		return fmt.Errorf("cannot ask %s what it has: %w", s.Name, err)
	}
	if req.Region == "" {
		for _, name := range []string{"region", "location"} {
			if v := s.Values[name]; v != "" {
				req.Region = v
			}
		}
	}
	if req.Prices, err = a.prices(card); err != nil {
		return err
	}
	req.Rate, req.Jobs = a.measured(s.Name)
	req.Evidence = evidence(ch)
	req.Now = time.Now()
	return nil
}

func (r *requestFlags) request(ch *chosen, sources []plan.Source, t target.Target, s target.Settings) (*plan.Request, error) {
	m, err := r.machineOf(ch, sources)
	if err != nil {
		return nil, err
	}
	req := &plan.Request{
		Backup:  ch.ref(),
		Machine: m, Target: plan.TargetRef{Name: s.Name, Platform: s.Platform}, Caps: t.Capabilities(), Sources: sources,
		Name: r.name, Path: r.path, PowerOn: r.powerOn, Seed: ch.b.ID,
		MAC: r.mac, UUID: r.uuid, Region: r.region,
	}
	if r.format == "ova" { // a package, not a format: streamOptimized disks in one file
		r.format, req.Path = "", "ova"
	}
	if r.format != "" || r.compress || len(r.options) > 0 {
		values, err := imageOptions(r.options)
		if err != nil {
			return nil, usageError{err}
		}
		if r.format == "" {
			return nil, usageError{fmt.Errorf("-o and -c need --format")}
		}
		format, o, err := image.ParseFormat(r.format, values, r.compress)
		if err != nil {
			return nil, usageError{err}
		}
		req.Format, req.BlockSize, req.Level = &format, o.BlockSize, o.Level
	}
	if req.Options, err = keyValues(r.set); err != nil {
		return nil, usageError{err}
	}
	if req.Placement.Fields, err = keyValues(r.places); err != nil {
		return nil, usageError{err}
	}
	if req.Placement.Networks, err = mapNetworks(r.networks, m.NICs); err != nil {
		return nil, usageError{err}
	}
	if req.Placement.Storage, req.Placement.Volumes, err = mapStorage(r.storage, m.Disks); err != nil {
		return nil, usageError{err}
	}
	if req.Placement.Adapters, err = mapAdapters(r.groups, r.addresses, len(m.NICs)); err != nil {
		return nil, usageError{err}
	}
	if req.GuestWish, err = r.guestWish(len(m.NICs)); err != nil {
		return nil, usageError{err}
	}
	for _, name := range r.maps {
		set, err := r.app.mapping(name)
		if err != nil {
			return nil, err
		}
		req.Mapping = req.Mapping.Then(set)
	}
	if r.source != "" {
		if req.Source, err = vm.ParsePlatform(r.source); err != nil {
			return nil, usageError{err}
		}
	}
	for name, v := range map[string]string{"mac": r.mac, "uuid": r.uuid} {
		if v != "" && v != "keep" && v != "new" {
			return nil, usageError{fmt.Errorf("--%s is keep or new, not %q", name, v)}
		}
	}
	if slices.ContainsFunc(t.Capabilities().Options, func(f target.Field) bool { return f.Name == "uuid" }) && r.uuid != "" {
		req.Options["uuid"] = r.uuid // the connector's own name for it
	}
	return req, nil
}

// ref names the backup in a plan.
func (ch *chosen) ref() plan.BackupRef {
	machine := ""
	if b, err := json.Marshal(ch.b.Machine); err == nil {
		machine = fmt.Sprintf("%x", sha256.Sum256(b))[:12]
	}
	return plan.BackupRef{Repository: ch.name, ID: ch.b.ID, VM: ch.b.VM, Type: string(ch.b.Type), Created: ch.b.Created, Files: ch.files, Format: ch.format, Machine: machine}
}

// mapping reads a mapping: a named set of the configuration, else a file.
func (a *app) mapping(name string) (plan.Mapping, error) {
	cfg, err := a.config()
	if err != nil {
		return plan.Mapping{}, err
	}
	if m, ok := cfg.Mappings[name]; ok {
		if err := m.Check(); err != nil {
			return m, fmt.Errorf("mapping %s of %s: %w", name, cfg.path, err)
		}
		return m, nil
	}
	b, err := os.ReadFile(expandHome(name))
	if err != nil {
		return plan.Mapping{}, withHint(fmt.Errorf("cannot read mapping: %w", err), "give a file, or a name under mappings in %s", cfg.path)
	}
	m, err := plan.ParseMapping(b)
	if err != nil {
		return m, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// evidence is what the backup's files speak for.
func evidence(ch *chosen) []plan.Evidence {
	var out []plan.Evidence
	if ch.b.Origin != vm.Unknown && ch.b.Origin != vm.Local && (ch.b.Layout == backup.LayoutContext || ch.b.Layout == backup.LayoutEBS) {
		out = append(out, plan.Evidence{Platform: ch.b.Origin, Weight: 100, What: "the backup's own record names it"})
	}
	for _, d := range ch.b.Disks {
		if d.Path == "" || d.Member != "" || ch.repo.Root() == nil {
			continue
		}
		f, err := ch.repo.Root().Open(d.Path)
		if err != nil {
			continue // opening the disk tells it better
		}
		out = append(out, plan.Creator(f, f.Size())...)
		f.Close()
	}
	return out
}

// machineOf is the backup's machine with what the flags say instead.
func (r *requestFlags) machineOf(ch *chosen, sources []plan.Source) (*vm.Machine, error) {
	m := &vm.Machine{Name: ch.b.VM}
	if ch.b.Machine != nil {
		m = ch.b.Machine.Clone()
	}
	if r.machine != "" {
		b, err := os.ReadFile(r.machine)
		if err != nil {
			return nil, fmt.Errorf("cannot read machine: %w", err)
		}
		m = &vm.Machine{}
		if err := json.Unmarshal(b, m); err != nil {
			return nil, fmt.Errorf("cannot read machine %s: %w", r.machine, err)
		}
	}
	if m.Name == "" {
		m.Name = ch.b.VM
	}
	if len(m.Disks) == 0 {
		for _, d := range ch.b.Disks {
			m.Disks = append(m.Disks, vm.Disk{Index: d.Index})
		}
	}
	for i := range min(len(m.Disks), len(sources)) {
		m.Disks[i].Size = sources[i].Info.Size
	}
	if r.cpus != "" {
		if err := parseCPUs(r.cpus, m); err != nil {
			return nil, err
		}
	}
	if r.memory != "" {
		n, err := vm.ParseSize(r.memory)
		if err != nil {
			return nil, usageError{err}
		}
		m.Memory = n
	}
	switch f := vm.Firmware(strings.ToLower(r.firmware)); f {
	case "":
	case vm.BIOS, vm.UEFI:
		m.Firmware = f
	default:
		return nil, usageError{fmt.Errorf("--firmware is bios or uefi, not %q", r.firmware)}
	}
	return m, nil
}

// parseCPUs reads --cpus into a machine.
func parseCPUs(s string, m *vm.Machine) error {
	sockets, cores, two := strings.Cut(s, "x")
	n, err1 := strconv.Atoi(sockets)
	k, err2 := 1, error(nil)
	if two {
		k, err2 = strconv.Atoi(cores)
	}
	if err1 != nil || err2 != nil || n < 1 || k < 1 || n > 4096 || k > 4096 {
		return usageError{fmt.Errorf("--cpus is a number or SOCKETSxCORES, not %q", s)}
	}
	m.CPU = vm.CPU{Sockets: n, CoresPerSocket: k}
	return nil
}

// mapNetworks gives each adapter its network: by its position, by its source
// network, else by the one named for all.
func mapNetworks(args []string, nics []vm.NIC) ([]string, error) {
	out := make([]string, len(nics))
	bySource := map[string]string{}
	all := ""
	for _, arg := range args {
		from, to, ok := strings.Cut(arg, "=")
		if !ok {
			all = arg
			continue
		}
		if n, ok := strings.CutPrefix(from, "nic"); ok {
			if i, err := strconv.Atoi(n); err == nil {
				if i < 0 || i >= len(nics) {
					return nil, fmt.Errorf("--network %s: the machine has %d adapters", arg, len(nics))
				}
				out[i] = to
				continue
			}
		}
		if !slices.ContainsFunc(nics, func(n vm.NIC) bool { return n.Network == from }) {
			return nil, fmt.Errorf("--network %s: no adapter is on %q", arg, from)
		}
		bySource[from] = to
	}
	for i, n := range nics {
		switch {
		case out[i] != "":
		case bySource[n.Network] != "":
			out[i] = bySource[n.Network]
		default:
			out[i] = all
		}
	}
	return out, nil
}

// mapStorage reads diskN=NAME and diskN=CLASS:iops=N,throughput=N.
func mapStorage(args []string, disks []vm.Disk) ([]string, []target.Volume, error) {
	out, volumes := make([]string, len(disks)), make([]target.Volume, len(disks))
	for _, arg := range args {
		from, to, _ := strings.Cut(arg, "=")
		n, ok := strings.CutPrefix(from, "disk")
		index, err := strconv.Atoi(n)
		i := slices.IndexFunc(disks, func(d vm.Disk) bool { return d.Index == index })
		if !ok || err != nil || to == "" || i < 0 {
			return nil, nil, fmt.Errorf("--storage %s is not diskN=NAME of a disk of the machine", arg)
		}
		at := strings.LastIndex(to, ":")
		if at < 0 || !strings.Contains(to[at:], "iops=") && !strings.Contains(to[at:], "throughput=") {
			out[i] = to
			continue
		}
		out[i] = to[:at]
		for _, kv := range strings.Split(to[at+1:], ",") {
			k, v, _ := strings.Cut(kv, "=")
			number, err := strconv.Atoi(v)
			switch {
			case err != nil || number < 0 || k != "iops" && k != "throughput":
				return nil, nil, fmt.Errorf("--storage %s: %q is not iops=N or throughput=N", arg, kv)
			case k == "iops":
				volumes[i].IOPS = number
			default:
				volumes[i].Throughput = number
			}
		}
	}
	if !slices.ContainsFunc(volumes, func(v target.Volume) bool { return v != target.Volume{} }) {
		volumes = nil
	}
	return out, volumes, nil
}

// mapAdapters reads GROUP or nicN=GROUP, and keep, dhcp, ADDRESS or nicN=….
func mapAdapters(groups, addresses []string, nics int) ([]target.Adapter, error) {
	if len(groups) == 0 && len(addresses) == 0 {
		return nil, nil
	}
	out := make([]target.Adapter, nics)
	each := func(flag, arg string, do func(a *target.Adapter, v string)) error {
		if n, v, ok := strings.Cut(arg, "="); ok && strings.HasPrefix(n, "nic") {
			i, err := strconv.Atoi(n[3:])
			if err != nil || i < 0 || i >= nics {
				return fmt.Errorf("--%s %s: the machine has %d adapters", flag, arg, nics)
			}
			do(&out[i], v)
			return nil
		}
		for i := range out {
			do(&out[i], arg)
		}
		return nil
	}
	for _, g := range groups {
		if err := each("security-group", g, func(a *target.Adapter, v string) { a.SecurityGroups = append(a.SecurityGroups, v) }); err != nil {
			return nil, err
		}
	}
	for _, s := range addresses {
		if err := each("address", s, func(a *target.Adapter, v string) {
			switch p := target.AddressPolicy(v); p {
			case target.AddressKeep, target.AddressDHCP:
				a.Address = p
			default:
				a.Address, a.Addresses = target.AddressNew, append(a.Addresses, v)
			}
		}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

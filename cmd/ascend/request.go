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
	"ascend/internal/image"
	"ascend/internal/plan"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// requestFlags are the flags that plan and restore share: what is wanted.
type requestFlags struct {
	repo, to, name, memory, firmware, machine, format, path string
	cpus, sourceFormat                                      string
	options, networks, places, storage, set                 []string
	compress, powerOn                                       bool
}

func (r *requestFlags) register(c *cobra.Command, a *app) {
	f := c.Flags()
	f.StringVar(&r.repo, "repo", "", "the repository's `folder`; without it, name image files")
	f.StringVarP(&r.sourceFormat, "source-format", "f", "", "format of the image files named (default: told from their signatures)")
	f.StringVar(&r.to, "to", "", "a configured target's name, or local:DIR")
	f.StringVar(&r.name, "name", "", "name of the new machine (default: as backed up)")
	f.StringVar(&r.cpus, "cpus", "", "processors: `N`, or SOCKETSxCORES")
	f.StringVar(&r.memory, "memory", "", "memory, as `4G`")
	f.StringVar(&r.firmware, "firmware", "", "bios or uefi")
	f.StringVar(&r.machine, "machine", "", "`file` that describes the machine (vm.json), in place of what the backup says")
	f.StringVar(&r.format, "format", "", "format of the disks, where the target takes several: "+strings.Join(image.FormatNames(), ", ")+"; local: also ova")
	f.StringArrayVarP(&r.options, "option", "o", nil, "options of the format, `KEY=VALUE,…`, as of convert")
	f.BoolVarP(&r.compress, "compress", "c", false, "compress the disks (qcow2)")
	f.StringVar(&r.path, "path", "", "the way disks travel, where the target has several (vmware: nfc, datastore; local: file, ova)")
	f.StringArrayVar(&r.networks, "network", nil, "`NETWORK` for every adapter, or SOURCE=NETWORK, or nicN=NETWORK")
	f.StringArrayVar(&r.places, "place", nil, "`FIELD=NAME`: where it goes (vmware: datacenter, cluster, host, resource_pool, folder, datastore)")
	f.StringArrayVar(&r.storage, "storage", nil, "`diskN=NAME`: storage of one disk")
	f.StringArrayVar(&r.set, "set", nil, "`KEY=VALUE`: an option of the platform (see: ascend target settings PLATFORM)")
	f.BoolVar(&r.powerOn, "power-on", false, "start the machine when it is restored")
	_ = c.MarkFlagRequired("to")
	_ = c.MarkFlagDirname("repo")
	_ = c.RegisterFlagCompletionFunc("to", a.completeTargets)
	complete(c, "format", append(image.FormatNames(), "ova")...)
	complete(c, "firmware", string(vm.BIOS), string(vm.UEFI))
}

// key names the request to the target named to: the same one resumes an
// unfinished job.
func (r *requestFlags) key(b backup.Backup, dir, to string) string {
	h := sha256.New()
	_ = json.NewEncoder(h).Encode([]any{dir, b.ID, to, r.name, r.memory, r.firmware, r.machine, r.format, r.path, r.cpus,
		r.options, r.networks, r.places, r.storage, r.set, r.compress, r.powerOn})
	return fmt.Sprintf("%x", h.Sum(nil))
}

// prepared is a plan with what it was made from.
type prepared struct {
	plan   *plan.Plan
	images []disk.Image
	maps   []*disk.Map
}

func (p *prepared) close() {
	for _, i := range p.images {
		i.Close()
	}
}

// prepare opens the backup's disks and makes the plan.
func (r *requestFlags) prepare(ctx context.Context, ch *chosen, t target.Target, s target.Settings) (_ *prepared, err error) {
	if ch.b.Fault != "" {
		return nil, withHint(fmt.Errorf("backup %s is broken: %s", ch.b.ID, ch.b.Fault), "choose another point in time")
	}
	p := &prepared{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	for i := range ch.b.Disks {
		img, err := ch.repo.OpenDisk(ctx, ch.b, i)
		if err != nil {
			return nil, err
		}
		p.images = append(p.images, img)
	}
	sources, err := plan.Measure(ctx, p.images)
	if err != nil {
		return nil, err
	}
	for _, src := range sources {
		p.maps = append(p.maps, src.Map)
	}
	req, err := r.request(ch, sources, t, s)
	if err != nil {
		return nil, err
	}
	if req.Inventory, err = t.Inventory(ctx); err != nil {
		return nil, fmt.Errorf("cannot ask %s what it has: %w", s.Name, err)
	}
	p.plan, err = plan.Make(*req)
	return p, err
}

func (r *requestFlags) request(ch *chosen, sources []plan.Source, t target.Target, s target.Settings) (*plan.Request, error) {
	m, err := r.machineOf(ch, sources)
	if err != nil {
		return nil, err
	}
	req := &plan.Request{
		Backup:  plan.BackupRef{Repository: ch.name, ID: ch.b.ID, VM: ch.b.VM, Type: string(ch.b.Type), Created: ch.b.Created},
		Machine: m, Target: plan.TargetRef{Name: s.Name, Platform: s.Platform}, Caps: t.Capabilities(), Sources: sources,
		Name: r.name, Path: r.path, PowerOn: r.powerOn, Seed: ch.b.ID, Now: time.Now(),
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
	if req.Placement.Storage, err = mapStorage(r.storage, m.Disks); err != nil {
		return nil, usageError{err}
	}
	return req, nil
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

func mapStorage(args []string, disks []vm.Disk) ([]string, error) {
	out := make([]string, len(disks))
	for _, arg := range args {
		from, to, _ := strings.Cut(arg, "=")
		n, ok := strings.CutPrefix(from, "disk")
		index, err := strconv.Atoi(n)
		i := slices.IndexFunc(disks, func(d vm.Disk) bool { return d.Index == index })
		if !ok || err != nil || to == "" || i < 0 {
			return nil, fmt.Errorf("--storage %s is not diskN=NAME of a disk of the machine", arg)
		}
		out[i] = to
	}
	return out, nil
}

// Package planning makes plans for the server: it opens a backup and a target,
// applies what the user wants otherwise, and asks package plan.
package planning

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"time"

	"ascend/internal/adapt"
	"ascend/internal/backup"
	"ascend/internal/disk"
	"ascend/internal/guest"
	"ascend/internal/image"
	"ascend/internal/plan"
	"ascend/internal/plan/facts"
	"ascend/internal/prices"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// Wish is what the user wants of a restore; empty fields leave the choice open.
type Wish struct {
	Name       string            `json:"name,omitempty" maxLength:"255" doc:"of the new machine; empty: as backed up"`
	CPU        *vm.CPU           `json:"cpu,omitempty"`
	Memory     int64             `json:"memory,omitempty" minimum:"0" doc:"bytes"`
	Firmware   vm.Firmware       `json:"firmware,omitempty" enum:",bios,uefi"`
	Format     string            `json:"format,omitempty" maxLength:"64" doc:"of the disks, where the target takes several"`
	FormatOpts map[string]string `json:"format_options,omitempty"`
	Compress   bool              `json:"compress,omitempty"`
	Path       string            `json:"path,omitempty" maxLength:"64" doc:"the way disks travel, where the target has several"`
	Mapping    Mapping           `json:"mapping,omitzero"`
	MappingSet string            `json:"mapping_set,omitempty" maxLength:"128" doc:"the id of a mapping set; mapping goes before it"`
	Options    map[string]string `json:"options,omitempty" doc:"of the platform, by its capabilities"`
	PowerOn    bool              `json:"power_on,omitempty"`
	Guest      *plan.GuestWish   `json:"guest,omitempty" doc:"what is wanted of the system on the disks"`
	LeaveGuest bool              `json:"leave_guest,omitempty" doc:"send the disks as they are: nothing of the system on them is changed"`

	// What an imported plan says of its disks' format; it goes before Format.
	Delivery  *image.Format `json:"delivery,omitempty"`
	BlockSize int64         `json:"block_size,omitempty" minimum:"0" doc:"bytes, of delivery"`
	Level     int           `json:"level,omitempty" minimum:"0" maximum:"22" doc:"of compression, of delivery"`
}

// Mapping says where networks and disks go. The first entry that matches counts.
type Mapping struct {
	Networks []Rule            `json:"networks,omitempty" maxItems:"1000" doc:"from: a network of the source, a pattern with * and ?, or nicN"`
	Storage  []Rule            `json:"storage,omitempty" maxItems:"1000" doc:"from: boot, data, diskN, or a pattern of the disk's name"`
	Fields   map[string]string `json:"fields,omitempty" doc:"placement fields of the target, as datacenter"`
}

// Rule is one entry of a mapping.
type Rule struct {
	From string `json:"from" minLength:"1" maxLength:"255"`
	To   string `json:"to" minLength:"1" maxLength:"255"`
}

// Check refuses patterns that are none.
func (m *Mapping) Check() error {
	for _, r := range slices.Concat(m.Networks, m.Storage) {
		if _, err := path.Match(r.From, ""); err != nil {
			return fmt.Errorf("%w: %q is no pattern", ErrWish, r.From)
		}
	}
	return nil
}

// Then is m with the entries of o after its own.
func (m Mapping) Then(o Mapping) Mapping {
	out := Mapping{Networks: slices.Concat(m.Networks, o.Networks), Storage: slices.Concat(m.Storage, o.Storage), Fields: map[string]string{}}
	for _, f := range []map[string]string{o.Fields, m.Fields} {
		for k, v := range f {
			out.Fields[k] = v
		}
	}
	return out
}

func (m Mapping) network(i int, name string) string {
	for _, r := range m.Networks {
		if ok, _ := path.Match(r.From, name); ok || r.From == "nic"+strconv.Itoa(i) || r.From == name {
			return r.To
		}
	}
	return ""
}

func (m Mapping) storage(d vm.Disk, boot bool) string {
	for _, r := range m.Storage {
		ok, _ := path.Match(r.From, d.Name)
		if ok || r.From == "disk"+strconv.Itoa(d.Index) || r.From == "boot" && boot || r.From == "data" && !boot {
			return r.To
		}
	}
	return ""
}

// ErrWish: what is wanted cannot be.
var ErrWish = errors.New("cannot plan that")

// Made is a plan with what it was made from. The caller closes it.
type Made struct {
	Plan   *plan.Plan
	Images []disk.Image
	Maps   []*disk.Map
	// Inspection and Adaptation are of the system on the disks; nil: it was not looked at,
	// and is left as it is.
	Inspection *guest.Inspection
	Adaptation *guest.Adaptation
}

// Close closes the images.
func (m *Made) Close() {
	for _, i := range m.Images {
		_ = i.Close()
	}
}

// Source is a backup and the folder it lies in.
type Source struct {
	Dir    string
	Backup backup.Backup
}

// Open opens the disks of a backup.
func (s Source) Open(ctx context.Context) (images []disk.Image, err error) {
	if s.Backup.Fault != "" {
		return nil, fmt.Errorf("%w: %s", backup.ErrFault, s.Backup.Fault)
	}
	r, err := backup.Open(s.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // opened disks stay open
	for i := range s.Backup.Disks {
		img, err := r.OpenDisk(ctx, s.Backup, i)
		if err != nil {
			(&Made{Images: images}).Close()
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

// Make opens the backup and makes the plan for a target. seed makes the
// identifiers in the target files.
func Make(ctx context.Context, src Source, ref plan.TargetRef, t target.Target, w Wish, seed string) (_ *Made, err error) {
	m := &Made{}
	if m.Images, err = src.Open(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	sources, err := plan.Measure(ctx, m.Images)
	if err != nil {
		return nil, err
	}
	for _, s := range sources {
		m.Maps = append(m.Maps, s.Map)
	}
	r, err := w.request(src, sources)
	if err != nil {
		return nil, err
	}
	r.Target, r.Caps, r.Seed, r.Now, r.Prices = ref, t.Capabilities(), seed, time.Now(), prices.Builtin()
	if r.Inventory, err = t.Inventory(ctx); err != nil {
		return nil, fmt.Errorf("cannot ask %s what it has: %w", ref.Name, err)
	}
	if ref.Platform != vm.Local {
		if m.Inspection, r.Guest, err = facts.Look(ctx, m.Images, r.Machine.Firmware); err != nil {
			return nil, err
		}
	}
	in, why := m.Inspection, ""
	if w.LeaveGuest {
		in = nil
	}
	if m.Plan, m.Adaptation, why, err = adapt.Plan(r, in, guest.Choices{}, adapt.Ready); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWish, err)
	}
	if why != "" && w.Guest.Wants() {
		return nil, fmt.Errorf("%w: the guest cannot be changed as asked: %s", ErrWish, why)
	}
	return m, nil
}

func (w Wish) request(src Source, sources []plan.Source) (*plan.Request, error) {
	b := src.Backup
	machine := b.Machine.Clone()
	if machine.Name == "" {
		machine.Name = b.VM
	}
	for i := range min(len(machine.Disks), len(sources)) {
		machine.Disks[i].Size = sources[i].Info.Size
	}
	if w.CPU != nil {
		machine.CPU = *w.CPU
	}
	if w.Memory > 0 {
		machine.Memory = w.Memory
	}
	if w.Firmware != "" {
		machine.Firmware = w.Firmware
	}
	r := &plan.Request{
		Backup:  plan.BackupRef{Repository: src.Dir, ID: b.ID, VM: b.VM, Type: string(b.Type), Created: b.Created},
		Machine: machine, Sources: sources, Name: w.Name, Path: w.Path, Options: w.Options, PowerOn: w.PowerOn, GuestWish: w.Guest,
	}
	format := w.Format
	if format == "ova" { // a package, not a format
		format, r.Path = "", "ova"
	}
	if format == "" && (w.Compress || len(w.FormatOpts) > 0) {
		return nil, fmt.Errorf("%w: options of a format need the format", ErrWish)
	}
	if format != "" {
		f, o, err := image.ParseFormat(format, w.FormatOpts, w.Compress)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrWish, err)
		}
		r.Format, r.BlockSize, r.Level = &f, o.BlockSize, o.Level
	}
	if w.Delivery != nil {
		r.Format, r.BlockSize, r.Level = w.Delivery, w.BlockSize, w.Level
	}
	if err := w.Mapping.Check(); err != nil {
		return nil, err
	}
	r.Placement.Fields = w.Mapping.Fields
	for i, n := range machine.NICs {
		r.Placement.Networks = append(r.Placement.Networks, w.Mapping.network(i, n.Network))
	}
	boot := machine.BootDisk()
	for i, d := range machine.Disks {
		r.Placement.Storage = append(r.Placement.Storage, w.Mapping.storage(d, i == boot))
	}
	return r, nil
}

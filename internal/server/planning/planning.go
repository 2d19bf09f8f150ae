// Package planning makes plans for the server: it opens a backup and a target,
// applies what the user wants otherwise, and asks package plan.
package planning

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	"ascend/internal/target/caps"
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
	Mapping    plan.Mapping      `json:"mapping,omitzero"`
	MappingSet string            `json:"mapping_set,omitempty" maxLength:"128" doc:"the id of a mapping set; mapping goes before it"`
	Options    map[string]string `json:"options,omitempty" doc:"of the platform, by its capabilities"`
	PowerOn    bool              `json:"power_on,omitempty"`
	Guest      *plan.GuestWish   `json:"guest,omitempty" doc:"what is wanted of the system on the disks"`
	LeaveGuest bool              `json:"leave_guest,omitempty" doc:"send the disks as they are: nothing of the system on them is changed"`

	MAC    string      `json:"mac,omitempty" enum:",keep,new" doc:"keep: where the target can"`
	UUID   string      `json:"uuid,omitempty" enum:",keep,new" doc:"keep: where the target can"`
	Region string      `json:"region,omitempty" maxLength:"64" doc:"of prices and sizes, where the target does not tell it"`
	Ran    vm.Platform `json:"source_platform,omitempty" maxLength:"32" doc:"where the machine ran, instead of what the backup speaks for"`

	// Document is an imported plan: what can be edited in it is taken as it
	// stands, and the other wishes go before it.
	Document *plan.Plan `json:"document,omitempty" doc:"an imported plan: what can be edited in it is taken as it stands; other wishes go before it"`
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
	// Needs is the space that the disks take on the target.
	Needs []plan.Need
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

// Target is an open target with what the server knows of it.
type Target struct {
	Ref plan.TargetRef
	target.Target
	// Rate is the bytes a second that Jobs earlier restores to it measured.
	Rate int64
	Jobs int
}

// Make opens the backup and makes the plan for a target.
func Make(ctx context.Context, src Source, to Target, w Wish) (_ *Made, err error) {
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
	r, err := w.request(src, sources, to.Capabilities())
	if err != nil {
		return nil, err
	}
	r.Target, r.Now, r.Prices, r.Rate, r.Jobs = to.Ref, time.Now(), prices.Builtin(), to.Rate, to.Jobs
	if r.Inventory, err = to.Inventory(ctx); err != nil {
		return nil, fmt.Errorf("cannot ask %s what it has: %w", to.Ref.Name, err)
	}
	if w.Document != nil {
		if err := plan.DocumentOf("document", r.Want).Check(*r); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrWish, err)
		}
	}
	if to.Ref.Platform != vm.Local {
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
	m.Needs = m.Plan.Needs(caps.Fill(r.Caps).Traits, r.Inventory)
	return m, nil
}

// request is what the wish asks of a target that can do c.
func (w Wish) request(src Source, sources []plan.Source, c target.Capabilities) (*plan.Request, error) {
	if err := w.Mapping.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWish, err)
	}
	r, err := w.fresh(src, sources, c)
	if w.Document != nil {
		r, err = w.edited(sources, c)
	}
	if err != nil {
		return nil, err
	}
	b := src.Backup
	r.Backup = plan.BackupRef{Repository: src.Dir, ID: b.ID, VM: b.VM, Type: string(b.Type), Created: b.Created}
	r.Region, r.Source, r.GuestWish = w.Region, w.Ran, w.Guest
	if b.Origin != vm.Unknown && b.Origin != vm.Local && b.Layout == backup.LayoutContext {
		r.Evidence = []plan.Evidence{{Platform: b.Origin, Weight: 100, What: "the backup's own record names it"}}
	}
	return r, nil
}

// fresh asks for the machine of the backup.
func (w Wish) fresh(src Source, sources []plan.Source, c target.Capabilities) (*plan.Request, error) {
	b := src.Backup
	machine := b.Machine.Clone()
	if machine.Name == "" {
		machine.Name = b.VM
	}
	for i := range min(len(machine.Disks), len(sources)) {
		machine.Disks[i].Size = sources[i].Info.Size
	}
	w.over(machine)
	r := &plan.Request{
		Machine: machine, Caps: c, Sources: sources, Seed: b.ID, Name: w.Name, Path: w.Path, Mapping: w.Mapping,
		MAC: w.MAC, UUID: w.UUID, Options: maps.Clone(w.Options), PowerOn: w.PowerOn,
	}
	if w.UUID != "" && slices.ContainsFunc(c.Options, func(f target.Field) bool { return f.Name == "uuid" }) {
		if r.Options == nil {
			r.Options = map[string]string{}
		}
		r.Options["uuid"] = w.UUID // the connector's own name for it
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
	return r, nil
}

// edited asks for the machine of an imported plan.
func (w Wish) edited(sources []plan.Source, c target.Capabilities) (*plan.Request, error) {
	if w.Format != "" || w.Path != "" || w.MAC != "" || w.UUID != "" {
		return nil, fmt.Errorf("%w: format, path, mac and uuid are those of the imported plan; edit them there", ErrWish)
	}
	p := *w.Document
	r, err := plan.DocumentOf("document", &p).Request(sources, c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWish, err)
	}
	p.Machine = p.Machine.Clone()
	w.over(p.Machine)
	if w.Name != "" {
		p.Machine.Name = w.Name
	}
	p.Placement = plan.ClonePlacement(p.Placement)
	w.Mapping.Over(p.Source, &p.Placement)
	p.PowerOn = w.PowerOn
	p.Options = maps.Clone(p.Options)
	for k, v := range w.Options {
		if p.Options == nil {
			p.Options = map[string]string{}
		}
		p.Options[k] = v
	}
	r.Placement, r.PowerOn, r.Options = p.Placement, p.PowerOn, p.Options
	return r, nil
}

// over gives a machine what the wish says of it.
func (w Wish) over(m *vm.Machine) {
	if w.CPU != nil {
		m.CPU = *w.CPU
	}
	if w.Memory > 0 {
		m.Memory = w.Memory
	}
	if w.Firmware != "" {
		m.Firmware = w.Firmware
	}
}

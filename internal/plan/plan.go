// Package plan decides, before the first byte moves, what a restore will do:
// the machine as the target will have it, how each disk travels, what is known
// to go wrong, and how much there is to move. It moves nothing. The command
// line, the API and the web page show this one document, and the job carries
// out exactly it.
package plan

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/image"
	"ascend/internal/prices"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/target/guestos"
	"ascend/internal/vm"
)

// Plan is the document. Its JSON and YAML forms have the same fields.
type Plan struct {
	Version  int         `json:"version"` // 1
	Made     time.Time   `json:"made"`
	Backup   BackupRef   `json:"backup"`
	Target   TargetRef   `json:"target"`
	Source   *vm.Machine `json:"source"`  // as backed up
	Machine  *vm.Machine `json:"machine"` // as it will be
	Changes  []Change    `json:"changes,omitempty"`
	Disks    []Disk      `json:"disks"`
	Findings []Finding   `json:"findings,omitempty"`
	Estimate Estimate    `json:"estimate"`
	// Placement, Options and PowerOn are passed to the target as they stand.
	Placement target.Placement  `json:"placement"`
	Options   map[string]string `json:"options,omitempty"`
	PowerOn   bool              `json:"power_on"`
	// Guest is what is wanted of the system on the disks.
	Guest *GuestWish `json:"guest,omitempty"`
	Seed  string     `json:"seed"` // of the identifiers in the target files
	// Detected is where the machine ran, and how sure that is.
	Detected *Detection `json:"detected,omitempty"`
	// Size is the size chosen, where the platform has sizes.
	Size *SizeChoice `json:"size,omitempty"`
	// GuestNames are what the target may know the guest by, the best first.
	GuestNames []string `json:"guest_names,omitempty"`
	// Seal holds digests of the parts that may not be edited.
	Seal map[string]string `json:"seal,omitempty"`

	tooBig []string // disks that their format cannot hold
	facts  facts    // what was found on the way and rules look at
}

// SizeChoice is the machine's size on the target and what else would fit.
type SizeChoice struct {
	Field        string       `json:"field"` // the placement field that holds it
	Name         string       `json:"name"`
	Chosen       string       `json:"chosen"` // why
	Hourly       string       `json:"hourly,omitempty"`
	Currency     string       `json:"currency,omitempty"`
	Alternatives []SizeOption `json:"alternatives,omitempty"`
}

// SizeOption is a size that fits too.
type SizeOption struct {
	Name   string `json:"name"`
	CPUs   int    `json:"cpus"`
	Memory int64  `json:"memory"`
	Hourly string `json:"hourly,omitempty"`
	Note   string `json:"note,omitempty"`
}

// BackupRef names the backup.
type BackupRef struct {
	Repository string    `json:"repository"`
	ID         string    `json:"id"`
	VM         string    `json:"vm"`
	Type       string    `json:"type,omitempty"`
	Created    time.Time `json:"created,omitzero"`
	// Files are the image files that were named in place of a repository,
	// relative to Repository, and Format what they were said to be.
	Files  []string `json:"files,omitempty"`
	Format string   `json:"format,omitempty"`
	// Machine is a digest of what the backup says of its machine.
	Machine string `json:"machine,omitempty"`
}

// TargetRef names the target.
type TargetRef struct {
	Name     string      `json:"name"`
	Platform vm.Platform `json:"platform"`
}

// Change is one field that the machine will have otherwise than it had.
type Change struct {
	Field  string `json:"field"`
	From   string `json:"from"`
	To     string `json:"to"`
	Reason string `json:"reason"`
}

// Disk says how one disk travels.
type Disk struct {
	Index     int             `json:"index"`
	Source    disk.Info       `json:"source"`
	Delivery  target.Delivery `json:"delivery"`
	Virtual   int64           `json:"virtual"`   // bytes the guest will see
	FileSize  int64           `json:"file_size"` // of the file sent; -1: known at the end
	BlockSize int64           `json:"block_size,omitempty"`
	Level     int             `json:"level,omitempty"`
}

// Source is an opened disk with its map.
type Source struct {
	Image disk.Image
	Info  disk.Info
	Map   *disk.Map
}

// Measure asks opened images what of them is allocated; it reads no data.
func Measure(ctx context.Context, images []disk.Image) ([]Source, error) {
	var out []Source
	for i, img := range images {
		info, m, err := open.Measure(ctx, img)
		if err != nil {
			return nil, fmt.Errorf("cannot map disk %d: %w", i, err)
		}
		out = append(out, Source{Image: img, Info: info, Map: m})
	}
	return out, nil
}

// Request is what the user asks for, and what the plan is made from.
type Request struct {
	Backup    BackupRef
	Machine   *vm.Machine // of the backup, the user's overrides included
	Target    TargetRef
	Caps      target.Capabilities
	Inventory *target.Inventory // nil: not asked
	Sources   []Source          // parallel to Machine.Disks
	Name      string            // of the new machine; "" keeps the old
	Path      string            // the delivery's path wanted; "" the target's first choice
	Format    *image.Format     // the disks' format wanted; nil: the target's first choice
	BlockSize int64
	Level     int
	Placement target.Placement
	Options   map[string]string
	PowerOn   bool
	Seed      string
	Now       time.Time

	// Mapping places what Placement leaves open. The zero value maps nothing.
	Mapping Mapping
	// MAC and UUID are "keep" or "new"; "" keeps what the target keeps.
	MAC, UUID string
	// Guest is what the inspection of the disks found; nil: not inspected.
	Guest *GuestFacts
	// GuestWish is what is wanted of it; nil: nothing beyond that it comes up.
	GuestWish *GuestWish
	// Source overrules the platform that the evidence speaks for.
	Source   vm.Platform
	Evidence []Evidence
	// Region of prices, where the inventory names none.
	Region string
	Prices *prices.Book // nil: cost is not estimated
	// Rate is the bytes a second measured by Jobs earlier restores to this
	// target; 0: none was measured.
	Rate int64
	Jobs int
	// Scratch is the temporary space a restore needs here beside the target's
	// own, and what is free of it; -1: not known.
	Scratch, ScratchFree int64
	// Want is a plan that was made before and edited: what can be edited in it is
	// taken as it stands.
	Want *Plan
}

// Make works the plan out. An error means that no plan can be made at all;
// what stands in the way of a restore is a critical finding.
func Make(r Request) (*Plan, error) {
	if len(r.Sources) != len(r.Machine.Disks) {
		return nil, fmt.Errorf("cannot plan: the machine has %d disks and the backup %d", len(r.Machine.Disks), len(r.Sources))
	}
	p := &Plan{
		Version: 1, Made: r.Now.UTC().Truncate(time.Second), Backup: r.Backup, Target: r.Target,
		Options: r.Options, PowerOn: r.PowerOn, Guest: r.GuestWish, Seed: r.Seed,
	}
	r.Caps = caps.Fill(r.Caps)
	if r.Want != nil {
		p.Detected = r.Want.Detected
	} else {
		p.Detected = Detect(r.Evidence, r.Machine, r.Guest, r.Source)
	}
	p.Placement = ClonePlacement(r.Placement)
	p.source(r)
	p.place(r)
	p.translate(r)
	p.size(r)
	if r.Want != nil {
		p.edit(r)
	}
	if err := p.deliver(r); err != nil {
		return nil, err
	}
	p.GuestNames = guestos.For(r.Target.Platform, p.Machine)
	p.estimate(r)
	p.check(r)
	p.Seal = p.seal()
	return p, nil
}

// source completes the machine as backed up with what was found out of it.
func (p *Plan) source(r Request) {
	m := r.Machine.Clone()
	if m.Platform == vm.Unknown && p.Detected != nil {
		m.Platform = p.Detected.Platform
	}
	if g := r.Guest; g != nil {
		set := func(to *string, v string) {
			if *to == "" {
				*to = v
			}
		}
		if m.Guest.Family == "" {
			m.Guest.Family = g.Family
		}
		set(&m.Guest.Distribution, g.Distribution)
		set(&m.Guest.Version, g.Version)
		if m.Guest.Arch == "" {
			m.Guest.Arch = g.Arch
		}
		if m.Clock == "" && g.ClockUTC != nil {
			m.Clock = vm.ClockLocal
			if *g.ClockUTC {
				m.Clock = vm.ClockUTC
			}
		}
		if b := g.BootDisk; b != nil && *b >= 0 && *b < len(m.Disks) && !slices.ContainsFunc(m.Disks, func(d vm.Disk) bool { return d.Boot }) {
			m.Disks[*b].Boot = true
		}
	}
	p.Source = m
}

// ClonePlacement copies a placement with all it holds.
func ClonePlacement(o target.Placement) target.Placement {
	c := target.Placement{Fields: maps.Clone(o.Fields), Networks: slices.Clone(o.Networks), Storage: slices.Clone(o.Storage), Volumes: slices.Clone(o.Volumes)}
	for _, a := range o.Adapters {
		a.SecurityGroups, a.Addresses = slices.Clone(a.SecurityGroups), slices.Clone(a.Addresses)
		c.Adapters = append(c.Adapters, a)
	}
	return c
}

// Stopped tells whether a critical finding forbids the restore.
func (p *Plan) Stopped() bool {
	for _, f := range p.Findings {
		if f.Severity == Critical {
			return true
		}
	}
	return false
}

// Order is the plan in the target's terms.
func (p *Plan) Order(job string) *target.Order {
	o := &target.Order{Job: job, Machine: p.Machine, Placement: p.Placement, PowerOn: p.PowerOn, Options: p.Options}
	for _, d := range p.Disks {
		o.Disks = append(o.Disks, target.DiskOrder{Delivery: d.Delivery, Virtual: d.Virtual, FileSize: d.FileSize})
	}
	return o
}

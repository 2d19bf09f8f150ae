// Package plan decides, before the first byte moves, what a restore will do:
// the machine as the target will have it, how each disk travels, what is known
// to go wrong, and how much there is to move. It moves nothing. The command
// line, the API and the web page show this one document, and the job carries
// out exactly it.
package plan

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/image"
	"ascend/internal/target"
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
	Seed      string            `json:"seed"` // of the identifiers in the target files
}

// BackupRef names the backup.
type BackupRef struct {
	Repository string    `json:"repository"`
	ID         string    `json:"id"`
	VM         string    `json:"vm"`
	Type       string    `json:"type,omitempty"`
	Created    time.Time `json:"created,omitzero"`
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

// Severity of a finding.
type Severity string

// Severities.
const (
	Critical    Severity = "critical"    // the restore does not start
	Warning     Severity = "warning"     // the user must consent
	Information Severity = "information" // worth knowing
)

// Finding is what a rule found.
type Finding struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
	Advice   string   `json:"advice,omitempty"`
}

// Estimate is how much there is to do.
type Estimate struct {
	Allocated int64 `json:"allocated"` // bytes that will be read
	Virtual   int64 `json:"virtual"`
	Staging   int64 `json:"staging"` // bytes of temporary space: 0
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

// Request is what the user asks for.
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
}

// Make works the plan out. An error means that no plan can be made at all;
// what stands in the way of a restore is a critical finding.
func Make(r Request) (*Plan, error) {
	if len(r.Sources) != len(r.Machine.Disks) {
		return nil, fmt.Errorf("cannot plan: the machine has %d disks and the backup %d", len(r.Machine.Disks), len(r.Sources))
	}
	p := &Plan{
		Version: 1, Made: r.Now.UTC().Truncate(time.Second), Backup: r.Backup, Target: r.Target, Source: r.Machine,
		Placement: r.Placement, Options: r.Options, PowerOn: r.PowerOn, Seed: r.Seed,
	}
	p.translate(r)
	if err := p.deliver(r); err != nil {
		return nil, err
	}
	p.check(r)
	return p, nil
}

// deliver chooses how each disk travels.
func (p *Plan) deliver(r Request) error {
	d, err := choose(r)
	if err != nil {
		return err
	}
	for i, s := range r.Sources {
		virtual := s.Info.Size
		if d.Align > 1 {
			virtual = (virtual + d.Align - 1) / d.Align * d.Align
		}
		pd := Disk{Index: r.Machine.Disks[i].Index, Source: s.Info, Delivery: d, Virtual: virtual, FileSize: -1, BlockSize: r.BlockSize, Level: r.Level}
		src := image.Source{Disk: s.Image, Map: s.Map}
		if d.Align > 1 {
			padded, err := image.Pad(src, d.Align)
			if err != nil {
				return err
			}
			src = padded.Source
		}
		o := image.Options{BlockSize: r.BlockSize, Level: r.Level}
		if d.Format.Ordered() {
			_, err = image.NewStream(src, d.Format, o)
		} else {
			var f *image.File
			if f, err = image.New(src, d.Format, o); err == nil {
				pd.FileSize = f.Size()
			}
		}
		var tooBig *image.SizeError
		if errors.As(err, &tooBig) {
			p.find("disk-format-limit", Critical, fmt.Sprintf("disk %d: %v", pd.Index, err), "choose another format with --format")
		} else if err != nil {
			return err
		}
		p.Disks = append(p.Disks, pd)
		p.Machine.Disks[i].Size = virtual
		p.Estimate.Allocated += s.Info.Allocated
		p.Estimate.Virtual += virtual
	}
	return nil
}

func choose(r Request) (target.Delivery, error) {
	var offered []string
	for _, d := range r.Caps.Deliveries {
		offered = append(offered, d.Path+":"+d.Format.String())
		if r.Path != "" && d.Path != r.Path || r.Format != nil && d.Format != *r.Format {
			continue
		}
		return d, nil
	}
	want := r.Path
	if r.Format != nil {
		want += ":" + r.Format.String()
	}
	return target.Delivery{}, fmt.Errorf("cannot plan: %s takes no disks as %s; it takes %s", r.Target.Name, want, strings.Join(offered, ", "))
}

func (p *Plan) find(code string, s Severity, text, advice string) {
	p.Findings = append(p.Findings, Finding{Code: code, Severity: s, Text: text, Advice: advice})
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

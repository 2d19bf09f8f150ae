package plan

import (
	"fmt"
	"slices"
)

// edit gives the plan the machine, options and power-on of the edited one. A
// field that the translation would have otherwise is a change for that reason.
func (p *Plan) edit(r Request) {
	made := describe(p.Machine, p.Placement, true)
	w := r.Want
	sized := p.Machine
	p.Machine = w.Machine.Clone()
	if p.Size != nil { // processors and memory are the size's
		p.Machine.CPU, p.Machine.Memory = sized.CPU, sized.Memory
	}
	p.Options, p.PowerOn, p.Seed = w.Options, w.PowerOn, w.Seed
	was := map[string]string{}
	for _, f := range made {
		was[f.name] = f.value
	}
	source := map[string]string{}
	for _, f := range describe(p.Source, p.Placement, false) {
		source[f.name] = f.value
	}
	for _, f := range describe(p.Machine, p.Placement, true) {
		if f.value == was[f.name] || sizeRow(f.name) {
			continue
		}
		p.Changes = slices.DeleteFunc(p.Changes, func(c Change) bool { return c.Field == f.name })
		p.change(f.name, orUnknown(source[f.name]), orUnknown(f.value), "edited in the plan")
	}
}

// sizeRow tells a row of describe that deliver sets itself.
func sizeRow(name string) bool {
	var n int
	_, err := fmt.Sscanf(name, "disk %d size", &n)
	return err == nil && name == fmt.Sprintf("disk %d size", n)
}

// Drift is what is otherwise than when a plan was made.
type Drift struct {
	// Stops says what matters: the plan must be made and looked at again.
	Stops []string
	// Notes says what changed and does not matter.
	Notes []string
}

// Drift compares a plan with the one made of it now: what changed in the world.
// The plans' editable parts are not compared; now was made with Want.
func (p *Plan) Drift(now *Plan) Drift {
	var d Drift
	stop := func(format string, args ...any) { d.Stops = append(d.Stops, fmt.Sprintf(format, args...)) }
	if p.Backup.ID != now.Backup.ID || p.Backup.VM != now.Backup.VM || !p.Backup.Created.Equal(now.Backup.Created) {
		stop("the backup is %s of %s and was planned as %s of %s", now.Backup.ID, now.Backup.Created.Format("2006-01-02 15:04:05"), p.Backup.ID, p.Backup.Created.Format("2006-01-02 15:04:05"))
	}
	if p.Target != now.Target {
		stop("the target %s is %s and was planned as %s of %s", now.Target.Name, now.Target.Platform, p.Target.Name, p.Target.Platform)
	}
	if len(p.Disks) != len(now.Disks) {
		stop("the backup has %d disks and was planned with %d", len(now.Disks), len(p.Disks))
	} else {
		for i := range p.Disks {
			if why := differs(p.Disks[i], now.Disks[i]); why != "" {
				stop("disk %d: %s", now.Disks[i].Index, why)
			}
		}
	}
	if p.Backup.Machine != now.Backup.Machine {
		stop("what the backup says of the machine is not what was planned")
	}
	for _, f := range now.Findings {
		if f.Severity == Information || slices.ContainsFunc(p.Findings, func(o Finding) bool { return o.Code == f.Code && o.Text == f.Text }) {
			continue
		}
		if f.Severity == Warning && p.Edited() { // of the edit, as likely: consent will be asked for
			d.Notes = append(d.Notes, fmt.Sprintf("%s: %s", f.Code, f.Text))
			continue
		}
		stop("%s: %s", f.Code, f.Text)
	}
	for _, f := range p.Findings {
		if f.Severity != Information && !slices.ContainsFunc(now.Findings, func(o Finding) bool { return o.Code == f.Code && o.Text == f.Text }) {
			d.Notes = append(d.Notes, fmt.Sprintf("no longer found: %s: %s", f.Code, f.Text))
		}
	}
	if a, b := p.Estimate.Cost, now.Estimate.Cost; a != nil && b != nil && a.Total != b.Total {
		d.Notes = append(d.Notes, fmt.Sprintf("the cost is %s %s a month and was %s", b.Total, b.Currency, a.Total))
	}
	return d
}

func differs(was, is Disk) string {
	a, b := was.Source, is.Source
	switch {
	case a.Size != b.Size:
		return fmt.Sprintf("it has %d bytes and had %d", b.Size, a.Size)
	case a.Allocated != b.Allocated:
		return fmt.Sprintf("it holds %d bytes of data and held %d", b.Allocated, a.Allocated)
	case len(a.Chain) != len(b.Chain):
		return fmt.Sprintf("it is read from %d files and was from %d", len(b.Chain), len(a.Chain))
	}
	for i := range a.Chain {
		if x, y := a.Chain[i], b.Chain[i]; x.Path != y.Path || x.Size != y.Size || !x.Modified.Equal(y.Modified) {
			return fmt.Sprintf("the file %s has changed", y.Path)
		}
	}
	return ""
}

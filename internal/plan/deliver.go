package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"ascend/internal/image"
	"ascend/internal/target"
)

// deliver chooses how each disk travels.
func (p *Plan) deliver(r Request) error {
	for i, s := range r.Sources {
		d, err := choose(r, i)
		if err != nil {
			return err
		}
		virtual := d.Padded(s.Info.Size)
		pd := Disk{Index: r.Machine.Disks[i].Index, Source: s.Info, Delivery: d, Virtual: virtual, FileSize: -1, BlockSize: r.BlockSize, Level: r.Level}
		if r.Want != nil {
			pd.BlockSize, pd.Level = r.Want.Disks[i].BlockSize, r.Want.Disks[i].Level
		}
		src := image.Source{Disk: s.Image, Map: s.Map}
		if virtual != s.Info.Size {
			padded, err := image.Pad(src, virtual)
			if err != nil {
				return err
			}
			src = padded.Source
		}
		o := image.Options{BlockSize: pd.BlockSize, Level: pd.Level}
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
			p.tooBig = append(p.tooBig, fmt.Sprintf("disk %d: %v", pd.Index, err))
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

// choose is the way that disk i travels: as the edited plan has it, as asked
// for, or the target's first choice of those whose rights the user has.
func choose(r Request, i int) (target.Delivery, error) {
	if r.Want != nil {
		d := r.Want.Disks[i].Delivery
		r.Path, r.Format = d.Path, &d.Format
	}
	var offered []string
	var first *target.Delivery
	for _, d := range r.Caps.Deliveries {
		offered = append(offered, d.Path+":"+d.Format.String())
		if r.Path != "" && d.Path != r.Path || r.Format != nil && d.Format != *r.Format {
			continue
		}
		if r.Path != "" || lacking(r, d) == "" {
			return d, nil
		}
		if first == nil {
			first = &d
		}
	}
	if first != nil { // the rule permission-missing says why it will not do
		return *first, nil
	}
	want := r.Path
	if r.Format != nil {
		want += ":" + r.Format.String()
	}
	return target.Delivery{}, fmt.Errorf("cannot plan: %s takes no disks as %s; it takes %s", r.Target.Name, want, strings.Join(offered, ", "))
}

// lacking is a right that a way alone needs and the target's user has not; "" when
// none is known.
func lacking(r Request, d target.Delivery) string {
	if r.Inventory == nil {
		return ""
	}
	for _, p := range r.Inventory.Permissions {
		if !p.Granted && slices.Contains(d.Rights, p.Name) {
			return p.Name
		}
	}
	return ""
}

// spared tells whether a right is needed by none but ways that no disk takes.
func (p *Plan) spared(r Request, right string) bool {
	of := func(d target.Delivery) bool { return slices.Contains(d.Rights, right) }
	return slices.ContainsFunc(r.Caps.Deliveries, of) && !slices.ContainsFunc(p.Disks, func(d Disk) bool { return of(d.Delivery) })
}

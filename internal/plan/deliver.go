package plan

import (
	"errors"
	"fmt"
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
// for, or the target's first choice.
func choose(r Request, i int) (target.Delivery, error) {
	if r.Want != nil {
		d := r.Want.Disks[i].Delivery
		r.Path, r.Format = d.Path, &d.Format
	}
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

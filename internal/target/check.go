package target

import (
	"fmt"
	"maps"
	"slices"
)

// Check holds an order to what the target says that it can do, before anything is
// asked of it: the disks are the machine's, each travels in a way that is offered,
// and every placement field and option is known and has one of its values. Its
// errors are permanent.
func (c Capabilities) Check(o *Order) error {
	bad := func(format string, args ...any) error { return Permanent(fmt.Sprintf(format, args...), "") }
	if o.Job == "" || o.Machine == nil {
		return bad("the order has no job or no machine")
	}
	if len(o.Disks) != len(o.Machine.Disks) {
		return bad("the order has %d disks and the machine %d", len(o.Disks), len(o.Machine.Disks))
	}
	for i, d := range o.Disks {
		if !slices.ContainsFunc(c.Deliveries, func(v Delivery) bool {
			return v.Path == d.Delivery.Path && v.Format == d.Delivery.Format && v.Mode == d.Delivery.Mode
		}) {
			return bad("disk %d is to be delivered as %s by %q, which is not offered", i, d.Delivery.Format, d.Delivery.Path)
		}
	}
	for _, given := range []struct {
		what   string
		values map[string]string
		known  []Field
	}{{"placement field", o.Placement.Fields, c.Fields}, {"option", o.Options, c.Options}} {
		for _, name := range slices.Sorted(maps.Keys(given.values)) {
			i := slices.IndexFunc(given.known, func(f Field) bool { return f.Name == name })
			if i < 0 {
				return bad("unknown %s %q", given.what, name)
			}
			if v, one := given.values[name], given.known[i].Values; v != "" && len(one) > 0 && !slices.Contains(one, v) {
				return bad("%s %s cannot be %q: one of %v", given.what, name, v, one)
			}
		}
	}
	return nil
}

package plan

import (
	"slices"
	"strings"
	"time"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// maxAge is how old a cached inventory may be before it is a finding.
const maxAge = time.Hour

var targetRules = []rule{
	{"inventory-unknown", Information, "A target that was not asked may lack everything.", "ask it with --refresh, or check it with: ascend target validate", "target's inventory", func(_ *Plan, r Request, say say) {
		if r.Inventory == nil && r.Target.Platform != vm.Local {
			say("the target was not asked what it has: names, networks, storage and quotas are not checked")
		}
	}},
	{"inventory-old", Information, "What was read a while ago may have changed.", "ask again with --refresh", "age of the target's inventory", func(_ *Plan, r Request, say say) {
		if r.Inventory == nil || r.Inventory.Asked.IsZero() {
			return
		}
		if age := r.Now.Sub(r.Inventory.Asked); age > maxAge {
			say("what the target has was read %s ago", age.Round(time.Minute))
		}
	}},
	{"field-missing", Critical, "Some placement fields the target cannot do without.", "give it with --place FIELD=NAME", "placement, target's fields, target's inventory", func(p *Plan, r Request, say say) {
		for _, f := range r.Caps.Fields {
			if f.Required && f.Default == "" && p.Placement.Fields[f.Name] == "" && f.Name != r.Caps.Traits.SizeField {
				say("%s is missing: %s%s", f.Name, f.Help, fieldCandidates(r, f.Name))
			}
		}
	}},
	{"field-unknown", Critical, "A target understands its own placement fields only.", "see: ascend target settings PLATFORM", "placement, target's fields", func(p *Plan, r Request, say say) {
		if len(r.Caps.Fields) == 0 {
			return
		}
		for _, k := range sortedKeys(p.Placement.Fields) {
			if !slices.ContainsFunc(r.Caps.Fields, func(f target.Field) bool { return f.Name == k }) {
				say("the target has no placement field %q; it has %s", k, strings.Join(fieldNames(r.Caps.Fields), ", "))
			}
		}
	}},
	{"place-missing", Critical, "What a placement field names must be there.", "choose one the target has", "placement, target's inventory", func(p *Plan, r Request, say say) {
		if r.Inventory == nil {
			return
		}
		for _, k := range sortedKeys(p.Placement.Fields) {
			places, v := r.Inventory.Places[k], p.Placement.Fields[k]
			if k == r.Caps.Traits.StorageField || k == r.Caps.Traits.SizeField || v == "" || strings.Contains(v, "/") {
				continue // rules of their own
			}
			if len(places) > 0 && !knows(places, v) {
				say("the target has no %s %q%s", strings.ReplaceAll(k, "_", " "), v, candidates(places))
			}
		}
	}},
	{"option-invalid", Critical, "Options are the platform's, and many have few values.", "see: ascend target settings PLATFORM", "options, target's options", func(_ *Plan, r Request, say say) {
		for _, k := range sortedKeys(r.Options) {
			i := slices.IndexFunc(r.Caps.Options, func(f target.Field) bool { return f.Name == k })
			switch v := r.Options[k]; {
			case len(r.Caps.Options) == 0:
			case i < 0:
				say("the target has no option %q; it has %s", k, strings.Join(fieldNames(r.Caps.Options), ", "))
			case len(r.Caps.Options[i].Values) > 0 && !slices.Contains(r.Caps.Options[i].Values, v):
				say("the option %s is %q and may be %s", k, v, strings.Join(r.Caps.Options[i].Values, ", "))
			}
		}
	}},
	{"size-none", Critical, "Where machines have sizes, one must fit.", "set fewer processors or less memory, restore fewer disks or adapters, or name a size", "machine, sizes of the target", func(p *Plan, r Request, say say) {
		f := r.Caps.Traits.SizeField
		if f != "" && p.Placement.Fields[f] == "" {
			say("no %s fits the machine: %s", orWhat(sizeFields[f], "size"), orWhat(p.facts.noSize, "none is known"))
		}
	}},
	{"size-unknown", Critical, "A size must be one that the target has.", "choose one of those that fit", "placement, sizes of the target", func(p *Plan, r Request, say say) {
		if f := r.Caps.Traits.SizeField; f != "" && p.Placement.Fields[f] != "" {
			sizes, _, _ := p.offered(r)
			if _, ok := findSize(sizes, p.Placement.Fields[f]); !ok && r.Inventory != nil && len(r.Inventory.Sizes) > 0 {
				say("the target has no %s %q; %s", orWhat(sizeFields[f], "size"), p.Placement.Fields[f], fitting(p))
			}
		}
	}},
	{"size-unverified", Information, "Of a size that no table describes it is not known what it fits.", "make sure yourself that the machine fits it", "placement, sizes of the target", func(p *Plan, r Request, say say) {
		f := r.Caps.Traits.SizeField
		if f == "" || p.Placement.Fields[f] == "" || r.Inventory != nil && len(r.Inventory.Sizes) > 0 {
			return
		}
		sizes, _, _ := p.offered(r)
		if _, ok := findSize(sizes, p.Placement.Fields[f]); !ok {
			say("nothing is known of the %s %q", orWhat(sizeFields[f], "size"), p.Placement.Fields[f])
		}
	}},
	{"size-unfit", Critical, "A machine does not start on a size that lacks what it needs.", "choose one of those that fit", "machine, size chosen", func(p *Plan, r Request, say say) {
		f := r.Caps.Traits.SizeField
		if f == "" || p.Placement.Fields[f] == "" {
			return
		}
		sizes, _, _ := p.offered(r)
		s, ok := findSize(sizes, p.Placement.Fields[f])
		if !ok {
			return
		}
		n := p.facts.need
		n.CPUs, n.Memory = 0, 0 // smaller is the user's business, and another rule's
		if why := n.Why(s); why != "" {
			say("%s does not fit: %s; %s", s.Name, why, fitting(p))
		}
	}},
	{"size-small", Warning, "A size with fewer processors or less memory than the machine had may be too slow.", "choose a larger size", "machine, size chosen", func(p *Plan, r Request, say say) {
		f := r.Caps.Traits.SizeField
		if f == "" || p.Placement.Fields[f] == "" {
			return
		}
		sizes, _, _ := p.offered(r)
		if s, ok := findSize(sizes, p.Placement.Fields[f]); ok && (s.CPUs > 0 && s.CPUs < p.Source.CPU.Total() || s.Memory > 0 && s.Memory < p.Source.Memory) {
			say("%s has %d processors and %s; the machine had %d and %s", s.Name, s.CPUs, vm.FormatSize(s.Memory), p.Source.CPU.Total(), vm.FormatSize(p.Source.Memory))
		}
	}},
	{"size-burst", Information, "Processors of burstable sizes are rationed: a machine that is always busy is slow there.", "choose an alternative if the machine is always busy", "size chosen", func(p *Plan, r Request, say say) {
		if p.Size == nil {
			return
		}
		sizes, _, _ := p.offered(r)
		if s, ok := findSize(sizes, p.Size.Name); ok && s.Burst {
			say("the processors of %s are rationed", s.Name)
		}
	}},
	{"size-large", Information, "Sizes bind disks and adapters to processors: a small machine with many of them needs a large size.", "restore fewer disks or adapters if the price matters", "machine, size chosen", func(p *Plan, r Request, say say) {
		if p.Size == nil || p.Source.CPU.Total() == 0 {
			return
		}
		sizes, _, _ := p.offered(r)
		if s, ok := findSize(sizes, p.Size.Name); ok && s.CPUs >= 4*p.Source.CPU.Total() && s.Memory >= 4*p.Source.Memory {
			say("%s has %d processors and %s for a machine that had %d and %s", s.Name, s.CPUs, vm.FormatSize(s.Memory), p.Source.CPU.Total(), vm.FormatSize(p.Source.Memory))
		}
	}},
	{"quota", Critical, "A restore that exceeds a quota fails at its end.", "have the quota raised, or free some of it", "machine, target's quotas", func(p *Plan, r Request, say say) {
		if r.Inventory == nil {
			return
		}
		need := p.quotaNeed()
		for _, q := range r.Inventory.Quotas {
			n, ok := need[q.Kind]
			if ok && q.Limit >= 0 && q.Used+n > q.Limit {
				if q.Kind == "memory" || q.Kind == "disk" {
					say("%s: %s of %s are used and the machine needs %s", q.Name, vm.FormatSize(q.Used), vm.FormatSize(q.Limit), vm.FormatSize(n))
				} else {
					say("%s: %d of %d are used and the machine needs %d", q.Name, q.Used, q.Limit, n)
				}
			}
		}
	}},
	{"quota-unknown", Information, "Quotas that the target does not tell cannot be checked.", "check the quotas of processors, machines and disks yourself", "target's quotas", func(_ *Plan, r Request, say say) {
		quotas := r.Target.Platform == vm.AWS || r.Target.Platform == vm.Azure || r.Target.Platform == vm.CloudStack
		if r.Inventory != nil && quotas && len(r.Inventory.Quotas) == 0 {
			say("the target's quotas are not known")
		}
	}},
	{"permission-missing", Critical, "A right that is missing stops the restore in its middle.", "have the right granted; ascend target validate lists them", "target's permissions", func(p *Plan, r Request, say say) {
		if r.Inventory == nil {
			return
		}
		for _, right := range r.Inventory.Permissions {
			if !right.Granted && !p.spared(r, right.Name) {
				say("the user of the target lacks the right %s", right.Name)
			}
		}
	}},
	{"way-second-best", Information, "The way that disks would travel by needs a right that is missing, and another does not.", "have the right granted to take the faster way, or choose one with --path", "target's permissions, its ways", func(p *Plan, r Request, say say) {
		if r.Path != "" || len(p.Disks) == 0 {
			return
		}
		for _, d := range r.Caps.Deliveries {
			if d.Path == p.Disks[0].Delivery.Path {
				return
			}
			if right := lacking(r, d); right != "" {
				say("the disks travel by %s and not by %s: the user of the target lacks the right %s, or the service cannot be reached", p.Disks[0].Delivery.Path, d.Path, right)
			}
		}
	}},
	{"permission-unknown", Information, "Rights that the target does not tell cannot be checked.", "check them with: ascend target validate NAME", "target's permissions", func(_ *Plan, r Request, say say) {
		if r.Inventory != nil && r.Target.Platform != vm.Local && len(r.Inventory.Permissions) == 0 {
			say("the rights of the target's user are not known")
		}
	}},
	{"token-lifetime", Warning, "Credentials that end before the copy does end the restore at its last step.", "use credentials that live longer or can be renewed", "expiry of the credentials, time expected", func(p *Plan, r Request, say say) {
		if r.Inventory == nil || r.Inventory.TokenExpires.IsZero() {
			return
		}
		if left := r.Inventory.TokenExpires.Sub(r.Now); left < p.Estimate.Time() {
			say("the credentials end in %s and the copy takes about %s", left.Round(time.Minute), p.Estimate.Time().Round(time.Minute))
		}
	}},
	{"region-unknown", Information, "Prices and sizes differ between regions.", "state it with --region, or in the target's settings", "target's region", func(_ *Plan, r Request, say say) {
		if h := homeRegion[r.Target.Platform]; h != "" && r.Region == "" && (r.Inventory == nil || r.Inventory.Region == "") {
			say("the region is not known; the prices are those of %s", h)
		}
	}},
}

var estimateRules = []rule{
	{"scratch-space", Critical, "Where something must be staged, the space is checked before anything else.", "free space, or choose a delivery that stages nothing", "temporary space needed and free", func(p *Plan, r Request, say say) {
		if r.ScratchFree >= 0 && p.Estimate.Staging > r.ScratchFree {
			say("the restore needs %s of temporary space and %s are free", vm.FormatSize(p.Estimate.Staging), vm.FormatSize(r.ScratchFree))
		}
	}},
	{"cost-incomplete", Information, "An amount without everything in it looks smaller than it is.", "add the price, or refresh them with: ascend prices update", "prices", func(p *Plan, r Request, say say) {
		if r.Prices == nil || p.Estimate.Cost == nil {
			return
		}
		for _, l := range p.Estimate.Cost.LeftOut {
			if strings.Contains(l, " has no ") {
				say("the cost leaves out %s", l)
			}
		}
	}},
	{"price-old", Information, "Prices change.", "refresh them with: ascend prices update", "date of the prices", func(p *Plan, r Request, say say) {
		if p.Estimate.Cost == nil {
			return
		}
		if d, err := time.Parse(time.DateOnly, p.Estimate.Cost.Date); err == nil && r.Now.Sub(d) > 365*24*time.Hour {
			say("the prices are of %s", p.Estimate.Cost.Date)
		}
	}},
}

func fieldNames(list []target.Field) []string {
	var out []string
	for _, f := range list {
		out = append(out, f.Name)
	}
	return out
}

func fieldCandidates(r Request, field string) string {
	if r.Inventory == nil {
		return ""
	}
	return candidates(r.Inventory.Places[field])
}

// fitting names sizes that fit, for the end of a sentence.
func fitting(p *Plan) string {
	var out []string
	for _, c := range p.facts.sizes {
		if out = append(out, c.Name); len(out) == 5 {
			break
		}
	}
	if len(out) == 0 {
		return "none fits"
	}
	return "such as " + strings.Join(out, ", ")
}

// quotaNeed is what the machine takes of each kind of quota.
func (p *Plan) quotaNeed() map[string]int64 {
	n := map[string]int64{
		"cpus": int64(p.Machine.CPU.Total()), "memory": p.Machine.Memory, "machines": 1, "disks": int64(len(p.Disks)), "nics": int64(len(p.Machine.NICs)),
	}
	for _, d := range p.Disks {
		n["disk"] += d.Virtual
	}
	return n
}

package sim

import "math"

// resource is something that flows share.
type resource struct {
	name, kind string
	capacity   float64 // units a second; +Inf: no limit
	used       float64 // integral of use over time
}

// use is what a byte of a flow takes of a resource.
type use struct {
	r    *resource
	each float64 // units a byte
}

// flow is one transfer under way.
type flow struct {
	uses []use
	most float64 // bytes a second of this flow alone
	rate float64
	held string // kind of what holds the rate back
}

const alone = "disks" // what holds back a flow that reaches its own limit

// share sets the flows' rates to the max-min fair ones: all rise together until
// a resource is used up or a flow has reached its own limit; those that are held
// so stay where they are, and the others go on.
func share(flows []*flow) {
	left, load := map[*resource]float64{}, map[*resource]float64{}
	var order []*resource // so that equal limits are met in the same order each time
	for _, f := range flows {
		f.rate, f.held = 0, ""
		for _, u := range f.uses {
			if math.IsInf(u.r.capacity, 1) || u.each == 0 {
				continue
			}
			if _, ok := left[u.r]; !ok {
				left[u.r] = u.r.capacity
				order = append(order, u.r)
			}
			load[u.r] += u.each
		}
	}
	rising := flows
	level := 0.0 // the rate that all rising flows have
	for len(rising) > 0 {
		step, kind := math.Inf(1), ""
		for _, r := range order {
			if l := load[r]; l > 1e-18 {
				if s := left[r] / l; s < step {
					step, kind = s, r.kind
				}
			}
		}
		for _, f := range rising {
			if s := f.most - level; s < step {
				step, kind = s, alone
			}
		}
		if math.IsInf(step, 1) {
			step, kind = 1e18, alone // nothing limits it: done in no time
		}
		step = max(step, 0)
		level += step
		for _, r := range order {
			left[r] -= step * load[r]
		}
		next := rising[:0:0]
		for _, f := range rising {
			f.rate = level
			held := ""
			if !math.IsInf(f.most, 1) && f.most-level <= 1e-9*f.most {
				held = alone
			}
			for _, u := range f.uses {
				if _, ok := left[u.r]; ok && u.each > 0 && left[u.r] <= 1e-9*u.r.capacity {
					held = u.r.kind
					break
				}
			}
			if held == "" && step == 1e18 {
				held = kind
			}
			if held == "" {
				next = append(next, f)
				continue
			}
			f.held = held
			for _, u := range f.uses {
				if _, ok := load[u.r]; ok {
					load[u.r] -= u.each
				}
			}
		}
		rising = next
	}
}

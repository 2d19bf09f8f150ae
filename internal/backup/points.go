package backup

import (
	"cmp"
	"slices"
	"time"
)

// point is one run of the backup software over a machine's disks.
type point struct {
	layers  map[int]*layer // by disk number
	time    time.Time      // of the latest layer: what is not later belongs to it
	created time.Time      // of the earliest layer, to show
}

// group tells which layers of a context's disks were made in one run. The disks
// of a run need not carry the same second: they may be copied one after the
// other.
//
// When every disk has the same number of layers and the k-th ones of all disks
// lie closer together than to those before and after, run k is the k-th layers.
// Otherwise layers are
// taken in order of time: one belongs to the run before it when that has no
// layer of its disk yet and began less than half the shortest distance between
// two runs ago, or carries the very same time. Points come oldest first.
func group(all []*layer, disks int) []*point {
	perDisk := map[int][]*layer{}
	for _, y := range all {
		perDisk[y.number] = append(perDisk[y.number], y)
	}
	if points := byRank(perDisk); points != nil {
		return points
	}
	window := spacing(perDisk) / 2
	sorted := slices.SortedStableFunc(slices.Values(all), func(a, b *layer) int {
		return cmp.Or(olderFirst(a, b), cmp.Compare(a.number, b.number))
	})
	var out []*point
	var last *point
	var began time.Time
	for _, y := range sorted {
		if last == nil || last.layers[y.number] != nil || len(last.layers) >= disks || !y.time.Equal(began) && y.time.Sub(began) > window {
			last, began = &point{layers: map[int]*layer{}}, y.time
			out = append(out, last)
		}
		last.add(y)
	}
	return out
}

func (p *point) add(y *layer) {
	p.layers[y.number] = y
	if y.time.After(p.time) {
		p.time = y.time
	}
	if p.created.IsZero() || y.created.Before(p.created) {
		p.created = y.created
	}
}

// byRank pairs the k-th layers of all disks; nil when that is not consistent.
func byRank(perDisk map[int][]*layer) []*point {
	var out []*point
	for i, n := range sortedKeys(perDisk) {
		layers := perDisk[n]
		if i == 0 {
			for range layers {
				out = append(out, &point{layers: map[int]*layer{}})
			}
		}
		if len(layers) != len(out) {
			return nil
		}
		for k, y := range layers {
			out[k].add(y)
		}
	}
	if len(perDisk) < 2 {
		return out
	}
	for k := 1; k < len(out); k++ {
		gap := out[k].first().Sub(out[k-1].time)
		if gap <= out[k-1].spread() || gap <= out[k].spread() {
			return nil
		}
	}
	return out
}

// first is the time of the earliest layer.
func (p *point) first() time.Time {
	t := p.time
	for _, y := range p.layers {
		if y.time.Before(t) {
			t = y.time
		}
	}
	return t
}

func (p *point) spread() time.Duration { return p.time.Sub(p.first()) }

// spacing is the shortest time between two layers of one disk, or a day.
func spacing(perDisk map[int][]*layer) time.Duration {
	least := 24 * time.Hour
	for _, layers := range perDisk {
		for i := 1; i < len(layers); i++ {
			if d := layers[i].time.Sub(layers[i-1].time); d > 0 {
				least = min(least, d)
			}
		}
	}
	return least
}

// newestBefore is the newest layer that is not later than t; nil when there is
// none. Layers come oldest first.
func newestBefore(layers []*layer, t time.Time) *layer {
	var found *layer
	for _, y := range layers {
		if y.time.After(t) {
			break
		}
		found = y
	}
	return found
}

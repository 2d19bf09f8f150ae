package plan

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"ascend/internal/image"
	"ascend/internal/prices"
	"ascend/internal/vm"
)

// Estimate is how much there is to do, how long it takes and what it costs.
type Estimate struct {
	Allocated int64 `json:"allocated"` // bytes that will be read
	Virtual   int64 `json:"virtual"`
	Staging   int64 `json:"staging"` // bytes of temporary space: 0
	// Sent is the bytes that go over the network, headers and zeros that cannot be
	// skipped included; compressed streams count before compression.
	Sent int64 `json:"sent,omitempty"`
	// Seconds is Sent over Rate; RateFrom says where the rate comes from.
	Seconds  int64  `json:"seconds,omitempty"`
	Rate     int64  `json:"rate,omitempty"` // bytes a second
	RateFrom string `json:"rate_from,omitempty"`
	Requests int64  `json:"requests,omitempty"` // to the target, of uploads alone
	Cost     *Cost  `json:"cost,omitempty"`
}

// Time is how long the copy is expected to take.
func (e Estimate) Time() time.Duration { return time.Duration(e.Seconds) * time.Second }

// Cost is what a restore and the machine cost. Amounts are decimal, in Currency.
type Cost struct {
	Currency string     `json:"currency"`
	Date     string     `json:"date"` // of the prices
	Region   string     `json:"region,omitempty"`
	Once     []CostLine `json:"once,omitempty"`
	Monthly  []CostLine `json:"monthly"`
	Total    string     `json:"total"` // a month
	// Sizes are the totals a month with the alternatives to the size chosen.
	Sizes []CostLine `json:"sizes,omitempty"`
	// LeftOut says what is not in the amounts.
	LeftOut []string `json:"left_out"`
}

// CostLine is one amount.
type CostLine struct {
	What   string `json:"what"`
	Amount string `json:"amount"`
}

// estimate works out time, requests and cost.
func (p *Plan) estimate(r Request) {
	e := &p.Estimate
	e.Staging = r.Scratch
	for i, d := range p.Disks {
		// Where holes cannot be skipped the whole file is sent; a file that is
		// computed in order holds no zeros at all.
		sent := r.Sources[i].Info.Allocated
		if f := d.Delivery.Format; !d.Delivery.Clean && d.FileSize > 0 && !f.Ordered() && !sparse(f) {
			sent = d.FileSize
		}
		sent = max(sent, 0)
		e.Sent += sent
		if n := d.Delivery.Block; n > 0 {
			e.Requests += blocks(r.Sources[i], n)
		} else if n := d.Delivery.MaxRange; n > 0 {
			e.Requests += (sent + n - 1) / n
		}
	}
	switch {
	case r.Rate > 0:
		e.Rate, e.RateFrom = r.Rate, "measured by "+plural(r.Jobs, "earlier restore")+" to this target"
	case r.Caps.Traits.Rate > 0:
		e.Rate, e.RateFrom = r.Caps.Traits.Rate, "assumed: nothing was restored to this target before"
	}
	if e.Rate > 0 {
		e.Seconds = (e.Sent + e.Rate - 1) / e.Rate
	}
	switch r.Target.Platform {
	case vm.AWS, vm.Azure:
		if r.Prices != nil {
			e.Cost = p.cloudCost(r)
		}
	default:
		if r.Prices != nil && r.Prices.Rates != nil {
			e.Cost = p.rateCost(r, r.Prices.Rates)
		}
	}
}

// sparse tells formats whose file holds no more than the disk's data.
func sparse(f image.Format) bool { return f.Name != "raw" && f.Subformat != "fixed" }

// blocks counts the blocks of n bytes that hold data: one request each.
func blocks(s Source, n int64) int64 {
	if s.Map == nil {
		return (max(s.Info.Allocated, 0) + n - 1) / n
	}
	if g := s.Map.Granularity(); n < g || n%g != 0 {
		return (s.Map.Bytes() + n - 1) / n
	}
	return s.Map.Coarse(n).Count()
}

// putBlock is the price of one PutSnapshotBlock request: 0.006 USD for 1,000
// (Amazon EBS pricing, EBS direct APIs, us-east-1).
const putBlock prices.Micro = 6

var leftOut = map[vm.Platform][]string{
	vm.AWS: {"network traffic", "public addresses", "snapshots kept after the restore", "requests for st1, sc1 and standard volumes", "licences of software on the guest", "taxes, discounts, reservations"},
	vm.Azure: {"network traffic", "public addresses", "snapshots kept after the restore", "transactions on standard disks", "licences of software on the guest, RHEL and SLES included",
		"taxes, discounts, reservations"},
}

func (p *Plan) cloudCost(r Request) *Cost {
	plat, at := r.Target.Platform, region(r)
	table, store := r.Prices.Table(plat), r.Prices.Storage
	c := &Cost{Currency: table.Currency, Date: table.Date, Region: at, LeftOut: slices.Clone(leftOut[plat])}
	if store.Date != "" && store.Date < c.Date {
		c.Date = store.Date
	}
	if plat == vm.AWS && p.Estimate.Requests > 0 {
		c.Once = append(c.Once, CostLine{fmt.Sprintf("upload, %d requests", p.Estimate.Requests), (putBlock * prices.Micro(p.Estimate.Requests)).String()})
	} else {
		c.Once = append(c.Once, CostLine{"upload: traffic in is not charged", "0.00"})
	}
	os := prices.OSOf(p.Machine.Guest)
	var compute, storage prices.Micro
	if p.Size != nil {
		if h, ok := table.Hourly(p.Size.Name, at, os); ok {
			compute = h * prices.Hours
			c.Monthly = append(c.Monthly, CostLine{fmt.Sprintf("%s, %s, %d hours", p.Size.Name, os, prices.Hours), compute.String()})
		} else {
			c.LeftOut = append(c.LeftOut, fmt.Sprintf("the machine: %s has no price in %s", p.Size.Name, at))
		}
	}
	for i, d := range p.Disks {
		class, v := p.storageOf(i, r.Caps.Traits), p.volumeOf(i)
		m, used, ok := store.Monthly(plat, at, class, d.Virtual, v.IOPS, v.Throughput)
		if !ok {
			c.LeftOut = append(c.LeftOut, fmt.Sprintf("disk %d: %s of %s has no price", d.Index, class, vm.FormatSize(d.Virtual)))
			continue
		}
		what := fmt.Sprintf("disk %d, %s %s", d.Index, vm.FormatSize(d.Virtual), class)
		if used != at {
			what += ", at the price of " + used
		}
		storage += m
		c.Monthly = append(c.Monthly, CostLine{what, m.String()})
	}
	c.Total = (compute + storage).String()
	if p.Size != nil {
		for _, a := range p.Size.Alternatives {
			if h, ok := table.Hourly(a.Name, at, os); ok {
				c.Sizes = append(c.Sizes, CostLine{a.Name, (h*prices.Hours + storage).String()})
			}
		}
	}
	return c
}

func (p *Plan) rateCost(r Request, card *prices.RateCard) *Cost {
	c := &Cost{Currency: card.Currency, Date: card.Date, LeftOut: []string{"whatever the rate card does not list"}}
	total := card.Compute(p.Machine)
	c.Monthly = append(c.Monthly, CostLine{fmt.Sprintf("machine, %d processors, %s", p.Machine.CPU.Total(), vm.FormatSize(p.Machine.Memory)), total.String()})
	for i, d := range p.Disks {
		where := p.storageOf(i, r.Caps.Traits)
		m, ok := card.Disk(where, d.Virtual)
		if !ok {
			c.LeftOut = append(c.LeftOut, fmt.Sprintf("disk %d: the rate card has no storage %q and no default", d.Index, where))
			continue
		}
		total += m
		c.Monthly = append(c.Monthly, CostLine{fmt.Sprintf("disk %d, %s", d.Index, vm.FormatSize(d.Virtual)), m.String()})
	}
	c.Total = total.String()
	return c
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

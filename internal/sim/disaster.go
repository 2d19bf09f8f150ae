package sim

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	gbit = 1e9 / 8
	gib  = 1 << 30
)

// Measured is what a byte costs on the machine of docs/benchmarks.md: a QCOW2 disk
// read, hashed and sent as VHDX over HTTP takes 0.73 s of a processor for 858 MiB.
var Measured = Cost{CPU: 0.73 / (858 << 20)}

// Disaster is a fleet and jobs to compare policies and numbers of workers with: a
// thousand machines of 100 GiB of data each are to come up at once. Their backups
// are at four sites of unequal size; six of ten go to a vCenter, the others to AWS
// and Azure in halves. Workers of 8 processors and 10 Gbit/s, five jobs each, are
// spread over the sites as the backups are; each breaks down every three days.
//
// The targets' figures are their providers': EBS takes 1,000 blocks of 512 KiB a
// second from an account (Amazon EBS quotas, PutSnapshotBlock); an upload to a
// standard SSD disk of Azure runs at 60 MB/s (Azure managed disks, scalability
// targets); NFC carries about 1 Gbit/s for each disk.
func Disaster(workers int) (Fleet, []Job) {
	share := []float64{0.4, 0.3, 0.2, 0.1}
	f := Fleet{
		WAN:  10 * gbit,
		Cost: Measured,
		Targets: []Target{
			{Name: "vCenter", Take: 40 * gbit, Each: 1 * gbit},
			{Name: "AWS", Take: 1000 * 512 << 10},
			{Name: "Azure", Take: 25 * gbit, Each: 60e6},
		},
		Failures: Failures{Between: 72 * time.Hour, Repair: time.Hour, Notice: 30 * time.Second, Lost: 64 << 20},
	}
	for _, n := range []string{"A", "B", "C", "D"} {
		f.Sites = append(f.Sites, Site{Name: n, Read: 3e9, Uplink: 20 * gbit})
	}
	const jobs = 1000
	for _, s := range deal(workers, share) {
		f.Workers = append(f.Workers, Worker{Site: s, Cores: 8, NIC: 10 * gbit, Slots: 5})
	}
	rng := rand.New(rand.NewPCG(7, 7)) // the order in which people ask for their machines
	var list []Job
	for i, s := range deal(jobs, share) {
		list = append(list, Job{Site: s, Target: []int{0, 0, 0, 1, 2, 0, 0, 0, 1, 2}[i%10], Bytes: 100 * gib, Before: 20 * time.Second, After: time.Minute})
	}
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return f, list
}

// deal gives n things to sites by their shares, largest remainder first, every
// site's together.
func deal(n int, share []float64) []int {
	got := make([]int, len(share))
	order := make([]int, len(share))
	left := n
	for i, s := range share {
		got[i] = int(float64(n) * s)
		left -= got[i]
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		ra, rb := float64(n)*share[a]-float64(got[a]), float64(n)*share[b]-float64(got[b])
		return cmp.Compare(rb, ra)
	})
	for i := range left {
		got[order[i%len(order)]]++
	}
	var out []int
	for site, k := range got {
		for range k {
			out = append(out, site)
		}
	}
	return out
}

// Percentile is the time by which a share of the jobs was done.
func (r *Result) Percentile(share float64) time.Duration {
	d := slices.Sorted(slices.Values(r.Done))
	if len(d) == 0 {
		return 0
	}
	return d[min(int(share*float64(len(d))), len(d)-1)]
}

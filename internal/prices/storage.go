package prices

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"ascend/internal/vm"
)

// Storage is what storage costs a month: a small curated, dated table.
type Storage struct {
	Date string
	rows map[storageKey]Micro
}

type storageKey struct {
	platform      vm.Platform
	region, class string
	unit          string // "per" (GiB), "iops", "throughput", or the GiB of a tier
}

// home is the region whose prices stand for those of regions that the table
// lacks.
var home = map[vm.Platform]string{vm.AWS: "us-east-1", vm.Azure: "eastus"}

// included is what a class gives without a charge for it.
var included = map[string]struct{ iops, throughput int }{
	"gp3": {3000, 125}, "PremiumV2_LRS": {3000, 125},
}

// ReadStorage reads a storage table: tab-separated platform, region, class, unit
// and price; "# date" gives the date. It takes at most 16 MiB.
func ReadStorage(r io.Reader) (*Storage, error) {
	s := &Storage{rows: map[storageKey]Micro{}}
	sc := bufio.NewScanner(io.LimitReader(r, 16<<20))
	for n := 1; sc.Scan(); n++ {
		f := strings.Split(sc.Text(), "\t")
		if strings.HasPrefix(f[0], "#") {
			if f[0] == "# date" && len(f) == 2 {
				s.Date = f[1]
			}
			continue
		}
		if len(f) != 5 {
			return nil, fmt.Errorf("cannot read storage prices: line %d has %d fields and not 5", n, len(f))
		}
		p, err := strconv.ParseFloat(f[4], 64)
		if err != nil || p < 0 || p > 1e9 {
			return nil, fmt.Errorf("cannot read storage prices: line %d: %.40q is not a price", n, f[4])
		}
		s.rows[storageKey{vm.Platform(f[0]), f[1], f[2], f[3]}] = Micro(math.Round(p * 1e6))
	}
	return s, sc.Err()
}

// Write writes the table; the same table gives the same bytes.
func (s *Storage) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "# date\t%s\n", s.Date)
	keys := slices.SortedFunc(maps.Keys(s.rows), func(a, c storageKey) int {
		return strings.Compare(fmt.Sprint(a), fmt.Sprint(c))
	})
	for _, k := range keys {
		fmt.Fprintf(b, "%s\t%s\t%s\t%s\t%s\n", k.platform, k.region, k.class, k.unit, strconv.FormatFloat(float64(s.rows[k])/1e6, 'f', -1, 64))
	}
	return b.Flush()
}

// Merge takes over the rows and the date of another table.
func (s *Storage) Merge(o *Storage) {
	maps.Copy(s.rows, o.rows)
	s.Date = max(s.Date, o.Date)
}

// Monthly is the price of one disk for a month. used is the region whose prices
// were taken: another than asked for where the table lacks it. It is false
// when the class is not in the table.
func (s *Storage) Monthly(p vm.Platform, region, class string, size int64, iops, throughput int) (price Micro, used string, ok bool) {
	for _, used = range []string{region, home[p]} {
		if price, ok = s.monthly(p, used, class, size, iops, throughput); ok {
			return price, used, true
		}
	}
	return 0, "", false
}

func (s *Storage) monthly(p vm.Platform, region, class string, size int64, iops, throughput int) (Micro, bool) {
	at := func(unit string) (Micro, bool) {
		m, ok := s.rows[storageKey{p, region, class, unit}]
		return m, ok
	}
	gib := (size + vm.GiB - 1) / vm.GiB
	if per, ok := at("per"); ok {
		total := per * Micro(gib)
		free := included[class]
		if rate, ok := at("iops"); ok {
			total += iopsCost(class, rate, max(iops-free.iops, 0))
		}
		if rate, ok := at("throughput"); ok {
			total += rate * Micro(max(throughput-free.throughput, 0))
		}
		return total, true
	}
	// Tiers: a disk costs what the next larger tier costs.
	var best Micro
	tier := int64(math.MaxInt64)
	for k, m := range s.rows {
		if k.platform != p || k.region != region || k.class != class {
			continue
		}
		if n, err := strconv.ParseInt(k.unit, 10, 64); err == nil && n >= gib && n < tier {
			tier, best = n, m
		}
	}
	return best, tier != math.MaxInt64
}

// iopsCost is linear but for io2, whose rate falls to 70 % above 32,000 and to
// 49 % above 64,000 (Amazon EBS pricing).
func iopsCost(class string, rate Micro, n int) Micro {
	if class != "io2" {
		return rate * Micro(n)
	}
	first, second, third := min(n, 32000), min(max(n-32000, 0), 32000), max(n-64000, 0)
	return rate*Micro(first) + rate*Micro(second)*70/100 + rate*Micro(third)*49/100
}

// Package prices knows what machines and storage cost: compact dated tables of
// AWS and Azure that are built in, documents of the providers' own that replace
// them, and the rate card of an operator's own data centre. It asks nobody: what
// it reads was fetched before, or is handed in.
package prices

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// Micro is an amount of money in millionths of the table's currency.
type Micro int64

// String prints cents: "1234.50"; amounts below a cent keep what they have.
func (m Micro) String() string {
	if m > -10_000 && m < 10_000 && m != 0 {
		return strings.TrimRight(fmt.Sprintf("%.6f", float64(m)/1e6), "0")
	}
	return fmt.Sprintf("%.2f", float64(m)/1e6)
}

// Exact prints every digit there is, two after the point at least: "0.2464".
func (m Micro) Exact() string {
	s := strings.TrimRight(fmt.Sprintf("%.6f", float64(m)/1e6), "0")
	if i := strings.IndexByte(s, '.'); len(s)-i < 3 {
		s += "00"[:3-(len(s)-i)]
	}
	return s
}

// Hours is the number of hours that providers count in a month.
const Hours = 730

// OS is what a size's price depends on.
type OS string

// Kinds of licences that sizes are priced with.
const (
	Linux   OS = "linux"
	Windows OS = "windows"
)

// OSOf is the price that a guest's machine has.
func OSOf(g vm.GuestOS) OS {
	if g.Family == vm.Windows {
		return Windows
	}
	return Linux
}

// Table is the machine sizes of one provider with their prices.
type Table struct {
	Platform vm.Platform
	Date     string // of the prices, as 2025-05-28
	Source   string // attribution
	Currency string
	Regions  []string
	Sizes    []target.Size

	index map[string]int
	price map[OS][][]Micro // by size and region; 0: not offered
}

// Hourly is the price of a size for an hour; false when it is not offered in
// that region with that system.
func (t *Table) Hourly(size, region string, os OS) (Micro, bool) {
	i, ok := t.index[size]
	r := slices.Index(t.Regions, region)
	if !ok || r < 0 || t.price[os] == nil {
		return 0, false
	}
	p := t.price[os][i][r]
	return p, p > 0
}

// Size finds a size by its name.
func (t *Table) Size(name string) (target.Size, bool) {
	i, ok := t.index[name]
	if !ok {
		return target.Size{}, false
	}
	return t.Sizes[i], true
}

// NewTable makes an empty table.
func NewTable(p vm.Platform, date, source string, regions []string) *Table {
	return &Table{Platform: p, Date: date, Source: source, Currency: "USD", Regions: regions, index: map[string]int{},
		price: map[OS][][]Micro{Linux: nil, Windows: nil}}
}

// Add adds a size or replaces one of its name, with its prices by region.
func (t *Table) Add(s target.Size, linux, windows map[string]Micro) {
	row := func(m map[string]Micro) []Micro {
		out := make([]Micro, len(t.Regions))
		for i, r := range t.Regions {
			out[i] = m[r]
		}
		return out
	}
	if i, ok := t.index[s.Name]; ok {
		t.Sizes[i], t.price[Linux][i], t.price[Windows][i] = s, row(linux), row(windows)
		return
	}
	t.index[s.Name] = len(t.Sizes)
	t.Sizes = append(t.Sizes, s)
	t.price[Linux] = append(t.price[Linux], row(linux))
	t.price[Windows] = append(t.price[Windows], row(windows))
}

// The file is tab-separated text, compressed with gzip. The first lines hold
// "platform", "date", "source", "currency" and "regions"; each further line is a
// size: name, CPUs, MiB, architectures, firmware, disks, adapters, flags, and
// the prices of Linux and of Windows, comma-separated by region in millionths.
// The price of Windows is what it adds to that of Linux, "x" where it is not
// offered; one number stands for the same in every region.

// flagNames are NVMe, ENA, premium, TPM, Secure Boot, old, special, burst, shared.
const flagNames = "neptsoxbh"

func flagsOf(s target.Size) string {
	var b strings.Builder
	for i, on := range []bool{s.NVMe, s.ENA, s.Premium, s.TPM, s.SecureBoot, s.Old, s.Special, s.Burst, s.Shared} {
		if on {
			b.WriteByte(flagNames[i])
		}
	}
	return b.String()
}

func setFlags(s *target.Size, flags string) {
	has := func(i int) bool { return strings.IndexByte(flags, flagNames[i]) >= 0 }
	s.NVMe, s.ENA, s.Premium, s.TPM, s.SecureBoot, s.Old, s.Special, s.Burst = has(0), has(1), has(2), has(3), has(4), has(5), has(6), has(7)
	s.Shared = has(8)
}

// Write writes the table. The same table gives the same bytes.
func (t *Table) Write(w io.Writer) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	b := bufio.NewWriter(z)
	fmt.Fprintf(b, "platform\t%s\ndate\t%s\nsource\t%s\ncurrency\t%s\nregions\t%s\n", t.Platform, t.Date, t.Source, t.Currency, strings.Join(t.Regions, "\t"))
	order := make([]int, len(t.Sizes))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return strings.Compare(t.Sizes[i].Name, t.Sizes[j].Name) })
	for _, i := range order {
		s := t.Sizes[i]
		fmt.Fprintf(b, "%s\t%d\t%d\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", s.Name, s.CPUs, s.Memory/vm.MiB, join(s.Arch), join(s.Firmware), s.MaxDisks, s.MaxNICs,
			flagsOf(s), row(t.price[Linux][i], nil), row(t.price[Windows][i], t.price[Linux][i]))
	}
	return errors.Join(b.Flush(), z.Close())
}

func join[S ~string](list []S) string {
	var out []string
	for _, s := range list {
		out = append(out, string(s))
	}
	return strings.Join(out, ",")
}

func split[S ~string](s string) []S {
	var out []S
	for _, p := range strings.Split(s, ",") {
		if p != "" {
			out = append(out, S(p))
		}
	}
	return out
}

func row(prices, base []Micro) string {
	var out []string
	for i, p := range prices {
		v := ""
		switch {
		case p == 0 && base != nil && base[i] != 0:
			v = "x"
		case p == 0:
		case base != nil:
			v = strconv.FormatInt(int64(p-base[i]), 10)
		default:
			v = strconv.FormatInt(int64(p), 10)
		}
		out = append(out, v)
	}
	// A delta that is the same wherever the size is offered is written once.
	if base != nil {
		first, ok := "", true
		for i, v := range out {
			if base[i] == 0 {
				ok = ok && prices[i] == 0
				continue
			}
			if first == "" {
				first = v
			}
			ok = ok && v == first
		}
		if ok && first != "" {
			return "=" + first
		}
	}
	return strings.TrimRight(strings.Join(out, ","), ",")
}

// maxLine bounds a line of a table file.
const maxLine = 64 << 10

// Read reads a table that Write wrote. It takes at most 64 MiB of text.
func Read(r io.Reader) (*Table, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("cannot read prices: %w", err)
	}
	sc := bufio.NewScanner(io.LimitReader(z, 64<<20))
	sc.Buffer(nil, maxLine)
	t := NewTable("", "", "", nil)
	for n := 1; sc.Scan(); n++ {
		f := strings.Split(sc.Text(), "\t")
		if n <= 5 {
			want := []string{"platform", "date", "source", "currency", "regions"}[n-1]
			if f[0] != want || len(f) < 2 {
				return nil, fmt.Errorf("cannot read prices: line %d is not %q", n, want)
			}
			switch n {
			case 1:
				t.Platform = vm.Platform(f[1])
			case 2:
				t.Date = f[1]
			case 3:
				t.Source = f[1]
			case 4:
				t.Currency = f[1]
			case 5:
				t.Regions = f[1:]
			}
			continue
		}
		if err := t.addLine(f); err != nil {
			return nil, fmt.Errorf("cannot read prices: line %d: %w", n, err)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("cannot read prices: %w", err)
	}
	if len(t.Regions) == 0 {
		return nil, errors.New("cannot read prices: the file ends in its head")
	}
	return t, nil
}

func (t *Table) addLine(f []string) error {
	if len(f) != 10 {
		return fmt.Errorf("%d fields and not 10", len(f))
	}
	var num [4]int64
	for i, at := range []int{1, 2, 5, 6} {
		n, err := strconv.ParseInt(f[at], 10, 32)
		if err != nil || n < 0 {
			return fmt.Errorf("%.40q is not a count", f[at])
		}
		num[i] = n
	}
	s := target.Size{Name: f[0], CPUs: int(num[0]), Memory: num[1] * vm.MiB, Arch: split[vm.Arch](f[3]), Firmware: split[vm.Firmware](f[4]),
		MaxDisks: int(num[2]), MaxNICs: int(num[3])}
	setFlags(&s, f[7])
	if _, ok := t.index[s.Name]; ok || s.Name == "" {
		return fmt.Errorf("the size %q stands twice", s.Name)
	}
	linux, err := t.parseRow(f[8], nil)
	if err != nil {
		return err
	}
	windows, err := t.parseRow(f[9], linux)
	if err != nil {
		return err
	}
	t.index[s.Name] = len(t.Sizes)
	t.Sizes = append(t.Sizes, s)
	t.price[Linux] = append(t.price[Linux], linux)
	t.price[Windows] = append(t.price[Windows], windows)
	return nil
}

func (t *Table) parseRow(s string, base []Micro) ([]Micro, error) {
	out := make([]Micro, len(t.Regions))
	if s == "" {
		return out, nil
	}
	one, all := strings.CutPrefix(s, "=")
	var parts []string
	if !all {
		if parts = strings.Split(s, ","); len(parts) > len(out) {
			return nil, fmt.Errorf("%d prices for %d regions", len(parts), len(out))
		}
	}
	for i := range out {
		v := one
		if !all {
			if v = ""; i < len(parts) {
				v = parts[i]
			}
		} else if base == nil || base[i] == 0 {
			continue
		}
		if v == "" || v == "x" {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 48)
		if err != nil {
			return nil, fmt.Errorf("%.40q is not a price", v)
		}
		if out[i] = Micro(n); base != nil {
			out[i] += base[i]
		}
	}
	return out, nil
}

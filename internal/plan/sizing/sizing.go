// Package sizing chooses a machine's size among those a platform offers: the
// cheapest that fits, and what else might be taken.
package sizing

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"ascend/internal/prices"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// Need is what a machine needs of a size.
type Need struct {
	CPUs     int
	Memory   int64 // bytes
	Arch     vm.Arch
	Firmware vm.Firmware
	Disks    int // boot disk included
	NICs     int
	// NoNVMe and NoENA: the guest lacks that driver.
	NoNVMe, NoENA   bool
	Premium         bool // a disk is on premium storage
	TPM, SecureBoot bool
}

// Why says why a size does not fit; "" when it does. A limit of 0 is not known
// and refuses nothing.
func (n Need) Why(s target.Size) string {
	lost := 0
	if s.Shared {
		lost = max(n.NICs-1, 0)
	}
	switch {
	case s.CPUs > 0 && s.CPUs < n.CPUs:
		return fmt.Sprintf("it has %d processors", s.CPUs)
	case s.Memory > 0 && s.Memory < n.Memory:
		return "it has " + vm.FormatSize(s.Memory) + " of memory"
	case n.Arch != "" && len(s.Arch) > 0 && !slices.Contains(s.Arch, n.Arch):
		return fmt.Sprintf("it is %s", s.Arch[0])
	case n.Firmware != "" && len(s.Firmware) > 0 && !slices.Contains(s.Firmware, n.Firmware):
		return fmt.Sprintf("it does not start by %s", n.Firmware)
	case s.MaxNICs > 0 && s.MaxNICs < n.NICs:
		return fmt.Sprintf("it takes %d network adapters", s.MaxNICs)
	case s.MaxDisks > 0 && s.MaxDisks < n.Disks+lost:
		return fmt.Sprintf("it takes %d disks", s.MaxDisks-lost)
	case n.NoNVMe && s.NVMe:
		return "its disks are NVMe, for which the guest has no driver"
	case n.NoENA && s.ENA:
		return "its network adapter is ENA, for which the guest has no driver"
	case n.Premium && !s.Premium:
		return "it takes no premium storage"
	case n.TPM && !s.TPM:
		return "it has no virtual TPM"
	case n.SecureBoot && !s.SecureBoot:
		return "it has no Secure Boot"
	}
	return ""
}

// Choice is one size with its price.
type Choice struct {
	target.Size
	Hourly prices.Micro // 0: not known
}

// Price tells a size's price for an hour; false: not offered here. nil stands
// for sizes without prices.
type Price func(size string) (prices.Micro, bool)

// Choose lists the sizes that fit, the cheapest first; sizes of earlier
// generations and special ones are left out. Without prices the smallest comes
// first.
func Choose(n Need, sizes []target.Size, price Price) []Choice {
	var out []Choice
	for _, s := range sizes {
		if s.Old || s.Special || n.Why(s) != "" {
			continue
		}
		c := Choice{Size: s}
		if price != nil {
			var ok bool
			if c.Hourly, ok = price(s.Name); !ok {
				continue
			}
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Choice) int {
		return cmp.Or(cmp.Compare(a.Hourly, b.Hourly), cmpBool(a.Burst, b.Burst), cmp.Compare(a.CPUs, b.CPUs), cmp.Compare(a.Memory, b.Memory), strings.Compare(a.Name, b.Name))
	})
	return out
}

func cmpBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// Alternatives picks of a list that Choose made at most n others than the first:
// the cheapest of each other family, the cheapest with steady processors among
// them.
func Alternatives(list []Choice, n int) []Choice {
	if len(list) < 2 {
		return nil
	}
	seen := map[string]bool{Family(list[0].Name): true}
	var out []Choice
	steady := !list[0].Burst
	for _, c := range list[1:] {
		f := Family(c.Name)
		if seen[f] || len(out) == n-1 && !steady && c.Burst {
			continue
		}
		seen[f] = true
		steady = steady || !c.Burst
		if out = append(out, c); len(out) == n {
			break
		}
	}
	return out
}

// Family is a size's name without what tells how large it is: "m7i" of
// "m7i.large", "Standard_Ds_v5" of "Standard_D4s_v5".
func Family(name string) string {
	if f, _, ok := strings.Cut(name, "."); ok {
		return f
	}
	var b strings.Builder
	done := false
	for i, r := range name {
		digit := r >= '0' && r <= '9'
		if digit && !done && i > 0 && !strings.HasSuffix(name[:i], "_v") {
			continue
		}
		if b.Len() > 0 && !digit && i > 0 && name[i-1] >= '0' && name[i-1] <= '9' {
			done = true
		}
		b.WriteRune(r)
	}
	return b.String()
}

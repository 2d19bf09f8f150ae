package vm

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Sizes in bytes.
const (
	KiB int64 = 1 << 10
	MiB int64 = 1 << 20
	GiB int64 = 1 << 30
	TiB int64 = 1 << 40
)

// ParseSize reads a size as qemu-img does: a decimal number with an optional
// fraction and a binary suffix b, k, M, G, T, P, in either case, with or
// without "iB" or "B" ("4G", "4GiB", "1.5T"). No suffix means bytes.
func ParseSize(s string) (int64, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	num := strings.TrimRight(t, "bikmgtp ")
	suffix := strings.TrimSpace(t[len(num):])
	var shift uint
	switch suffix {
	case "", "b":
	case "k", "kb", "kib":
		shift = 10
	case "m", "mb", "mib":
		shift = 20
	case "g", "gb", "gib":
		shift = 30
	case "t", "tb", "tib":
		shift = 40
	case "p", "pb", "pib":
		shift = 50
	default:
		return 0, fmt.Errorf("invalid size %q: use a number with k, M, G or T", s)
	}
	if n, err := strconv.ParseInt(num, 10, 64); err == nil {
		if n < 0 || n > math.MaxInt64>>shift {
			return 0, fmt.Errorf("invalid size %q: out of range", s)
		}
		return n << shift, nil
	}
	f, err := strconv.ParseFloat(num, 64)
	if err != nil || f < 0 || math.IsNaN(f) || f*float64(int64(1)<<shift) >= math.MaxInt64 {
		return 0, fmt.Errorf("invalid size %q: use a number with k, M, G or T", s)
	}
	return int64(f * float64(int64(1)<<shift)), nil
}

// FormatSize prints bytes with three significant digits and a binary unit:
// "512 B", "1.50 GiB".
func FormatSize(n int64) string {
	if n < 0 {
		return "-" + FormatSize(-n)
	}
	if n < KiB {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"} {
		f /= 1024
		if f < 999.5 {
			break
		}
	}
	switch {
	case f < 9.995:
		return fmt.Sprintf("%.2f %s", f, unit)
	case f < 99.95:
		return fmt.Sprintf("%.1f %s", f, unit)
	}
	return fmt.Sprintf("%.0f %s", f, unit)
}

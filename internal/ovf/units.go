package ovf

import (
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// scale reads a programmatic unit with base unit byte (DSP0004 Annex C.1), as
// in "byte * 2^30", "byte*1024*1024", "1024 * byte", and the older words
// "MegaBytes" and "MB", which descriptors use as powers of two. The result is
// the bytes of one unit. An empty string is bytes (DSP0243 9.1).
func scale(s string) (int64, bool) {
	out := uint64(1)
	s = strings.ToLower(s)
	s = strings.Join(strings.Fields(s), "")
	if s == "" {
		return 1, true
	}
	if len(s) > 100 {
		return 0, false
	}
	for _, f := range strings.Split(s, "*") {
		n, ok := factor(f)
		hi, lo := bits.Mul64(out, n)
		if !ok || hi != 0 || lo > math.MaxInt64 || lo == 0 {
			return 0, false
		}
		out = lo
	}
	return int64(out), true
}

func factor(f string) (uint64, bool) {
	if base, exp, ok := strings.Cut(f, "^"); ok {
		b, err1 := strconv.ParseUint(base, 10, 16)
		e, err2 := strconv.ParseUint(exp, 10, 8)
		if err1 != nil || err2 != nil || b == 0 || e > 63 {
			return 0, false
		}
		n := uint64(1)
		for range e {
			hi, lo := bits.Mul64(n, b)
			if hi != 0 {
				return 0, false
			}
			n = lo
		}
		return n, true
	}
	if n, err := strconv.ParseUint(f, 10, 63); err == nil {
		return n, n > 0
	}
	switch strings.TrimSuffix(f, "s") {
	case "byte", "b":
		return 1, true
	case "kilobyte", "kibibyte", "kb", "kib":
		return 1 << 10, true
	case "megabyte", "mebibyte", "mb", "mib":
		return 1 << 20, true
	case "gigabyte", "gibibyte", "gb", "gib":
		return 1 << 30, true
	case "terabyte", "tebibyte", "tb", "tib":
		return 1 << 40, true
	}
	return 0, false
}

// quantity is a number of units in bytes.
func quantity(number, units string) (int64, bool) {
	n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 63)
	if err != nil {
		return 0, false
	}
	u, ok := scale(units)
	if !ok {
		return 0, false
	}
	hi, lo := bits.Mul64(n, uint64(u))
	if hi != 0 || lo > math.MaxInt64 {
		return 0, false
	}
	return int64(lo), true
}

// small reads a small non-negative number; ok is false for anything else.
func small(s string) (int, bool) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
	return int(n), err == nil
}

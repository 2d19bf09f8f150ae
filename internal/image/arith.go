package image

import "math/bits"

// ceilDiv is a / b rounded up, for a ≥ 0 and b > 0.
func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }

// roundUp is the least multiple of unit that is at least n.
func roundUp(n, unit int64) int64 { return ceilDiv(n, unit) * unit }

// log2 is the binary logarithm of a power of two.
func log2(n int64) uint32 { return uint32(bits.TrailingZeros64(uint64(n))) }

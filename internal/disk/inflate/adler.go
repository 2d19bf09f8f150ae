package inflate

import "encoding/binary"

const (
	adlerMod = 65521
	// Each 16-bit lane of the sums below holds at most 255·n and 255·n·(n+1)/2
	// after n words: 22 is the largest n for which both stay below 2^16.
	adlerWords = 22
	lanes      = 0x00ff00ff00ff00ff
)

// Adler32 is the checksum of RFC 1950, 8.2, computed on eight bytes at a time.
func Adler32(p []byte) uint32 {
	a, b := uint64(1), uint64(0)
	for len(p) >= 8 {
		words := min(len(p)/8, adlerWords)
		block := p[:words*8]
		p = p[words*8:]
		// even and odd sum the bytes at even and odd places of the words, a lane
		// for each; evens and odds sum the values that those had before each word.
		var even, odd, evens, odds uint64
		for q := block; len(q) >= 8; q = q[8:] {
			w := binary.LittleEndian.Uint64(q)
			evens += even
			odds += odd
			even += w & lanes
			odd += w >> 8 & lanes
		}
		// A byte at place i of a word counts 8−i times in b for its own word and
		// 8 times for each later word of the block.
		b += a * uint64(len(block))
		for shift := 0; shift < 64; shift += 16 {
			e, o := even>>shift&0xffff, odd>>shift&0xffff
			a += e + o
			i := uint64(shift / 8)
			b += e*(8-i) + o*(7-i) + 8*(evens>>shift&0xffff+odds>>shift&0xffff)
		}
		a %= adlerMod
		b %= adlerMod
	}
	for _, c := range p {
		a += uint64(c)
		b += a
	}
	return uint32(b%adlerMod<<16 | a%adlerMod)
}

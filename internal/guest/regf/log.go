package regf

import (
	"fmt"
	"math/bits"
)

// OpenLogs opens a hive that may be dirty and replays its logs (.LOG1 and
// .LOG2 of Windows 8.1 and later, entries "HvLE") in memory. Logs of the older
// "DIRT" format are refused.
func OpenLogs(b []byte, logs ...[]byte) (*Hive, error) {
	h, err := check(b)
	if err != nil {
		return nil, err
	}
	if !Dirty(b) {
		return Open(b)
	}
	// The log with the older entries is applied first; entries are numbered.
	type entry struct {
		seq, size uint32
		pages     []byte
	}
	entries := map[uint32]entry{}
	first := uint32(0)
	old := false
	for _, l := range logs {
		if len(l) < 516 || string(l[:4]) != "regf" {
			continue
		}
		if string(l[512:516]) == "DIRT" {
			old = true
		}
		want := le.Uint32(l[4:])
		for at := 512; at+40 <= len(l) && string(l[at:at+4]) == "HvLE"; {
			e := l[at:]
			n := int(le.Uint32(e[4:]))
			if n < 40 || n%512 != 0 || n > len(e) {
				break
			}
			e = e[:n]
			seq := le.Uint32(e[12:])
			if seq != want || marvin32(e[40:]) != le.Uint64(e[24:]) || marvin32(e[:32]) != le.Uint64(e[32:]) {
				break
			}
			entries[seq] = entry{seq, le.Uint32(e[16:]), e}
			if first == 0 || seq < first {
				first = seq
			}
			want++
			at += n
		}
	}
	if len(entries) == 0 {
		if old {
			return nil, fmt.Errorf("%w: logs of the format before Windows 8.1 are not read", ErrDirty)
		}
		return nil, fmt.Errorf("%w: no log has an entry that is whole", ErrDirty)
	}
	// Entries older than what the primary file already holds are not applied.
	primary := le.Uint32(b[8:])
	if sum(b) == le.Uint32(b[508:]) {
		first = max(first, primary)
	}
	applied := uint32(0)
	for seq := first; ; seq++ {
		e, ok := entries[seq]
		if !ok {
			break
		}
		if b, err = apply(b, e.pages, e.size); err != nil {
			return nil, err
		}
		applied = seq
	}
	if applied == 0 {
		return nil, fmt.Errorf("%w: its logs do not continue it", ErrDirty)
	}
	le.PutUint32(b[4:], applied+1)
	le.PutUint32(b[8:], applied+1)
	le.PutUint32(b[508:], sum(b))
	h.b, h.changed = b, true
	return h, h.finish()
}

func apply(b, e []byte, size uint32) ([]byte, error) {
	if size < 4096 || size%4096 != 0 || int64(size) > maxHive-base {
		return nil, fmt.Errorf("%w: log entry", ErrCorrupt)
	}
	count := int(le.Uint32(e[20:]))
	if count < 0 || count > (len(e)-40)/8 {
		return nil, fmt.Errorf("%w: log entry", ErrCorrupt)
	}
	if need := base + int(size); len(b) < need {
		b = append(b, make([]byte, need-len(b))...)
	}
	data := e[40+8*count:]
	for i := range count {
		ref := e[40+8*i:]
		at, n := le.Uint32(ref), le.Uint32(ref[4:])
		if uint64(at)+uint64(n) > uint64(size) || uint64(n) > uint64(len(data)) {
			return nil, fmt.Errorf("%w: page of a log entry", ErrCorrupt)
		}
		copy(b[base+at:], data[:n])
		data = data[n:]
	}
	le.PutUint32(b[40:], size)
	return b, nil
}

// marvin32 is the hash of log entries, with the seed the format gives.
func marvin32(b []byte) uint64 {
	lo, hi := uint32(0x7a4e55c5), uint32(0x82ef4d88)
	mix := func(v uint32) {
		lo += v
		hi ^= lo
		lo = bits.RotateLeft32(lo, 20) + hi
		hi = bits.RotateLeft32(hi, 9) ^ lo
		lo = bits.RotateLeft32(lo, 27) + hi
		hi = bits.RotateLeft32(hi, 19)
	}
	for ; len(b) >= 4; b = b[4:] {
		mix(le.Uint32(b))
	}
	var w [4]byte
	copy(w[:], b)
	w[len(b)] = 0x80
	mix(le.Uint32(w[:]))
	mix(0)
	return uint64(hi)<<32 | uint64(lo)
}

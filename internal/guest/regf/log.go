package regf

import (
	"fmt"
	"math/bits"
)

// OpenLogs opens a hive that may be dirty and replays its logs in memory: .LOG1
// and .LOG2 of Windows 8.1 and later (entries "HvLE"), else the one of the older
// format ("DIRT") that belongs to what the hive was to become.
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
	most := int64(len(b)) // what grows stands in the logs
	for _, l := range logs {
		most += int64(len(l))
	}
	first := uint32(0)
	for _, l := range logs {
		if len(l) < 516 || string(l[:4]) != "regf" {
			continue
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
		return openOld(h, logs)
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
		if b, err = apply(b, e.pages, e.size, most); err != nil {
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

// openOld replays a log of the format before Windows 8.1: a copy of the base
// block, "DIRT", one bit for each 512 bytes of the bins, and the marked pieces
// one after the other. It is whole when its own sequence numbers agree, and it
// belongs to the hive when they are the hive's first one (specification,
// "Old format").
func openOld(h *Hive, logs [][]byte) (*Hive, error) {
	const piece = 512
	b := h.b
	for _, l := range logs {
		if len(l) < piece+4 || string(l[:4]) != "regf" || string(l[piece:piece+4]) != "DIRT" {
			continue
		}
		seq, size := le.Uint32(l[4:]), int64(le.Uint32(l[40:]))
		sound := sum(b) == le.Uint32(b[508:])
		if seq != le.Uint32(l[8:]) || sum(l) != le.Uint32(l[508:]) || size < 4096 || size%4096 != 0 || size > min(maxHive-base, int64(len(b)+len(l))) || sound && seq != le.Uint32(b[4:]) {
			continue
		}
		bits := l[piece+4:]
		at := (piece + 4 + size/piece/8 + piece - 1) / piece * piece
		if int64(len(bits)) < size/piece/8 {
			continue
		}
		out := append(make([]byte, 0, base+size), b[:min(int64(len(b)), base+size)]...)
		out = append(out, make([]byte, base+size-int64(len(out)))...)
		copy(out, l[:piece])
		for i := range size / piece {
			if bits[i/8]>>(i%8)&1 == 0 {
				continue
			}
			if at+piece > int64(len(l)) {
				return nil, fmt.Errorf("%w: its log ends early", ErrDirty)
			}
			copy(out[base+i*piece:base+(i+1)*piece], l[at:at+piece])
			at += piece
		}
		le.PutUint32(out[28:], 0) // a primary file, no log
		le.PutUint32(out[508:], sum(out))
		h.b, h.changed = out, true
		return h, h.finish()
	}
	return nil, fmt.Errorf("%w: no log is whole and belongs to it", ErrDirty)
}

func apply(b, e []byte, size uint32, most int64) ([]byte, error) {
	if size < 4096 || size%4096 != 0 || int64(size) > min(maxHive-base, most) {
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

package vhdx

import (
	"encoding/binary"
	"fmt"
	"slices"

	"ascend/internal/disk"
)

const (
	logSector      = 4 * kib
	entryHeader    = 64
	descriptorSize = 32
	// maxLog bounds the log that is replayed, which is held in memory. Hyper-V and
	// QEMU make logs of 1 MiB.
	maxLog = 16 * mib
)

// write is one update that the log asks for: data, or zeros where data is nil,
// for [off, off+len) of the file.
type write struct {
	off, len int64
	data     []byte
}

// entry is a valid log entry ([MS-VHDX] 2.3.1).
type entry struct {
	at       int64 // offset in the log
	len      int64
	tail     int64 // offset in the log of the oldest entry still needed
	sequence uint64
	flushed  uint64 // FlushedFileOffset
	last     uint64 // LastFileOffset
	writes   int
}

// journal is the log: a ring of entries.
type journal struct {
	ring []byte
	guid guid
	// budget is what is left of the bytes that may be checksummed. Entries do not
	// overlap in an honest log, so that each byte is looked at a few times at most.
	budget int64
}

// replay finds what the log of f asks to be written, in order. It returns the
// view of the file with that applied; the file itself is left as it is
// ([MS-VHDX] 2.3.3).
func replay(f *disk.File, h header) (*view, error) {
	v := &view{f: f, size: f.Size()}
	if h.logGUID == (guid{}) {
		return v, nil
	}
	if h.logLength > maxLog {
		return nil, fmt.Errorf("%s: unreplayed log of %d bytes, more than %d: %w", f.Name(), h.logLength, maxLog, disk.ErrUnsupported)
	}
	j := &journal{ring: make([]byte, h.logLength), guid: h.logGUID, budget: 8 * h.logLength}
	if err := f.ReadFull(j.ring, h.logOffset); err != nil {
		return nil, err
	}
	active := j.active()
	if len(active) == 0 {
		return nil, fmt.Errorf("%s: the log is not empty and has no valid sequence of entries: %w", f.Name(), disk.ErrCorrupt)
	}
	head := active[len(active)-1]
	if head.flushed > uint64(f.Size()) {
		return nil, fmt.Errorf("%s: the file has %d bytes and its log knows that it had %d: it is truncated: %w", f.Name(), f.Size(), head.flushed, disk.ErrCorrupt)
	}
	if head.last > maxFile {
		return nil, fmt.Errorf("%s: the log makes the file %d bytes long: %w", f.Name(), head.last, disk.ErrUnsupported)
	}
	// LastFileOffset must be a multiple of 1 MiB ([MS-VHDX] 2.3.1.1). QEMU takes
	// the length of a file that ends elsewhere, and rounds it up when it replays.
	v.size = max(v.size, (int64(head.last)+mib-1)/mib*mib)
	var writes []write
	for _, e := range active {
		writes = append(writes, j.writes(e)...)
	}
	for _, w := range writes {
		v.size = max(v.size, w.off+w.len)
	}
	v.patches = flatten(writes)
	v.entries = len(active)
	return v, nil
}

// active finds the newest sequence that is valid and complete, and returns it
// from its tail entry to its head ([MS-VHDX] 2.3.3, steps 1 to 7).
//
// The specification goes on by one sector where a sequence is invalid, because
// its head's tail is not in it. None of its other entries can start a valid one:
// it would have the same head and fewer entries. Nor can a sector inside an
// entry, since those have signatures of their own. So the whole is passed over,
// and the time is linear.
func (j *journal) active() []*entry {
	var best []*entry
	size := int64(len(j.ring))
	for start := int64(0); start < size; {
		var seq []*entry
		used := int64(0)
		for used < size {
			e := j.parse((start + used) % size)
			if e == nil || used+e.len > size || len(seq) > 0 && e.sequence != seq[len(seq)-1].sequence+1 {
				break
			}
			seq = append(seq, e)
			used += e.len
		}
		start += max(used, logSector)
		if len(seq) == 0 {
			continue
		}
		head := seq[len(seq)-1]
		tail := slices.IndexFunc(seq, func(e *entry) bool { return e.at == head.tail })
		if tail >= 0 && (len(best) == 0 || head.sequence > best[len(best)-1].sequence) {
			best = seq[tail:]
		}
	}
	return best
}

// parse is the entry at offset at of the log if all of it is valid, else nil.
func (j *journal) parse(at int64) *entry {
	le := binary.LittleEndian
	p := j.ring[at : at+logSector]
	size := int64(len(j.ring))
	e := &entry{
		at:       at,
		len:      int64(le.Uint32(p[8:])),
		tail:     int64(le.Uint32(p[12:])),
		sequence: le.Uint64(p[16:]),
		writes:   int(le.Uint32(p[24:])),
		flushed:  le.Uint64(p[48:]),
		last:     le.Uint64(p[56:]),
	}
	if string(p[:4]) != "loge" || guid(p[32:48]) != j.guid || e.sequence == 0 {
		return nil
	}
	if e.len == 0 || e.len%logSector != 0 || e.len > size || e.tail%logSector != 0 || e.tail >= size {
		return nil
	}
	if int64(e.writes) > (e.len-entryHeader)/descriptorSize {
		return nil
	}
	if j.budget -= e.len; j.budget < 0 {
		return nil
	}
	body := j.slice(at, e.len)
	if crcOf(body) != le.Uint32(p[4:]) {
		return nil
	}
	data := e.descriptorBytes() // where the data sectors start
	for i := range e.writes {
		d := body[entryHeader+descriptorSize*i:]
		off := le.Uint64(d[16:])
		if le.Uint64(d[24:]) != e.sequence || off%logSector != 0 || off > maxFile {
			return nil
		}
		switch string(d[:4]) {
		case "zero":
			if n := le.Uint64(d[8:]); n%logSector != 0 || n > maxFile-off {
				return nil
			}
		case "desc":
			if data+logSector > e.len || off > maxFile-logSector {
				return nil
			}
			s := body[data:][:logSector]
			if string(s[:4]) != "data" || le.Uint32(s[4:]) != uint32(e.sequence>>32) || le.Uint32(s[logSector-4:]) != uint32(e.sequence) {
				return nil
			}
			data += logSector
		default:
			return nil
		}
	}
	if data != e.len {
		return nil
	}
	return e
}

// descriptorBytes is the length of the sectors that hold the header and the
// descriptors.
func (e *entry) descriptorBytes() int64 {
	return (entryHeader + descriptorSize*int64(e.writes) + logSector - 1) / logSector * logSector
}

// slice is n bytes of the ring from offset at, copied where they wrap.
func (j *journal) slice(at, n int64) []byte {
	if at+n <= int64(len(j.ring)) {
		return j.ring[at : at+n]
	}
	p := append(make([]byte, 0, n), j.ring[at:]...)
	return append(p, j.ring[:n-int64(len(p))]...)
}

// writes lists the updates of a valid entry. A data sector carries its update
// but for the first eight and the last four bytes, which its descriptor holds
// ([MS-VHDX] 2.3.1.3 and 2.3.1.4).
func (j *journal) writes(e *entry) []write {
	le := binary.LittleEndian
	body := j.slice(e.at, e.len)
	data := body[e.descriptorBytes():]
	list := make([]write, 0, e.writes)
	for i := range e.writes {
		d := body[entryHeader+descriptorSize*i:][:descriptorSize]
		w := write{off: int64(le.Uint64(d[16:])), len: logSector}
		if string(d[:4]) == "zero" {
			w.len = int64(le.Uint64(d[8:]))
		} else {
			w.data = make([]byte, logSector)
			copy(w.data, d[8:16])
			copy(w.data[8:], data[8:logSector-4])
			copy(w.data[logSector-4:], d[4:8])
			data = data[logSector:]
		}
		if w.len > 0 {
			list = append(list, w)
		}
	}
	return list
}

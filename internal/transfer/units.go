package transfer

import (
	"ascend/internal/image"
	"ascend/internal/transfer/digest"
)

// unit is what one worker reads, hashes and writes at a time: a run of the
// file, of at most 3 MiB, that holds each of its disk blocks whole. Units are numbered in file
// order; the numbering depends on the file's segments alone, so it is the same
// in every process.
type unit struct {
	number   int64
	off, len int64 // in the file
	segs     []image.Segment
}

// cutUnits yields the file's units in order. Zero segments between units are
// left out unless dirty. The slice of segments belongs to the receiver.
func cutUnits(f *image.File, dirty bool, yield func(unit) error) error {
	u := unit{}
	block := int64(-1)
	flush := func() error {
		if len(u.segs) == 0 {
			return nil
		}
		last := u.segs[len(u.segs)-1]
		u.len = last.Off + last.Len - u.off
		err := yield(u)
		u = unit{number: u.number + 1}
		block = -1
		return err
	}
	add := func(s image.Segment, b int64) error {
		// A disk block is never cut. What is no data may stand inside a block, so
		// after data it only starts a new unit where the block has surely ended.
		limit := int64(unitSize)
		if b < 0 && block >= 0 {
			limit = 3 * unitSize
		}
		if len(u.segs) > 0 && (b < 0 || b != block) && s.Off+s.Len-u.off > limit {
			if err := flush(); err != nil {
				return err
			}
		}
		if len(u.segs) == 0 {
			u.off = s.Off
		}
		if b >= 0 {
			block = b
		}
		u.segs = append(u.segs, s)
		return nil
	}
	err := f.Segments(0, f.Size(), func(s image.Segment) error {
		if s.Kind == image.Zero && !dirty {
			return nil
		}
		for s.Len > 0 {
			piece := s
			b := int64(-1)
			if s.Kind == image.Data {
				b = s.DiskOff / digest.BlockSize
				piece.Len = min(s.Len, (b+1)*digest.BlockSize-s.DiskOff)
			} else {
				piece.Len = min(s.Len, unitSize-s.Off%unitSize)
			}
			if err := add(piece, b); err != nil {
				return err
			}
			s.Off += piece.Len
			s.DiskOff += piece.Len
			s.Len -= piece.Len
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// dataBytes is the number of allocated bytes of the disk in the unit.
func (u unit) dataBytes() (n int64) {
	for _, s := range u.segs {
		if s.Kind == image.Data {
			n += s.Len
		}
	}
	return n
}

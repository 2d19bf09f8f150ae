package vhdx

import (
	"context"
	"fmt"
	"slices"
	"sort"

	"ascend/internal/disk"
)

// view is the file as it would be with its log replayed. It is immutable; any
// number of goroutines may read.
type view struct {
	f    *disk.File
	size int64 // with what the log adds; what the file lacks of it is zeros
	// patches replace what the file holds: ascending, not overlapping.
	patches []write
	entries int // replayed
}

// Size is the length of the file with what the log adds to it.
func (v *view) Size() int64 { return v.size }

// ReadFull fills p from offset off.
func (v *view) ReadFull(p []byte, off int64) error {
	if len(v.patches) == 0 && v.size == v.f.Size() {
		return v.f.ReadFull(p, off)
	}
	if off < 0 || off > v.size || v.size-off < int64(len(p)) {
		return fmt.Errorf("%s: cannot read %d bytes at offset %d, beyond the end at %d: %w", v.f.Name(), len(p), off, v.size, disk.ErrCorrupt)
	}
	n := min(int64(len(p)), max(v.f.Size()-off, 0))
	clear(p[n:])
	if n > 0 {
		if err := v.f.ReadFull(p[:n], off); err != nil {
			return err
		}
	}
	end := off + int64(len(p))
	for i := v.find(off); i < len(v.patches) && v.patches[i].off < end; i++ {
		w := v.patches[i]
		from, to := max(w.off, off), min(w.off+w.len, end)
		if w.data == nil {
			clear(p[from-off : to-off])
		} else {
			copy(p[from-off:to-off], w.data[from-w.off:])
		}
	}
	return nil
}

// find is the first patch that ends after off.
func (v *view) find(off int64) int {
	return sort.Search(len(v.patches), func(i int) bool { return v.patches[i].off+v.patches[i].len > off })
}

// Extents yields the extents of [off, off+n) of the view; see disk.File.Extents.
// A range that the log touches is data as a whole.
func (v *view) Extents(ctx context.Context, off, n int64, yield func(disk.Extent) error) error {
	if i := v.find(off); i < len(v.patches) && v.patches[i].off < off+n {
		return yield(disk.Extent{Off: off, Len: n, Data: true})
	}
	in := min(n, max(v.f.Size()-off, 0))
	if in > 0 {
		if err := v.f.Extents(ctx, off, in, yield); err != nil {
			return err
		}
	}
	if n > in {
		return yield(disk.Extent{Off: off + in, Len: n - in})
	}
	return nil
}

// flatten turns writes, the oldest first, into ascending ones that do not
// overlap; where several write the same byte the last one's stays.
func flatten(writes []write) []write {
	cuts := make([]int64, 0, 2*len(writes))
	for _, w := range writes {
		cuts = append(cuts, w.off, w.off+w.len)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	// owner[i] is the newest write of [cuts[i], cuts[i+1]). Going from the newest
	// write to the oldest, next[i] leads to the first piece from i on that has no
	// owner yet, with paths halved on the way.
	owner := make([]int32, len(cuts))
	next := make([]int32, len(cuts)+1)
	for i := range next {
		next[i] = int32(i)
	}
	free := func(i int32) int32 {
		for next[i] != i {
			next[i] = next[next[i]]
			i = next[i]
		}
		return i
	}
	for k := len(writes) - 1; k >= 0; k-- {
		from, _ := slices.BinarySearch(cuts, writes[k].off)
		to, _ := slices.BinarySearch(cuts, writes[k].off+writes[k].len)
		for i := free(int32(from)); i < int32(to); i = free(i) {
			owner[i], next[i] = int32(k)+1, i+1
		}
	}
	var out []write
	for i := 0; i+1 < len(cuts); i++ {
		if owner[i] == 0 {
			continue
		}
		w := writes[owner[i]-1]
		piece := write{off: cuts[i], len: cuts[i+1] - cuts[i]}
		if w.data != nil {
			piece.data = w.data[piece.off-w.off : piece.off-w.off+piece.len]
		}
		if n := len(out) - 1; n >= 0 && piece.data == nil && out[n].data == nil && out[n].off+out[n].len == piece.off {
			out[n].len += piece.len
			continue
		}
		out = append(out, piece)
	}
	return out
}

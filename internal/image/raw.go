package image

// newRaw is the disk itself, of any size.
func newRaw(src Source, f Format) *File {
	var b builder
	b.add(src.Size(), identity{})
	return b.file(src, f)
}

// Package qcow2 reads QCOW2 images of versions 2 and 3 and their backing
// chains: clusters of 512 bytes to 2 MiB, subclusters, zero clusters, and
// clusters compressed with deflate or zstd. It reads plain clusters straight
// into the caller's buffer, as many at once as lie together in the file.
package qcow2

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"ascend/internal/disk"
	"ascend/internal/disk/backing"
)

// layer is one image file of a chain, and the disk that it and the images below
// it make.
type layer struct {
	*header
	f           *disk.File
	parent      disk.Image // nil without a backing file
	cluster     int64
	clusterMask uint64
	sliceBits   uint   // of the slices that tables are cached in
	salt        uint64 // spreads the layers over the caches
	shared      *caches
	compressed  func() bool
}

// caches are one for all layers of a chain that are of this format and follow
// one another: at most 4 MiB of tables and 16 MiB of decompressed clusters.
type caches struct {
	tables   tableCache
	unpacked unpackedCache
}

// Open is the disk.Driver for QCOW2. Besides the errors of the contract it
// answers disk.ErrUnsupported for encrypted images, data in an external file
// and features that are not known.
func Open(env *disk.Env, f *disk.File) (disk.Image, error) {
	l, err := openLayer(env, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

func openLayer(env *disk.Env, f *disk.File) (*layer, error) {
	h, err := parseHeader(f, f.Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	l := &layer{
		header: h, f: f,
		cluster: 1 << h.clusterBits, clusterMask: 1<<h.clusterBits - 1,
		sliceBits: min(h.clusterBits, maxSliceBits),
	}
	if err := l.checkL1(); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	l.compressed = sync.OnceValue(l.findCompressed)
	if h.backing != "" {
		if l.parent, err = env.Parent(f.Name(), h.backing, h.backingFormat); err != nil {
			return nil, err
		}
	}
	if p, ok := l.parent.(*layer); ok {
		l.shared, l.salt = p.shared, p.salt+1
	} else {
		l.shared = new(caches)
	}
	return l, nil
}

// Size is the virtual size in bytes, a multiple of 512.
func (l *layer) Size() int64 { return l.size }

// ReadAt reads bytes of the disk; see disk.Disk.
func (l *layer) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("%s: cannot read at negative offset %d", l.f.Name(), off)
	}
	if off >= l.size {
		return 0, io.EOF
	}
	end := off + min(int64(len(p)), l.size-off)
	// r is held back until a run is found that it cannot be read together with.
	var r run
	for pos := off; pos < end || r.n > 0; {
		var q run
		if pos < end {
			var err error
			if q, err = l.next(pos, end); err != nil {
				return 0, err
			}
			pos += q.n
			if r.n > 0 && r.join(&q) {
				continue
			}
		}
		if r.n > 0 {
			if err := l.read(p[r.off-off:][:r.n], &r); err != nil {
				return int(r.off - off), err
			}
		}
		r = q
	}
	if end-off < int64(len(p)) {
		return int(end - off), io.EOF
	}
	return len(p), nil
}

// read reads one run into p, which is as long.
func (l *layer) read(p []byte, r *run) error {
	switch {
	case r.kind == zero || r.kind == hole && l.parent == nil:
		clear(p)
		return nil
	case r.kind == hole:
		return backing.ReadAt(l.parent, p, r.off)
	case r.kind == packed:
		return l.readPacked(p, r)
	}
	// The rest of a cluster that the file ends in is zeros; dataRun says why.
	in := min(int64(len(p)), max(l.f.Size()-int64(r.host), 0))
	clear(p[in:])
	if in == 0 {
		return nil
	}
	if n, err := l.f.ReadAt(p[:in], int64(r.host)); int64(n) < in {
		if err == nil || errors.Is(err, io.EOF) {
			err = disk.ErrChanged
		}
		return fmt.Errorf("%s: cannot read at offset %d: %w", l.f.Name(), int64(r.host)+int64(n), err)
	}
	return nil
}

// Unchanged is disk.ErrChanged when a file of the chain is not as it was opened.
func (l *layer) Unchanged() error {
	if err := l.f.Unchanged(); err != nil || l.parent == nil {
		return err
	}
	return l.parent.Unchanged()
}

// Close closes the files of the chain.
func (l *layer) Close() error {
	err := l.f.Close()
	if l.parent != nil {
		err = errors.Join(err, l.parent.Close())
	}
	return err
}

// Info describes the chain.
func (l *layer) Info() disk.Info {
	info := disk.Info{
		Format: "qcow2", Size: l.size, Allocated: -1, FileBytes: l.f.Size(), Cluster: l.cluster, Compressed: l.compressed(),
		Chain: []disk.Layer{{Path: l.f.Name(), Format: "qcow2", Size: l.size, Modified: l.f.Modified(), Reference: l.backing}},
	}
	for _, n := range l.notes {
		info.Notes = append(info.Notes, l.f.Name()+": "+n)
	}
	if l.parent != nil {
		below := l.parent.Info()
		info.FileBytes += below.FileBytes
		info.Compressed = info.Compressed || below.Compressed
		info.Chain = append(info.Chain, below.Chain...)
		info.Notes = append(info.Notes, below.Notes...)
	}
	return info
}

// findCompressed looks for a compressed cluster in this image: in its header's
// word, else in the first runs of its tables. Whoever compresses an image
// compresses nearly all of it.
func (l *layer) findCompressed() bool {
	if l.compression != compressionZlib {
		return true
	}
	const runs = 4096
	off := int64(0)
	for i := 0; i < runs && off < l.size; i++ {
		r, err := l.next(off, l.size)
		if err != nil {
			return false // Reading says so.
		}
		if r.kind == packed {
			return true
		}
		off += r.n
	}
	return false
}

package local

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"

	"ascend/internal/disk"
	"ascend/internal/target"
)

// archive is a machine in one OVA, a ustar archive (DSP0243 1.1.1 clause 5.3)
// of the descriptor, the manifest and the disks:
//
//	0              header of the descriptor, written last of all
//	512            descriptor, with spaces after it up to the room reserved
//	               header and text of the manifest, if there is one
//	               for each disk: header, file, zeros up to 512 bytes
//	               1,024 zeros, the end of the archive (POSIX.1-2001 pax, "ustar Interchange Format")
//
// The descriptor states the sizes of the files behind it and comes first all
// the same: room for the longest possible one is reserved. White space after
// the root element is allowed in XML (2.8, production 27).
//
// Where sizes are known beforehand (stored blocks) every disk has its window
// from the start and all are written at once. Otherwise each disk starts where
// the one before it ended.
//
// Until Finish the file starts with 512 zeros, which no reader takes for an
// archive with anything in it.
type archive struct {
	manifest bool
	known    bool  // the sizes of all disks
	reserve  int64 // bytes for the descriptor, whole tar blocks
	file     *os.File
}

const (
	tarBlock = 512
	// spare is room for a descriptor that grew: the job may be continued by a
	// newer version.
	spare = 4096
	// ustarMax is the largest file whose size fits the eleven octal digits of a
	// ustar header. Above, the size stands in base 256, GNU tar's extension,
	// which every reader of OVAs at hand takes (GNU tar, libarchive, 7-Zip,
	// Python, Go), and which leaves the header one block long.
	ustarMax = 8<<30 - 1

	keyReserve  = "reserve"  // of the OVA: bytes for the descriptor
	keyFinished = "finished" // of the OVA
)

func newArchive(o *target.Order, manifest string) (*archive, error) {
	if len(o.Disks) == 0 {
		return nil, errors.New("an OVA needs a disk")
	}
	known := o.Disks[0].Delivery.Mode == target.Ranges
	return &archive{known: known, manifest: manifest == manifestYes || manifest == manifestAuto && !known}, nil
}

func (a *archive) serial() bool            { return !a.known }
func (a *archive) path(s *session) string  { return s.name + ".ova" }
func (a *archive) entry(s *session) string { return a.path(s) }

func (a *archive) begin(ctx context.Context, s *session) error {
	longest, err := s.descriptor()
	if err != nil {
		return err
	}
	for _, l := range s.disks {
		l.entry = a.entry(s)
	}
	a.reserve = padded(int64(len(longest)) + spare)
	data := map[string]string{keyReserve: fmt.Sprint(a.reserve)}
	name := a.path(s)
	err = s.ledger.place(ctx, s.root, kindFile, name, name, data, func(hidden string) (*os.File, error) {
		return create(s.root, hidden, func(f *os.File) error { return a.lay(s, f) })
	})
	if err != nil {
		return err
	}
	if n, err := fmt.Sscan(s.ledger.data(name, keyReserve), &a.reserve); n != 1 || a.reserve < tarBlock || a.reserve%tarBlock != 0 {
		return fmt.Errorf("the job's record of %s is damaged: %w", name, errors.Join(err, target.ErrPermanent))
	}
	if a.file, err = openOwn(s.ledger, s.root, name, name); err != nil {
		return err
	}
	for _, l := range s.disks {
		l.file = a.file
	}
	if !a.known {
		return nil
	}
	return hasLength(a.file, a.end(s, len(s.disks))+2*tarBlock)
}

// lay gives a new archive its full length and the disks' headers, where sizes
// are known.
func (a *archive) lay(s *session, f *os.File) error {
	if !a.known {
		return nil
	}
	if err := f.Truncate(a.end(s, len(s.disks)) + 2*tarBlock); err != nil {
		return err
	}
	for _, l := range s.disks {
		if err := writeHeader(f, l.name, l.bytes(), a.end(s, l.i)); err != nil {
			return err
		}
	}
	return nil
}

// end is the offset behind the first n disks, where the header of the next
// stands.
func (a *archive) end(s *session, n int) int64 {
	off := tarBlock + a.reserve
	if a.manifest {
		off += tarBlock + padded(int64(len(a.manifestText(s, nil, nil))))
	}
	for _, l := range s.disks[:n] {
		off += tarBlock + padded(l.bytes())
	}
	return off
}

func (a *archive) start(s *session, i int) int64 { return a.end(s, i) + tarBlock }

// landed writes the disk's header when its size was not known before.
func (a *archive) landed(_ context.Context, s *session, i int, n int64) error {
	if a.known {
		return nil
	}
	if err := writeHeader(a.file, s.disks[i].name, n, a.end(s, i)); err != nil {
		return writeError(a.file.Name(), err)
	}
	return nil
}

// manifestText is the manifest, whose length does not depend on the digests.
func (a *archive) manifestText(s *session, descriptor []byte, sums [][sha256.Size]byte) string {
	text := digestLine(s.base+".ovf", sha256.Sum256(descriptor))
	for i, l := range s.disks {
		var sum [sha256.Size]byte
		if i < len(sums) {
			sum = sums[i]
		}
		text += digestLine(l.name, sum)
	}
	return text
}

func (a *archive) finish(ctx context.Context, s *session) error {
	entry := a.entry(s)
	if err := stillThere(s.ledger, s.root, entry, a.path(s)); err != nil {
		return err
	}
	if s.ledger.data(entry, keyFinished) != "" {
		return nil
	}
	descriptor, err := s.descriptor()
	if err != nil {
		return err
	}
	if int64(len(descriptor)) > a.reserve {
		return fmt.Errorf("the descriptor has %d bytes and room is for %d: %w", len(descriptor), a.reserve, target.ErrPermanent)
	}
	descriptor = append(descriptor, bytes.Repeat([]byte{' '}, int(a.reserve)-len(descriptor))...)
	descriptor[len(descriptor)-1] = '\n'
	if err := a.writeText(ctx, s, descriptor); err != nil {
		return err
	}
	if err := a.file.Truncate(a.end(s, len(s.disks)) + 2*tarBlock); err != nil {
		return writeError(a.file.Name(), err)
	}
	if err := dataSync(a.file); err != nil {
		return err
	}
	if err := writeHeader(a.file, s.base+".ovf", a.reserve, 0); err != nil {
		return writeError(a.file.Name(), err)
	}
	if err := dataSync(a.file); err != nil {
		return err
	}
	return s.ledger.keep(ctx, entry, map[string]string{keyFinished: "1"})
}

// writeText writes the descriptor and the manifest.
func (a *archive) writeText(ctx context.Context, s *session, descriptor []byte) error {
	if err := writeAt(ctx, a.file, descriptor, tarBlock); err != nil {
		return writeError(a.file.Name(), err)
	}
	if !a.manifest {
		return nil
	}
	var sums [][sha256.Size]byte
	for _, l := range s.disks {
		sum, err := s.digest(ctx, l, a.start(s, l.i))
		if err != nil {
			return err
		}
		sums = append(sums, sum)
	}
	text := []byte(a.manifestText(s, descriptor, sums))
	err := writeHeader(a.file, s.base+".mf", int64(len(text)), tarBlock+a.reserve)
	if err == nil {
		err = writeAt(ctx, a.file, text, 2*tarBlock+a.reserve)
	}
	if err != nil {
		return writeError(a.file.Name(), err)
	}
	return nil
}

func (a *archive) readBack(s *session, i int) (disk.Disk, error) {
	l := s.disks[i]
	return read(s.dir, a.path(s), l.order.Delivery.Format, func(f *disk.File) (*disk.File, error) {
		return f.Part(f.Name()+memberMark+l.name, a.start(s, i), l.bytes())
	})
}

func (a *archive) close() error {
	if a.file == nil {
		return nil
	}
	return a.file.Close()
}

// padded rounds up to whole tar blocks. It must not overflow for the largest
// size there is, which stands for one that is not known.
func padded(n int64) int64 { return n/tarBlock*tarBlock + (n%tarBlock+tarBlock-1)/tarBlock*tarBlock }

// writeHeader writes the header of a member of size bytes at off. Times are
// those of nobody's clock: the same machine gives the same OVA.
func writeHeader(f *os.File, name string, size, off int64) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if size > ustarMax {
		h.Format = tar.FormatGNU
	}
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return fmt.Errorf("cannot make the header of %s: %w", name, err)
	}
	if b.Len() != tarBlock {
		return fmt.Errorf("the header of %s has %d bytes", name, b.Len())
	}
	_, err := f.WriteAt(b.Bytes(), off)
	return err
}

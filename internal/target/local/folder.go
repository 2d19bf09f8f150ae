package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"ascend/internal/disk"
	"ascend/internal/target"
)

// folder is a machine in a folder of its own.
type folder struct {
	manifest string   // the option
	root     *os.Root // the machine's folder
	disks    []*landing
}

func (*folder) serial() bool                                       { return false }
func (*folder) start(*session, int) int64                          { return 0 }
func (*folder) landed(context.Context, *session, int, int64) error { return nil }
func (*folder) path(s *session) string                             { return s.name }

// begin makes the folder and a file for each disk: of its full length, and
// empty, where the length is known.
func (p *folder) begin(ctx context.Context, s *session) error {
	err := s.ledger.place(ctx, s.root, kindFolder, s.name, s.name, nil, func(hidden string) (*os.File, error) {
		if err := s.root.Mkdir(hidden, folderMode); err != nil {
			return nil, permanent(err)
		}
		return s.root.Open(hidden)
	})
	if err != nil {
		return err
	}
	if p.root, err = openOwnFolder(s.ledger, s.root, s.name); err != nil {
		return err
	}
	for _, l := range s.disks {
		l.entry = s.name + "/" + l.name
		size := max(l.order.FileSize, 0)
		if l.order.Delivery.Mode == target.Ordered {
			size = 0
		}
		err := s.ledger.place(ctx, p.root, kindFile, l.entry, l.name, nil, func(hidden string) (*os.File, error) {
			return create(p.root, hidden, func(f *os.File) error { return f.Truncate(size) })
		})
		if err != nil {
			return err
		}
		if l.file, err = openOwn(s.ledger, p.root, l.entry, l.name); err != nil {
			return err
		}
		p.disks = append(p.disks, l)
		if l.order.Delivery.Mode == target.Ranges {
			if err := hasLength(l.file, size); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish describes the machine in files beside the disks.
func (p *folder) finish(ctx context.Context, s *session) error {
	if err := stillThere(s.ledger, s.root, s.name, s.name); err != nil {
		return err
	}
	for _, l := range s.disks {
		if err := stillThere(s.ledger, p.root, l.entry, l.name); err != nil {
			return err
		}
	}
	descriptor, err := s.descriptor()
	if err != nil {
		return err
	}
	machine, err := json.MarshalIndent(s.machine, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot describe the machine: %w", err)
	}
	if err := p.write(ctx, s, "vm.json", append(machine, '\n')); err != nil {
		return err
	}
	name := s.base + ".ovf"
	if p.wantsManifest(s) {
		manifest := digestLine(name, sha256.Sum256(descriptor))
		for _, l := range s.disks {
			sum, err := s.digest(ctx, l, 0)
			if err != nil {
				return err
			}
			manifest += digestLine(l.name, sum)
		}
		if err := p.write(ctx, s, s.base+".mf", []byte(manifest)); err != nil {
			return err
		}
	}
	return p.write(ctx, s, name, descriptor)
}

func (p *folder) wantsManifest(s *session) bool {
	for _, l := range s.disks {
		if p.manifest == manifestAuto && len(l.digest()) == 0 {
			return false
		}
	}
	return p.manifest != manifestNo
}

// write makes a file with these bytes, durably.
func (p *folder) write(ctx context.Context, s *session, name string, content []byte) error {
	return s.ledger.place(ctx, p.root, kindFile, s.name+"/"+name, name, nil, func(hidden string) (*os.File, error) {
		return create(p.root, hidden, func(f *os.File) error {
			_, err := io.Copy(f, bytes.NewReader(content))
			return err
		})
	})
}

func (p *folder) readBack(s *session, i int) (disk.Disk, error) {
	l := s.disks[i]
	return read(s.dir, filepath.Join(s.name, l.name), l.order.Delivery.Format, nil)
}

func (p *folder) close() error {
	var errs []error
	for _, l := range p.disks {
		errs = append(errs, l.file.Close())
	}
	if p.root != nil {
		errs = append(errs, p.root.Close())
	}
	return errors.Join(errs...)
}

// create makes a file that must not be there, has fill write it, and makes it
// durable.
func create(root *os.Root, name string, fill func(f *os.File) error) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, permanent(err)
	}
	if err := fill(f); err != nil {
		return nil, errors.Join(writeError(f.Name(), err), f.Close())
	}
	if err := f.Sync(); err != nil {
		return nil, errors.Join(writeError(f.Name(), err), f.Close())
	}
	return f, nil
}

// openOwnFolder opens a folder that this job made, and no other.
func openOwnFolder(l *ledger, root *os.Root, name string) (*os.Root, error) {
	dir, err := root.OpenRoot(name)
	if err != nil {
		return nil, permanent(err)
	}
	id, _, err := identityAt(dir, ".")
	if r, _ := l.find(name); err == nil && id != r.ID {
		err = replaced(root, name)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// hasLength asserts that a file has the length it was made with.
func hasLength(f *os.File, n int64) error {
	st, err := f.Stat()
	if err == nil && st.Size() != n {
		err = fmt.Errorf("%s has %d bytes, not %d: it was changed since this job made it: %w", f.Name(), st.Size(), n, target.ErrPermanent)
	}
	return err
}

// openOwn opens a file that this job made, and no other.
func openOwn(l *ledger, root *os.Root, entry, name string) (*os.File, error) {
	st, err := root.Lstat(name)
	if err != nil {
		return nil, permanent(err)
	}
	if !st.Mode().IsRegular() {
		return nil, replaced(root, name)
	}
	f, err := openSame(root, name, st, os.O_RDWR)
	if err != nil {
		return nil, permanent(err)
	}
	id, err := identity(f)
	if r, _ := l.find(entry); err == nil && id != r.ID {
		err = replaced(root, name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// stillThere asserts that what this job made is at its name: an open file can
// be written to long after somebody has removed it.
func stillThere(l *ledger, root *os.Root, entry, name string) error {
	id, _, err := identityAt(root, name)
	if err != nil {
		return permanent(err)
	}
	if r, _ := l.find(entry); id != r.ID {
		return replaced(root, name)
	}
	return nil
}

func replaced(root *os.Root, name string) error {
	return fmt.Errorf("%s was removed or replaced since this job made it; undo the job and start again: %w", filepath.Join(root.Name(), name), target.ErrPermanent)
}

// digest is the SHA-256 of a disk's file, which starts at start; it is read
// back when it is not known, and kept.
func (s *session) digest(ctx context.Context, l *landing, start int64) (sum [sha256.Size]byte, err error) {
	if known := l.digest(); len(known) == len(sum) {
		return [sha256.Size]byte(known), nil
	}
	h, r := sha256.New(), io.NewSectionReader(l.file, start, l.bytes())
	for {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		n, err := io.CopyN(h, r, pieceSize)
		if errors.Is(err, io.EOF) && n < pieceSize {
			break
		}
		if err != nil {
			return sum, fmt.Errorf("cannot read back %s: %w", l.name, err)
		}
	}
	h.Sum(sum[:0])
	if err := s.ledger.keep(ctx, l.entry, map[string]string{s.key(l, keySHA256): hex.EncodeToString(sum[:])}); err != nil {
		return sum, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum = sum[:]
	return sum, nil
}

func (l *landing) digest() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sum
}

// digestLine is one line of an OVF manifest (DSP0243 1.1.1 clause 5.1, with
// the algorithm of 2.0).
func digestLine(name string, sum [sha256.Size]byte) string {
	return fmt.Sprintf("SHA256(%s)= %x\n", name, sum)
}

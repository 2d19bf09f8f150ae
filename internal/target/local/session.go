package local

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/ovf"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// Job options and their values.
const (
	optionPackage  = "package"
	optionManifest = "manifest"

	packageFolder = "folder"
	packageOVA    = "ova"

	manifestAuto = "auto"
	manifestYes  = "yes"
	manifestNo   = "no"
)

// session is one restore under way. Uploads of different disks run in parallel.
type session struct {
	dir     string // the target's folder
	name    string // of the machine's folder or OVA, without ".ova"
	base    string // of the names of files
	order   *target.Order
	ledger  *ledger
	root    *os.Root // the target's folder
	pack    pack
	disks   []*landing
	machine *vm.Machine // as it is described, sizes as the guest sees them

	mu      sync.Mutex
	uploads []target.Upload // to be given up by Close
	closed  bool
}

// pack is how the parts stand in the folder.
type pack interface {
	// begin makes what uploads need and opens it. Idempotent.
	begin(ctx context.Context, s *session) error
	// start is the offset in the file at which disk i starts; called when all
	// disks before i have landed, where the pack is serial.
	start(s *session, i int) int64
	// serial tells that a disk can be written only when all before it have landed.
	serial() bool
	// landed is called when all n bytes of disk i are in the file.
	landed(ctx context.Context, s *session, i int, n int64) error
	// finish describes the machine. Idempotent.
	finish(ctx context.Context, s *session) error
	// path is the machine's path below the target's folder.
	path(s *session) string
	// readBack opens disk i.
	readBack(s *session, i int) (disk.Disk, error)
	close() error
}

// landing is where the file of one disk goes.
type landing struct {
	i     int
	order target.DiskOrder
	name  string   // of the file or the OVA's member
	entry string   // the recorded resource that holds the state
	file  *os.File // owned by the pack
	done  chan struct{}

	mu     sync.Mutex
	landed *target.Landed // when complete
	sum    []byte         // SHA-256 of the file, when known
}

func (s *session) key(l *landing, what string) string { return fmt.Sprintf("disk%d.%s", l.i+1, what) }

// Begin implements target.Target.
func (t *Target) Begin(ctx context.Context, o *target.Order, rec target.Recorder) (target.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := t.check(o)
	if err != nil {
		return nil, fmt.Errorf("cannot begin: %w: %w", target.ErrPermanent, err)
	}
	s := &session{
		dir: t.dir, name: safeName(o.Machine.Name), base: baseName(o.Machine.Name), order: o, pack: p, machine: o.Machine.Clone(),
	}
	for i, d := range o.Disks {
		s.machine.Disks[i].Size = d.Virtual
		s.disks = append(s.disks, &landing{
			i: i, order: d, done: make(chan struct{}),
			name: fmt.Sprintf("%s-disk%d.%s", s.base, i+1, d.Delivery.Format.Extension()),
		})
	}
	if _, err := s.descriptor(); err != nil {
		return nil, fmt.Errorf("%w: %w", target.ErrPermanent, err)
	}
	if s.ledger, err = openLedger(ctx, rec, o.Job); err != nil {
		return nil, err
	}
	if s.root, err = os.OpenRoot(t.dir); err != nil {
		return nil, fmt.Errorf("cannot open the target's folder: %w", permanent(err))
	}
	if err := p.begin(ctx, s); err != nil {
		return nil, fmt.Errorf("cannot begin: %w", errors.Join(err, p.close(), s.root.Close()))
	}
	for _, l := range s.disks {
		s.recall(l)
	}
	return s, nil
}

// check refuses an order that cannot be carried out, before anything is made.
func (t *Target) check(o *target.Order) (pack, error) {
	switch {
	case o == nil || o.Machine == nil || o.Job == "":
		return nil, errors.New("the order names no job or no machine")
	case len(o.Disks) != len(o.Machine.Disks):
		return nil, fmt.Errorf("the order has %d disks and its machine %d", len(o.Disks), len(o.Machine.Disks))
	}
	want, manifest := o.Options[optionPackage], o.Options[optionManifest]
	for name := range o.Options {
		if name != optionPackage && name != optionManifest {
			return nil, fmt.Errorf("unknown option %q", name)
		}
	}
	if want != "" && want != packageFolder && want != packageOVA {
		return nil, fmt.Errorf("option package is %q: use %s or %s", want, packageFolder, packageOVA)
	}
	if manifest == "" {
		manifest = manifestAuto
	}
	if !slices.Contains([]string{manifestAuto, manifestYes, manifestNo}, manifest) {
		return nil, fmt.Errorf("option manifest is %q: use %s, %s or %s", manifest, manifestAuto, manifestYes, manifestNo)
	}
	path := PathFolder
	if want == packageOVA || want == "" && len(o.Disks) > 0 && o.Disks[0].Delivery.Path == PathOVA {
		path = PathOVA
	}
	for i, d := range o.Disks {
		if err := t.takes(d, path); err != nil {
			return nil, fmt.Errorf("disk %d: %w", i, err)
		}
		if path == PathOVA && d.Delivery.Mode != o.Disks[0].Delivery.Mode {
			return nil, errors.New("the disks of an OVA must be delivered in one mode")
		}
	}
	if path == PathOVA {
		return newArchive(o, manifest)
	}
	return &folder{manifest: manifest}, nil
}

// takes tells whether a disk can be delivered as ordered.
func (t *Target) takes(d target.DiskOrder, path string) error {
	if !slices.ContainsFunc(t.deliveries, func(c target.Delivery) bool {
		return sameFormat(c.Format, d.Delivery.Format) && c.Mode == d.Delivery.Mode && c.Path == d.Delivery.Path
	}) {
		return fmt.Errorf("a delivery of %s as %s by %q is not offered", d.Delivery.Format, d.Delivery.Mode, d.Delivery.Path)
	}
	switch {
	case d.Delivery.Path != path:
		return fmt.Errorf("it is to be delivered by %q and the package is one of %q", d.Delivery.Path, path)
	case d.Delivery.Mode == target.Ranges && d.FileSize < 0:
		return errors.New("the size of its file is not known")
	case d.Virtual <= 0:
		return errors.New("its size is not known")
	}
	return nil
}

func sameFormat(a, b image.Format) bool {
	x, err := a.Info()
	y, err2 := b.Info()
	return err == nil && err2 == nil && x.Format == y.Format
}

// descriptor is the machine's OVF descriptor with the sizes of the files that
// have landed; those that have not count with the largest possible size.
func (s *session) descriptor() ([]byte, error) {
	var files []ovf.File
	for _, l := range s.disks {
		f := l.order.Delivery.Format
		info, err := f.Info()
		if err != nil {
			return nil, err
		}
		files = append(files, ovf.File{
			Name: l.name, Size: l.bytes(), Format: info.Format.Name, Subformat: info.Format.Subformat, Disk: l.i,
		})
	}
	return ovf.Marshal(s.machine, files)
}

// Upload implements target.Session. In an OVA whose sizes are not known
// beforehand a disk waits here until the one before it has landed.
func (s *session) Upload(ctx context.Context, i int) (target.Upload, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if i < 0 || i >= len(s.disks) {
		return nil, fmt.Errorf("no disk %d in a machine with %d: %w", i, len(s.disks), target.ErrPermanent)
	}
	if s.pack.serial() {
		for _, before := range s.disks[:i] {
			select {
			case <-before.done:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	l := s.disks[i]
	var up target.Upload
	if l.order.Delivery.Mode == target.Ranges {
		up = &rangeUpload{s: s, l: l, start: s.pack.start(s, i), size: l.order.FileSize}
	} else {
		up = newStreamUpload(s, l, s.pack.start(s, i))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(os.ErrClosed, up.Abort())
	}
	s.uploads = append(s.uploads, up)
	return up, nil
}

// Finish implements target.Session.
func (s *session) Finish(ctx context.Context) (*target.VM, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, l := range s.disks {
		if l.complete() == nil {
			return nil, fmt.Errorf("cannot finish: disk %d (%s) has not landed", l.i, l.name)
		}
	}
	if err := s.pack.finish(ctx, s); err != nil {
		return nil, fmt.Errorf("cannot finish: %w", err)
	}
	path := filepath.Join(s.dir, s.pack.path(s))
	return &target.VM{ID: path, Name: s.name, URL: (&url.URL{Scheme: "file", Path: path}).String()}, nil
}

// PowerOn implements target.Session: files run nowhere.
func (s *session) PowerOn(context.Context, *target.VM) error {
	return fmt.Errorf("cannot power on %s: a local export cannot be powered on: %w", s.name, target.ErrPermanent)
}

// ReadBack implements target.ReadBacker.
func (s *session) ReadBack(ctx context.Context, i int) (disk.Disk, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if i < 0 || i >= len(s.disks) || s.disks[i].complete() == nil {
		return nil, fmt.Errorf("cannot read back: disk %d has not landed", i)
	}
	d, err := s.pack.readBack(s, i)
	if err != nil {
		return nil, fmt.Errorf("cannot read back disk %d: %w", i, err)
	}
	return d, nil
}

// Close implements target.Session.
func (s *session) Close(context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	uploads := s.uploads
	s.mu.Unlock()
	var errs []error
	for _, up := range uploads {
		errs = append(errs, up.Abort())
	}
	return errors.Join(append(errs, s.pack.close(), s.root.Close())...)
}

// complete is what landed, nil while it has not.
func (l *landing) complete() *target.Landed {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.landed
}

// bytes is the length of the file: of what landed, else as ordered, else the
// largest number there is.
func (l *landing) bytes() int64 {
	if done := l.complete(); done != nil {
		return done.Bytes
	}
	if l.order.FileSize >= 0 {
		return l.order.FileSize
	}
	return 1<<63 - 1
}

// Package convert makes one image file from another: the target's bytes are
// computed while they are written, in parallel, nothing is staged, and a killed
// conversion goes on where it stopped.
package convert

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/time/rate"

	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/transfer"
	"ascend/internal/transfer/digest"
	"ascend/internal/transfer/journal"
)

// Options of a conversion.
type Options struct {
	Source       string // path of the image
	SourceFormat string // "": told from the signature
	RawBacking   bool   // see open.Options
	Root         string // folder that references may not leave; "": the source's own
	Dest         string // path of the file to make; replaced when it exists
	Format       image.Format
	Image        image.Options
	ZeroScan     string // auto, always, never: look for zeros before the layout is made
	NoOverwrite  bool   // fail when Dest exists and is not a broken conversion of ours
	Verify       bool   // read the result back and compare digests
	Workers      int
	Limit        *rate.Limiter
	NoDigest     bool
	Observe      func(phase string, m *transfer.Meter) // told when a phase begins; may be nil
}

// Result says what was made.
type Result struct {
	Digest   digest.Sum   `json:"digest,omitzero"`
	Format   image.Format `json:"format"`
	Virtual  int64        `json:"virtual"`
	Data     int64        `json:"data"`  // allocated bytes of the disk
	Bytes    int64        `json:"bytes"` // length of the file
	Sent     int64        `json:"sent"`  // bytes written by this process
	Resumed  bool         `json:"resumed,omitempty"`
	Verified bool         `json:"verified,omitempty"`
}

// OpenSource opens an image by its path: its folder, or root when given, is
// what references may not leave. The path is the user's own and may be a link;
// what the image refers to may not lead out by one.
func OpenSource(path, root string, o open.Options) (disk.Image, error) {
	path, root, err := rooted(path, root)
	if err != nil {
		return nil, err
	}
	name, err := filepath.Rel(root, path)
	if err != nil {
		return nil, err
	}
	if st, err := os.Stat(path); err == nil && st.Mode()&fs.ModeDevice != 0 {
		// A device is named by the user, not by an image; it has no references.
		f, err := disk.OpenDevice(path)
		if err != nil {
			return nil, err
		}
		if o.Format == "" {
			o.Format = "raw"
		}
		return open.File(nil, f, o)
	}
	r, err := disk.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return open.With(r, name, o)
}

// rooted is the path of an image and the folder that its references may not
// leave: root, or the folder of the file that a link leads to.
func rooted(path, root string) (string, string, error) {
	if root != "" {
		_, err := os.Stat(path)
		return path, root, err
	}
	file, err := filepath.EvalSymlinks(path)
	return file, filepath.Dir(file), err
}

// Run converts. On an error or a cancelled context what was written stays, with
// a journal beside it (DEST.ascend-journal), for the next Run to go on with;
// Discard removes both.
func Run(ctx context.Context, o Options) (*Result, error) {
	img, err := OpenSource(o.Source, o.Root, open.Options{Format: o.SourceFormat, RawBacking: o.RawBacking})
	if err != nil {
		return nil, err
	}
	defer img.Close()
	c := &conversion{o: o, img: img}
	if err := c.guard(); err != nil {
		return nil, err
	}
	if err := c.begin(ctx); err != nil {
		return nil, err
	}
	defer c.jn.Close()
	res, err := c.write(ctx)
	if err != nil {
		return nil, err
	}
	if err := img.Unchanged(); err != nil {
		return nil, err
	}
	if o.Verify {
		if err := c.verify(ctx, res); err != nil {
			return nil, err
		}
	}
	return res, c.jn.Remove()
}

// Discard removes a broken conversion's file and journal; it touches nothing
// when there is no journal.
func Discard(dest string) error {
	_, err := os.Stat(JournalPath(dest))
	if err == nil {
		err = errors.Join(ignoreMissing(os.Remove(dest)), os.Remove(JournalPath(dest)))
	}
	return ignoreMissing(err)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// JournalPath is where the journal of a conversion stands.
func JournalPath(dest string) string { return dest + ".ascend-journal" }

type conversion struct {
	o       Options
	img     disk.Image
	jn      *journal.Journal
	resumed bool
}

// guard refuses to write over the source, and over what is not a file.
func (c *conversion) guard() error {
	st, err := os.Stat(c.o.Dest)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Dir(c.o.Dest)); err != nil {
			return fmt.Errorf("cannot write %s: %w", c.o.Dest, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("cannot write %s: not a regular file", c.o.Dest)
	}
	_, root, err := rooted(c.o.Source, c.o.Root)
	if err != nil {
		return err
	}
	for _, l := range c.img.Info().Chain {
		if src, err := os.Stat(filepath.Join(root, l.Path)); err == nil && os.SameFile(src, st) {
			return fmt.Errorf("cannot write %s: it is part of the source", c.o.Dest)
		}
	}
	return nil
}

// begin continues the journal of a conversion of the same source to the same
// format, or starts a new one.
func (c *conversion) begin(ctx context.Context) error {
	key := c.key()
	path := JournalPath(c.o.Dest)
	_, destErr := os.Stat(c.o.Dest)
	if destErr == nil {
		jn, err := journal.Load(path, key)
		if err == nil {
			c.jn, c.resumed = jn, true
			return nil
		}
		if !errors.Is(err, journal.ErrNone) {
			return err
		}
		if c.o.NoOverwrite {
			return fmt.Errorf("cannot write %s: it exists", c.o.Dest)
		}
	}
	m, err := c.readMap(ctx)
	if err != nil {
		return err
	}
	if err := c.fits(m); err != nil { // before any byte, and before the old file goes
		return err
	}
	if c.jn, err = journal.Create(path, key, m); err != nil {
		return err
	}
	f, err := os.OpenFile(c.o.Dest, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot write %s: %w", c.o.Dest, err), c.jn.Remove())
	}
	return nil
}

func (c *conversion) key() string {
	h := sha256.New()
	abs, _ := filepath.Abs(c.o.Source)
	fmt.Fprintf(h, "%s %s %+v %s\n", abs, c.o.Format, c.o.Image, c.o.ZeroScan)
	for _, l := range c.img.Info().Chain {
		fmt.Fprintf(h, "%q %s %d %d\n", l.Path, l.Format, l.Size, l.Modified.UnixNano())
	}
	return fmt.Sprintf("convert %x", h.Sum(nil))
}

func (c *conversion) observe(phase string) *transfer.Meter {
	m := transfer.NewMeter()
	if c.o.Observe != nil {
		c.o.Observe(phase, m)
	}
	return m
}

// readMap asks the image what is allocated and, where the image says that all
// of it is and the target's layout depends on it, looks for zeros.
func (c *conversion) readMap(ctx context.Context) (*disk.Map, error) {
	m, err := disk.ReadMap(ctx, c.img)
	if err != nil {
		return nil, err
	}
	scan := c.o.ZeroScan == "always"
	if c.o.ZeroScan == "" || c.o.ZeroScan == "auto" {
		scan = m.Count() == m.Len() && !c.o.Format.Ordered() && !flat(c.o.Format)
	}
	if !scan {
		return m, nil
	}
	src := image.Source{Disk: c.img, Map: m}
	return transfer.FindZeros(ctx, src, transfer.Options{Workers: c.o.Workers, Meter: c.observe("finding zeros")})
}

func (c *conversion) fits(m *disk.Map) error {
	src := image.Source{Disk: c.img, Map: m}
	var err error
	if c.o.Format.Ordered() {
		_, err = image.NewStream(src, c.o.Format, c.o.Image)
	} else {
		_, err = image.New(src, c.o.Format, c.o.Image)
	}
	return err
}

func (c *conversion) write(ctx context.Context) (*Result, error) {
	src := image.Source{Disk: c.img, Map: c.jn.Map()}
	f, err := os.OpenFile(c.o.Dest, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", c.o.Dest, err)
	}
	sink := &file{f: f}
	workers := c.o.Workers
	if workers == 0 && !c.o.Format.Ordered() {
		// Writes to one file wait for each other: one worker more than there are
		// processors keeps them busy, more only wait.
		workers = runtime.GOMAXPROCS(0) + 1
	}
	to := transfer.Options{Workers: workers, Limit: c.o.Limit, NoDigest: c.o.NoDigest, Meter: c.observe("converting"), MaxRange: writeSize}
	var tr *transfer.Result
	if c.o.Format.Ordered() {
		tr, err = c.writeStream(ctx, src, sink, to)
	} else {
		tr, err = c.writeRanges(ctx, src, sink, to)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return &Result{
		Digest: tr.Digest, Format: c.o.Format, Virtual: src.Size(), Data: src.Map.Bytes(), Bytes: tr.Bytes, Sent: tr.Sent, Resumed: c.resumed,
	}, nil
}

func (c *conversion) writeRanges(ctx context.Context, src image.Source, sink *file, to transfer.Options) (*transfer.Result, error) {
	f, err := image.New(src, c.o.Format, c.o.Image)
	if err != nil {
		return nil, err
	}
	// The full length first: what is not written is a hole, and reads as zeros.
	if err := sink.f.Truncate(f.Size()); err != nil {
		return nil, fmt.Errorf("cannot set the file's length: %w", err)
	}
	return transfer.Ranges(ctx, f, sink, c.jn, to)
}

func (c *conversion) writeStream(ctx context.Context, src image.Source, sink *file, to transfer.Options) (*transfer.Result, error) {
	s, err := image.NewStream(src, c.o.Format, c.o.Image)
	if err != nil {
		return nil, err
	}
	return transfer.Stream(ctx, src, s, sink, c.jn, to)
}

func (c *conversion) verify(ctx context.Context, res *Result) error {
	format := c.o.Format.Name
	img, err := OpenSource(c.o.Dest, "", open.Options{Format: format})
	if err != nil {
		return fmt.Errorf("cannot read back: %w", err)
	}
	defer img.Close()
	m, err := disk.ReadMap(ctx, img)
	if err != nil {
		return err
	}
	sum, err := transfer.Scan(ctx, image.Source{Disk: img, Map: m}, transfer.Options{Meter: c.observe("verifying")})
	if err != nil {
		return err
	}
	if img.Size() == res.Virtual && sum != res.Digest {
		return fmt.Errorf("%w: the file that was written reads as %v and the source as %v", target.ErrDigest, sum, res.Digest)
	}
	res.Verified = img.Size() == res.Virtual
	return nil
}

// flat tells whether a format keeps every byte at its place, so that zeros cost
// nothing without being known before.
func flat(f image.Format) bool { return f.Name == "raw" || f.Subformat == "fixed" }

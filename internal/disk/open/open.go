// Package open opens a disk image of any readable format with its whole chain.
// It is the one place that knows all formats' readers and the rules by which a
// file's format is told and references between files are followed.
package open

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"ascend/internal/disk"
	"ascend/internal/disk/nbd"
	"ascend/internal/disk/qcow2"
	"ascend/internal/disk/raw"
	"ascend/internal/disk/vhd"
	"ascend/internal/disk/vhdx"
	"ascend/internal/disk/vmdk"
)

// Formats lists the readable formats by name.
func Formats() []string {
	return append([]string{"qcow2", "vmdk", "vhd", "vhdx", "raw"}, nbd.Formats...)
}

// The last two are read through a confined qemu-nbd.
var drivers = map[string]disk.Driver{
	"qcow2":     qcow2.Open,
	"vmdk":      vmdk.Open,
	"vhd":       vhd.Open,
	"vhdx":      vhdx.Open,
	"raw":       raw.Open,
	"vdi":       nbd.Driver("vdi"),
	"parallels": nbd.Driver("parallels"),
}

// Options say how an image is opened. The zero value is the safe default.
type Options struct {
	// Format is the top layer's format; "" tells it from the signature, and
	// refuses a file whose name says something else: a guest can write a qcow2
	// header into its raw disk, and reading that as qcow2 would follow it.
	Format string
	// RawBacking takes a backing file without a known signature as raw where the
	// layer above does not state a format.
	RawBacking bool
}

// Disk opens the image name, relative to root, and its chain. Format is as in
// Options. The result holds no reference to root.
func Disk(root *disk.Root, name, format string) (disk.Image, error) {
	return With(root, name, Options{Format: format})
}

// With opens the image name, relative to root, and its chain.
func With(root *disk.Root, name string, o Options) (disk.Image, error) {
	c := &chain{root: root, opts: o}
	f, err := root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot open disk: %w", err)
	}
	img, err := c.open(f, o.Format, true)
	if err != nil {
		return nil, fmt.Errorf("cannot open disk: %w", err)
	}
	return img, nil
}

// File opens an image that is a part of another file (a disk inside an OVA).
// It owns f. References are resolved from f's name; without a root there are none.
func File(root *disk.Root, f *disk.File, o Options) (disk.Image, error) {
	c := &chain{root: root, opts: o}
	img, err := c.open(f, o.Format, true)
	if err != nil {
		return nil, fmt.Errorf("cannot open disk: %w", err)
	}
	return img, nil
}

// chain follows references from one top image. Each layer gets its own chain
// value, which knows the files above it.
type chain struct {
	root  *disk.Root
	opts  Options
	above []string // names of the layers above, the top first
}

func (c *chain) open(f *disk.File, format string, top bool) (disk.Image, error) {
	format, err := c.format(f, format, top)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	next := &chain{root: c.root, opts: c.opts, above: append(slices.Clone(c.above), f.Name())}
	env := &disk.Env{Root: c.root, Parent: next.parent, Part: next.part}
	img, err := drivers[format](env, f)
	if err != nil {
		return nil, err
	}
	if img.Size() > disk.MaxSize {
		img.Close()
		return nil, fmt.Errorf("%s: virtual size of %d bytes is above the limit of %d: %w", f.Name(), img.Size(), int64(disk.MaxSize), disk.ErrUnsupported)
	}
	return img, nil
}

func (c *chain) parent(from, ref, format string) (disk.Image, error) {
	if len(c.above) >= disk.MaxChain {
		return nil, fmt.Errorf("%s: the chain has more than %d files: %w", from, disk.MaxChain, disk.ErrCorrupt)
	}
	if c.root == nil {
		return nil, errAlone(from)
	}
	name, err := c.root.Resolve(from, ref)
	if err != nil {
		return nil, err
	}
	f, err := c.root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: cannot open backing file: %w", from, err)
	}
	for _, a := range c.above {
		same, err := f.Same(c.root, a)
		if err != nil || same {
			f.Close()
			if err == nil {
				err = fmt.Errorf("%s: the backing chain comes back to %s: %w", from, a, disk.ErrCorrupt)
			}
			return nil, err
		}
	}
	return c.open(f, format, false)
}

// errAlone: an image that was opened without a root refers to another file.
func errAlone(from string) error {
	return fmt.Errorf("%s refers to another file: %w", from, disk.ErrUnsupported)
}

func (c *chain) part(from, ref string) (*disk.File, error) {
	if c.root == nil {
		return nil, errAlone(from)
	}
	name, err := c.root.Resolve(from, ref)
	if err != nil {
		return nil, err
	}
	return c.root.Open(name)
}

func (c *chain) format(f *disk.File, format string, top bool) (string, error) {
	format = strings.ToLower(format)
	if format == "vpc" {
		format = "vhd"
	}
	if format != "" {
		if drivers[format] == nil {
			return "", fmt.Errorf("format %.40q is not one of %v: %w", format, Formats(), disk.ErrUnsupported)
		}
		return format, nil
	}
	found, err := Detect(f)
	if err != nil {
		return "", err
	}
	if !top {
		if found == "raw" && !c.opts.RawBacking {
			return "", fmt.Errorf("a backing file without a known signature is only read as raw when that is said (--raw-backing): %w", disk.ErrUnsupported)
		}
		return found, nil
	}
	if says := byName(f.Name()); says == "raw" && found != "raw" {
		return "", fmt.Errorf("the name says raw and the content starts like %s; say which it is with --source-format: %w", found, disk.ErrFormat)
	} else if says != "" && says != "raw" && found == "raw" {
		return "", fmt.Errorf("the name says %s and the content does not; say which it is with --source-format: %w", says, disk.ErrFormat)
	}
	return found, nil
}

// byName is the format that a file's name claims; "" when it claims none.
func byName(name string) string {
	switch strings.ToLower(path.Ext(name)) {
	case ".raw", ".img", ".bin", ".dd":
		return "raw"
	case ".qcow2":
		return "qcow2"
	case ".vhdx", ".avhdx":
		return "vhdx"
	case ".vhd", ".avhd":
		return "vhd"
	case ".vdi":
		return "vdi"
	case ".vmdk":
		if strings.HasSuffix(strings.ToLower(name), "-flat.vmdk") {
			return "raw"
		}
		return "vmdk"
	}
	return ""
}

// Detect tells a file's format from its signatures; what has none is "raw".
// Formats that are known and not read are ErrUnsupported.
func Detect(f *disk.File) (string, error) {
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		if len(head) >= 8 && binary.BigEndian.Uint32(head[4:]) == 1 {
			return "", fmt.Errorf("qcow version 1: %w", disk.ErrUnsupported)
		}
		return "qcow2", nil
	case bytes.HasPrefix(head, []byte("KDMV")), bytes.HasPrefix(head, []byte("COWD")), descriptor(head):
		return "vmdk", nil
	case bytes.HasPrefix(head, []byte("vhdxfile")):
		return "vhdx", nil
	case bytes.HasPrefix(head, []byte("conectix")):
		return "vhd", nil
	case len(head) >= 0x44 && binary.LittleEndian.Uint32(head[0x40:]) == 0xbeda107f:
		return "vdi", nil
	case bytes.HasPrefix(head, []byte("WithoutFreeSpace")), bytes.HasPrefix(head, []byte("WithouFreSpacExt")):
		return "parallels", nil
	}
	// A fixed VHD shows only by its footer: the last 512 bytes, or 511 in images
	// of Virtual PC before 2004 (VHD specification 1.0, "Hard Disk Footer Format").
	for _, back := range []int64{512, 511} {
		foot := make([]byte, back)
		if f.Size() < back {
			break
		}
		if _, err := f.ReadAt(foot, f.Size()-back); err != nil {
			return "", err
		}
		if bytes.HasPrefix(foot, []byte("conectix")) && footerSum(foot) {
			return "vhd", nil
		}
	}
	return "raw", nil
}

func footerSum(p []byte) bool {
	var sum uint32
	for i, b := range p {
		if i < 64 || i >= 68 {
			sum += uint32(b)
		}
	}
	return ^sum == binary.BigEndian.Uint32(p[64:])
}

func descriptor(head []byte) bool {
	head = bytes.TrimPrefix(head, []byte("\xef\xbb\xbf"))
	line, _, _ := bytes.Cut(bytes.TrimLeft(head, " \t\r\n"), []byte("\n"))
	return strings.EqualFold(strings.TrimSpace(string(line)), "# Disk DescriptorFile")
}

// Measure fills Info.Allocated from the image's map.
func Measure(ctx context.Context, img disk.Image) (disk.Info, *disk.Map, error) {
	info := img.Info()
	m, err := disk.ReadMap(ctx, img)
	if err != nil {
		return info, nil, err
	}
	info.Allocated = m.Bytes()
	return info, m, nil
}

package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"ascend/internal/disk"
	"ascend/internal/qemu"
)

// Formats are the formats read this way, by QEMU's names.
var Formats = []string{"vdi", "parallels"}

// connections is the number of parallel reads; more bring nothing on a socket.
const connections = 4

// maxRead is the largest single read: larger requests make qemu-nbd slower.
const maxRead = 256 << 10

type image struct {
	f      *disk.File
	format string
	srv    *qemu.Server
	conns  chan *conn // a nil element is dialled when it is taken
	size   int64
}

// Driver is the driver of one of Formats. The image may refer to no other file:
// the server is given this one alone.
func Driver(format string) disk.Driver {
	return func(env *disk.Env, f *disk.File) (disk.Image, error) {
		img, err := open(env, f, format)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		return img, nil
	}
}

func open(env *disk.Env, f *disk.File, format string) (*image, error) {
	if env.Root == nil {
		return nil, fmt.Errorf("%s is read from files only: %w", format, disk.ErrUnsupported)
	}
	path, err := filepath.Abs(filepath.Join(env.Root.Path(), f.Name()))
	if err != nil {
		return nil, err
	}
	if same, err := f.Same(env.Root, f.Name()); err != nil || !same {
		return nil, fmt.Errorf("the file was replaced: %w", errors.Join(err, disk.ErrChanged))
	}
	if path, err = filepath.EvalSymlinks(path); err != nil { // the file itself, which the root has admitted
		return nil, err
	}
	ctx := context.Background()
	node := map[string]any{"driver": format, "read-only": true, "file": map[string]any{"driver": "file", "filename": path, "read-only": true}}
	srv, err := qemu.ServeReadOnly(ctx, node, []string{path})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", disk.ErrCorrupt, err)
	}
	img := &image{f: f, format: format, srv: srv, conns: make(chan *conn, connections)}
	c, err := dial(ctx, srv.Socket, false)
	if err != nil {
		srv.Close()
		return nil, err
	}
	if img.size = c.size; img.size < 0 || img.size > disk.MaxSize {
		c.close()
		srv.Close()
		return nil, fmt.Errorf("virtual size of %d bytes: %w", img.size, disk.ErrCorrupt)
	}
	img.conns <- c
	for range connections - 1 {
		img.conns <- nil
	}
	return img, nil
}

func (i *image) Size() int64 { return i.size }

func (i *image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if off >= i.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), i.size-off))
	c := <-i.conns
	var err error
	if c == nil {
		c, err = dial(context.Background(), i.srv.Socket, false)
	}
	for done := 0; err == nil && done < n; {
		k := min(n-done, maxRead)
		err = c.read(p[done:done+k], off+int64(done))
		done += k
	}
	if err != nil {
		if c != nil {
			c.c.Close() // its state is not known: the next reader dials anew
		}
		i.conns <- nil
		return 0, fmt.Errorf("%s: cannot read at %d: %w: %s", i.f.Name(), off, err, i.srv.Err())
	}
	i.conns <- c
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (i *image) Extents(ctx context.Context, off, n int64, yield func(disk.Extent) error) error {
	end := min(off+n, i.size)
	if off >= end {
		return nil
	}
	c, err := dial(ctx, i.srv.Socket, true)
	if err != nil {
		return err
	}
	defer c.close()
	for off < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		ask := uint32(min(end-off, 1<<30))
		var got []disk.Extent
		at := off
		err := c.status(off, ask, func(n int64, data bool) {
			if l := min(n, end-at); l > 0 {
				got = append(got, disk.Extent{Off: at, Len: l, Data: data})
				at += l
			}
		})
		if err != nil {
			return fmt.Errorf("%s: %w", i.f.Name(), err)
		}
		if len(got) == 0 {
			return fmt.Errorf("%s: qemu-nbd tells no block status at %d", i.f.Name(), off)
		}
		for _, e := range got {
			if err := yield(e); err != nil {
				return err
			}
		}
		off = at
	}
	return nil
}

func (i *image) Unchanged() error { return i.f.Unchanged() }

func (i *image) Info() disk.Info {
	return disk.Info{
		Format: i.format, Size: i.size, Allocated: -1, FileBytes: i.f.Size(),
		Chain: []disk.Layer{{Path: i.f.Name(), Format: i.format, Size: i.f.Size(), Modified: i.f.Modified()}},
		Notes: []string{"read through a confined qemu-nbd, which is slower than the formats that are read directly"},
	}
}

func (i *image) Close() error {
	for range connections {
		if c := <-i.conns; c != nil {
			c.close()
		}
	}
	return errors.Join(i.srv.Close(), i.f.Close())
}

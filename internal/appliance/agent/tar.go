//go:build linux

package agent

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ascend/internal/appliance/agent/pax"
	"ascend/internal/appliance/proto"
)

// tarring archives one tree. Memory does not grow with it but for the names of
// files that have several.
type tarring struct {
	a     *Agent
	id    int
	w     *proto.FrameWriter
	tw    *tar.Writer
	res   proto.TarResult
	links map[[2]uint64]string
	buf   []byte
	told  int64
}

func (a *Agent) tar(r *root, c *proto.Call) (*proto.TarResult, error) {
	port, free, err := a.port(c.Tar.Port)
	if err != nil {
		return nil, err
	}
	defer free()
	w := &proto.FrameWriter{W: port}
	t := &tarring{a: a, id: c.ID, w: w, tw: tar.NewWriter(w), links: map[[2]uint64]string{}, buf: make([]byte, 256<<10)}
	fd, err := r.open(c.Tar.Path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err == nil {
		unix.Close(fd)
		if p := path.Clean("/" + string(c.Tar.Path)); p == "/" {
			err = t.add(r.fd, ".", ".")
		} else {
			var dir int
			var base string
			if dir, base, err = r.parent(c.Tar.Path); err == nil {
				err = t.add(dir, base, base)
				unix.Close(dir)
			}
		}
	}
	if err == nil {
		err = t.tw.Close()
	}
	if err != nil {
		return nil, errors.Join(err, w.Fail(err))
	}
	return &t.res, w.Close()
}

// skip notes what cannot be read; the archive goes on, and the result says so.
func (t *tarring) skip(name string, err error) {
	if t.res.Skips++; len(t.res.Skipped) < 100 {
		t.res.Skipped = append(t.res.Skipped, strings.ToValidUTF8(fmt.Sprintf("%s: %v", name, err), "?"))
	}
}

// add archives an entry of a directory under name. Its error is the stream's.
func (t *tarring) add(dir int, base, name string) error {
	i, err := at(dir, base)
	if err != nil {
		t.skip(name, err)
		return nil
	}
	h := &tar.Header{
		Name: name, Mode: int64(i.Mode & 0o7777), Uid: int(i.UID), Gid: int(i.GID), ModTime: i.Time, Format: tar.FormatPAX,
		PAXRecords: map[string]string{},
	}
	var fd = -1
	switch i.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		fd, err = unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			var all map[string][]byte
			if all, err = xattrs(fd); err != nil {
				unix.Close(fd)
			}
			for k, v := range all {
				if !strings.ContainsRune(k, '=') {
					h.PAXRecords["SCHILY.xattr."+k] = string(v)
				}
			}
		}
		if err != nil {
			t.skip(name, err)
			return nil
		}
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(i.Target)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if i.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		var st unix.Stat_t
		if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.skip(name, err)
			return nil
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		t.skip(name, errors.New("a socket")) // tar has no such type
		return nil
	}
	f := (*os.File)(nil)
	if fd >= 0 {
		f = os.NewFile(uintptr(fd), name)
		defer f.Close()
	}
	t.res.Files++
	if i.Mode&unix.S_IFMT == unix.S_IFDIR {
		h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(name, "/")+"/"
		if err := pax.Header(t.tw, h); err != nil {
			return err
		}
		return t.children(f, name)
	}
	if i.Links > 1 && i.Mode&unix.S_IFMT == unix.S_IFREG {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil {
			key := [2]uint64{st.Dev, st.Ino}
			if first, ok := t.links[key]; ok {
				h.Typeflag, h.Linkname = tar.TypeLink, first
				return pax.Header(t.tw, h)
			}
			t.links[key] = name
		}
	}
	if f == nil {
		return pax.Header(t.tw, h)
	}
	return t.content(h, f, i.Size)
}

func (t *tarring) children(d *os.File, name string) error {
	for {
		names, err := d.Readdirnames(256)
		for _, n := range names {
			if err := t.add(int(d.Fd()), n, path.Join(name, n)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			t.skip(name, err)
			return nil
		}
	}
}

// content writes a file; one with holes as GNU's sparse format 1.0 (GNU tar
// manual, "PAX Format, Version 1.0"), which is a map before the data.
func (t *tarring) content(h *tar.Header, f *os.File, size int64) error {
	runs, data := dataRuns(f, size)
	if data == size {
		runs = []pax.Run{{Off: 0, Len: size}}
	}
	h.Typeflag, h.Size = tar.TypeReg, data
	if data < size {
		if err := t.tw.Flush(); err != nil {
			return err
		}
		pad, err := pax.Sparse(t.w, h, size, runs)
		if err != nil {
			return err
		}
		defer func() { _, _ = t.w.Write(make([]byte, pad)) }() // a failed stream shows at the next write
	} else if err := pax.Header(t.tw, h); err != nil {
		return err
	}
	var into io.Writer = t.tw
	if data < size {
		into = t.w
	}
	for _, r := range runs {
		n, err := io.CopyBuffer(onlyWriter{into}, struct{ io.Reader }{io.NewSectionReader(f, r.Off, r.Len)}, t.buf)
		t.res.Bytes += n
		if err == nil && n < r.Len {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			// The header has promised the bytes: the archive ends here, as failed.
			return fmt.Errorf("cannot read %s: %w", f.Name(), err)
		}
		if t.res.Bytes-t.told >= 64<<20 {
			t.told = t.res.Bytes
			t.a.send(proto.Event{Kind: "progress", ID: t.id, Bytes: t.res.Bytes})
		}
	}
	return nil
}

// dataRuns lists where a file holds data; all of it where the file system
// cannot tell.
func dataRuns(f *os.File, size int64) (runs []pax.Run, data int64) {
	for off := int64(0); off < size; {
		d, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil || len(runs) > 1<<16 {
			return []pax.Run{{Off: 0, Len: size}}, size
		}
		e, err := unix.Seek(int(f.Fd()), d, unix.SEEK_HOLE)
		if err != nil || e <= d {
			return []pax.Run{{Off: 0, Len: size}}, size
		}
		e = min(e, size)
		runs = append(runs, pax.Run{Off: d, Len: e - d})
		data += e - d
		off = e
	}
	return runs, data
}

// untar unpacks; every name is resolved within the root.
func (a *Agent) untar(r *root, c *proto.Call) error {
	port, free, err := a.port(c.Untar.Port)
	if err != nil {
		return err
	}
	defer free()
	fr := &proto.FrameReader{R: port}
	defer fr.Drain()
	tr := tar.NewReader(fr)
	told, total := int64(0), int64(0)
	times := map[proto.Name]time.Time{} // of directories, set last
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot read the archive: %w", err)
		}
		name := proto.Name(path.Join("/", string(c.Untar.Path), h.Name))
		n, err := r.unpack(tr, h, name, path.Join("/", string(c.Untar.Path), h.Linkname))
		if err != nil {
			return fmt.Errorf("cannot unpack %s: %w", h.Name, err)
		}
		if h.Typeflag == tar.TypeDir {
			times[name] = h.ModTime
		}
		if total += n; total-told >= 64<<20 {
			told = total
			a.send(proto.Event{Kind: "progress", ID: c.ID, Bytes: total})
		}
	}
	for name, at := range times {
		if fd, err := r.open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0); err == nil {
			_ = unix.Futimes(fd, []unix.Timeval{unix.NsecToTimeval(at.UnixNano()), unix.NsecToTimeval(at.UnixNano())})
			unix.Close(fd)
		}
	}
	return nil
}

func (r *root) unpack(src io.Reader, h *tar.Header, name proto.Name, link string) (n int64, err error) {
	if name == "/" {
		return 0, nil
	}
	if h.Typeflag == tar.TypeDir {
		if err := r.mkdirAll(name, uint32(h.Mode), nil); err != nil {
			return 0, err
		}
		fd, err := r.open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return 0, err
		}
		f := os.NewFile(uintptr(fd), string(name))
		defer f.Close()
		return 0, own(f, uint32(h.Mode), h.Uid, h.Gid, paxXattrs(h))
	}
	dir, base, err := r.parent(name)
	if err != nil {
		return 0, err
	}
	defer unix.Close(dir)
	if err := unix.Unlinkat(dir, base, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return 0, err
	}
	times := []unix.Timespec{unix.NsecToTimespec(h.ModTime.UnixNano()), unix.NsecToTimespec(h.ModTime.UnixNano())}
	switch h.Typeflag {
	case tar.TypeReg:
		fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return 0, err
		}
		f := os.NewFile(uintptr(fd), string(name))
		n, err = io.Copy(onlyWriter{f}, src)
		if err == nil {
			err = own(f, uint32(h.Mode), h.Uid, h.Gid, paxXattrs(h))
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return n, err
		}
		return n, unix.UtimesNanoAt(dir, base, times, unix.AT_SYMLINK_NOFOLLOW)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, dir, base); err != nil {
			return 0, err
		}
	case tar.TypeLink:
		old, ob, err := r.parent(proto.Name(link))
		if err != nil {
			return 0, err
		}
		defer unix.Close(old)
		return 0, unix.Linkat(old, ob, dir, base, 0)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		kind := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
		if err := unix.Mknodat(dir, base, kind|uint32(h.Mode), int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))); err != nil {
			return 0, err
		}
	default:
		return 0, fmt.Errorf("an entry of type %q", h.Typeflag)
	}
	if err := unix.Fchownat(dir, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, err
	}
	return 0, unix.UtimesNanoAt(dir, base, times, unix.AT_SYMLINK_NOFOLLOW)
}

func paxXattrs(h *tar.Header) map[string][]byte {
	var out map[string][]byte
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if out == nil {
				out = map[string][]byte{}
			}
			out[name] = []byte(v)
		}
	}
	return out
}

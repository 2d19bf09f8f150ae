package files

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"ascend/internal/appliance/agent/pax"
	"ascend/internal/guest/vfs"
)

// Result counts what was written to an archive or a folder.
type Result struct {
	Files   int64 `json:"files"` // of every kind, folders too
	Bytes   int64 `json:"bytes"` // of content, holes not counted
	Skipped Skips `json:"skipped"`
}

const bufferSize = 256 << 10

// plainWriter hides ReadFrom, so that the buffer given is the one used.
type plainWriter struct{ io.Writer }

type plainReader struct{ io.Reader }

func (r *Result) copy(ctx context.Context, w io.Writer, f *File, off, n int64, buf []byte) error {
	k, err := io.CopyBuffer(plainWriter{w}, plainReader{&ctxReader{ctx, io.NewSectionReader(f, off, n)}}, buf)
	r.Bytes += k
	if err == nil && k < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("cannot copy %s: %w", quote(f.Path), err)
	}
	return nil
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// below is the name in an archive of what a walk from top met: the top's own name
// first.
func below(top, p string) string {
	dir := path.Dir(top)
	if top == "/" {
		dir = "/"
	}
	if n := strings.TrimPrefix(strings.TrimPrefix(p, dir), "/"); n != "" {
		return n
	}
	return "."
}

// maxRuns bounds the map of a sparse file; one of more pieces is written whole.
const maxRuns = 1 << 16

// Tar writes a file or tree as a PAX archive: owners, modes, times, extended
// attributes (SCHILY.xattr), hard links, and sparse files as such (GNU.sparse 1.0).
// What cannot be begun to be read is skipped and counted; a file that fails in the
// middle fails the archive, whose header has promised its bytes. Memory grows with
// the number of folders and of files that have several names.
func (v *Volume) Tar(ctx context.Context, name string, w io.Writer) (Result, error) {
	var res Result
	tw := tar.NewWriter(w)
	buf := make([]byte, bufferSize)
	links := map[uint64]string{}
	top, err := v.Stat(name, false)
	if err != nil {
		return res, err
	}
	var own Skips
	skips, err := v.walk(ctx, name, func(e Entry, n vfs.Node) error {
		h := &tar.Header{Name: below(top.Path, e.Path), Mode: perm(e.Mode), Uid: int(e.UID), Gid: int(e.GID), ModTime: e.Time, Format: tar.FormatPAX, PAXRecords: map[string]string{}}
		all, err := xattrs(n)
		if err != nil {
			own.add(e.Path, err) // the file is worth more than its attributes
		}
		for k, x := range all {
			if !strings.ContainsAny(k, "=\x00") {
				h.PAXRecords["SCHILY.xattr."+k] = string(x)
			}
		}
		var f *File
		switch e.Type {
		case "directory":
			h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(h.Name, "/")+"/"
		case "symlink":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.Target
		case "fifo":
			h.Typeflag = tar.TypeFifo
		case "device":
			h.Typeflag = tar.TypeBlock
			if e.Mode&fs.ModeCharDevice != 0 {
				h.Typeflag = tar.TypeChar
			}
			h.Devmajor, h.Devminor = device(v.Type, e.rdev)
		case "file":
			h.Typeflag, h.Size = tar.TypeReg, e.Size
			if first, ok := links[e.Inode]; ok && e.Links > 1 {
				h.Typeflag, h.Size, h.Linkname = tar.TypeLink, 0, first
			} else if f, err = open(e.Path, n); err != nil {
				own.add(e.Path, err)
				return nil
			} else if e.Links > 1 {
				links[e.Inode] = h.Name
			}
		default:
			own.add(e.Path, fmt.Errorf("a %s: tar has no such thing", e.Type))
			return nil
		}
		res.Files++
		if f == nil {
			return pax.Header(tw, h)
		}
		return res.tarFile(ctx, w, tw, h, f, buf)
	})
	if err == nil {
		err = tw.Close()
	}
	res.Skipped = skips.with(own)
	return res, err
}

var errMany = errors.New("too many runs")

func (r *Result) tarFile(ctx context.Context, w io.Writer, tw *tar.Writer, h *tar.Header, f *File, buf []byte) error {
	var runs []pax.Run
	data := int64(0)
	err := f.Runs(ctx, func(off, n int64) error {
		if len(runs) == maxRuns {
			return errMany
		}
		runs, data = append(runs, pax.Run{Off: off, Len: n}), data+n
		return nil
	})
	if err != nil && !errors.Is(err, errMany) {
		return err
	}
	if err != nil || data == f.Size {
		if err := pax.Header(tw, h); err != nil {
			return err
		}
		return r.copy(ctx, tw, f, 0, f.Size, buf)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	pad, err := pax.Sparse(w, h, f.Size, runs)
	for _, run := range runs {
		if err == nil {
			err = r.copy(ctx, w, f, run.Off, run.Len, buf)
		}
	}
	if err == nil {
		_, err = w.Write(make([]byte, pad))
	}
	return err
}

// device splits a device's number as the file system keeps it: XFS in the form of
// IRIX, ext in that of Linux (include/linux/kdev_t.h), old or new.
func device(fsType string, rdev uint32) (major, minor int64) {
	switch {
	case fsType == "xfs":
		return int64(rdev >> 18 & 0x3fff), int64(rdev & 0x3ffff)
	case rdev>>16 == 0:
		return int64(rdev >> 8), int64(rdev & 0xff)
	}
	return int64(rdev >> 8 & 0xfff), int64(rdev&0xff | rdev>>12&0xfff00)
}

// Zip writes a file or tree for those who have no tar: content, times and links
// (as Unix has them in zip). Names are made such that Windows takes them: what it
// refuses becomes "_", and of names that then are one the later get a number.
func (v *Volume) Zip(ctx context.Context, name string, w io.Writer) (Result, error) {
	var res Result
	zw := zip.NewWriter(w)
	buf := make([]byte, bufferSize)
	top, err := v.Stat(name, false)
	if err != nil {
		return res, err
	}
	names := &windowsNames{dirs: map[string]string{}, used: map[string]bool{}}
	var own Skips
	skips, err := v.walk(ctx, name, func(e Entry, n vfs.Node) error {
		h := &zip.FileHeader{Name: names.of(below(top.Path, e.Path)), Modified: e.Time, Method: zip.Deflate}
		h.SetMode(e.Mode)
		var f *File
		switch e.Type {
		case "directory":
			if h.Name == "." {
				return nil
			}
			h.Name, h.Method = h.Name+"/", zip.Store
		case "symlink":
			h.Method = zip.Store
		case "file":
			var err error
			if f, err = open(e.Path, n); err != nil {
				own.add(e.Path, err)
				return nil
			}
		default:
			own.add(e.Path, fmt.Errorf("a %s: zip has no such thing", e.Type))
			return nil
		}
		res.Files++
		fw, err := zw.CreateHeader(h)
		if err != nil {
			return err
		}
		if e.Type == "symlink" {
			_, err = io.WriteString(fw, e.Target)
			return err
		}
		if f == nil {
			return nil
		}
		return res.copy(ctx, fw, f, 0, f.Size, buf)
	})
	if err == nil {
		err = zw.Close()
	}
	res.Skipped = skips.with(own)
	return res, err
}

// windowsNames gives names that Windows takes and that differ in more than case.
type windowsNames struct {
	dirs map[string]string // of folders, by their own names
	used map[string]bool   // lower case
}

func (w *windowsNames) of(name string) string {
	if name == "." {
		return name
	}
	dir, base := path.Split(name)
	if dir != "" {
		if d, ok := w.dirs[strings.TrimSuffix(dir, "/")]; ok {
			dir = d + "/"
		}
	}
	made := Portable(base)
	full := dir + made
	for i := 2; w.used[strings.ToLower(full)]; i++ {
		full = fmt.Sprintf("%s%s~%d", dir, made, i)
	}
	w.used[strings.ToLower(full)] = true
	w.dirs[name] = full
	return full
}

// Portable is a name that Windows takes for a file ("Naming Files, Paths, and
// Namespaces", Microsoft).
func Portable(name string) string {
	s := strings.Map(func(r rune) rune {
		if r < ' ' || strings.ContainsRune(`<>:"/\|?*`, r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(name, "_"))
	if t := strings.TrimRight(s, ". "); t != s {
		s = t + strings.Repeat("_", len(s)-len(t))
	}
	stem, _, _ := strings.Cut(strings.ToUpper(s), ".")
	switch stem {
	case "CON", "PRN", "AUX", "NUL":
		return "_" + s
	}
	if len(stem) == 4 && (strings.HasPrefix(stem, "COM") || strings.HasPrefix(stem, "LPT")) && stem[3] >= '0' && stem[3] <= '9' {
		return "_" + s
	}
	if s == "" {
		return "_"
	}
	return s
}

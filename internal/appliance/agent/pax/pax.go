// Package pax writes what archive/tar keeps to itself: sparse files in GNU's
// format 1.0 (GNU tar manual, "PAX Format, Version 1.0"), a map before the data.
package pax

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"time"
)

// Run is a piece of a file that holds data, in bytes.
type Run struct{ Off, Len int64 }

// Header writes an ordinary header; names and attributes that PAX cannot carry (not
// UTF-8, NUL) go by GNU's format, without the attributes.
func Header(tw *tar.Writer, h *tar.Header) error {
	err := tw.WriteHeader(h)
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
		h.Format, h.PAXRecords = tar.FormatGNU, nil
		h.ModTime = h.ModTime.Truncate(time.Second)
		err = tw.WriteHeader(h)
	}
	return err
}

// Sparse writes the headers and the map of a file of size bytes whose data are
// runs. The caller flushes its tar.Writer before, then writes the runs' bytes to w
// and zero bytes of the padding returned.
func Sparse(w io.Writer, h *tar.Header, size int64, runs []Run) (padding int, err error) {
	var table bytes.Buffer
	if n := len(runs); n == 0 || runs[n-1].Off+runs[n-1].Len < size {
		runs = append(slices.Clip(runs), Run{size, 0}) // GNU tar ends a file with a hole so
	}
	fmt.Fprintf(&table, "%d\n", len(runs))
	data := int64(0)
	for _, r := range runs {
		data += r.Len
		fmt.Fprintf(&table, "%d\n%d\n", r.Off, r.Len)
	}
	table.Write(make([]byte, -table.Len()&511))
	h.Size = data + int64(table.Len())
	d, b := path.Split(h.Name)
	rec := map[string]string{
		"hdrcharset": "BINARY", "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": h.Name,
		"GNU.sparse.realsize": strconv.FormatInt(size, 10), "path": d + "GNUSparseFile.0/" + b, "size": strconv.FormatInt(h.Size, 10),
		"mtime": fmt.Sprintf("%d.%09d", h.ModTime.Unix(), h.ModTime.Nanosecond()), "uid": strconv.Itoa(h.Uid), "gid": strconv.Itoa(h.Gid),
	}
	maps.Copy(rec, h.PAXRecords)
	var body []byte
	for _, k := range slices.Sorted(maps.Keys(rec)) {
		n := len(k) + len(rec[k]) + 3 // the length counts its own digits
		for n != len(k)+len(rec[k])+3+len(strconv.Itoa(n)) {
			n = len(k) + len(rec[k]) + 3 + len(strconv.Itoa(n))
		}
		body = fmt.Appendf(body, "%d %s=%s\n", n, k, rec[k])
	}
	out := ustar("PaxHeaders/x", 'x', 0o644, int64(len(body)))
	out = append(out, body...)
	out = append(out, make([]byte, -len(body)&511)...)
	out = append(out, ustar("GNUSparseFile.0/x", '0', h.Mode, h.Size)...)
	_, err = w.Write(append(out, table.Bytes()...))
	return int(-h.Size & 511), err
}

// ustar is one header block (POSIX pax, "ustar Header Block").
func ustar(name string, kind byte, mode, size int64) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], fmt.Sprintf("%07o", mode))
	copy(b[108:], "0000000")
	copy(b[116:], "0000000")
	copy(b[124:], fmt.Sprintf("%011o", min(size, 1<<33-1))) // PAX records have the rest
	copy(b[136:], "00000000000")
	copy(b[148:], "        ")
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// Package cpio writes initramfs segments in the "newc" format (Linux
// Documentation/driver-api/early-userspace/buffer-format.rst): uncompressed,
// with fixed times and inode numbers by order, so equal content is equal bytes.
package cpio

import (
	"fmt"
	"io"
)

// Writer writes one segment. After the first failure it writes nothing more;
// Close returns it. Not for concurrent use.
type Writer struct {
	w    io.Writer
	n    int64
	ino  int
	dirs map[string]bool
	err  error
}

// NewWriter begins a segment.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w, dirs: map[string]bool{}} }

func (c *Writer) put(b []byte) {
	if c.err == nil {
		var n int
		n, c.err = c.w.Write(b)
		c.n += int64(n)
	}
}

func (c *Writer) pad(to int64) {
	if r := c.n % to; r > 0 {
		c.put(make([]byte, to-r))
	}
}

func (c *Writer) entry(name string, mode uint32, data []byte, major, minor int) {
	c.ino++
	c.put(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0))
	c.put(append([]byte(name), 0))
	c.pad(4)
	c.put(data)
	c.pad(4)
}

// Have names directories that an earlier segment holds: they are not written.
// The kernel deletes a symbolic link over which a segment has a directory, so
// one that may be a link, as lib, must not be.
func (c *Writer) Have(names ...string) {
	for _, n := range names {
		c.dirs[n] = true
	}
}

// Dir makes a directory and those above it, each once.
func (c *Writer) Dir(name string) {
	if name == "" || c.dirs[name] {
		return
	}
	for i := range name {
		if name[i] == '/' {
			c.Dir(name[:i])
		}
	}
	c.dirs[name] = true
	c.entry(name, 0o40755, nil, 0, 0)
}

// File makes a file and the directories above it.
func (c *Writer) File(name string, mode uint32, data []byte) {
	for i := len(name) - 1; i > 0; i-- {
		if name[i] == '/' {
			c.Dir(name[:i])
			break
		}
	}
	c.entry(name, 0o100000|mode, data, 0, 0)
}

// Link makes a symbolic link.
func (c *Writer) Link(name, target string) { c.entry(name, 0o120777, []byte(target), 0, 0) }

// Console makes /dev/console, which the kernel opens for init.
func (c *Writer) Console() {
	c.Dir("dev")
	c.entry("dev/console", 0o20600, nil, 5, 1)
}

// Close ends the segment at a multiple of 512 bytes; another may follow.
func (c *Writer) Close() error {
	c.entry("TRAILER!!!", 0, nil, 0, 0)
	c.pad(512)
	return c.err
}

package appliance

import (
	"fmt"
	"io"
)

// cpio writes an initramfs segment in the "newc" format (Linux
// Documentation/driver-api/early-userspace/buffer-format.rst): uncompressed,
// with fixed times and inode numbers by order, so equal content is equal bytes.
type cpio struct {
	w    io.Writer
	n    int64
	ino  int
	dirs map[string]bool
	err  error
}

func newCPIO(w io.Writer) *cpio { return &cpio{w: w, dirs: map[string]bool{}} }

func (c *cpio) put(b []byte) {
	if c.err == nil {
		var n int
		n, c.err = c.w.Write(b)
		c.n += int64(n)
	}
}

func (c *cpio) pad(to int64) {
	if r := c.n % to; r > 0 {
		c.put(make([]byte, to-r))
	}
}

func (c *cpio) entry(name string, mode uint32, data []byte, major, minor int) {
	c.ino++
	c.put(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0))
	c.put(append([]byte(name), 0))
	c.pad(4)
	c.put(data)
	c.pad(4)
}

// dir makes a directory and those above it.
func (c *cpio) dir(name string) {
	if name == "" || c.dirs[name] {
		return
	}
	for i := range name {
		if name[i] == '/' {
			c.dir(name[:i])
		}
	}
	c.dirs[name] = true
	c.entry(name, 0o40755, nil, 0, 0)
}

func (c *cpio) file(name string, mode uint32, data []byte) {
	for i := len(name) - 1; i > 0; i-- {
		if name[i] == '/' {
			c.dir(name[:i])
			break
		}
	}
	c.entry(name, 0o100000|mode, data, 0, 0)
}

func (c *cpio) link(name, target string) { c.entry(name, 0o120777, []byte(target), 0, 0) }

func (c *cpio) console() {
	c.dir("dev")
	c.entry("dev/console", 0o20600, nil, 5, 1)
}

// close ends the segment; another may follow.
func (c *cpio) close() error {
	c.entry("TRAILER!!!", 0, nil, 0, 0)
	c.pad(512)
	return c.err
}

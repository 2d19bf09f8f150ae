package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// output is a target format in both programs' words; they are the same.
type output struct {
	name string
	args []string
}

var outputs = []output{
	{"raw", []string{"-O", "raw"}},
	{"VHD fixed", []string{"-O", "vpc", "-o", "subformat=fixed,force_size=on"}},
	{"VHD dynamic", []string{"-O", "vpc", "-o", "force_size=on"}},
	{"VHDX", []string{"-O", "vhdx"}},
	{"QCOW2", []string{"-O", "qcow2"}},
	{"VMDK", []string{"-O", "vmdk"}},
}

var packed = []output{
	{"VMDK streamOptimized", []string{"-O", "vmdk", "-o", "subformat=streamOptimized"}},
	{"QCOW2 zlib", []string{"-O", "qcow2", "-c"}},
	{"QCOW2 zstd", []string{"-O", "qcow2", "-c", "-o", "compression_type=zstd"}},
}

// pair is one conversion by both programs. Ours takes the disk's digest in
// passing when digest is set, which qemu-img does not do.
func (b *bench) pair(s source, o output, digest bool) (ours, theirs contender) {
	format := s.format
	if format == "vpc" {
		format = "vhd"
	}
	a := append([]string{b.ascend, "convert", "-q", "-f", format, fmt.Sprintf("--no-digest=%v", !digest)}, o.args...)
	q := append([]string{"qemu-img", "convert", "-W", "-m", "16", "-f", s.format}, o.args...)
	return b.contender("ascend", "target", append(a, s.path, "target")), b.contender("qemu-img", "target", append(q, s.path, "target"))
}

func (b *bench) contender(name, target string, steps ...[]string) contender {
	return contender{name: name, steps: steps, dir: filepath.Join(b.out, name), target: target}
}

func (b *bench) table(ctx context.Context, c *corpus, title string, names []string, outs []output, digest bool) error {
	heading(title, "qemu-img convert -W -m 16")
	for _, n := range names {
		s, err := c.get(ctx, n)
		if err != nil {
			return err
		}
		for _, o := range outs {
			ours, theirs := b.pair(s, o, digest)
			f, rounds, err := interleave(ctx, b.rounds, b.most, ours, theirs)
			if err != nil {
				return err
			}
			row(n+" → "+o.name, f[0], f[1], rounds)
		}
	}
	return nil
}

// convert is every source format to every format of known size.
func (b *bench) convert(ctx context.Context, c *corpus) error {
	return b.table(ctx, c, "every source to every plain target format, new files, without a digest on either side", b.sources, outputs, false)
}

// digest is what taking the disk's digest in passing costs.
func (b *bench) digest(ctx context.Context, c *corpus) error {
	return b.table(ctx, c, "the same from qcow2, ours with the disk's digest", []string{"qcow2"}, outputs, true)
}

// compressed is every source format to every compressed one.
func (b *bench) compressed(ctx context.Context, c *corpus) error {
	return b.table(ctx, c, "every source to every compressed target format, without a digest on either side", b.sources, packed, false)
}

func (b *bench) read(ctx context.Context, c *corpus) error {
	fmt.Printf("\n## reading to nothing, without a digest\n\n| | 10 readings, s | GiB of data a second | MiB of memory |\n|---|---|---|---|\n")
	book.begin("reading to nothing", "")
	for _, n := range b.sources {
		s, err := c.get(ctx, n)
		if err != nil {
			return err
		}
		if s.packed {
			continue
		}
		f, _, err := interleave(ctx, b.rounds, b.most, b.contender("read", "", []string{b.self, "-mode", "read", s.path, s.format, strconv.Itoa(10)}))
		if err != nil {
			return err
		}
		book.add(entry{Name: n, Ours: f[0].measured()})
		fmt.Printf("| %s | %.2f | %.1f | %.0f |\n", n, f[0].wall, 10*float64(c.data)/(1<<30)/f[0].wall, f[0].rss)
	}
	return nil
}

// sparse compares a huge disk with a small one that holds the same data.
func (b *bench) sparse(ctx context.Context, c *corpus) error {
	fmt.Printf("\n## 1 GiB of scattered data in a 2 TiB disk against the same in a 10 GiB disk, with a digest\n\n| | 10 GiB: wall s / cpu s / MiB / staged MiB | 2 TiB | wall, 2 TiB to 10 GiB |\n|---|---|---|---|\n")
	book.begin("1 GiB of scattered data in 2 TiB against 10 GiB", "the same data in 10 GiB")
	small, large := filepath.Join(b.dir, "small.raw"), filepath.Join(b.dir, "large.raw")
	for _, d := range []struct {
		path string
		size int64
	}{{small, 10 << 30}, {large, 2 << 40}} {
		if err := scatter(c.raw, d.path, d.size, 1<<30); err != nil {
			return err
		}
	}
	for _, o := range outputs {
		if o.name == "VHD dynamic" || o.name == "VHD fixed" {
			continue // holds 2,040 GiB
		}
		a1, _ := b.pair(source{path: small, format: "raw"}, o, true)
		a2, _ := b.pair(source{path: large, format: "raw"}, o, true)
		f, _, err := interleave(ctx, b.rounds, b.most, a1, a2)
		if err != nil {
			return err
		}
		less := f[0].measured()
		book.add(entry{Name: o.name, Ours: f[1].measured(), Theirs: &less})
		fmt.Printf("| %s | %v | %v | %.2f |\n", o.name, f[0], f[1], f[1].wall/f[0].wall)
	}
	return nil
}

// scatter copies data of from in pieces of 1 MiB, spread evenly over a disk.
func scatter(from, to string, size, data int64) error {
	if st, err := os.Stat(to); err == nil && st.Size() == size {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(size); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	pieces := data >> 20
	for i, at := int64(0), int64(0); i < pieces; at += 1 << 20 {
		if _, err := in.ReadAt(buf, at); errors.Is(err, io.EOF) { // from the start again
			at = -1 << 20
			continue
		} else if err != nil {
			return err
		}
		if buf[0] == 0 && buf[len(buf)/2] == 0 && buf[len(buf)-1] == 0 {
			continue
		}
		if _, err := out.WriteAt(buf, i*(size/pieces)&^(1<<16-1)); err != nil {
			return err
		}
		i++
	}
	return nil
}

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
	mine, its := filepath.Join(b.out, "ours"), filepath.Join(b.out, "theirs")
	format := s.format
	if format == "vpc" {
		format = "vhd"
	}
	a := append([]string{b.ascend, "convert", "-q", "-f", format, fmt.Sprintf("--no-digest=%v", !digest)}, o.args...)
	q := append([]string{"qemu-img", "convert", "-W", "-m", "16", "-f", s.format}, o.args...)
	return contender{name: "ascend", steps: [][]string{append(a, s.path, mine)}, clean: []string{mine}},
		contender{name: "qemu-img", steps: [][]string{append(q, s.path, its)}, clean: []string{its}}
}

func (b *bench) table(ctx context.Context, c *corpus, title string, rounds int, names []string, outs []output, digest bool) error {
	heading(title, "qemu-img -W -m 16")
	for _, n := range names {
		s, err := c.get(ctx, n)
		if err != nil {
			return err
		}
		for _, o := range outs {
			ours, theirs := b.pair(s, o, digest)
			f, err := interleave(ctx, rounds, ours, theirs)
			if err != nil {
				return err
			}
			row(n+" → "+o.name, f[0], f[1])
		}
	}
	return nil
}

func (b *bench) convert(ctx context.Context, c *corpus) error {
	if err := b.table(ctx, c, "new files from plain sources, without a digest on either side", b.rounds, []string{"qcow2", "raw"}, outputs, false); err != nil {
		return err
	}
	return b.table(ctx, c, "the same, ours with the disk's digest", b.rounds, []string{"qcow2"}, outputs, true)
}

func (b *bench) compressed(ctx context.Context, c *corpus) error {
	return b.table(ctx, c, "compressed target files", max(b.rounds/2, 1), []string{"qcow2"}, packed, false)
}

func (b *bench) sources(ctx context.Context, c *corpus) error {
	return b.table(ctx, c, "other sources, to raw and QCOW2", max(b.rounds/2, 1), []string{"vhdx", "vpc", "vmdk", "qcow2-zlib", "qcow2-zstd", "streamOptimized"}, []output{outputs[0], outputs[4]}, false)
}

func (b *bench) read(ctx context.Context, c *corpus) error {
	fmt.Printf("\n## reading to nothing, without a digest\n\n")
	for _, n := range []string{"qcow2", "raw", "vhdx", "vmdk"} {
		s, err := c.get(ctx, n)
		if err != nil {
			return err
		}
		f, err := interleave(ctx, b.rounds, contender{steps: [][]string{{b.self, "-mode", "read", s.path, strconv.Itoa(10)}}})
		if err != nil {
			return err
		}
		fmt.Printf("%-42s %7.2f s for 10 readings, %.1f GiB/s of data, %.0f MiB\n", n, f[0].wall, 10*float64(c.data)/(1<<30)/f[0].wall, f[0].rss)
	}
	return nil
}

// sparse compares a huge disk with a small one that holds the same data.
func (b *bench) sparse(ctx context.Context, c *corpus) error {
	fmt.Printf("\n## 1 GiB of scattered data in a 2 TiB disk against the same in a 10 GiB disk\n\n")
	small, large := filepath.Join(b.dir, "small.raw"), filepath.Join(b.dir, "large.raw")
	for _, d := range []struct {
		path string
		size int64
	}{{small, 10 << 30}, {large, 2 << 40}} {
		if err := scatter(c.raw, d.path, d.size, 1<<30); err != nil {
			return err
		}
	}
	for _, o := range outputs[2:] {
		if o.name == "VHD dynamic" {
			continue // holds 2,040 GiB
		}
		a1, _ := b.pair(source{small, "raw"}, o, true)
		a2, _ := b.pair(source{large, "raw"}, o, true)
		f, err := interleave(ctx, b.rounds, a1, a2)
		if err != nil {
			return err
		}
		fmt.Printf("%-42s %7.2f s and %.2f s: %.2fx; %.0f and %.0f MiB\n", o.name, f[0].wall, f[1].wall, f[1].wall/f[0].wall, f[0].rss, f[1].rss)
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

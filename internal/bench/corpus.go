package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// corpus is one disk of real files in many formats.
type corpus struct {
	raw   string
	files map[string]source // by name
	data  int64
}

type source struct {
	path, format string // format as qemu-img's -f
	packed       bool   // compressed
}

// corpus makes the disk: real files in an ext4 file system in a sparse disk of
// four times the size.
func (b *bench) corpus(ctx context.Context) (*corpus, error) {
	c := &corpus{raw: filepath.Join(b.dir, "corpus.raw"), files: map[string]source{}, data: b.data}
	c.files["raw"] = source{path: c.raw, format: "raw"}
	if _, err := os.Stat(c.raw); err == nil {
		return c, nil
	}
	fmt.Printf("# corpus: %d MiB of files of %s\n", b.data>>20, b.files)
	tree := filepath.Join(b.dir, "tree")
	if err := gather(b.files, tree, b.data); err != nil {
		return nil, err
	}
	defer os.RemoveAll(tree)
	return c, command(ctx, "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-N", "400000", "-d", tree, c.raw, fmt.Sprintf("%dM", 4*b.data>>20))
}

// gather links or copies files until there are enough bytes. Where there are not
// that many it takes them again, as copies: a file system stores a link once.
func gather(from, to string, want int64) error {
	var have int64
	for pass := 0; have < want; pass++ {
		before := have
		if err := gatherOnce(from, filepath.Join(to, fmt.Sprint(pass)), want, &have, pass == 0); err != nil {
			return err
		}
		if have == before {
			return fmt.Errorf("%s holds no files: give another folder with -files", from)
		}
	}
	return nil
}

func gatherOnce(from, to string, want int64, have *int64, link bool) error {
	errEnough := errors.New("enough")
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir // not ours to read
		}
		if !d.Type().IsRegular() {
			return nil
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if st.Size() > want/8 {
			return nil
		}
		rel, _ := filepath.Rel(from, p)
		dst := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
			return err
		}
		if !link || os.Link(p, dst) != nil { // or another file system
			if err := copyFile(p, dst); err != nil {
				return err
			}
		}
		if *have += st.Size(); *have >= want {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// sources are the formats that are read, in the order of the tables.
var sources = []string{
	"raw", "qcow2", "qcow2 zlib", "qcow2 zstd", "vmdk", "vmdk streamOptimized", "vmdk 2 GB sparse", "vmdk flat", "vhdx", "vhd", "vhd fixed",
}

// variants are the sources that are made of the corpus when first asked for.
var variants = map[string][]string{
	"qcow2":                {"-O", "qcow2"},
	"qcow2 zlib":           {"-O", "qcow2", "-c"},
	"qcow2 zstd":           {"-O", "qcow2", "-c", "-o", "compression_type=zstd"},
	"vmdk":                 {"-O", "vmdk"},
	"vmdk streamOptimized": {"-O", "vmdk", "-o", "subformat=streamOptimized"},
	"vmdk 2 GB sparse":     {"-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"},
	"vmdk flat":            {"-O", "vmdk", "-o", "subformat=monolithicFlat"},
	"vhdx":                 {"-O", "vhdx"},
	"vhd":                  {"-O", "vpc", "-o", "force_size=on"},
	"vhd fixed":            {"-O", "vpc", "-o", "subformat=fixed,force_size=on"},
}

// get makes a variant with qemu-img.
func (c *corpus) get(ctx context.Context, name string) (source, error) {
	if s, ok := c.files[name]; ok {
		return s, nil
	}
	args := variants[name]
	s := source{
		path:   filepath.Join(filepath.Dir(c.raw), strings.ReplaceAll(name, " ", "-")+"."+args[1]),
		format: args[1], packed: strings.Contains(name, "z") || strings.HasSuffix(name, "streamOptimized"),
	}
	if _, err := os.Stat(s.path); err != nil {
		all := append([]string{"convert", "-W", "-m", "16", "-f", "raw"}, args...)
		if err := command(ctx, "qemu-img", append(all, c.raw, s.path)...); err != nil {
			return s, err
		}
	}
	c.files[name] = s
	return s, nil
}

func command(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// Command make has the appliance's kernel write a small btrfs and keeps the blocks that
// reading it takes: go run ./internal/guest/btrfs/testdata/make FILE.gz
package main

import (
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"ascend/internal/appliance"
	"ascend/internal/appliance/proto"
	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/disk/overlay"
	"ascend/internal/guest/btrfs"
	"ascend/internal/guest/vfs"
	"ascend/internal/qemu"
)

func main() {
	qemu.Main()
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "make:", err)
		os.Exit(1)
	}
}

type recorder struct {
	r    io.ReaderAt
	seen map[int64][]byte
}

func (r recorder) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.r.ReadAt(p, off)
	r.seen[off] = slices.Clone(p[:n])
	return n, err
}

func run(ctx context.Context, out string) error {
	dir, err := os.MkdirTemp("", "make")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "raw"), nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(filepath.Join(dir, "raw"), 128<<20); err != nil {
		return err
	}
	root, err := disk.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	img, err := open.Disk(root, "raw", "raw")
	if err != nil {
		return err
	}
	o, err := overlay.Create(filepath.Join(dir, "layer"), img)
	if err != nil {
		return err
	}
	defer o.Close()
	im, err := appliance.Open("")
	if err != nil {
		return err
	}
	_, _, err = appliance.Run(ctx, appliance.Options{Image: im, Disks: []disk.Disk{o}},
		proto.Call{Format: &proto.Format{Device: "/dev/disk/0", FS: "btrfs", Label: "seed"}},
		proto.Call{Mount: &proto.Mount{Root: "r", Device: "/dev/disk/0"}},
		proto.Call{Subvolume: &proto.Subvolume{Root: "r", Path: "/@"}},
		proto.Call{Write: &proto.Write{Root: "r", Path: "/@/inline", Data: []byte("text\n"), XAttrs: map[string][]byte{"user.a": []byte("b")}}},
		proto.Call{Write: &proto.Write{Root: "r", Path: "/@/sparse"}},
		proto.Call{Truncate: &proto.Truncate{Root: "r", Path: "/@/sparse", Size: 3 << 20}},
		proto.Call{Symlink: &proto.Symlink{Root: "r", Path: "/@/link", Target: "inline"}},
	)
	if err != nil {
		return err
	}
	rec := recorder{o, map[int64][]byte{}}
	fs, err := btrfs.Open(rec, o.Size())
	if err != nil {
		return err
	}
	tree := vfs.NewTree(fs)
	if _, err := tree.ReadDir("/"); err != nil {
		return err
	}
	if _, err := tree.ReadFile("/@/inline", 10); err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	z, _ := gzip.NewWriterLevel(f, gzip.BestCompression)
	for at, b := range rec.seen {
		head := binary.LittleEndian.AppendUint64(nil, uint64(at))
		head = binary.LittleEndian.AppendUint32(head, uint32(len(b)))
		if _, err := z.Write(append(head, b...)); err != nil {
			return err
		}
	}
	return errors.Join(z.Close(), f.Close())
}

package qcow2

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"ascend/internal/disk"
)

// BenchmarkRead reads disks of files of the system from memory, 1 MiB at a time.
func BenchmarkRead(b *testing.B) {
	const size = 256 << 20
	dir, err := os.MkdirTemp("/dev/shm", "ascend-qcow2-")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.WriteFile(filepath.Join(dir, "raw"), files(b, size), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ name, options, compress string }{
		{"plain", "cluster_size=64k", ""},
		{"plain4k", "cluster_size=4k", ""},
		{"plain512", "cluster_size=512", ""},
		{"extended", "cluster_size=64k,extended_l2=on", ""},
		{"zlib", "cluster_size=64k", "-c"},
		{"zlib2M", "cluster_size=2M", "-c"},
		{"zstd", "cluster_size=64k,compression_type=zstd", "-c"},
	} {
		args := []string{"convert", "-f", "raw", "-O", "qcow2", "-W", "-o", c.options}
		if c.compress != "" {
			args = append(args, c.compress)
		}
		qemuImg(b, dir, append(args, "raw", c.name)...)
		b.Run(c.name, func(b *testing.B) { read1M(b, mustOpen(b, dir, c.name)) })
	}
	qemuImg(b, dir, "create", "-q", "-f", "qcow2", "-b", "plain", "-F", "qcow2", "overlay")
	b.Run("overlay", func(b *testing.B) { read1M(b, mustOpen(b, dir, "overlay")) })
	b.Run("parallel", func(b *testing.B) {
		img := mustOpen(b, dir, "plain")
		b.SetBytes(64 << 10)
		b.RunParallel(func(pb *testing.PB) {
			p := make([]byte, 64<<10)
			for off := int64(0); pb.Next(); off = (off + 17*int64(len(p))) % (size - int64(len(p))) {
				if _, err := img.ReadAt(p, off&^(64<<10-1)); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func read1M(b *testing.B, img disk.Image) {
	p := make([]byte, 1<<20)
	b.SetBytes(img.Size())
	for b.Loop() {
		for off := int64(0); off < img.Size(); off += int64(len(p)) {
			if _, err := img.ReadAt(p, off); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkExtents maps a disk of 1 TiB all of whose clusters have an L2 entry.
func BenchmarkExtents(b *testing.B) {
	dir, err := os.MkdirTemp("/dev/shm", "ascend-qcow2-")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	qemuImg(b, dir, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "a", "1T")
	img := mustOpen(b, dir, "a")
	for b.Loop() {
		if err := img.Extents(context.Background(), 0, img.Size(), func(disk.Extent) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

package qcow2

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
	"ascend/internal/disk/raw"
)

// open opens name in dir with its chain of qcow2 and raw files.
func open(tb testing.TB, dir, name string) (disk.Image, error) {
	tb.Helper()
	root, err := disk.OpenRoot(dir)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	f, err := root.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	return Open(testEnv(root, []string{name}), f)
}

func mustOpen(tb testing.TB, dir, name string) disk.Image {
	tb.Helper()
	img, err := open(tb, dir, name)
	if err != nil {
		tb.Fatalf("cannot open %s: %v", name, err)
	}
	tb.Cleanup(func() { _ = img.Close() })
	return img
}

// testEnv follows references as disk.Env demands; above are the files of the
// chain so far.
func testEnv(root *disk.Root, above []string) *disk.Env {
	return &disk.Env{Root: root, Parent: func(from, ref, format string) (disk.Image, error) {
		if len(above) >= disk.MaxChain {
			return nil, fmt.Errorf("chain of more than %d files: %w", disk.MaxChain, disk.ErrCorrupt)
		}
		name, err := root.Resolve(from, ref)
		if err != nil {
			return nil, err
		}
		f, err := root.Open(name)
		if err != nil {
			return nil, err
		}
		for _, a := range above {
			if same, err := f.Same(root, a); err != nil || same {
				_ = f.Close()
				return nil, fmt.Errorf("chain comes back to %s: %w", a, disk.ErrCorrupt)
			}
		}
		env := testEnv(root, append(above[:len(above):len(above)], name))
		switch format {
		case "raw":
			return raw.Open(env, f)
		case "qcow2", "":
			return Open(env, f)
		}
		_ = f.Close()
		return nil, fmt.Errorf("format %q: %w", format, disk.ErrUnsupported)
	}}
}

// qemuIO runs commands of qemu-io on an image.
func qemuIO(tb testing.TB, dir, name string, commands ...string) {
	tb.Helper()
	args := []string{"-f", "qcow2", "-t", "unsafe"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out := disktest.Run(tb, dir, "qemu-io", append(args, name)...)
	if s := string(out); strings.Contains(s, "failed") || strings.Contains(s, "rror") {
		tb.Fatalf("qemu-io %q: %s", commands, s)
	}
}

func qemuImg(tb testing.TB, dir string, args ...string) {
	tb.Helper()
	disktest.Run(tb, dir, "qemu-img", args...)
}

// content is the disk of an image as qemu-img reads it.
func content(tb testing.TB, dir, name string) []byte {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), "raw")
	qemuImg(tb, dir, "convert", "-f", "qcow2", "-O", "raw", name, out)
	b, err := os.ReadFile(out)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.Remove(out); err != nil {
		tb.Fatal(err)
	}
	return b
}

// qemuMap is the extents of an image as qemu-img has them, neighbours joined.
func qemuMap(tb testing.TB, dir, name string) []disk.Extent {
	tb.Helper()
	var entries []struct {
		Start, Length int64
		Data          bool
	}
	out := disktest.Run(tb, dir, "qemu-img", "map", "-f", "qcow2", "--output=json", name)
	if err := json.Unmarshal(out, &entries); err != nil {
		tb.Fatal(err)
	}
	var all []disk.Extent
	for _, e := range entries {
		if n := len(all); n > 0 && all[n-1].Data == e.Data {
			all[n-1].Len += e.Length
			continue
		}
		all = append(all, disk.Extent{Off: e.Start, Len: e.Length, Data: e.Data})
	}
	return all
}

func extents(tb testing.TB, img disk.Disk, off, n int64) []disk.Extent {
	tb.Helper()
	var all []disk.Extent
	if err := img.Extents(tb.Context(), off, n, func(e disk.Extent) error {
		all = append(all, e)
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
	return all
}

// patch changes the bytes of a file.
func patch(tb testing.TB, dir, name string, change func([]byte) []byte) {
	tb.Helper()
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, change(b), 0o600); err != nil {
		tb.Fatal(err)
	}
}

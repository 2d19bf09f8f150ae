package cloudstack

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/image"
	"ascend/internal/restore"
	"ascend/internal/target"
	"ascend/internal/target/cloudstack/cssim"
	"ascend/internal/target/targettest"
	"ascend/internal/transfer"
	"ascend/internal/transfer/journal"
	"ascend/internal/vm"
)

// TestWhole sends a backup's disks the way the product does: a qcow2 file is
// computed from the backup while it is sent, in one request of exact length or by
// ranges. What the cloud holds is read by qemu-img.
func TestWhole(t *testing.T) {
	const size = 9<<20 + 37*512
	dir := t.TempDir()
	raw := make([]byte, size)
	rnd := rand.NewChaCha8([32]byte{7})
	for _, r := range [][2]int{{0, 300_000}, {4<<20 + 512, 1 << 20}, {size - 512, 512}} {
		_, _ = rnd.Read(raw[r[0] : r[0]+r[1]]) // documented to never fail
	}
	plain, backup := filepath.Join(dir, "raw"), filepath.Join(dir, "backup.qcow2")
	if err := os.WriteFile(plain, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", plain, backup).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img is needed (apt-get install qemu-utils): %v\n%s", err, out)
	}
	root, err := disk.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	img, err := open.Disk(root, "backup.qcow2", "qcow2")
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	m, err := disk.ReadMap(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	src := image.Source{Disk: img, Map: m}
	for _, way := range []string{pathTemplate, pathImport} {
		t.Run(way, func(t *testing.T) {
			var p *peer
			if way == pathImport {
				pool := t.TempDir()
				p = startPeer(t, cssim.Options{Dir: pool}, map[string]string{"pool": cssim.Pool, "pool_dir": pool})
			} else {
				p = startPeer(t, cssim.Options{}, nil)
			}
			tgt := p.open(t)
			d := tgt.deliveries()[0]
			file, err := image.New(src, d.Format, image.Options{})
			if err != nil {
				t.Fatal(err)
			}
			o := &target.Order{Job: "whole-" + way, Machine: &vm.Machine{Name: "whole", Disks: []vm.Disk{{Size: size, Boot: true}, {Index: 1, Size: size}}}}
			for range o.Machine.Disks {
				o.Disks = append(o.Disks, target.DiskOrder{Delivery: d, Virtual: size, FileSize: file.Size()})
			}
			p.Order(t, o)
			s, err := tgt.Begin(t.Context(), o, new(targettest.MemRecorder))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close(t.Context())
			var sums []string
			for i := range o.Disks {
				up, err := s.Upload(t.Context(), i)
				if err != nil {
					t.Fatal(err)
				}
				jn, err := journal.Create(filepath.Join(t.TempDir(), "journal"), "whole", m)
				if err != nil {
					t.Fatal(err)
				}
				sent := src
				sent.Map = jn.Map()
				res, err := restore.Send(t.Context(), sent, d, image.Options{}, up, jn, transfer.Options{})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := up.Complete(t.Context(), target.Sum{Bytes: res.Bytes}); err != nil {
					t.Fatal(err)
				}
				if err := jn.Close(); err != nil {
					t.Fatal(err)
				}
				sums = append(sums, res.Digest.String())
			}
			if _, err := s.Finish(t.Context()); err != nil {
				t.Fatal(err)
			}
			if sums[0] != sums[1] {
				t.Errorf("the same disk has the digests %v", sums)
			}
			for i := range o.Disks {
				if !bytes.Equal(p.Read(t, o, i), raw) {
					t.Errorf("disk %d is not what was backed up", i)
				}
			}
		})
	}
}

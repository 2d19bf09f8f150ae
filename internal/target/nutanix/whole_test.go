package nutanix

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/image"
	"ascend/internal/restore"
	"ascend/internal/target"
	"ascend/internal/target/nutanix/prismsim"
	"ascend/internal/target/targettest"
	"ascend/internal/transfer"
	"ascend/internal/transfer/journal"
	"ascend/internal/vm"
)

// backup is a disk of a backup and the bytes in it.
func backup(t *testing.T) (image.Source, []byte) {
	t.Helper()
	const size = 9<<20 + 37*512
	dir := t.TempDir()
	raw := make([]byte, size)
	rnd := rand.NewChaCha8([32]byte{7})
	for _, r := range [][2]int{{0, 300_000}, {4<<20 + 512, 1 << 20}, {size - 512, 512}} {
		_, _ = rnd.Read(raw[r[0] : r[0]+r[1]]) // documented to never fail
	}
	plain, name := filepath.Join(dir, "raw"), filepath.Join(dir, "backup.qcow2")
	if err := os.WriteFile(plain, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", plain, name).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img is needed (apt-get install qemu-utils): %v\n%s", err, out)
	}
	root, err := disk.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	img, err := open.Disk(root, "backup.qcow2", "qcow2")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	m, err := disk.ReadMap(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	return image.Source{Disk: img, Map: m}, raw
}

// TestWhole sends a backup's disk the way the product does, through v4 and v3: a
// qcow2 file is computed from the backup while it is sent. In the middle the
// transfer breaks and another process goes on with its journal. What the cluster
// holds is read by qemu-img.
func TestWhole(t *testing.T) {
	src, raw := backup(t)
	for _, version := range []string{"v4.1", "v4.0", "v3"} {
		t.Run(version, func(t *testing.T) {
			p := startPeer(t, prismsim.Options{Version: version}, nil)
			tgt := p.open(t)
			d := tgt.Capabilities().Deliveries[0]
			file, err := image.New(src, d.Format, image.Options{})
			if err != nil {
				t.Fatal(err)
			}
			size := src.Size()
			o := &target.Order{
				Job: "whole", Machine: &vm.Machine{Name: "whole", CPU: vm.CPU{Sockets: 1}, Memory: vm.GiB, Disks: []vm.Disk{{Size: size, Boot: true}}},
				Disks: []target.DiskOrder{{Delivery: d, Virtual: size, FileSize: file.Size()}},
			}
			p.Order(t, o)
			rec, path := new(targettest.MemRecorder), filepath.Join(t.TempDir(), "journal")
			jn, err := journal.Create(path, "whole", src.Map)
			if err != nil {
				t.Fatal(err)
			}
			var parts atomic.Int32
			var sums [2]*transfer.Result
			for n := range 2 {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				p.SetFault(func(q prismsim.Request) *prismsim.Fault {
					if isPart(q) && parts.Add(1) == 10 && n == 0 {
						cancel()
					}
					return nil
				})
				if n == 1 {
					tgt = p.open(t)
					if jn, err = journal.Load(path, "whole"); err != nil {
						t.Fatal(err)
					}
				}
				s, err := tgt.Begin(ctx, o, rec)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close(t.Context())
				up, err := s.Upload(ctx, 0)
				if err != nil {
					t.Fatal(err)
				}
				sent := src
				sent.Map = jn.Map()
				sums[n], err = restore.Send(ctx, sent, d, image.Options{}, up, jn, transfer.Options{MaxRange: 4096})
				if n == 0 && !tgt.old {
					if !errors.Is(err, context.Canceled) {
						t.Fatalf("the transfer was to break off: %v", err)
					}
					if err := errors.Join(up.Abort(), s.Close(t.Context()), jn.Close()); err != nil {
						t.Fatal(err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, err := up.Complete(ctx, target.Sum{Bytes: sums[n].Bytes, SHA256: sums[n].Sums["sha256"]}); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Finish(ctx); err != nil {
					t.Fatal(err)
				}
				if err := jn.Close(); err != nil {
					t.Fatal(err)
				}
				break
			}
			all := int32((file.Size() + part - 1) / part)
			if n := parts.Load(); !tgt.old && (n < all || n > all+inFlight+1) {
				t.Errorf("%d parts were sent of a file of %d", n, all)
			}
			if !bytes.Equal(p.Read(t, o, 0), raw) {
				t.Error("the disk is not what was backed up")
			}
			if inv := p.Sim.Inventory(); len(inv) != 1 {
				t.Errorf("%q", inv)
			}
		})
	}
}

// TestLostAnswers: the process dies after the platform began to make the machine,
// before it knew of it. The next one finds the machine and makes no second.
func TestLostAnswers(t *testing.T) {
	for _, version := range []string{"v4.1", "v3"} {
		t.Run(version, func(t *testing.T) {
			p := startPeer(t, prismsim.Options{Version: version}, nil)
			tgt := p.open(t)
			o, files := order(t, p, tgt, "lost", 64, 64)
			for i := range o.Disks {
				files[i] = targettest.Encode(t, files[i], o.Disks[i].Delivery.Format)
				o.Disks[i].FileSize = int64(len(files[i]))
			}
			rec := new(targettest.MemRecorder)
			p.first(attempts, isPost("/vms"), prismsim.Fault{Done: true})(t, o)
			if _, err := restoreAll(t, tgt, o, files, rec); err == nil {
				t.Fatal("no answer is no error")
			}
			p.SetFault(nil)
			made := p.Machines()
			if len(made) != 1 {
				t.Fatalf("%d machines", len(made))
			}
			v, err := restoreAll(t, p.open(t), o, files, rec)
			if err != nil {
				t.Fatal(err)
			}
			if inv := p.Sim.Inventory(); v.ID != made[0].ID || len(inv) != 1 {
				t.Errorf("%q", inv)
			}
			if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil || len(p.Sim.Inventory()) != 0 {
				t.Errorf("%v, left: %q", err, p.Sim.Inventory())
			}
		})
	}
}

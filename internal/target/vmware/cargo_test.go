package vmware

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sync"
	"testing"

	"ascend/internal/target"
	"ascend/internal/target/targettest"
	"ascend/internal/target/vmware/vcsimtest"
	"ascend/internal/vm"
)

// cargo is an order with the files to send and what the guest must see.
type cargo struct {
	*target.Order
	raw, file [][]byte
	at        []slotKey // where the disks are, if not in the order of buses and units
}

var jobs int

// load makes an order of disks of these sizes by the delivery of a path.
func load(t testing.TB, name, path string, sizes ...int64) *cargo {
	t.Helper()
	jobs++
	c := &cargo{Order: &target.Order{
		Job:     fmt.Sprintf("01JTEST%04d", jobs),
		Machine: &vm.Machine{Name: name, CPU: vm.CPU{Sockets: 2, CoresPerSocket: 2}, Memory: 1 << 30, Firmware: vm.BIOS},
		Placement: target.Placement{
			Fields: map[string]string{fieldDatastore: "LocalDS_0"},
		},
	}}
	var d target.Delivery
	for _, offered := range (&vmware{cfg: &config{}}).Capabilities().Deliveries {
		if offered.Path == path {
			d = offered
			break
		}
	}
	d.Format.Compression = map[string]string{pathNFC: "deflate"}[path]
	for i, size := range sizes {
		raw := make([]byte, size)
		rnd := rand.NewChaCha8([32]byte{byte(jobs), byte(i)})
		for off := int64(0); off < size; off += 1 << 20 { // data in a hole-ridden disk
			_, _ = rnd.Read(raw[off:min(off+100_000, size)])
		}
		file := targettest.Encode(t, raw, d.Format)
		o := target.DiskOrder{Delivery: d, Virtual: size, FileSize: -1}
		if d.NeedSize {
			o.FileSize = size
		}
		c.raw, c.file = append(c.raw, raw), append(c.file, file)
		c.Disks = append(c.Disks, o)
		c.Machine.Disks = append(c.Machine.Disks, vm.Disk{Index: i, Size: size})
	}
	return c
}

func (c *cargo) nic(network string, n vm.NIC) {
	c.Machine.NICs = append(c.Machine.NICs, n)
	c.Placement.Networks = append(c.Placement.Networks, network)
}

func (c *cargo) sum(i int) target.Sum {
	h := sha1.Sum(c.file[i])
	return target.Sum{Bytes: int64(len(c.file[i])), SHA1: h[:]}
}

// send sends disk i.
func (c *cargo) send(ctx context.Context, s target.Session, i int) (*target.Landed, error) {
	u, err := s.Upload(ctx, i)
	if err != nil {
		return nil, err
	}
	st := u.(target.StreamUpload)
	off, err := st.Offset(ctx)
	if err != nil {
		return nil, err
	}
	for p := c.file[i][off:]; len(p) > 0; {
		n := min(len(p), 64<<10)
		if err := st.Append(ctx, p[:n]); err != nil {
			return nil, errors.Join(err, st.Abort())
		}
		p = p[n:]
	}
	return st.Complete(ctx, c.sum(i))
}

// restore brings a machine up to Finish.
func (c *cargo) restore(t testing.TB, tgt *vmware, rec target.Recorder) *target.VM {
	t.Helper()
	ctx := context.Background()
	s, err := tgt.Begin(ctx, c.Order, rec)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	var wg sync.WaitGroup
	for i := range c.Disks {
		wg.Go(func() {
			if _, err := c.send(ctx, s, i); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	v, err := s.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// compare has qemu-img compare what landed with the source.
func (c *cargo) compare(t testing.TB, v vcsim) {
	t.Helper()
	dir := t.TempDir()
	for i := range c.Disks {
		disk := vcsimtest.Disks(v.Machine(t, c.Machine.Name))[i]
		if c.at != nil {
			disk = slotsOf(v.Machine(t, c.Machine.Name).Config.Hardware.Device)[c.at[i]]
		}
		src, dst, format := filepath.Join(dir, "src"), filepath.Join(dir, "dst"), "vmdk"
		var landed []byte
		if c.Disks[i].Delivery.Path == pathNFC {
			landed = v.Posted(path.Base(vcsimtest.File(disk)))
		} else {
			landed, format = v.Disk(t, disk), "raw"
		}
		if err := errors.Join(os.WriteFile(src, c.raw[i], 0o600), os.WriteFile(dst, landed, 0o600)); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("qemu-img", "compare", "-f", "raw", "-F", format, src, dst).CombinedOutput()
		if err != nil {
			t.Errorf("disk %d: qemu-img compare: %v: %s", i, err, out)
		}
	}
}

func undo(t testing.TB, tgt target.Target, rec target.Recorder) {
	t.Helper()
	if err := targettest.UndoAll(context.Background(), tgt, rec); err != nil {
		t.Fatal(err)
	}
}

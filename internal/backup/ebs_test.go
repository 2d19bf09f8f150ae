package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"ascend/internal/awsapi"
	"ascend/internal/disk"
	"ascend/internal/target/aws/awssim"
	"ascend/internal/vm"
)

// account is a simulated account with one instance of two disks.
type account struct {
	t     *testing.T
	sim   *awssim.Sim
	c     *awsapi.Client
	repo  string
	inst  string
	image string
	data  [2]map[int64][]byte
}

func newAccount(t *testing.T) *account {
	a := &account{t: t, sim: awssim.Start(awssim.Options{})}
	t.Cleanup(a.sim.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", awssim.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", awssim.SecretKey)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	a.repo = "ebs:eu-central-1?endpoint=" + a.sim.URL
	var err error
	if a.c, err = awsapi.New(t.Context(), awsapi.Config{Region: "eu-central-1", Endpoint: a.sim.URL}); err != nil {
		t.Fatal(err)
	}
	p := awsapi.Params{
		"Name": "made of two", "Architecture": "x86_64", "VirtualizationType": "hvm", "EnaSupport": "true", "BootMode": "uefi", "RootDeviceName": "/dev/sda1",
		"BlockDeviceMapping.1.DeviceName": "/dev/sdf", "BlockDeviceMapping.2.DeviceName": "/dev/sda1",
	}
	r := rand.NewChaCha8([32]byte{6})
	for i, at := range []string{"BlockDeviceMapping.2.Ebs.SnapshotId", "BlockDeviceMapping.1.Ebs.SnapshotId"} {
		a.data[i] = map[int64][]byte{}
		for _, n := range [][]int64{{0, 1, 77, 2047}, {3, 4095}}[i] {
			a.data[i][n] = make([]byte, awsapi.BlockSize)
			_, _ = r.Read(a.data[i][n]) // never fails
		}
		p[at] = a.snapshot(int64(i+1), a.data[i])
	}
	a.image = a.id("RegisterImage", p)
	a.settled("DescribeImages", "ImageId.1", a.image)
	a.inst = a.id("RunInstances", awsapi.Params{"ImageId": a.image, "InstanceType": "m5.xlarge", "MinCount": "1", "MaxCount": "1"}.Tags("instance", []awsapi.Tag{{Key: "Name", Value: "Wörk \"one\""}, {Key: "team", Value: "ops"}}))
	return a
}

// snapshot makes a snapshot of a volume of so many GiB.
func (a *account) snapshot(gib int64, blocks map[int64][]byte) string {
	a.t.Helper()
	id, err := a.c.StartSnapshot(a.t.Context(), awsapi.NewSnapshot{VolumeSize: gib, ClientToken: strconv.FormatInt(rand.Int64(), 36), Timeout: 60})
	if err != nil {
		a.t.Fatal(err)
	}
	h := sha256.New()
	for _, n := range sortedKeys(blocks) {
		sum := sha256.Sum256(blocks[n])
		h.Write(sum[:])
		if err := a.c.PutBlock(a.t.Context(), id, n, blocks[n], sum, nil); err != nil {
			a.t.Fatal(err)
		}
	}
	if err := a.c.CompleteSnapshot(a.t.Context(), id, int64(len(blocks)), h.Sum(nil)); err != nil {
		a.t.Fatal(err)
	}
	a.settled("DescribeSnapshots", "SnapshotId.1", id)
	return id
}

// settled describes a thing until it has passed through its first state.
func (a *account) settled(action, param, id string) {
	a.t.Helper()
	for range 3 {
		if err := a.c.EC2(a.t.Context(), action, awsapi.Params{param: id}, nil); err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *account) id(action string, p awsapi.Params) string {
	a.t.Helper()
	id, err := a.c.ID(a.t.Context(), action, p)
	if err != nil {
		a.t.Fatal(err)
	}
	return id
}

// taken takes snapshots of the instance's volumes.
func (a *account) taken(p awsapi.Params) []string {
	a.t.Helper()
	p["InstanceSpecification.InstanceId"] = a.inst
	var out struct {
		IDs []string `xml:"snapshotSet>item>snapshotId"`
	}
	if err := a.c.EC2(a.t.Context(), "CreateSnapshots", p, &out); err != nil {
		a.t.Fatal(err)
	}
	for _, id := range out.IDs {
		a.settled("DescribeSnapshots", "SnapshotId.1", id)
	}
	return out.IDs
}

func (a *account) open() *Repository {
	a.t.Helper()
	r, err := Open(a.repo)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { r.Close() })
	return r
}

// same compares a disk with blocks: bytes and extents.
func same(t *testing.T, d disk.Disk, size int64, blocks map[int64][]byte) {
	t.Helper()
	if d.Size() != size {
		t.Fatalf("%d bytes, not %d", d.Size(), size)
	}
	var at, held int64
	err := d.Extents(t.Context(), 0, size, func(e disk.Extent) error {
		if e.Off != at || e.Len <= 0 {
			t.Errorf("the extent %+v follows %d", e, at)
		}
		for n := e.Off / awsapi.BlockSize; n*awsapi.BlockSize < e.Off+e.Len; n++ {
			if (blocks[n] != nil) != e.Data {
				t.Errorf("block %d is data: %v", n, e.Data)
			}
		}
		if e.Data {
			held += e.Len
		}
		at += e.Len
		return nil
	})
	if err != nil || at != size || held != int64(len(blocks))*awsapi.BlockSize {
		t.Errorf("extents end at %d with %d bytes of data: %v", at, held, err)
	}
	for n, want := range blocks {
		for _, cut := range []int64{0, 511, awsapi.BlockSize - 3} { // across both edges of the block
			off := max(n*awsapi.BlockSize-5+cut, 0)
			got := make([]byte, min(1000, size-off))
			if k, err := d.ReadAt(got, off); k != len(got) || err != nil && !errors.Is(err, io.EOF) {
				t.Fatalf("%d bytes at %d: %v", k, off, err)
			}
			for i, b := range got {
				pos := off + int64(i)
				w := byte(0)
				if block := blocks[pos/awsapi.BlockSize]; block != nil {
					w = block[pos%awsapi.BlockSize]
				}
				if b != w {
					t.Fatalf("byte %d of block %d differs", pos, n)
				}
			}
		}
		whole := make([]byte, len(want))
		if _, err := d.ReadAt(whole, n*awsapi.BlockSize); err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(whole, want) {
			t.Errorf("block %d differs: %v", n, err)
		}
	}
}

// TestEBS: an image, an instance's snapshots of two moments, one of them of the
// boot disk alone, and a snapshot by itself are backups whose disks are read.
func TestEBS(t *testing.T) {
	a := newAccount(t)
	first := a.taken(awsapi.Params{"Description": "nightly"})
	lone := a.snapshot(1, map[int64][]byte{9: a.data[0][0]})
	r := a.open()
	list, err := r.List(t.Context())
	if err != nil || len(list) != 3 {
		t.Fatalf("%d backups: %+v, %v", len(list), list, err)
	}
	for _, ref := range []string{a.image, "Wörk \"one\"", first[0], lone} {
		b, err := r.Find(t.Context(), ref)
		if err != nil || b.Fault != "" || b.Origin != vm.AWS || b.Layout != LayoutEBS || b.Created.IsZero() {
			t.Fatalf("%s: %+v, %v", ref, b, err)
		}
		data := []map[int64][]byte{a.data[0], a.data[1]}
		if ref == lone {
			data = []map[int64][]byte{{9: a.data[0][0]}}
		}
		if len(b.Disks) != len(data) || len(b.Machine.Disks) != len(data) || b.Machine.BootDisk() != 0 {
			t.Fatalf("%s: %+v", ref, b)
		}
		for i := range b.Disks {
			d, err := r.OpenDisk(t.Context(), b, i)
			if err != nil {
				t.Fatal(err)
			}
			same(t, d, int64(i+1)<<30, data[i])
			if c := d.Info().Chain; len(c) != 1 || c[0].Path != b.Disks[i].Path || c[0].Modified.IsZero() {
				t.Errorf("chain: %+v", c)
			}
			d.Close()
		}
		m := b.Machine
		if ref == first[0] {
			if m.CPU.Total() != 4 || m.Memory != 16*vm.GiB || m.Firmware != vm.UEFI || m.Guest.Arch != vm.AMD64 || m.Tags["team"] != "ops" ||
				len(m.NICs) != 1 || m.NICs[0].Network != awssim.Subnet || m.NICs[0].MAC == "" || len(m.NICs[0].Addresses) != 1 {
				t.Errorf("the machine is %+v", m)
			}
			if err := r.Verify(t.Context(), b, nil); !errors.Is(err, ErrNoManifest) {
				t.Errorf("verify: %v", err)
			}
		}
	}
	if r.Name() != a.repo || r.Root() != nil {
		t.Errorf("the repository is named %q", r.Name())
	}
	for _, q := range a.sim.Requests() {
		if strings.HasPrefix(q.Action, "Delete") || q.Action == "TerminateInstances" {
			t.Errorf("a source was changed by %s", q.Action)
		}
	}
}

// TestEBSIncrements: points in time of one volume are increments of each other, whose
// changes are told by ListChangedBlocks, and each is read whole by itself.
func TestEBSIncrements(t *testing.T) {
	a := newAccount(t)
	insts, err := a.c.Instances(t.Context(), awsapi.Params{"InstanceId.1": a.inst})
	if err != nil || len(insts) != 1 || len(insts[0].Devices) != 2 {
		t.Fatalf("%+v, %v", insts, err)
	}
	vols := map[string]string{}
	for _, d := range insts[0].Devices {
		vols[d.Name] = d.Volume
	}
	boot := vols["/dev/sda1"]
	first := a.taken(awsapi.Params{})
	a.sim.WriteVolume(boot, 5, a.data[1][3])
	a.sim.WriteVolume(boot, 1, a.data[1][3])
	a.sim.WriteVolume(boot, 77, nil)
	second := a.taken(awsapi.Params{})
	third := a.taken(awsapi.Params{"InstanceSpecification.ExcludeBootVolume": "true"})
	r := a.open()
	now := maps.Clone(a.data[0])
	now[5], now[1] = a.data[1][3], a.data[1][3]
	delete(now, 77)
	for _, c := range []struct {
		ids     []string
		typ     Type
		data    []map[int64][]byte
		changed []int64
	}{
		{first, Full, []map[int64][]byte{a.data[0], a.data[1]}, nil},
		{second, Incremental, []map[int64][]byte{now, a.data[1]}, []int64{3, 0}},
		{third, Incremental, nil, []int64{0}},
	} {
		b, err := r.Find(t.Context(), c.ids[0])
		if err != nil {
			t.Fatal(err)
		}
		if b.Type != c.typ || len(b.Disks) != len(c.ids) {
			t.Errorf("%+v", b)
		}
		changes, err := r.Changes(t.Context(), b)
		if err != nil || len(changes) != len(c.changed) {
			t.Fatalf("%+v, %v", changes, err)
		}
		for i, n := range c.changed {
			if changes[i].Bytes != n*awsapi.BlockSize || changes[i].Parent == "" || changes[i].Parent != b.Disks[i].Parent {
				t.Errorf("%+v of %+v, and %d blocks changed", changes[i], b.Disks[i], n)
			}
		}
		for i, data := range c.data {
			if want := int64(len(data)) * awsapi.BlockSize; b.Disks[i].Bytes != want {
				t.Errorf("%d bytes are stored, not %d", b.Disks[i].Bytes, want)
			}
			d, err := r.OpenDisk(t.Context(), b, i)
			if err != nil {
				t.Fatal(err)
			}
			same(t, d, int64(i+1)<<30, data)
			d.Close()
		}
	}
	// Retention takes the first away: the second is read as before, and is a full one.
	b, err := r.Find(t.Context(), second[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range first {
		if err := a.c.EC2(t.Context(), "DeleteSnapshot", awsapi.Params{"SnapshotId": id}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Changes(t.Context(), b); err == nil {
		t.Error("changes since a snapshot that is gone")
	}
	if b, err = r.Find(t.Context(), second[0]); err != nil || b.Type != Full {
		t.Errorf("%+v, %v", b, err)
	}
}

// TestEBSFaults: what cannot be read is said in the listing.
func TestEBSFaults(t *testing.T) {
	a := newAccount(t)
	a.taken(awsapi.Params{"InstanceSpecification.ExcludeBootVolume": "true"})
	pending, err := a.c.StartSnapshot(t.Context(), awsapi.NewSnapshot{VolumeSize: 1, ClientToken: "never complete", Timeout: 60})
	if err != nil {
		t.Fatal(err)
	}
	r := a.open()
	for ref, want := range map[string]string{"Wörk \"one\"": "boot disk has no snapshot", pending: "is pending"} {
		b, err := r.Find(t.Context(), ref)
		if err != nil || !strings.Contains(b.Fault, want) {
			t.Errorf("%s: %q, %v", ref, b.Fault, err)
		}
		if len(b.Disks) == 0 {
			continue
		}
		if _, err := r.OpenDisk(t.Context(), b, 0); ref == pending && !errors.Is(err, ErrFault) {
			t.Errorf("opened: %v", err)
		}
	}
}

// TestEBSTrouble: blocks that arrive damaged or not at all are asked for again or
// refused, and a storm of throttling is waited out.
func TestEBSTrouble(t *testing.T) {
	a := newAccount(t)
	id := a.taken(awsapi.Params{})[0]
	r := a.open()
	b, err := r.Find(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	left := 4
	a.sim.SetFault(func(q awssim.Request) *awssim.Fault {
		if q.Action != "GetSnapshotBlock" || left == 0 {
			return nil
		}
		left--
		return []*awssim.Fault{{}, {Status: 503, Code: "ServiceUnavailable"}, {Status: 400, Code: "RequestThrottledException"}, {Status: 400, Code: "ValidationException"}}[left]
	})
	d, err := r.OpenDisk(t.Context(), b, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	same(t, d, 1<<30, a.data[0])
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.OpenDisk(ctx, b, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestEBSNames: what is no name of an account is refused, and keys have no place
// in one.
func TestEBSNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"ebs:": true, "ebs:eu-central-1": true, "ebs:eu-central-1?profile=a&role=arn:aws:iam::1:role/x": true,
		"ebs://eu-central-1": false, "ebs:x?secret-key=s3cr3t": false, "ebs:/folder": false, "ebs:x?%zz": false,
	} {
		r, err := Open(name)
		if (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("the error shows a key: %v", err)
		}
		if r != nil {
			r.Close()
		}
	}
}

package aws

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"ascend/internal/awsapi"
	"ascend/internal/target"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// byObject is an order of one disk of random bytes that travels by S3, and its file.
func byObject(t *testing.T, job string, size int64) (*target.Order, []byte, []byte) {
	t.Helper()
	raw := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{4}).Read(raw) // never fails
	d := byS3()
	return &target.Order{
		Job: job, Machine: &vm.Machine{Name: "by object", CPU: vm.CPU{Sockets: 1}, Memory: vm.GiB, Disks: []vm.Disk{{Size: size}}},
		Disks:   []target.DiskOrder{{Delivery: d, Virtual: size, FileSize: -1}},
		Options: map[string]string{optEncrypt: "yes", optKMS: "arn:aws:kms:eu-central-1:111122223333:key/1"},
	}, raw, targettest.Encode(t, raw, d.Format)
}

// TestObject: a process that dies in the middle of an object is followed by one that
// sends only what has not landed; what is there in the end is the snapshot, encrypted,
// and no object. Undoing in mid-upload leaves no parts behind.
func TestObject(t *testing.T) {
	p := newS3Peer(t).(*peer)
	o, raw, file := byObject(t, "resumed", 37<<20)
	rec := new(targettest.MemRecorder)
	open := func() (target.Session, target.StreamUpload) {
		t.Helper()
		s, err := p.Open(t).Begin(t.Context(), o, rec)
		if err != nil {
			t.Fatal(err)
		}
		u, err := s.Upload(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		return s, u.(target.StreamUpload)
	}
	send := func(u target.StreamUpload, from, to int) {
		t.Helper()
		for ; from < to; from += 1 << 20 {
			if err := u.Append(t.Context(), file[from:min(from+1<<20, to)]); err != nil {
				t.Fatal(err)
			}
		}
		if err := u.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	_, u := open()
	send(u, 0, 21<<20)
	p.sim.Drop()
	s, u := open()
	off, err := u.Offset(t.Context())
	if err != nil || off != 2*partSize {
		t.Fatalf("it goes on at %d: %v", off, err)
	}
	before := len(p.sim.Requests())
	send(u, int(off), len(file))
	l, err := u.Complete(t.Context(), target.Sum{Bytes: int64(len(file))})
	if err != nil {
		t.Fatal(err)
	}
	again := 0
	for _, q := range p.sim.Requests()[before:] {
		switch q.Action {
		case "UploadPart":
			again += q.Bytes
		case "ImportSnapshot":
			if q.Params.Get("Encrypted") != "true" || q.Params.Get("KmsKeyId") == "" {
				t.Errorf("not encrypted: %v", q.Params)
			}
		}
	}
	if again != len(file)-2*partSize {
		t.Errorf("%d bytes were sent by the second process of %d", again, len(file))
	}
	blocks := p.sim.Blocks(l.Object)
	for n := int64(0); n*awsapi.BlockSize < int64(len(raw)); n++ {
		want := raw[n*awsapi.BlockSize : min((n+1)*awsapi.BlockSize, int64(len(raw)))]
		if !bytes.Equal(blocks[n][:len(want)], want) {
			t.Fatalf("block %d is not the disk's", n)
		}
	}
	for _, thing := range p.sim.Inventory() {
		if !strings.HasPrefix(thing, "snapshot") {
			t.Errorf("left beside the snapshot: %s", thing)
		}
	}
	if _, err := s.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	tgt := p.Open(t)
	if d, err := tgt.(target.Reader).ReadLanded(t.Context(), l.Object, o.Disks[0].Delivery.Format); err != nil || d.Size() != int64(len(raw)) {
		t.Errorf("read again: %v", err)
	}
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Fatal(err)
	}
	half := *o
	half.Job, o, rec = "half", &half, new(targettest.MemRecorder)
	_, u = open()
	send(u, 0, 9<<20)
	if n := len(p.sim.Inventory()); n != 1 {
		t.Errorf("%d things in mid-upload", n)
	}
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Fatal(err)
	}
	if left := p.sim.Inventory(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestObjectLost: an upload that a rule of the bucket has removed begins anew, and an
// import that AWS gives up is told with its reason and undone.
func TestObjectLost(t *testing.T) {
	p := newS3Peer(t).(*peer)
	o, _, file := byObject(t, "lost", 9<<20)
	rec := new(targettest.MemRecorder)
	tgt := p.Open(t)
	upload := func() (target.StreamUpload, error) {
		s, err := tgt.Begin(t.Context(), o, rec)
		if err != nil {
			t.Fatal(err)
		}
		u, err := s.Upload(t.Context(), 0)
		if err != nil {
			return nil, err
		}
		return u.(target.StreamUpload), nil
	}
	u, err := upload()
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Append(t.Context(), file[:partSize]); err != nil {
		t.Fatal(err)
	}
	if err := u.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := tgt.(*cloud)
	all, err := rec.Recorded(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.dropUploads(t.Context(), all[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := upload(); !errors.Is(err, target.ErrExpired) {
		t.Fatalf("%v", err)
	}
	if u, err = upload(); err != nil {
		t.Fatal(err)
	}
	if off, err := u.Offset(t.Context()); off != 0 || err != nil {
		t.Errorf("it goes on at %d: %v", off, err)
	}
	if err := u.Append(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	p.sim.FailImports("ClientError: Unsupported disk")
	if _, err := u.Complete(t.Context(), target.Sum{Bytes: int64(len(file))}); !target.IsPermanent(err) || !strings.Contains(err.Error(), "Unsupported disk") {
		t.Errorf("%v", err)
	}
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Fatal(err)
	}
	if left := p.sim.Inventory(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestParts: the parts of the largest disk fit S3's numbers and sizes, and memory.
func TestParts(t *testing.T) {
	for _, c := range []struct{ virtual, part int64 }{{vm.GiB, 8 << 20}, {74 * vm.GiB, 8 << 20}, {2 * vm.TiB, 221 << 20}, {16 * vm.TiB, 1767 << 20}} {
		if got := partOf(c.virtual); got != c.part || got*awsapi.MaxParts < c.virtual+c.virtual/128 || got > 5<<30 {
			t.Errorf("%d bytes: parts of %d, not %d", c.virtual, got, c.part)
		}
	}
}

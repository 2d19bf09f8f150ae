package aws

import (
	"errors"
	"strings"
	"testing"

	"ascend/internal/target"
	"ascend/internal/target/aws/awssim"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

func windows(tgt target.Target, job string) *target.Order {
	const size = 1 << 20
	o := &target.Order{
		Job: job, Machine: &vm.Machine{
			Name: "win " + job, CPU: vm.CPU{Sockets: 1}, Memory: vm.GiB, Firmware: vm.UEFI, Guest: vm.GuestOS{Family: vm.Windows, Arch: vm.AMD64},
			Disks: []vm.Disk{{Size: size}, {Size: size, Boot: true}},
		},
		Disks:     make([]target.DiskOrder, 2),
		Placement: target.Placement{Storage: []string{"st1", "io2"}, Volumes: []target.Volume{{}, {IOPS: 300}}},
	}
	for i := range o.Disks {
		o.Disks[i] = target.DiskOrder{Delivery: tgt.Capabilities().Deliveries[0], Virtual: size, FileSize: size}
	}
	return o
}

// TestImport: a Windows guest is imported from its snapshots, boot disk first, once
// though the job is begun twice, and undone with what the import made.
func TestImport(t *testing.T) {
	p := newPeer(t).(*peer)
	tgt := p.Open(t)
	before := len(p.sim.Inventory())
	rec := new(targettest.MemRecorder)
	o := windows(tgt, "twice")
	first := restoreEmpty(t, tgt, o, rec)
	again := restoreEmpty(t, tgt, o, rec)
	if first.ID != again.ID || p.sim.State(first.ID) != "running" {
		t.Errorf("%+v, then %+v", first, again)
	}
	imported, launched := 0, 0
	for _, q := range p.sim.Requests() {
		switch q.Action {
		case "ImportImage":
			imported++
			if q.Params.Get("DiskContainer.1.SnapshotId") != snapshotOf(t, rec, 1) || q.Params.Get("Platform") != "Windows" || q.Params.Get("BootMode") != "uefi" {
				t.Errorf("%v", q.Params)
			}
		case "RunInstances":
			if launched++; q.Params.Get("BlockDeviceMapping.1.Ebs.VolumeType") != "io2" || q.Params.Get("BlockDeviceMapping.1.Ebs.Iops") != "300" || q.Params.Get("BlockDeviceMapping.2.Ebs.VolumeType") != "st1" {
				t.Errorf("%v", q.Params)
			}
		case "RegisterImage":
			t.Error("the image was registered")
		}
	}
	if imported != 1 || launched != 1 {
		t.Errorf("imported %d times, launched %d times", imported, launched)
	}
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Fatal(err)
	}
	if left := p.sim.Inventory(); len(left) != before {
		t.Errorf("left: %q", left)
	}
}

func snapshotOf(t *testing.T, rec target.Recorder, i int) string {
	t.Helper()
	all, err := rec.Recorded(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.Kind == kindSnapshot && r.Name == diskName(i) {
			return r.ID
		}
	}
	return ""
}

// TestImportLost: the process dies when AWS has the import and nothing says so; the
// next one finds the task again, and undoing ends it whether it is over or not.
func TestImportLost(t *testing.T) {
	for _, c := range []struct {
		name  string
		polls int
	}{{"over", 1}, {"under way", 1000}} {
		t.Run(c.name, func(t *testing.T) {
			p := &peer{sim: awssim.Start(awssim.Options{})}
			t.Cleanup(p.sim.Close)
			tgt := p.open(t, awssim.SecretKey)
			o := windows(tgt, c.name)
			rec := new(targettest.MemRecorder)
			s, err := tgt.Begin(t.Context(), o, rec)
			if err != nil {
				t.Fatal(err)
			}
			snaps := upload2(t, s, o)
			// As importImage begins, up to the answer that was lost.
			intent := target.Resource{Job: o.Job, Kind: kindImport, Name: o.Machine.Name, Data: map[string]string{dataToken: "the token"}}
			if err := rec.Record(t.Context(), intent); err != nil {
				t.Fatal(err)
			}
			p.sim.SetPolls(c.polls)
			ss := s.(*session)
			if _, err := tgt.c.ImportImage(t.Context(), ss.importParams(snaps, "the token", ss.tags(o.Machine.Name))); err != nil {
				t.Fatal(err)
			}
			p.sim.SetPolls(1)
			if c.polls == 1 {
				restoreEmpty(t, tgt, o, rec)
			}
			if n := len(p.sim.Imports()); n != 1 {
				t.Errorf("%d imports", n)
			}
			if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
				t.Fatal(err)
			}
			if left := p.sim.Inventory(); len(left) != 0 {
				t.Errorf("left: %q", left)
			}
			if want := map[bool]string{true: "completed", false: "deleted"}[c.polls == 1]; p.sim.Imports()[0] != want {
				t.Errorf("the task is %v", p.sim.Imports())
			}
		})
	}
}

// upload2 uploads an order's empty disks and returns their snapshots.
func upload2(t *testing.T, s target.Session, o *target.Order) (ids []string) {
	t.Helper()
	for i, d := range o.Disks {
		u, err := s.Upload(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		l, err := u.Complete(t.Context(), target.Sum{Bytes: d.FileSize, Blocks: func(func(int64, [32]byte) bool) {}})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, l.Object)
	}
	return ids
}

// TestImportFails: AWS's reason is told, with what to do, and it is for good.
func TestImportFails(t *testing.T) {
	p := newPeer(t).(*peer)
	tgt := p.Open(t)
	for message, hint := range map[string]string{
		"ClientError: Disk validation failed [No valid partitions. Not a valid volume.]": "boot disk",
		"ClientError: Unsupported kernel version 2.4.0":                                  "import=no",
		"ServerError: an internal error":                                                 "docs/aws.md",
	} {
		o := windows(tgt, hint)
		rec := new(targettest.MemRecorder)
		s, err := tgt.Begin(t.Context(), o, rec)
		if err != nil {
			t.Fatal(err)
		}
		upload2(t, s, o)
		p.sim.FailImports(message)
		_, err = s.Finish(t.Context())
		if !errors.Is(err, target.ErrPermanent) || !strings.Contains(err.Error(), message) || !strings.Contains(err.Error(), "hint: ") || !strings.Contains(err.Error(), hint) {
			t.Errorf("%v", err)
		}
		if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
			t.Fatal(err)
		}
	}
	if left := p.sim.Inventory(); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	arm := windows(tgt, "arm")
	arm.Machine.Guest.Arch = vm.ARM64
	if _, err := tgt.Begin(t.Context(), arm, new(targettest.MemRecorder)); !errors.Is(err, target.ErrPermanent) {
		t.Errorf("an ARM64 guest is to be imported: %v", err)
	}
}

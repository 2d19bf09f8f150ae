package vmware

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
	"ascend/internal/target/targettest"
	"ascend/internal/target/vmware/vcsimtest"
)

// TestUndoRefuses asserts that what is not the job's, or no longer only, stays.
func TestUndoRefuses(t *testing.T) {
	v := newVcsim(t, vcsimtest.Small())
	tgt := v.open(t)
	defer tgt.Close()
	ctx := context.Background()
	client := v.Client(t)
	reconfigure := func(name string, spec types.VirtualMachineConfigSpec) {
		t.Helper()
		task, err := object.NewVirtualMachine(client.Client, v.Machine(t, name).Self).Reconfigure(ctx, spec)
		if err == nil {
			err = task.Wait(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mark := func(job string) types.VirtualMachineConfigSpec {
		return types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: jobKey, Value: job}}}
	}
	refused := func(what string, rec *targettest.MemRecorder) {
		t.Helper()
		before := v.Inventory(t)
		if err := targettest.UndoAll(ctx, tgt, rec); !target.IsPermanent(err) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: %v", what, err)
		}
		v.Unchanged(t, before)
	}
	rec := new(targettest.MemRecorder)
	c := load(t, "marked", pathNFC, 512)
	c.restore(t, tgt, rec)
	reconfigure("marked", mark("somebody"))
	refused("another mark", rec)
	reconfigure("marked", mark("")) // removes it
	refused("no mark", rec)
	reconfigure("marked", mark(c.Job))

	// A disk that somebody attached would be deleted with the machine.
	unit := int32(5)
	ctrl := vcsimtest.Disks(v.Machine(t, "marked"))[0].ControllerKey
	reconfigure("marked", types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
		Operation: types.VirtualDeviceConfigSpecOperationAdd, FileOperation: types.VirtualDeviceConfigSpecFileOperationCreate,
		Device: &types.VirtualDisk{VirtualDevice: types.VirtualDevice{
			Key: -1, ControllerKey: ctrl, UnitNumber: &unit,
			Backing: &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[LocalDS_1] payroll.vmdk"}},
		}, CapacityInKB: 1024},
	}}})
	refused("a disk of somebody else's", rec)

	// A foreign file in the job's own folder.
	rec = new(targettest.MemRecorder)
	c = load(t, "folder", pathDatastore, 512)
	before := v.Inventory(t)
	begin(t, tgt, c, rec)
	thesis := filepath.Join(v.Stores(t)["LocalDS_0"], folderName("folder", c.Job), "thesis.docx")
	if err := os.WriteFile(thesis, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("a file of somebody else's", rec)
	if err := os.Remove(thesis); err != nil {
		t.Fatal(err)
	}
	undo(t, tgt, rec)
	v.Unchanged(t, before)

	dc := map[string]string{dataDatacenter: "datacenter-2"}
	before = v.Inventory(t)
	for _, r := range []target.Resource{
		{Job: "j", Kind: "snapshot", ID: "x", Name: "x"},
		{Job: "j", Kind: kindFolder, ID: "x", Name: "[LocalDS_0] DC0_C0_RP1_VM0", Data: dc},
		{Job: "j", Kind: kindFolder, ID: "x", Name: "[LocalDS_0]", Data: dc},
		{Job: "j", Kind: kindFolder, ID: "x", Name: "[LocalDS_0] a/b_j", Data: dc},
		{Job: "j", Kind: kindFile, ID: "x", Name: "[LocalDS_0] DC0_C0_RP1_VM0/disk1.vmdk", Data: dc},
		{Job: "", Kind: kindFolder, ID: "x", Name: "[LocalDS_0] DC0_C0_RP1_VM0", Data: dc},
		{Job: "j", Kind: kindVM, ID: v.Machine(t, "DC0_C0_RP1_VM0").Self.Value, Name: "DC0_C0_RP1_VM0", Data: dc},
		{Job: "", Kind: kindVM, ID: v.Machine(t, "DC0_C0_RP1_VM0").Self.Value, Name: "DC0_C0_RP1_VM0", Data: dc},
	} {
		if err := tgt.Undo(ctx, r); !target.IsPermanent(err) {
			t.Errorf("Undo of %+v: %v", r, err)
		}
	}
	v.Unchanged(t, before)
}

// TestUndoWaits undoes a machine whose creation was still under way when the
// process died.
func TestUndoWaits(t *testing.T) {
	for name, way := range map[string]string{"ImportVAppLRO": pathNFC, "CreateVm": pathDatastore} {
		t.Run(way, func(t *testing.T) {
			v := newVcsim(t, vcsimtest.Small())
			before := v.Inventory(t)
			tgt := v.open(t)
			defer tgt.Close()
			rec := new(targettest.MemRecorder)
			c := load(t, "slow birth", way, 512)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			create := func() error {
				_, err := tgt.Begin(ctx, c.Order, rec)
				return err
			}
			if way == pathDatastore {
				s := begin(t, tgt, c, rec)
				if _, err := c.send(ctx, s, 0); err != nil {
					t.Fatal(err)
				}
				create = func() error { _, err := s.Finish(ctx); return err }
			}
			simulator.TaskDelay = simulator.DelayConfig{MethodDelay: map[string]int{name: 400, "LockHandoff": 0}}
			defer func() { simulator.TaskDelay = simulator.DelayConfig{} }()
			done := make(chan error)
			go func() { done <- create() }()
			wait(t, "the intent", func() bool {
				return slices.ContainsFunc(rec.History(), func(r target.Resource) bool { return r.Kind == kindVM })
			})
			// What another process finds that starts now.
			intent := rec.History()[slices.IndexFunc(rec.History(), func(r target.Resource) bool { return r.Kind == kindVM })]
			wait(t, "the task", func() bool {
				conn, err := tgt.connect(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				busy, err := conn.creating(context.Background(), types.ManagedObjectReference{Type: "Folder", Value: intent.Data[dataFolder]}, intent.Data[dataPool])
				if err != nil {
					t.Fatal(err)
				}
				return busy
			})
			cancel()
			if err := tgt.Undo(context.Background(), intent); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err == nil {
				t.Error("the creation that was cancelled succeeds")
			}
			undo(t, tgt, rec)
			v.Unchanged(t, before)
		})
	}
}

// TestFolders restores a name that another folder has already, and refuses one
// that is taken in the same.
func TestFolders(t *testing.T) {
	v := newVcsim(t, vcsimtest.Small())
	ctx := context.Background()
	root := object.NewRootFolder(v.Client(t).Client)
	dcs, err := root.Children(ctx)
	if err != nil {
		t.Fatal(err)
	}
	folders, err := dcs[0].(*object.Datacenter).Folders(ctx)
	if err != nil {
		t.Fatal(err)
	}
	prod, err := folders.VmFolder.CreateFolder(ctx, "Prod")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := prod.CreateFolder(ctx, "Web"); err != nil {
		t.Fatal(err)
	}
	foreign := v.Foreign(t, "twin")
	before := v.Inventory(t)
	tgt := v.open(t)
	defer tgt.Close()
	c := load(t, "twin", pathNFC, 512)
	rec := new(targettest.MemRecorder)
	if _, err := tgt.Begin(ctx, c.Order, rec); !errors.Is(err, target.ErrExists) || rec.Calls() > 0 {
		t.Errorf("a name that is taken: %v, %d records", err, rec.Calls())
	}
	for _, where := range []string{"Prod/Web", "Web", "/DC0/vm/Prod/Web", "/DC0/vm/Prod/"} {
		c.Placement.Fields[fieldFolder] = where
		m := c.restore(t, tgt, rec)
		if m.ID == foreign.Value {
			t.Fatal("the foreign machine was taken for ours")
		}
		var made mo.VirtualMachine
		if err := v.Client(t).RetrieveOne(ctx, types.ManagedObjectReference{Type: "VirtualMachine", Value: m.ID}, []string{"parent"}, &made); err != nil {
			t.Fatal(err)
		}
		var parent mo.Folder
		if err := v.Client(t).RetrieveOne(ctx, *made.Parent, []string{"name"}, &parent); err != nil {
			t.Fatal(err)
		}
		if want := map[bool]string{true: "Prod", false: "Web"}[strings.HasSuffix(where, "/")]; parent.Name != want {
			t.Errorf("into %s: the machine is in %s", where, parent.Name)
		}
		undo(t, tgt, rec)
		v.Unchanged(t, before)
	}
}

// TestDeletedMeanwhile begins again a job whose machine somebody deleted.
func TestDeletedMeanwhile(t *testing.T) {
	for _, way := range []string{pathNFC, pathDatastore} {
		v := newVcsim(t, vcsimtest.Bare())
		before := v.Inventory(t)
		tgt := v.open(t)
		rec := new(targettest.MemRecorder)
		c := load(t, "deleted", way, 1<<20, 512)
		m := c.restore(t, tgt, rec)
		v.Destroy(t, types.ManagedObjectReference{Type: "VirtualMachine", Value: m.ID})
		c.restore(t, tgt, rec)
		c.compare(t, v)
		undo(t, tgt, rec)
		v.Unchanged(t, before)
		tgt.Close()
	}
}

// TestFilesSurvive restores to a datastore in two processes: what the first
// completed is not sent again.
func TestFilesSurvive(t *testing.T) {
	v := newVcsim(t, vcsimtest.Bare())
	ctx := context.Background()
	rec := new(targettest.MemRecorder)
	c := load(t, "two halves", pathDatastore, 1<<20, 2<<20)
	first := v.open(t)
	s := begin(t, first, c, rec)
	if _, err := c.send(ctx, s, 1); err != nil {
		t.Fatal(err)
	}
	peer{v}.Crash(t, first)
	second := v.open(t)
	defer second.Close()
	c.restore(t, second, rec)
	c.compare(t, v)
	sent := map[string]int{}
	for _, p := range v.Puts() {
		sent[p[strings.LastIndexByte(p, '/')+1:]]++
	}
	for _, file := range []string{"disk-0-flat.vmdk", "disk-0.vmdk", "disk-1-flat.vmdk", "disk-1.vmdk"} {
		if sent[file] != 1 {
			t.Errorf("%s was put %d times", file, sent[file])
		}
	}
}

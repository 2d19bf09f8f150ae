package vcsimtest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Client is a connection of the test's own, the same for every call.
func (v *VCenter) Client(t testing.TB) *govmomi.Client {
	t.Helper()
	v.once.Do(func() {
		u := *v.Server.URL
		u.User = url.UserPassword(Username, Password)
		var err error
		if v.admin, err = govmomi.NewClient(context.Background(), &u, true); err != nil {
			t.Fatal(err)
		}
	})
	return v.admin
}

// Retrieve reads properties of every object of a kind; none is no error.
func (v *VCenter) Retrieve(t testing.TB, kind string, props []string, dst any) {
	t.Helper()
	ctx := context.Background()
	c := v.Client(t)
	cv, err := view.NewManager(c.Client).CreateContainerView(ctx, c.ServiceContent.RootFolder, []string{kind}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cv.Destroy(ctx) }()
	if err := cv.Retrieve(ctx, []string{kind}, props, dst); err != nil {
		t.Fatal(err)
	}
}

// Machines lists every machine.
func (v *VCenter) Machines(t testing.TB) []mo.VirtualMachine {
	t.Helper()
	var out []mo.VirtualMachine
	v.Retrieve(t, "VirtualMachine", []string{"name", "parent", "config", "runtime", "resourcePool", "network"}, &out)
	return out
}

// Machine is the machine of a name as people see it.
func (v *VCenter) Machine(t testing.TB, name string) mo.VirtualMachine {
	t.Helper()
	escaped := strings.NewReplacer("%", "%25", "/", "%2f", `\`, "%5c").Replace(name)
	for _, m := range v.Machines(t) {
		if m.Name == escaped {
			return m
		}
	}
	t.Fatalf("there is no machine %q", name)
	return mo.VirtualMachine{}
}

// Disks are a machine's disks in the order of their buses' numbers and units.
func Disks(m mo.VirtualMachine) []*types.VirtualDisk {
	bus := map[int32]int32{}
	var out []*types.VirtualDisk
	for _, d := range m.Config.Hardware.Device {
		switch d := d.(type) {
		case *types.VirtualDisk:
			out = append(out, d)
		case types.BaseVirtualController:
			bus[d.GetVirtualController().Key] = d.GetVirtualController().BusNumber
		}
	}
	slices.SortStableFunc(out, func(a, b *types.VirtualDisk) int {
		return int(bus[a.ControllerKey]*100+*a.UnitNumber) - int(bus[b.ControllerKey]*100+*b.UnitNumber)
	})
	return out
}

// File is the datastore path of a disk's descriptor.
func File(d *types.VirtualDisk) string {
	return d.Backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo().FileName
}

// Posted is the bytes of the last whole NFC upload of a file name; nil without.
func (v *VCenter) Posted(file string) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.posted[file]
}

// Posts counts the requests that brought disk or file bytes, whole or not.
func (v *VCenter) Posts() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.posts
}

// Puts lists the paths that were put to a datastore, in order.
func (v *VCenter) Puts() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.puts)
}

// Disk is what the vCenter holds of a disk as the guest sees it: the VMDK that
// was imported, or the flat file.
func (v *VCenter) Disk(t testing.TB, d *types.VirtualDisk) []byte {
	t.Helper()
	posted := v.Posted(path.Base(File(d)))
	if posted == nil {
		return v.flat(t, d)
	}
	dir := t.TempDir()
	if err := inflate(posted, dir); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// flat reads what a descriptor on a datastore describes.
func (v *VCenter) flat(t testing.TB, d *types.VirtualDisk) []byte {
	t.Helper()
	store, name, _ := strings.Cut(strings.TrimPrefix(File(d), "["), "] ")
	dir := v.Stores(t)[store]
	desc, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, strings.TrimSuffix(name, ".vmdk")+"-flat.vmdk"))
	if err != nil {
		t.Fatal(err)
	}
	extent := fmt.Sprintf("\nRW %d VMFS \"%s-flat.vmdk\"\n", len(b)/512, strings.TrimSuffix(path.Base(name), ".vmdk"))
	if !bytes.Contains(desc, []byte(extent)) {
		t.Fatalf("the descriptor does not describe the flat file by %q:\n%s", extent, desc)
	}
	return b
}

// Stores are the folders on this computer that are the datastores, by name.
func (v *VCenter) Stores(t testing.TB) map[string]string {
	t.Helper()
	if v.dirs == nil {
		var all []mo.Datastore
		v.Retrieve(t, "Datastore", []string{"name", "summary"}, &all)
		v.dirs = map[string]string{}
		for _, d := range all {
			v.dirs[d.Name] = d.Summary.Url
		}
	}
	return v.dirs
}

// Inventory lists machines, without their identifiers, all other objects, and
// every file and folder of the datastores, sorted.
func (v *VCenter) Inventory(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, m := range v.Machines(t) {
		line := fmt.Sprintf("machine %q in %s pool %s %s firmware %s", m.Name, m.Parent, m.ResourcePool, m.Runtime.PowerState, m.Config.Firmware)
		for _, d := range Disks(m) {
			line += fmt.Sprintf(" disk %q %d", File(d), d.CapacityInBytes)
		}
		out = append(out, line+fmt.Sprintf(" networks %v", m.Network))
	}
	for store, dir := range v.Stores(t) {
		err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			line := "[" + store + "] " + reveal(strings.TrimPrefix(p, dir))
			if !e.IsDir() && path.Ext(p) != ".log" {
				info, err := e.Info()
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" %d bytes", info.Size())
			}
			out = append(out, line)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var all []mo.ManagedEntity
	v.Retrieve(t, "ManagedEntity", []string{"name"}, &all)
	for _, e := range all {
		if e.Self.Type != "VirtualMachine" {
			out = append(out, e.Self.String()+" "+e.Name)
		}
	}
	slices.Sort(out)
	return out
}

// Unchanged fails where the inventory is not as before.
func (v *VCenter) Unchanged(t testing.TB, before []string) {
	t.Helper()
	now := v.Inventory(t)
	for _, l := range now {
		if !slices.Contains(before, l) {
			t.Errorf("left behind: %s", l)
		}
	}
	for _, l := range before {
		if !slices.Contains(now, l) {
			t.Errorf("lost: %s", l)
		}
	}
}

// Foreign makes a machine that no job made, in the first datacenter's folder.
func (v *VCenter) Foreign(t testing.TB, name string) types.ManagedObjectReference {
	t.Helper()
	ctx := context.Background()
	c := v.Client(t)
	var dcs []mo.Datacenter
	v.Retrieve(t, "Datacenter", []string{"name", "vmFolder"}, &dcs)
	slices.SortFunc(dcs, func(a, b mo.Datacenter) int { return strings.Compare(a.Name, b.Name) })
	var computes []mo.ComputeResource
	v.Retrieve(t, "ComputeResource", []string{"name", "resourcePool"}, &computes)
	slices.SortFunc(computes, func(a, b mo.ComputeResource) int { return strings.Compare(a.Name, b.Name) })
	escaped := strings.NewReplacer("%", "%25", "/", "%2f", `\`, "%5c").Replace(name)
	task, err := object.NewFolder(c.Client, dcs[0].VmFolder).CreateVM(ctx, types.VirtualMachineConfigSpec{
		Name: escaped, GuestId: "otherGuest64", Files: &types.VirtualMachineFileInfo{VmPathName: "[LocalDS_0]"},
	}, object.NewResourcePool(c.Client, *computes[0].ResourcePool), nil)
	if err != nil {
		t.Fatal(err)
	}
	info, err := task.WaitForResult(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return info.Result.(types.ManagedObjectReference)
}

// Destroy deletes a machine as a user would.
func (v *VCenter) Destroy(t testing.TB, ref types.ManagedObjectReference) {
	t.Helper()
	task, err := object.NewVirtualMachine(v.Client(t).Client, ref).Destroy(context.Background())
	if err == nil {
		err = task.Wait(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Handle has f look at every request that brings bytes, and answer it where it
// returns true. nil ends that.
func (v *VCenter) Handle(f func(w http.ResponseWriter, r *http.Request) bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.handle = f
}

// First has f answer the first n requests that bring bytes.
func (v *VCenter) First(n int, f http.HandlerFunc) {
	left := n
	v.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		v.mu.Lock()
		left--
		mine := left >= 0
		v.mu.Unlock()
		if mine {
			f(w, r)
		}
		return mine
	})
}

// Stall makes requests that bring bytes hang until release is called.
func (v *VCenter) Stall() (release func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	gate := make(chan struct{})
	v.stall = gate
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.stall == gate {
			close(gate)
			v.stall = nil
		}
	}
}

package vmware

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
)

// Undo removes one recorded resource. A machine must bear the job's mark, a
// folder hold nothing but what a machine leaves; else nothing is touched.
func (t *vmware) Undo(ctx context.Context, r target.Resource) error {
	c, err := t.connect(ctx)
	if err != nil {
		return fmt.Errorf("cannot undo %s %q: %w", r.Kind, r.Name, err)
	}
	switch r.Kind {
	case kindVM:
		err = c.undoVM(ctx, r)
	case kindFolder:
		err = c.undoFolder(ctx, r)
	case kindFile:
		err = c.undoFile(ctx, r)
	default:
		err = target.Permanent("this connector makes no such resource", "")
	}
	if err != nil {
		return fmt.Errorf("cannot undo %s %q: %w", r.Kind, r.Name, translate(err))
	}
	return nil
}

func (c *conn) undoVM(ctx context.Context, r target.Resource) error {
	if id := r.Data[dataLease]; id != "" {
		// A machine that is being imported is locked until its lease ends.
		err := c.abortLease(ctx, types.ManagedObjectReference{Type: "HttpNfcLease", Value: id})
		if err != nil {
			return err
		}
	}
	ref := types.ManagedObjectReference{Type: kindsVM[0], Value: r.ID}
	if r.ID == "" {
		found, err := c.findMade(ctx, r)
		if err != nil || found == nil {
			return err
		}
		ref = *found
	}
	var m mo.VirtualMachine
	err := c.get(ctx, ref, &m, "config.extraConfig", "config.hardware.device", "config.files.vmPathName", "runtime.powerState", "parent")
	if isFault[*types.ManagedObjectNotFound](err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := mayDestroy(&m, r); err != nil {
		return err
	}
	dirs := folders(&m)
	if m.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		res, err := methods.PowerOffVM_Task(ctx, c.vim, &types.PowerOffVM_Task{This: ref})
		if err == nil {
			_, err = c.await(ctx, res.Returnval)
		}
		if err != nil && !isFault[*types.InvalidPowerState](err) {
			return err
		}
	}
	res, err := methods.Destroy_Task(ctx, c.vim, &types.Destroy_Task{This: ref})
	if err == nil {
		_, err = c.await(ctx, res.Returnval)
	}
	if err != nil && !isFault[*types.ManagedObjectNotFound](err) {
		return err
	}
	return c.removeEmpty(ctx, r, dirs)
}

// mayDestroy refuses a machine that is not the job's, or that has been given
// disks since: destroying it would delete them.
func mayDestroy(m *mo.VirtualMachine, r target.Resource) error {
	mark := ""
	if m.Config != nil {
		for _, o := range m.Config.ExtraConfig {
			if v := o.GetOptionValue(); v != nil && v.Key == jobKey {
				mark, _ = v.Value.(string)
			}
		}
	}
	if mark == "" || mark != r.Job {
		return target.Permanent(fmt.Sprintf("the machine does not bear the mark of job %s in %s", r.Job, jobKey),
			"it is left alone: if it is a leftover, remove it by hand")
	}
	known := r.Data[dataDisks]
	if known == "" {
		return nil
	}
	for _, id := range diskUUIDs(m.Config.Hardware.Device) {
		if !slices.Contains(strings.Split(known, ","), id) {
			return target.Permanent(fmt.Sprintf("the machine has a disk (%s) that job %s did not make", id, r.Job),
				"detach the disk, then undo again")
		}
	}
	return nil
}

// findMade finds the machine of a job that died between recording and creating
// it, or before the platform answered; nil when there is none. A machine of the
// name that does not bear the job's mark is somebody else's.
func (c *conn) findMade(ctx context.Context, r target.Resource) (*types.ManagedObjectReference, error) {
	const patience = 30 * time.Second
	folder := types.ManagedObjectReference{Type: kindsFolder[0], Value: r.Data[dataFolder]}
	for start := time.Now(); ; {
		ref, err := c.findVM(ctx, folder, r.Name)
		if isFault[*types.ManagedObjectNotFound](err) {
			return nil, nil // with the folder went the machine
		}
		if err != nil {
			return nil, err
		}
		if ref != nil {
			ours, err := c.isOurs(ctx, *ref, r.Job)
			if err != nil || !ours {
				return nil, err
			}
			return ref, nil
		}
		busy, err := c.creating(ctx, folder, r.Data[dataPool])
		if err != nil {
			return nil, err
		}
		if !busy || time.Since(start) > patience {
			return nil, nil
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// creating tells whether a task that creates a machine in the folder or pool is
// still at work: the dead job's may be among them.
func (c *conn) creating(ctx context.Context, folder types.ManagedObjectReference, pool string) (bool, error) {
	var tm mo.TaskManager
	if c.vim.ServiceContent.TaskManager == nil {
		return false, nil
	}
	if err := c.get(ctx, *c.vim.ServiceContent.TaskManager, &tm, "recentTask"); err != nil {
		return false, err
	}
	for _, ref := range tm.RecentTask {
		var t mo.Task
		if err := c.get(ctx, ref, &t, "info"); err != nil {
			continue // a task that is over may be forgotten
		}
		i := t.Info
		running := i.State == types.TaskInfoStateRunning || i.State == types.TaskInfoStateQueued
		creates := i.DescriptionId == "ResourcePool.ImportVAppLRO" || i.DescriptionId == "Folder.createVm"
		if running && creates && i.Entity != nil && (*i.Entity == folder || i.Entity.String() == pool) {
			return true, nil
		}
	}
	return false, nil
}

// folders lists the datastore folders that hold the machine's files.
func folders(m *mo.VirtualMachine) []string {
	var out []string
	add := func(file string) {
		var p object.DatastorePath
		if !p.FromString(file) {
			return
		}
		dir := path.Dir(p.Path)
		if dir == "." || dir == "/" || strings.HasPrefix(dir, "..") {
			return // the datastore's root is nobody's
		}
		s := (&object.DatastorePath{Datastore: p.Datastore, Path: dir}).String()
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	add(m.Config.Files.VmPathName)
	for _, d := range m.Config.Hardware.Device {
		if disk, ok := d.(*types.VirtualDisk); ok {
			if b, ok := disk.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
				add(b.GetVirtualDeviceFileBackingInfo().FileName)
			}
		}
	}
	return out
}

// removeEmpty removes folders that the machine's files were in and that are
// empty now. What the platform removed itself is no error.
func (c *conn) removeEmpty(ctx context.Context, r target.Resource, dirs []string) error {
	for _, dir := range dirs {
		names, exists, err := c.list(ctx, r.Data[dataDatacenter], dir)
		if err != nil {
			return err
		}
		if exists && len(names) == 0 {
			if err := c.remove(ctx, r.Data[dataDatacenter], dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// list names what is in a datastore folder.
func (c *conn) list(ctx context.Context, datacenter, dir string) (names []string, exists bool, err error) {
	var p object.DatastorePath
	if !p.FromString(dir) {
		return nil, false, target.Permanent(fmt.Sprintf("%q is not a datastore path", dir), "")
	}
	store, err := c.datastore(ctx, datacenter, p.Datastore)
	if err != nil || store == nil {
		return nil, false, err
	}
	res, err := methods.SearchDatastore_Task(ctx, c.vim, &types.SearchDatastore_Task{
		This: store.Browser, DatastorePath: dir,
		SearchSpec: &types.HostDatastoreBrowserSearchSpec{MatchPattern: []string{"*"}},
	})
	var out types.AnyType
	if err == nil {
		out, err = c.await(ctx, res.Returnval)
	}
	if isFault[*types.FileNotFound](err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	found, ok := out.(types.HostDatastoreBrowserSearchResults)
	if !ok {
		return nil, false, fmt.Errorf("the platform does not tell what is in %s", dir)
	}
	for _, f := range found.File {
		names = append(names, f.GetFileInfo().Path)
	}
	return names, true, nil
}

// datastore finds a datacenter's datastore by name; nil when it is gone.
func (c *conn) datastore(ctx context.Context, datacenter, name string) (*mo.Datastore, error) {
	var dc mo.Datacenter
	ref := types.ManagedObjectReference{Type: kindsDatacenter[0], Value: datacenter}
	if err := c.get(ctx, ref, &dc, "datastore"); err != nil {
		return nil, err
	}
	if len(dc.Datastore) == 0 {
		return nil, nil
	}
	var all []mo.Datastore
	err := property.DefaultCollector(c.vim).Retrieve(ctx, dc.Datastore, []string{"name", "browser"}, &all)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
	}
	return nil, nil
}

// remove deletes one file or folder. That it is not there is no error.
func (c *conn) remove(ctx context.Context, datacenter, name string) error {
	dc := types.ManagedObjectReference{Type: kindsDatacenter[0], Value: datacenter}
	res, err := methods.DeleteDatastoreFile_Task(ctx, c.vim, &types.DeleteDatastoreFile_Task{
		This: *c.vim.ServiceContent.FileManager, Name: name, Datacenter: &dc,
	})
	if err == nil {
		_, err = c.await(ctx, res.Returnval)
	}
	if isFault[*types.FileNotFound](err) {
		return nil
	}
	return err
}

// undoFile deletes a disk's flat file and descriptor.
func (c *conn) undoFile(ctx context.Context, r target.Resource) error {
	dir, name := path.Split(r.Name)
	if !bearsJob(strings.TrimSuffix(dir, "/"), r.Job) || !leftovers.MatchString(name) || !strings.HasSuffix(name, suffixDescriptor) {
		return notOurs(r)
	}
	flat := strings.TrimSuffix(r.Name, suffixDescriptor) + suffixFlat
	if err := c.remove(ctx, r.Data[dataDatacenter], flat); err != nil {
		return err
	}
	return c.remove(ctx, r.Data[dataDatacenter], r.Name)
}

// leftovers are the files that a machine whose creation failed leaves behind.
var leftovers = regexp.MustCompile(`^(.*\.(vmx|vmxf|vmsd|nvram|vmx~|vswp|log)|vmware(-\d+)?\.log|disk-\d+(-flat)?\.vmdk)$`)

// undoFolder deletes the job's folder, the name of which bears the job's id, if
// it holds nothing but leftovers of the job's machine.
func (c *conn) undoFolder(ctx context.Context, r target.Resource) error {
	if !bearsJob(r.Name, r.Job) {
		return notOurs(r)
	}
	names, exists, err := c.list(ctx, r.Data[dataDatacenter], r.Name)
	if err != nil || !exists {
		return err
	}
	for _, n := range names {
		if !leftovers.MatchString(n) {
			return target.Permanent(fmt.Sprintf("the folder holds %q, which job %s did not make", n, r.Job), "move it away, then undo again")
		}
	}
	return c.remove(ctx, r.Data[dataDatacenter], r.Name)
}

// notOurs is what undoing a resource of a name that the job does not make
// gives: nothing for what was never made, else a refusal.
func notOurs(r target.Resource) error {
	if r.ID == "" && !r.Done {
		return nil
	}
	return target.Permanent("its name does not bear the job's id", "it is left alone: if it is a leftover, remove it by hand")
}

// bearsJob tells whether a datastore folder's path is one that folderName made
// for the job.
func bearsJob(dir, job string) bool {
	var p object.DatastorePath
	return job != "" && p.FromString(dir) && !strings.Contains(p.Path, "/") && strings.HasSuffix(p.Path, folderName("", job))
}

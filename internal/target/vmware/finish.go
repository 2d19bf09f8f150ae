package vmware

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
)

// configure gives a machine that has its disks what it can only get now: the
// order of boot devices, which names them by the keys the platform gave; a TPM;
// and again every setting that some servers ignore when they create. Then it
// checks that the machine is as ordered. It may be repeated.
func (s *session) configure(ctx context.Context) (*target.VM, error) {
	now, err := s.config(ctx)
	if err != nil {
		return nil, err
	}
	spec := s.hw.config()
	if spec.BootOptions == nil {
		spec.BootOptions = &types.VirtualMachineBootOptions{}
	}
	spec.BootOptions.BootOrder = s.hw.bootOrder(now.Hardware.Device)
	if s.order.Machine.TPM && !slices.ContainsFunc(now.Hardware.Device, isTPM) {
		spec.DeviceChange = append(spec.DeviceChange, &types.VirtualDeviceConfigSpec{
			Operation: types.VirtualDeviceConfigSpecOperationAdd,
			Device:    &types.VirtualTPM{VirtualDevice: types.VirtualDevice{Key: -1}},
		})
	}
	res, err := methods.ReconfigVM_Task(ctx, s.c.vim, &types.ReconfigVM_Task{This: s.ref, Spec: *spec})
	if err == nil {
		_, err = s.c.await(ctx, res.Returnval)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot configure the machine: %w", translate(err))
	}
	if now, err = s.config(ctx); err != nil {
		return nil, err
	}
	if err := s.hw.check(now); err != nil {
		return nil, err
	}
	if s.stage() != stageFinished {
		if err := s.record(ctx, func(r *target.Resource) { r.Data[dataStage] = stageFinished }); err != nil {
			return nil, err
		}
	}
	return s.machine(), nil
}

// config reads the machine's configuration.
func (s *session) config(ctx context.Context) (*types.VirtualMachineConfigInfo, error) {
	var m mo.VirtualMachine
	err := s.c.get(ctx, s.ref, &m, "config")
	if err == nil && m.Config == nil {
		err = errors.New("the platform does not tell its configuration")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the machine: %w", translate(err))
	}
	return m.Config, nil
}

// bootOrder is the boot disk, then the others in the machine's order.
func (h *hardware) bootOrder(devices []types.BaseVirtualDevice) []types.BaseVirtualMachineBootOptionsBootableDevice {
	found := slotsOf(devices)
	order := []int{h.machine.BootDisk()}
	for i := range h.slots {
		if i != order[0] {
			order = append(order, i)
		}
	}
	var out []types.BaseVirtualMachineBootOptionsBootableDevice
	for _, i := range order {
		if d := found[h.slots[i].key()]; d != nil {
			out = append(out, &types.VirtualMachineBootOptionsBootableDiskDevice{DeviceKey: d.Key})
		}
	}
	return out
}

// diskUUIDs lists what identifies the files of a machine's disks; they stay the
// same when the platform moves the files.
func diskUUIDs(devices []types.BaseVirtualDevice) []string {
	var out []string
	for _, d := range devices {
		if disk, ok := d.(*types.VirtualDisk); ok {
			out = append(out, backingUUID(disk))
		}
	}
	return out
}

// backingUUID is the identifier of a disk's content, or of its file when the
// kind of file has none.
func backingUUID(d *types.VirtualDisk) string {
	switch b := d.Backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		for b.Parent != nil { // below snapshots
			b = b.Parent
		}
		if b.Uuid != "" {
			return b.Uuid
		}
		return b.FileName
	case *types.VirtualDiskSeSparseBackingInfo:
		for b.Parent != nil {
			b = b.Parent
		}
		if b.Uuid != "" {
			return b.Uuid
		}
		return b.FileName
	case types.BaseVirtualDeviceFileBackingInfo:
		return b.GetVirtualDeviceFileBackingInfo().FileName
	}
	return "a device that is no file"
}

// uploaded records that the machine has all its disks, and more of them.
func (s *session) uploaded(ctx context.Context, more func(*target.Resource)) error {
	now, err := s.config(ctx)
	if err != nil {
		return err
	}
	return s.record(ctx, func(r *target.Resource) {
		r.ID, r.Done = s.ref.Value, true
		r.Data[dataStage] = stageImported
		r.Data[dataDisks] = strings.Join(diskUUIDs(now.Hardware.Device), ",")
		delete(r.Data, dataLease)
		more(r)
	})
}

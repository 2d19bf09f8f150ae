package vmware

import (
	"context"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
	"ascend/internal/target/guestos"
	"ascend/internal/vm"
)

// Job options.
const (
	optUUID     = "uuid"
	optGuestID  = "guest_id"
	optHardware = "hardware_version"
	optDisk     = "disk_format"
)

// hardware is an order's machine in the platform's words.
type hardware struct {
	name    string // escaped
	guestID string
	slots   []slot
	machine *vm.Machine
	order   *target.Order
}

// translateMachine checks the order's machine against what vSphere can have. It
// asks the cluster which guests it supports.
func (c *conn) translateMachine(ctx context.Context, o *target.Order, p *place) (*hardware, error) {
	m := o.Machine
	if err := checkName(m.Name); err != nil {
		return nil, err
	}
	switch n := m.CPU.Total(); {
	case n <= 0:
		return nil, target.Permanent("the machine has no processors", "set the number of processors")
	case n > maxCPUs:
		return nil, target.Permanent(fmt.Sprintf("the machine has %d processors; vSphere allows %d", n, maxCPUs), "")
	case m.Memory < 4*vm.MiB:
		return nil, target.Permanent("the machine has no memory", "set the amount of memory")
	case m.Memory > maxMemory:
		return nil, target.Permanent("the machine has more memory than vSphere allows: "+vm.FormatSize(m.Memory), "")
	case len(m.Disks) == 0:
		return nil, target.Permanent("the machine has no disks", "")
	case len(m.NICs) > maxNICs:
		return nil, target.Permanent(fmt.Sprintf("the machine has %d network adapters; vSphere allows %d", len(m.NICs), maxNICs), "")
	case m.SecureBoot && m.Firmware != vm.UEFI:
		return nil, target.Permanent("Secure Boot needs UEFI firmware", "")
	case m.TPM && m.Firmware != vm.UEFI:
		return nil, target.Permanent("a virtual TPM needs UEFI firmware", "")
	case m.Guest.Arch == vm.ARM64:
		return nil, target.Permanent("vSphere runs no ARM guests", "")
	}
	h := &hardware{name: escapeName(m.Name), machine: m, order: o}
	var err error
	if h.slots, err = assign(m.Disks, m.Guest); err != nil {
		return nil, err
	}
	for i, d := range o.Disks {
		if d.Virtual <= 0 || d.Virtual%512 != 0 || d.Virtual > maxDisk {
			return nil, target.Permanent(fmt.Sprintf("disk %d has %d bytes: a virtual disk has a multiple of 512 bytes up to 62 TiB", i, d.Virtual), "")
		}
	}
	for i, n := range m.NICs {
		if _, err := newNIC(n, 0, nil); err != nil {
			return nil, fmt.Errorf("cannot make network adapter %d: %w", i, err)
		}
	}
	if v := o.Options[optUUID]; v != "" && v != "keep" && v != "new" {
		return nil, target.Permanent(fmt.Sprintf("option uuid: %q is neither keep nor new", v), "")
	}
	if v := o.Options[optDisk]; v != "" && v != "thin" && v != "thick" {
		return nil, target.Permanent(fmt.Sprintf("option disk_format: %q is neither thin nor thick", v), "")
	}
	if m.TPM {
		if err := c.checkKeyProvider(ctx); err != nil {
			return nil, err
		}
	}
	h.guestID, err = c.guestID(ctx, o, p)
	return h, err
}

// guestID is the guest operating system's identifier, one the cluster supports
// where it says what it does.
func (c *conn) guestID(ctx context.Context, o *target.Order, p *place) (string, error) {
	if id := o.Options[optGuestID]; id != "" {
		return id, nil
	}
	var supported []string
	if p.browser.Value != "" {
		req := types.QueryConfigOption{This: p.browser, Key: o.Options[optHardware]}
		if p.host != nil {
			req.Host = &p.host.ref
		}
		res, err := methods.QueryConfigOption(ctx, c.vim, &req)
		switch {
		case err == nil && res.Returnval != nil:
			for _, d := range res.Returnval.GuestOSDescriptor {
				supported = append(supported, d.Id)
			}
		case err != nil && faultOf(err) == nil:
			return "", fmt.Errorf("cannot ask which guests are supported: %w", translate(err))
		}
	}
	return selectGuestID(guestos.VMware(o.Machine), supported, c.vim.ServiceContent.About.ApiVersion), nil
}

// checkKeyProvider refuses a machine with a TPM where none can be made: its
// state is kept encrypted, for which vCenter needs a default key provider.
func (c *conn) checkKeyProvider(ctx context.Context) error {
	hint := "configure a key provider in vCenter (a native one will do) or restore without the TPM"
	if c.vim.ServiceContent.CryptoManager == nil {
		return target.Permanent("the machine has a virtual TPM and the server has no key provider", hint)
	}
	res, err := methods.GetDefaultKmsCluster(ctx, c.vim, &types.GetDefaultKmsCluster{
		This: *c.vim.ServiceContent.CryptoManager,
	})
	switch {
	case err != nil && faultOf(err) == nil:
		return fmt.Errorf("cannot ask for the key provider: %w", translate(err))
	case err != nil || res.Returnval == nil || res.Returnval.Id == "":
		return target.Permanent("the machine has a virtual TPM and the server has no default key provider", hint)
	}
	return nil
}

// spec is the machine to create. With a file name for each disk the disks are
// those files; else they are new ones of the platform's own naming.
func (h *hardware) spec(p *place, vmPath string, files []string) (*types.VirtualMachineConfigSpec, error) {
	s := h.config()
	s.Name = h.name
	s.Version = h.order.Options[optHardware]
	s.Files = &types.VirtualMachineFileInfo{VmPathName: vmPath}
	ctrls, keyOf := controllers(h.slots)
	add := func(d types.BaseVirtualDevice, op types.VirtualDeviceConfigSpecFileOperation) {
		s.DeviceChange = append(s.DeviceChange, &types.VirtualDeviceConfigSpec{
			Operation: types.VirtualDeviceConfigSpecOperationAdd, FileOperation: op, Device: d,
		})
	}
	for _, c := range ctrls {
		add(c, "")
	}
	for i, sl := range h.slots {
		ds := p.datastores[i]
		b := &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{Datastore: &ds.ref},
			DiskMode:                     string(types.VirtualDiskModePersistent),
		}
		if ds != p.home { // else beside the machine's own files
			b.FileName = "[" + ds.raw + "]"
		}
		op := types.VirtualDeviceConfigSpecFileOperationCreate
		if files != nil {
			b.FileName, op = files[i], ""
		} else {
			b.ThinProvisioned = types.NewBool(h.order.Options[optDisk] != "thick")
		}
		unit, size := sl.unit, h.order.Disks[i].Virtual
		add(&types.VirtualDisk{
			VirtualDevice: types.VirtualDevice{
				Key: int32(-200 - i), ControllerKey: keyOf(sl), UnitNumber: &unit, Backing: b,
			},
			CapacityInBytes: size,
			CapacityInKB:    size / 1024,
		}, op)
	}
	for i, n := range h.machine.NICs {
		d, err := newNIC(n, int32(-300-i), p.networks[i])
		if err != nil {
			return nil, fmt.Errorf("cannot make network adapter %d: %w", i, err)
		}
		add(d, "")
	}
	return s, nil
}

// config is what both creating and reconfiguring the machine set.
func (h *hardware) config() *types.VirtualMachineConfigSpec {
	m := h.machine
	cpus := int32(m.CPU.Total()) //nolint:gosec // bounded by translateMachine
	// A core's threads are cores here: vSphere shows the guest none.
	cores := max(int32(m.CPU.CoresPerSocket), 1) * max(int32(m.CPU.Threads), 1) //nolint:gosec // divides cpus
	s := &types.VirtualMachineConfigSpec{
		GuestId:           h.guestID,
		Annotation:        m.Annotation,
		NumCPUs:           cpus,
		NumCoresPerSocket: &cores,
		// vSphere wants a multiple of 4 MB.
		MemoryMB:    (m.Memory + 4*vm.MiB - 1) / (4 * vm.MiB) * 4,
		Firmware:    string(types.GuestOsDescriptorFirmwareTypeBios),
		ExtraConfig: h.extraConfig(),
	}
	if m.Firmware == vm.UEFI {
		s.Firmware = string(types.GuestOsDescriptorFirmwareTypeEfi)
		s.BootOptions = &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(m.SecureBoot)}
	}
	if h.order.Options[optUUID] == "keep" && m.UUID != "" {
		s.Uuid = m.UUID
	}
	return s
}

// extraConfig marks the machine as the job's and lets it keep addresses that
// the platform would refuse because they are of VMware's own ranges.
func (h *hardware) extraConfig() []types.BaseOptionValue {
	out := []types.BaseOptionValue{&types.OptionValue{Key: jobKey, Value: h.order.Job}}
	for i, n := range h.machine.NICs {
		if mac, err := net.ParseMAC(n.MAC); err == nil && reservedMAC(mac) {
			out = append(out, &types.OptionValue{Key: fmt.Sprintf("ethernet%d.checkMACAddress", i), Value: "FALSE"})
		}
	}
	return out
}

// reservedMAC tells an address that VMware's own generators give out: such a
// one is refused as a manual address unless checking is off (VMware KB 219).
func reservedMAC(mac net.HardwareAddr) bool {
	switch oui := [3]byte(mac[:3]); oui {
	case [3]byte{0x00, 0x0c, 0x29}, [3]byte{0x00, 0x05, 0x69}, [3]byte{0x00, 0x1c, 0x14}:
		return true
	case [3]byte{0x00, 0x50, 0x56}:
		return mac[3] > 0x3f
	}
	return false
}

// newNIC makes one network adapter.
func newNIC(n vm.NIC, key int32, backing types.BaseVirtualDeviceBackingInfo) (types.BaseVirtualDevice, error) {
	connected := n.Connected == nil || *n.Connected
	card := types.VirtualEthernetCard{
		VirtualDevice: types.VirtualDevice{
			Key: key, Backing: backing,
			Connectable: &types.VirtualDeviceConnectInfo{
				StartConnected: connected, AllowGuestControl: true, Connected: connected,
			},
		},
		WakeOnLanEnabled: types.NewBool(true),
	}
	if n.MAC != "" {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return nil, target.Permanent(fmt.Sprintf("%q is not the address of a network adapter", n.MAC), "")
		}
		card.AddressType = string(types.VirtualEthernetCardMacTypeManual)
		card.MacAddress = strings.ToLower(mac.String())
	}
	switch n.Model {
	case vm.VMXNET3, "":
		return &types.VirtualVmxnet3{VirtualVmxnet: types.VirtualVmxnet{VirtualEthernetCard: card}}, nil
	case vm.E1000E:
		return &types.VirtualE1000e{VirtualEthernetCard: card}, nil
	case vm.E1000:
		return &types.VirtualE1000{VirtualEthernetCard: card}, nil
	case vm.PCNet32:
		return &types.VirtualPCNet32{VirtualEthernetCard: card}, nil
	}
	return nil, target.Permanent(fmt.Sprintf("it is a %s adapter, which vSphere does not have", n.Model), "choose one of vmxnet3, e1000e, e1000")
}

// check compares the machine that came about with the one that was ordered, so
// that a setting that was ignored is an error and not a machine that does not
// boot. Sizes of disks that the platform reports as 0 are not known to it.
func (h *hardware) check(c *types.VirtualMachineConfigInfo) error {
	want := h.config()
	var faults []string
	differ := func(what string, got, want any) {
		if !reflect.DeepEqual(got, want) {
			faults = append(faults, fmt.Sprintf("%s is %v instead of %v", what, got, want))
		}
	}
	differ("number of processors", c.Hardware.NumCPU, want.NumCPUs)
	differ("memory in MiB", int64(c.Hardware.MemoryMB), want.MemoryMB)
	differ("firmware", c.Firmware, want.Firmware)
	secure := c.BootOptions != nil && c.BootOptions.EfiSecureBootEnabled != nil && *c.BootOptions.EfiSecureBootEnabled
	differ("secure boot", secure, h.machine.SecureBoot)
	if want.Uuid != "" {
		differ("UUID", strings.ToLower(c.Uuid), strings.ToLower(want.Uuid))
	}
	disks := slotsOf(c.Hardware.Device)
	for i, s := range h.slots {
		d := disks[s.key()]
		switch {
		case d == nil:
			faults = append(faults, fmt.Sprintf("disk %d is not at %s", i, s))
		case d.CapacityInBytes != 0:
			differ(fmt.Sprintf("size of disk %d", i), d.CapacityInBytes, h.order.Disks[i].Virtual)
		}
	}
	var nics []types.BaseVirtualEthernetCard
	for _, d := range c.Hardware.Device {
		if n, ok := d.(types.BaseVirtualEthernetCard); ok {
			nics = append(nics, n)
		}
	}
	slices.SortFunc(nics, func(a, b types.BaseVirtualEthernetCard) int {
		return int(a.GetVirtualEthernetCard().Key) - int(b.GetVirtualEthernetCard().Key)
	})
	differ("number of network adapters", len(nics), len(h.machine.NICs))
	for i, n := range nics {
		if i < len(h.machine.NICs) && h.machine.NICs[i].MAC != "" {
			got, _ := net.ParseMAC(n.GetVirtualEthernetCard().MacAddress)
			want, _ := net.ParseMAC(h.machine.NICs[i].MAC)
			differ(fmt.Sprintf("address of network adapter %d", i), got.String(), want.String())
		}
	}
	if h.machine.TPM && !slices.ContainsFunc(c.Hardware.Device, isTPM) {
		faults = append(faults, "the virtual TPM is missing")
	}
	if len(faults) > 0 {
		return target.Permanent("the machine is not as it was ordered: "+strings.Join(faults, "; "), "")
	}
	return nil
}

func isTPM(d types.BaseVirtualDevice) bool {
	_, ok := d.(*types.VirtualTPM)
	return ok
}

// typeName is the API's name of a device's type.
func typeName(d types.BaseVirtualDevice) string {
	t := reflect.TypeOf(d)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Name()
}

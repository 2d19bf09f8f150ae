package vmware

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
)

var _ target.Looker = (*vmware)(nil)

// Look tells the power state, and the addresses that VMware Tools report (vSphere
// Web Services API, GuestInfo: ipAddress, net[].ipAddress).
func (t *vmware) Look(ctx context.Context, v target.VM) (*target.State, error) {
	c, err := t.connect(ctx)
	var m mo.VirtualMachine
	if err == nil {
		err = c.get(ctx, types.ManagedObjectReference{Type: kindsVM[0], Value: v.ID}, &m, "runtime.powerState", "guest")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look at %q: %w", v.Name, translate(err))
	}
	s := &target.State{Running: m.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn}
	if m.Guest == nil {
		return s, nil
	}
	list := []string{m.Guest.IpAddress}
	for _, n := range m.Guest.Net {
		list = append(list, n.IpAddress...)
	}
	for _, text := range list {
		a, err := netip.ParseAddr(text)
		if err == nil && !a.IsLinkLocalUnicast() && !a.IsLoopback() && !a.IsUnspecified() && !slices.Contains(s.Addresses, text) {
			s.Addresses = append(s.Addresses, text)
		}
	}
	return s, nil
}

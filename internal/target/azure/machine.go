package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"ascend/internal/target"
)

// vmName is the machine's name here.
func (s *session) vmName() string { return safe(s.order.Machine.Name) }

func (s *session) vmID() string { return s.id(kindVM, s.vmName()) }

// vm is the machine as it is told to the restore.
func (s *session) vm() *target.VM {
	v := &target.VM{ID: s.vmID(), Name: s.vmName()}
	if p := s.t.cfg.portal; p != "" {
		v.URL = p + "/#@" + s.t.cfg.tenant + "/resource" + v.ID
	}
	return v
}

// Finish makes the addresses, the adapters and, unless PowerOn will, the
// machine: Azure starts every machine that it makes, so that one that is to run
// is made when it is to run, and one that is not is deallocated at once.
func (s *session) Finish(ctx context.Context) (*target.VM, error) {
	if err := s.finish(ctx); err != nil {
		return nil, fmt.Errorf("cannot make machine %q: %w", s.vmName(), translate(err))
	}
	return s.vm(), nil
}

func (s *session) finish(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if i := s.missing(); i >= 0 {
		return target.Permanent(fmt.Sprintf("disk %d has not been completed", i), "")
	}
	if err := s.makeNICs(ctx); err != nil {
		return err
	}
	if s.order.PowerOn {
		return nil
	}
	if err := s.makeVM(ctx); err != nil {
		return err
	}
	return s.powerOff(ctx)
}

// makeNICs makes the public address, if one is wanted, and the adapters.
func (s *session) makeNICs(ctx context.Context) error {
	p := s.place
	var public *ref
	if s.order.Options[optPublicIP] == "new" {
		n := partName(s.order, "ip")
		ip := resource[ipProperties]{Location: p.location, Tags: p.tags, Zones: p.zones, SKU: &name{"Standard"},
			Properties: ipProperties{Method: "Static", Version: "IPv4"}}
		w, err := s.make(ctx, kindIP, n, ip, nil)
		if err == nil {
			err = w()
		}
		if err != nil {
			return fmt.Errorf("public address: %w", translate(err))
		}
		public = &ref{s.id(kindIP, n)}
	}
	for i, x := range p.nics {
		nic := resource[nicProperties]{Location: p.location, Tags: p.tags}
		nic.Properties.Accelerated = s.order.Options[optAccelerated] == "true"
		if x.group != "" {
			nic.Properties.Group = &ref{x.group}
		}
		c := ipConfigProperties{Primary: true, Method: "Dynamic", Subnet: &ref{x.subnet}}
		if x.address != "" {
			c.Method, c.Address = "Static", x.address
		}
		if i == 0 {
			c.Public = public
		}
		nic.Properties.Configurations = []ipConfig{{Name: "ipconfig1", Properties: c}}
		w, err := s.make(ctx, kindNIC, s.nicName(i), nic, nil)
		if err == nil {
			err = w()
		}
		if err != nil {
			return fmt.Errorf("adapter %d: %w", i, translate(err))
		}
	}
	return nil
}

func (s *session) nicName(i int) string { return partName(s.order, "nic-"+strconv.Itoa(i)) }

// makeVM makes the machine. That it must not change another of its name is said
// to the platform too (If-None-Match).
func (s *session) makeVM(ctx context.Context) error {
	w, err := s.make(ctx, kindVM, s.vmName(), s.vmBody(), nil, "If-None-Match", "*")
	if err != nil {
		return err
	}
	return w()
}

// vmBody is the machine as it is asked for.
func (s *session) vmBody() machine {
	p := s.place
	m := machine{Location: p.location, Tags: p.tags, Zones: p.zones}
	v := &m.Properties
	v.Hardware.Size = p.size.Name
	v.Storage.Controller = p.controller
	v.Storage.Data = []vmDisk{}
	for i := range s.order.Disks {
		d := vmDisk{Create: "Attach", Delete: "Detach", Caching: "None", Managed: ref{s.id(kindDisk, s.diskName(i))}}
		if i == p.osDisk {
			d.OSType, d.Caching = p.osType, "ReadWrite"
			v.Storage.OS = &d
			continue
		}
		lun := len(v.Storage.Data) // in the order of the machine's disks
		d.LUN = &lun
		v.Storage.Data = append(v.Storage.Data, d)
	}
	v.Network = &vmNetwork{}
	for i := range p.nics {
		v.Network.Interfaces = append(v.Network.Interfaces, vmNIC{ID: s.id(kindNIC, s.nicName(i)), Properties: vmNICProperties{Primary: i == 0, Delete: "Detach"}})
	}
	if p.trusted {
		// The platform's own keys sign what most guests start by; a TPM is new and empty.
		v.Security = &vmSecurity{Type: "TrustedLaunch", UEFI: &uefi{SecureBoot: s.order.Machine.SecureBoot, TPM: true}}
	}
	if s.order.Options[optDiagnostics] != "none" {
		v.Diagnostics = &diagnostics{Boot: bootDiagnostics{Enabled: true}}
	}
	if p.set != "" {
		v.Set = &ref{p.set}
	}
	if l := s.order.Options[optLicense]; l != "" && l != "none" {
		v.License = l
	}
	return m
}

// power is the machine's power state: running, deallocated, …
func (s *session) power(ctx context.Context) (string, error) {
	var v instanceView
	if err := s.c.get(ctx, s.vmID()+"/instanceView", apiCompute, &v); err != nil {
		return "", err
	}
	for _, x := range v.Statuses {
		if state, ok := strings.CutPrefix(x.Code, "PowerState/"); ok {
			return state, nil
		}
	}
	return "", errors.New("the platform does not tell the machine's power state")
}

// powerOff deallocates the machine unless it is.
func (s *session) powerOff(ctx context.Context) error {
	state, err := s.power(ctx)
	if err != nil || state == "deallocated" {
		return err
	}
	if err := s.c.do(ctx, http.MethodPost, s.vmID()+"/deallocate", apiCompute, nil, nil); err != nil {
		return fmt.Errorf("the machine was made and cannot be stopped: %w", translate(err))
	}
	return nil
}

// PowerOn makes the machine, if Finish left that to it, or starts it, and
// returns when the platform says that it runs.
func (s *session) PowerOn(ctx context.Context, v *target.VM) error {
	if err := s.powerOn(ctx, v); err != nil {
		return fmt.Errorf("cannot start machine %q: %w", s.vmName(), translate(err))
	}
	return nil
}

func (s *session) powerOn(ctx context.Context, v *target.VM) error {
	if v == nil || !strings.EqualFold(v.ID, s.vmID()) {
		return target.Permanent("it is not the machine of this restore", "")
	}
	if i := s.missing(); i >= 0 {
		return target.Permanent(fmt.Sprintf("disk %d has not been completed", i), "")
	}
	if err := s.makeVM(ctx); err != nil {
		return err
	}
	state, err := s.power(ctx)
	if err != nil {
		return err
	}
	if state != "running" {
		if err := s.c.do(ctx, http.MethodPost, s.vmID()+"/start", apiCompute, nil, nil); err != nil {
			return err
		}
		if state, err = s.power(ctx); err != nil {
			return err
		}
	}
	if state != "running" {
		return fmt.Errorf("the platform says that it is %s", state)
	}
	return nil
}

package cloudstack

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"ascend/internal/target"
)

// Finish makes the machine of the disks that have landed, powered off. It may be
// repeated.
func (s *session) Finish(ctx context.Context) (*target.VM, error) {
	fail := func(err error) (*target.VM, error) {
		return nil, fmt.Errorf("cannot finish restoring %q: %w", s.order.Machine.Name, translate(err))
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	ids := make([]string, len(s.disks))
	s.mu.Lock()
	for i, d := range s.disks {
		if ids[i] = d.id; d.landed == nil {
			s.mu.Unlock()
			return fail(target.Permanent(fmt.Sprintf("disk %d has not been completed", i), ""))
		}
	}
	id := s.vm
	s.mu.Unlock()
	for i := range ids {
		if s.path != pathImport || s.isBoot(i) {
			continue
		}
		// Before the machine, so that undoing removes it after the machine.
		var err error
		if ids[i], err = s.importVolume(ctx, i); err != nil {
			return fail(err)
		}
	}
	if id == "" {
		var err error
		if id, err = s.create(ctx, ids[s.order.Machine.BootDisk()]); err != nil {
			return fail(err)
		}
	}
	if err := s.addAdapters(ctx, id); err != nil {
		return fail(err)
	}
	for i := range ids {
		if s.isBoot(i) {
			continue
		}
		if err := s.attach(ctx, i, ids[i], id); err != nil {
			return fail(err)
		}
	}
	s.tag(ctx, "UserVm", id)
	if err := s.discard(ctx); err != nil {
		return fail(err)
	}
	if err := s.record(ctx, kindVM, s.display, id, true, nil); err != nil {
		return fail(err)
	}
	return &target.VM{ID: id, Name: s.display, URL: s.t.page(id)}, nil
}

// page is where a person can look at a machine.
func (t *cloud) page(id string) string {
	u := &url.URL{Scheme: t.cfg.api.Scheme, Host: t.cfg.api.Host, Path: strings.TrimSuffix(strings.TrimSuffix(t.cfg.api.Path, "/"), "/api") + "/", Fragment: "/vm/" + id}
	return u.String()
}

// create makes the machine with its boot disk and returns its identifier.
func (s *session) create(ctx context.Context, root string) (string, error) {
	if err := s.look(ctx); err != nil {
		return "", err
	}
	if s.vm != "" { // an earlier attempt came further than it knew
		return s.vm, nil
	}
	command, p, err := s.recipe(ctx, root)
	if err != nil {
		return "", err
	}
	if err := s.record(ctx, kindVM, s.display, "", false, nil); err != nil {
		return "", err
	}
	job, id, err := s.t.c.start(ctx, command, s.f.owned(p))
	if err != nil {
		if unsure(err) && ctx.Err() == nil && s.look(ctx) == nil && s.vm != "" {
			return s.vm, nil
		}
		return "", explainDeploy(err)
	}
	if id != "" {
		if err := s.record(ctx, kindVM, s.display, id, false, nil); err != nil {
			return "", err
		}
	}
	var made struct {
		Machine machineRow `json:"virtualmachine"`
	}
	if err := s.t.c.await(ctx, command, job, &made); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		undo := s.t.undoVM(ctx, s.f, target.Resource{Job: s.order.Job, Kind: kindVM, Name: s.display, ID: id})
		return "", errors.Join(explainDeploy(err), undo)
	}
	if made.Machine.ID != "" {
		id = made.Machine.ID
	}
	if id == "" {
		return "", errors.New("the platform does not tell which machine it made")
	}
	s.mu.Lock()
	s.vm = id
	s.mu.Unlock()
	return id, s.record(ctx, kindVM, s.display, id, true, nil)
}

// explainDeploy says what to do about a cloud that takes no uploaded volume as a
// root disk.
func explainDeploy(err error) error {
	if says(err, "zone-wide storage", "have a template to deploy") {
		return &target.Problem{Msg: translate(err).Error(), Hint: "this cloud deploys from no uploaded volume: undo the job, set path=template and begin again", Kind: target.ErrPermanent, Cause: err}
	}
	return err
}

// recipe is the command that makes the machine, and its parameters.
func (s *session) recipe(ctx context.Context, root string) (string, params, error) {
	m, pl, v := s.order.Machine, s.place, s.f.version
	p := params{"zoneid": pl.zone.ID, "serviceofferingid": pl.offering.ID, "name": s.host, "displayname": s.display, "hypervisor": "KVM"}
	for k, x := range pl.details(s.order, v) {
		p["details[0]."+k] = x
	}
	kind, mode := firmware(m)
	if kind != "" && !v.since(4, 14, 0) {
		return "", nil, target.Permanent("CloudStack "+v.String()+" starts no machine by UEFI, which came with 4.14", "upgrade the server, or restore as BIOS")
	}
	if s.path == pathImport {
		if len(pl.nics) > 0 {
			p["networkid"] = pl.nics[0].network
		}
		if kind != "" {
			p["details[0]."+kind] = mode // the detail that boottype and bootmode become
		}
		p["importsource"], p["storageid"], p["diskpath"], p["clusterid"] = "shared", pl.pool.ID, root, pl.cluster
		return "importVm", p, nil
	}
	p["startvm"], p["boottype"], p["bootmode"] = "false", kind, mode
	p["affinitygroupids"], p["securitygroupids"], p["keypair"] = strings.Join(pl.affinity, ","), strings.Join(pl.groups, ","), pl.keyPair
	p["clusterid"], p["hostid"] = pl.cluster, pl.host
	for i, n := range pl.nics {
		at := fmt.Sprintf("iptonetworklist[%d].", i)
		p[at+"networkid"], p[at+"ip"], p[at+"mac"] = n.network, n.ip, n.mac
	}
	boot := m.BootDisk()
	switch s.path {
	case pathVolume:
		p["volumeid"] = root
		return "deployVirtualMachine", p, nil
	case pathHotAdd:
		t, err := s.templateOf(ctx, root)
		if err != nil {
			return "", nil, err
		}
		root = t
	}
	if pl.disks[boot] != "" && v.since(4, 17, 0) {
		p["overridediskofferingid"] = pl.disks[boot]
	}
	p["templateid"] = root
	return "deployVirtualMachine", p, nil
}

// addAdapters gives an imported machine the adapters after the first, which are
// all that importing makes.
func (s *session) addAdapters(ctx context.Context, id string) error {
	if s.path != pathImport || len(s.place.nics) < 2 {
		return nil
	}
	all, err := list[machineRow](ctx, s.t.c, "listVirtualMachines", "virtualmachine", s.f.owned(params{"id": id, "listall": "true"}))
	if err != nil {
		return err
	}
	if len(all) != 1 {
		return target.Permanent("the machine is not there any more", "undo the job and begin again")
	}
	for i := max(len(all[0].NICs), 1); i < len(s.place.nics); i++ {
		n := s.place.nics[i]
		p := params{"virtualmachineid": id, "networkid": n.network, "macaddress": n.mac, "ipaddress": n.ip}
		if err := s.t.c.job(ctx, "addNicToVirtualMachine", p, nil); err != nil {
			return fmt.Errorf("cannot add network adapter %d: %w", i, translate(err))
		}
	}
	return nil
}

// attach attaches the volume of disk i to the machine, if it is not.
func (s *session) attach(ctx context.Context, i int, id, vm string) error {
	v, err := s.t.volumeNamed(ctx, s.f, thing(s.order.Job, i))
	switch {
	case err != nil:
		return err
	case v == nil || v.ID != id:
		return target.Permanent(fmt.Sprintf("the volume of disk %d is no longer there", i), "undo the job and begin again")
	case v.Machine == vm:
		return nil
	case v.Machine != "":
		return target.Permanent(fmt.Sprintf("the volume of disk %d is attached to another machine (%s)", i, v.Machine), "detach it")
	}
	err = s.t.c.job(ctx, "attachVolume", params{"id": id, "virtualmachineid": vm}, nil)
	if err != nil && ctx.Err() == nil {
		if v, look := s.t.volumeNamed(ctx, s.f, thing(s.order.Job, i)); look == nil && v != nil && v.Machine == vm {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("cannot attach disk %d: %w", i, translate(err))
	}
	return nil
}

// discard removes what only served to make the machine: the boot disk's
// template, and for hotadd the volume that the template was made of.
func (s *session) discard(ctx context.Context) error {
	boot := s.order.Machine.BootDisk()
	var kinds []string
	switch s.path {
	case pathTemplate:
		kinds = []string{kindTemplate}
	case pathHotAdd:
		kinds = []string{kindTemplate, kindVolume}
	}
	recorded, err := s.rec.Recorded(ctx)
	if err != nil {
		return fmt.Errorf("cannot read the job's resources: %w", err)
	}
	for _, r := range recorded {
		for _, kind := range kinds {
			if r.Kind != kind || r.Name != thing(s.order.Job, boot) || r.Gone {
				continue
			}
			if err := s.t.removeNamed(ctx, s.f, kind, r.Name); err != nil {
				return err
			}
			r.Gone = true
			if err := s.rec.Record(ctx, r); err != nil {
				return fmt.Errorf("cannot record %s %s: %w", r.Kind, r.Name, err)
			}
		}
	}
	return nil
}

// PowerOn starts the machine and returns when it runs.
func (s *session) PowerOn(ctx context.Context, v *target.VM) error {
	fail := func(err error) error { return fmt.Errorf("cannot power on %q: %w", v.Name, translate(err)) }
	all, err := list[machineRow](ctx, s.t.c, "listVirtualMachines", "virtualmachine", s.f.owned(params{"id": v.ID, "listall": "true"}))
	switch {
	case isGone(err) || err == nil && len(all) == 0:
		return fail(target.Permanent("the machine is not there any more", ""))
	case err != nil:
		return fail(err)
	case all[0].State == "Running":
		return nil
	}
	var out struct {
		Machine machineRow `json:"virtualmachine"`
	}
	if err := s.t.c.job(ctx, "startVirtualMachine", params{"id": v.ID}, &out); err != nil {
		return fail(err)
	}
	if out.Machine.State != "Running" {
		return fail(fmt.Errorf("its state is %q", out.Machine.State))
	}
	return nil
}

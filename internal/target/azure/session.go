package azure

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"ascend/internal/disk"
	"ascend/internal/target"
)

// Kinds of recorded resources.
const (
	kindDisk = "disk"
	kindIP   = "public-ip"
	kindNIC  = "nic"
	kindVM   = "vm"
)

// apiOf is the API version that each kind is asked by.
var apiOf = map[string]string{kindDisk: apiDisks, kindIP: apiNetwork, kindNIC: apiNetwork, kindVM: apiCompute}

// typeOf is each kind's resource type.
var typeOf = map[string]string{
	kindDisk: "Microsoft.Compute/disks", kindIP: "Microsoft.Network/publicIPAddresses",
	kindNIC: "Microsoft.Network/networkInterfaces", kindVM: "Microsoft.Compute/virtualMachines",
}

// Keys of a recorded resource's Data.
const (
	dataResource = "resource" // the identifier that it has or will have
	dataStage    = "stage"    // of a disk
)

// Stages of a disk.
const (
	stageSending    = "sending"    // made; its bytes are under way
	stageCommitting = "committing" // all bytes are there; access is being revoked
	stageLanded     = "landed"
)

// session is one order under way. Methods may be called concurrently for
// different disks.
type session struct {
	t     *azure
	c     *client
	order *target.Order
	rec   target.Recorder
	place *place

	mu      sync.Mutex
	known   map[string]target.Resource // by kind and name: as recorded
	uploads []*upload                  // by disk, nil before Upload
}

// begin makes what uploads need: the empty disks. All are asked for before the
// first is waited for.
func (s *session) begin(ctx context.Context) error {
	if err := s.free(ctx); err != nil {
		return err
	}
	waits := make([]func() error, len(s.order.Disks))
	for i := range s.order.Disks {
		w, err := s.makeDisk(ctx, i, false)
		if err != nil {
			return fmt.Errorf("disk %d: %w", i, translate(err))
		}
		waits[i] = w
	}
	for i, w := range waits {
		if err := w(); err != nil {
			return fmt.Errorf("disk %d: %w", i, translate(err))
		}
	}
	return nil
}

// Close does nothing: access to disks that are not complete stays granted, so
// that the job can go on; it ends by itself.
func (s *session) Close(context.Context) error { return nil }

// recorded is a resource as it was recorded last.
func (s *session) recorded(kind, name string) (target.Resource, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.known[kind+"\x00"+name]
	return r, ok && !r.Gone
}

// record stores a resource.
func (s *session) record(ctx context.Context, r target.Resource) error {
	r.Data = maps.Clone(r.Data)
	if err := s.rec.Record(ctx, r); err != nil {
		return fmt.Errorf("cannot record %s %q: %w", r.Kind, r.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[r.Kind+"\x00"+r.Name] = r
	return nil
}

// id is the identifier of a part, which is known before it is made.
func (s *session) id(kind, name string) string {
	return s.c.path("resourceGroups", s.place.group, "providers", typeOf[kind], name)
}

// make makes a part unless it is there: recorded, then asked for. The result
// waits for it and records that it is done.
func (s *session) make(ctx context.Context, kind, name string, body any, data map[string]string, header ...string) (func() error, error) {
	id := s.id(kind, name)
	r, known := s.recorded(kind, name)
	if known && r.Done {
		return func() error { return nil }, nil
	}
	if !known {
		r = target.Resource{Job: s.order.Job, Kind: kind, Name: name, Data: map[string]string{dataResource: id}}
		if err := s.record(ctx, r); err != nil {
			return nil, err
		}
	}
	done := func() error {
		r.ID, r.Done, r.Data = id, true, maps.Clone(r.Data)
		maps.Copy(r.Data, data)
		return s.record(ctx, r)
	}
	var there plain
	err := s.c.get(ctx, id, apiOf[kind], &there)
	switch {
	case err == nil && there.Tags[jobTag] != jobValue(s.order.Job):
		return nil, &target.Problem{Msg: fmt.Sprintf("%s already exists and is not of this job", id), Hint: "remove it or restore elsewhere", Kind: target.ErrExists}
	case err == nil && there.Properties.State == "Failed":
		// What could not be made is in the way of another attempt.
		if err := s.c.do(ctx, http.MethodDelete, id, apiOf[kind], nil, nil); err != nil {
			return nil, err
		}
	case err == nil:
		// An attempt that died asked for it.
		return func() error {
			if _, err := s.c.settle(ctx, id, apiOf[kind]); err != nil {
				return err
			}
			return done()
		}, nil
	case !notFound(err):
		return nil, err
	}
	w, err := s.c.begin(ctx, http.MethodPut, id, apiOf[kind], body, header...)
	if err != nil {
		return nil, err
	}
	return func() error {
		if err := w(ctx, nil); err != nil {
			return err
		}
		return done()
	}, nil
}

// settle waits until a resource is in no state between others, and tells which
// it is in. A resource that goes meanwhile gives an error that is notFound.
func (c *client) settle(ctx context.Context, id, api string) (string, error) {
	for start := time.Now(); ; {
		var r plain
		if err := c.get(ctx, id, api, &r); err != nil {
			return "", err
		}
		switch r.Properties.State {
		case "Creating", "Updating", "Deleting":
		case "Failed":
			return "Failed", &target.Problem{Msg: fmt.Sprintf("the platform could not make %s", id), Hint: "see the activity log of its resource group; then try again"}
		default:
			return r.Properties.State, nil
		}
		if time.Since(start) > c.cfg.call {
			return "", fmt.Errorf("%s has been in state %s for %s", id, r.Properties.State, c.cfg.call)
		}
		if err := sleep(ctx, c.cfg.poll); err != nil {
			return "", err
		}
	}
}

// diskName is the name of disk i.
func (s *session) diskName(i int) string { return partName(s.order, fmt.Sprintf("disk-%d", i)) }

// diskBody is the disk as it is asked for.
func (s *session) diskBody(i int) managedDisk {
	p := s.place
	d := managedDisk{Location: p.location, Tags: p.tags, SKU: &name{p.disks[i].sku}, Properties: diskProperties{
		CreationData: &creationData{Option: "Upload", Upload: s.order.Disks[i].FileSize}, IOPS: p.disks[i].iops, MBps: p.disks[i].mbps,
	}}
	if !strings.HasSuffix(p.disks[i].sku, "_ZRS") {
		d.Zones = p.zones
	}
	if p.des != "" {
		d.Properties.Encryption = &encryption{Set: p.des, Type: "EncryptionAtRestWithCustomerKey"}
	}
	if i == p.osDisk {
		d.Properties.OSType, d.Properties.Generation = p.osType, p.generation
		d.Properties.Capabilities = &supported{Arch: p.arch}
		if p.controller == "NVMe" {
			d.Properties.Capabilities.Controllers = "SCSI, NVMe" // a machine starts by NVMe from such disks only
		}
		if p.trusted {
			d.Properties.Security = &security{Type: "TrustedLaunch"}
		}
	}
	return d
}

// makeDisk makes disk i, empty. With again it is made although it was before.
func (s *session) makeDisk(ctx context.Context, i int, again bool) (func() error, error) {
	n := s.diskName(i)
	if r, ok := s.recorded(kindDisk, n); ok && again {
		if err := s.t.Undo(ctx, r); err != nil {
			return nil, err
		}
		r.ID, r.Done = "", false
		if err := s.record(ctx, r); err != nil {
			return nil, err
		}
	}
	return s.make(ctx, kindDisk, n, s.diskBody(i), map[string]string{dataStage: stageSending})
}

// stage moves a disk's record to a stage.
func (s *session) stage(ctx context.Context, i int, to string) error {
	r, ok := s.recorded(kindDisk, s.diskName(i))
	if !ok {
		return errors.New("the disk is not recorded")
	}
	r.Data = maps.Clone(r.Data)
	r.Data[dataStage] = to
	return s.record(ctx, r)
}

// Upload opens the upload of disk i, or goes on with it.
func (s *session) Upload(ctx context.Context, i int) (target.Upload, error) {
	if i < 0 || i >= len(s.order.Disks) {
		return nil, target.Permanent(fmt.Sprintf("there is no disk %d", i), "")
	}
	u, err := s.openUpload(ctx, i)
	if err != nil {
		return nil, fmt.Errorf("cannot open the upload of disk %d: %w", i, translate(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uploads[i] = u
	return u, nil
}

func (s *session) openUpload(ctx context.Context, i int) (*upload, error) {
	r, ok := s.recorded(kindDisk, s.diskName(i))
	if !ok || !r.Done {
		return nil, errors.New("the disk has not been made")
	}
	u := &upload{s: s, i: i, id: r.ID, size: s.order.Disks[i].FileSize, flow: newFlow()}
	if r.Data[dataStage] == stageLanded {
		u.landed, u.past = true, true
		return u, ctx.Err()
	}
	var d managedDisk
	err := s.c.get(ctx, r.ID, apiDisks, &d)
	switch {
	case err == nil && (d.Properties.DiskState == "ReadyToUpload" || d.Properties.DiskState == "ActiveUpload"):
		u.access = &access{c: s.c, id: r.ID, kind: "Write"}
		return u, u.access.renew(ctx, "")
	case err == nil && r.Data[dataStage] == stageCommitting:
		// Access was revoked by an attempt that died before it could say so.
		u.landed, u.past = true, true
		return u, s.stage(ctx, i, stageLanded)
	case err != nil && !notFound(err):
		return nil, err
	}
	// Somebody ended the upload or removed the disk: an upload that was ended
	// cannot be taken up again.
	w, err := s.makeDisk(ctx, i, true)
	if err == nil {
		err = w()
	}
	if err != nil {
		return nil, err
	}
	return nil, &target.Problem{Msg: "the disk was taken away, or access to it revoked, while it was being sent; it has been made anew", Kind: target.ErrExpired}
}

// missing is the first disk that has not landed; -1: none.
func (s *session) missing() int {
	for i := range s.order.Disks {
		if r, _ := s.recorded(kindDisk, s.diskName(i)); r.Data[dataStage] != stageLanded {
			return i
		}
	}
	return -1
}

// ReadBack opens disk i as the guest will see it.
func (s *session) ReadBack(ctx context.Context, i int) (disk.Disk, error) {
	if i < 0 || i >= len(s.order.Disks) {
		return nil, target.Permanent(fmt.Sprintf("there is no disk %d", i), "")
	}
	r, _ := s.recorded(kindDisk, s.diskName(i))
	if r.Data[dataStage] != stageLanded {
		return nil, fmt.Errorf("cannot read back disk %d: %w", i, target.Permanent("it has not been completed", ""))
	}
	d, err := s.t.read(ctx, r.ID)
	if err == nil && d.Size() != s.order.Disks[i].Virtual {
		err = fmt.Errorf("it has %d bytes instead of %d", d.Size(), s.order.Disks[i].Virtual)
		_ = d.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read back disk %d: %w", i, translate(err))
	}
	return d, nil
}

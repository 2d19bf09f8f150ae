package restore

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"ascend/internal/image"
	"ascend/internal/plan"
	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/aws"
	"ascend/internal/target/aws/awssim"
	"ascend/internal/vm"
)

// onAWS has the fixture restore to a simulated account.
func onAWS(t *testing.T, f *fixture) (*awssim.Sim, func(*plan.Request)) {
	sim := awssim.Start(awssim.Options{})
	t.Cleanup(sim.Close)
	f.open = func() (target.Target, error) { return openAWS(t.Context(), sim.URL) }
	return sim, func(r *plan.Request) {
		r.Target = plan.TargetRef{Name: "there", Platform: vm.AWS}
		tgt, err := f.open()
		if err != nil {
			t.Fatal(err)
		}
		if r.Inventory, err = tgt.Inventory(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.Machine.Guest.Arch = vm.AMD64
		r.PowerOn = true
	}
}

// openAWS opens a simulated account.
func openAWS(ctx context.Context, url string) (target.Target, error) {
	return aws.Kind().Open(ctx, target.Settings{
		Name: "there", Platform: vm.AWS,
		Values:  map[string]string{"region": "eu-central-1", "endpoint": url, "access-key": awssim.AccessKey, "bucket": awssim.Bucket},
		Secrets: map[string]secret.String{"secret-key": secret.New(awssim.SecretKey)},
	})
}

// TestByObject: where the EBS direct APIs are denied, the plan says so and takes the way
// by S3, which leaves nothing in the bucket.
func TestByObject(t *testing.T) {
	f := setup(t, 1, diskSize)
	sim, ask := onAWS(t, f)
	sim.SetFault(func(q awssim.Request) *awssim.Fault {
		if q.Service == "ebs" && q.Action != "ListSnapshotBlocks" && q.Action != "GetSnapshotBlock" {
			return &awssim.Fault{Status: 403, Code: "AccessDeniedException"}
		}
		return nil
	})
	req := f.request("web", nil, "", ask)
	if !slices.ContainsFunc(req.Plan.Findings, func(x plan.Finding) bool {
		return x.Code == "way-second-best" && strings.Contains(x.Text, "ebs:PutSnapshotBlock")
	}) {
		t.Errorf("findings: %+v", req.Plan.Findings)
	}
	j := f.submit(req)
	f.wait(j.ID, Completed)
	rc := f.receipt(j.ID)
	if sim.State(rc.VM.ID) != "running" {
		t.Errorf("the receipt names %+v", rc.VM)
	}
	for i, d := range rc.Disks {
		file := filepath.Join(f.dir, "disk")
		readSnapshot(t, sim, d.Object, d.Virtual, file)
		f.compare(i, image.Format{Name: "raw"}, file)
		if d.Format.Name != "vmdk" || d.Verified == "" {
			t.Errorf("%+v", d)
		}
	}
	for _, thing := range sim.Inventory() {
		if strings.Contains(thing, "object") || strings.Contains(thing, "upload") {
			t.Errorf("left in the bucket: %s", thing)
		}
	}
	if err := f.s.Undo(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	f.wait(j.ID, Undone)
	if left := sim.Inventory(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestSnapshotLost: EBS gives a snapshot up while it is sent. The disk is sent
// again into another one, the lost one is not left behind, and the receipt names
// the instance that runs and not the image it was started from.
func TestSnapshotLost(t *testing.T) {
	for _, gone := range []bool{false, true} {
		t.Run(fmt.Sprint("gone ", gone), func(t *testing.T) {
			f := setup(t, 1, diskSize)
			sim, ask := onAWS(t, f)
			// Once two blocks of both have landed: one at a time is sent, so that the
			// first of each was acknowledged and neither is too new to be found.
			var once sync.Once
			sim.SetFault(func(q awssim.Request) *awssim.Fault {
				ids := sim.Snapshots()
				if q.Action != "PutSnapshotBlock" || len(ids) < 2 || slices.ContainsFunc(ids, func(id string) bool { return len(sim.Blocks(id)) < 2 }) {
					return nil
				}
				once.Do(func() {
					for _, id := range ids {
						sim.Spoil(id, gone)
					}
				})
				return nil
			})
			req := f.request("web", nil, "", ask)
			req.Options.Workers = 1
			j := f.submit(req)
			f.wait(j.ID, Completed)
			rc := f.receipt(j.ID)
			if !strings.HasPrefix(rc.VM.ID, "i-") || sim.State(rc.VM.ID) != "running" {
				t.Errorf("the receipt names %+v", rc.VM)
			}
			if n := len(sim.Snapshots()); n != len(f.files) {
				t.Errorf("%d snapshots of %d disks", n, len(f.files))
			}
			for i, d := range rc.Disks {
				file := filepath.Join(f.dir, "disk")
				readSnapshot(t, sim, d.Object, d.Virtual, file)
				f.compare(i, image.Format{Name: "raw"}, file)
			}
		})
	}
}

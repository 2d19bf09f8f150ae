package vmware

import (
	"testing"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target/targettest"
)

func TestConformance(t *testing.T) {
	tgt := &vmware{cfg: &config{}}
	for i, d := range tgt.Capabilities().Deliveries {
		t.Run(d.Path+" "+d.Format.String(), func(t *testing.T) {
			targettest.Run(t, targettest.Harness{
				New: newPeer, Delivery: d, MaxName: maxName, UniqueNames: true, Light: i > 0,
			})
		})
	}
}

func objectFolder(c *govmomi.Client, ref types.ManagedObjectReference) *object.Folder {
	return object.NewFolder(c.Client, ref)
}

func objectPool(c *govmomi.Client, ref types.ManagedObjectReference) *object.ResourcePool {
	return object.NewResourcePool(c.Client, ref)
}

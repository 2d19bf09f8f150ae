package azure

import (
	"testing"

	"ascend/internal/target/targettest"
)

func TestConformance(t *testing.T) {
	for _, d := range (&azure{cfg: &config{}}).Capabilities().Deliveries {
		t.Run(d.Path, func(t *testing.T) {
			targettest.Run(t, targettest.Harness{New: newPeer, Delivery: d, MaxName: maxName, UniqueNames: true})
		})
	}
}

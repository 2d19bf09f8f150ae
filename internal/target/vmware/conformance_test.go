package vmware

import (
	"testing"

	"ascend/internal/target/targettest"
)

// The stored stream differs from the deflated one only in that its length is
// known, which TestLengthKnown covers.
func TestConformance(t *testing.T) {
	for i, d := range (&vmware{cfg: &config{}}).Capabilities().Deliveries {
		if d.Format.Compression == "stored" {
			continue
		}
		t.Run(d.Path, func(t *testing.T) {
			targettest.Run(t, targettest.Harness{
				New: newPeer, Delivery: d, MaxName: maxName, UniqueNames: true, Light: i > 0,
			})
		})
	}
}

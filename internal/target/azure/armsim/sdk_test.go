//go:build azuresdk

package armsim

import (
	"os"
	"os/exec"
	"testing"
)

// TestSDK drives the simulator by Microsoft's own Python client, which is 1 GB
// large: "make azure-sdk" installs it and runs this.
func TestSDK(t *testing.T) {
	s, err := Start(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "testdata/sdk.py")
	cmd.Env = append(os.Environ(), "SIM_URL="+s.URL, "SIM_SUBSCRIPTION="+Subscription, "SIM_TENANT="+Tenant, "SIM_CLIENT="+ClientID,
		"SIM_SECRET="+ClientSecret, "SIM_GROUP="+Group, "SIM_OTHER_GROUP="+OtherGroup, "REQUESTS_CA_BUNDLE="+s.CAFile)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("%v (the Debian package python3-azure is needed)", err)
	}
	if left := s.Inventory(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

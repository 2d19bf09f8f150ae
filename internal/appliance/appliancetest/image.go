// Package appliancetest gives tests an appliance.
package appliancetest

import (
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"ascend/internal/appliance"
)

var once struct {
	sync.Mutex
	im *appliance.Image
}

// Image builds the appliance, or takes the one in the user's cache, with the agent
// of this tree. A test program that uses it calls qemu.Main in TestMain.
func Image(t testing.TB) *appliance.Image {
	t.Helper()
	once.Lock()
	defer once.Unlock()
	cache, err := appliance.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(t.TempDir(), "ascend-agent")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", agent, "ascend/cmd/ascend-agent")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the agent: %v: %s", err, out)
	}
	t.Setenv("ASCEND_AGENT", agent)
	if once.im == nil {
		im, err := appliance.Open(cache)
		if err != nil {
			im, err = appliance.Build(t.Context(), appliance.BuildOptions{Cache: cache, Log: t.Logf})
		}
		if err != nil {
			t.Fatalf("%v (build/deps installs what it needs)", err)
		}
		once.im = im
	}
	im := *once.im
	im.Agent = agent
	return &im
}

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ascend/internal/disk"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// remembered sets up a vCenter that cannot be reached and whose inventory was
// asked a while ago, and a machine of five disks; it returns the arguments that
// plan it.
func remembered(tb testing.TB, ago time.Duration) []string {
	dir := tb.TempDir()
	write := func(name string, b []byte) {
		tb.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	write("password", []byte("pa55"))
	write("config.yaml", []byte("targets:\n  vc1:\n    platform: vmware\n    url: 127.0.0.1:1\n    username: u\n    password_file: "+filepath.Join(dir, "password")+"\n"))
	inv := &target.Inventory{Asked: time.Now().Add(-ago), Networks: []target.Place{{Name: "prod"}}, Places: map[string][]target.Place{"datastore": {{Name: "ds1", Free: vm.TiB}}}}
	b, err := json.Marshal(memory{vm.VMware, map[string]string{"url": "127.0.0.1:1", "username": "u"}, inv})
	if err != nil {
		tb.Fatal(err)
	}
	write("state/inventory/vc1.json", b)
	args := []string{"--config", filepath.Join(dir, "config.yaml"), "--state-dir", filepath.Join(dir, "state"), "-q", "plan"}
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		path := filepath.Join(dir, n+".raw")
		f, err := os.Create(path)
		if err == nil {
			err = f.Truncate(100 * vm.GiB)
		}
		if err == nil {
			_, err = f.WriteAt(make([]byte, disk.LeafSize), 1<<30)
		}
		if err != nil {
			tb.Fatal(err)
		}
		f.Close()
		args = append(args, path)
	}
	return append(args, "-f", "raw", "--to", "vc1", "--cpus", "4", "--memory", "16G", "--firmware", "bios", "--network", "prod")
}

// silence sends what is printed nowhere.
func silence(tb testing.TB) {
	out, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	stdout, stderr := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = out, out
	tb.Cleanup(func() { os.Stdout, os.Stderr = stdout, stderr; out.Close() })
}

// TestRemembered: a plan asks nobody while what the target said is recent; else,
// or when told to, it does, and fails as the target is not there.
func TestRemembered(t *testing.T) {
	silence(t)
	for _, c := range []struct {
		ago  time.Duration
		more []string
		want int
	}{
		{time.Minute, nil, exitOK}, {time.Minute, []string{"--refresh"}, exitFailed}, {2 * time.Hour, nil, exitFailed}, {-time.Hour, nil, exitFailed},
	} {
		if got := run(append(remembered(t, c.ago), c.more...)); got != c.want {
			t.Errorf("%v %v: exit code %d", c.ago, c.more, got)
		}
	}
}

// BenchmarkPlan is the whole command, from a cached inventory.
func BenchmarkPlan(b *testing.B) {
	args := remembered(b, time.Minute)
	silence(b)
	for b.Loop() {
		if code := run(args); code != exitOK {
			b.Fatal(code)
		}
	}
}

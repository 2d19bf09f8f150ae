package planning

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/appliance/appliancetest"
	"ascend/internal/backup"
	"ascend/internal/guest"
	"ascend/internal/plan"
	"ascend/internal/qemu"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

func TestMain(m *testing.M) {
	qemu.Main()
	os.Exit(m.Run())
}

// cloud is what a plan asks of a target.
type cloud struct{ target.Target }

func (cloud) Capabilities() target.Capabilities { return caps.For(vm.CloudStack) }
func (cloud) Inventory(context.Context) (*target.Inventory, error) {
	return &target.Inventory{}, nil
}

// TestGuest plans for a machine whose host name is to be another: with the appliance the
// change is decided, without it what is asked for is refused, and a guest that is to be
// left is.
func TestGuest(t *testing.T) {
	appliancetest.Image(t)
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	for n, s := range map[string]string{"etc/os-release": "ID=debian\n", "etc/hostname": "before\n", "etc/fstab": "", "sbin/init": ""} {
		p := filepath.Join(tree, n)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(s), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	repo := filepath.Join(dir, "repo")
	if err := os.Mkdir(repo, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{
		{"/usr/sbin/mke2fs", "-q", "-t", "ext4", "-d", tree, filepath.Join(dir, "raw"), "32M"},
		{"qemu-img", "convert", "-O", "qcow2", filepath.Join(dir, "raw"), filepath.Join(repo, "web.qcow2")},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s (Debian packages e2fsprogs, qemu-utils)", argv, err, out)
		}
	}
	r, err := backup.Open(repo)
	if err != nil {
		t.Fatal(err)
	}
	list, err := r.List(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	defer func() { _ = r.Close() }()
	b := list[0]
	if b.Machine == nil {
		b.Machine = &vm.Machine{Disks: []vm.Disk{{}}}
	}
	plans := func(w Wish) (*Made, error) {
		m, err := Make(t.Context(), Source{Dir: repo, Backup: b}, Target{Ref: plan.TargetRef{Name: "c", Platform: vm.CloudStack}, Target: cloud{}}, w)
		if err == nil {
			t.Cleanup(m.Close)
		}
		return m, err
	}
	wanted := Wish{Guest: &plan.GuestWish{Hostname: "after"}}
	m, err := plans(wanted)
	if err != nil {
		t.Fatal(err)
	}
	if m.Inspection == nil || m.Adaptation == nil || len(m.Adaptation.Changes) != 1 || m.Adaptation.Changes[0].Kind != guest.SetHostname || m.Plan.Guest.Hostname != "after" {
		t.Errorf("%+v %+v", m.Adaptation, m.Plan.Guest)
	}
	if m, err := plans(Wish{}); err != nil || m.Adaptation != nil || m.Inspection == nil {
		t.Errorf("nothing is asked for: %+v, %v", m, err)
	}
	if _, err := plans(Wish{Guest: wanted.Guest, LeaveGuest: true}); !errors.Is(err, ErrWish) {
		t.Errorf("to be changed and to be left: %v", err)
	}
	if _, err := plans(Wish{Guest: &plan.GuestWish{Hostname: "a b"}}); !errors.Is(err, ErrWish) {
		t.Errorf("no host name: %v", err)
	}
	t.Setenv("ASCEND_CACHE_DIR", t.TempDir())
	if _, err := plans(wanted); !errors.Is(err, ErrWish) || !strings.Contains(err.Error(), "the appliance is not built") {
		t.Errorf("without the appliance: %v", err)
	}
}

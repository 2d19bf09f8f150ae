package restore

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"ascend/internal/backup"
	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/plan"
	"ascend/internal/qemu"
	"ascend/internal/target"
	"ascend/internal/target/local"
	"ascend/internal/vm"
)

func TestMain(m *testing.M) {
	qemu.Main()
	if os.Getenv("ASCEND_TEST_RESTORE") != "" {
		os.Exit(child(os.Args[1], os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

// child carries a job on in a process of its own, slowly enough to be killed.
func child(dir, id string, files []string) int {
	ctx := context.Background()
	err := func() error {
		st, err := OpenState(filepath.Join(dir, "state"))
		if err != nil {
			return err
		}
		j, err := st.Open(id)
		if err != nil {
			return err
		}
		defer j.Close()
		r, b, err := backup.FromFiles(ctx, files)
		if err != nil {
			return err
		}
		defer r.Close()
		t, err := local.Open(target.Settings{Name: "there", Values: map[string]string{"dir": filepath.Join(dir, "out")}})
		if err != nil {
			return err
		}
		key, err := SigningKey(filepath.Join(dir, "key"))
		if err != nil {
			return err
		}
		o := Options{
			Key: key, Workers: 2, InFlight: window, SyncEvery: 20 * time.Millisecond, Limit: rate.NewLimiter(12<<20, 1<<20),
			OpenDisk: func(ctx context.Context, i int) (disk.Image, error) { return r.OpenDisk(ctx, b, i) },
		}
		rc, err := j.Run(ctx, t, o)
		if err != nil {
			return err
		}
		for _, d := range rc.Disks {
			fmt.Println(d.Sent)
		}
		return nil
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// window is the bytes in flight of the restores that are broken off.
const window = 2 << 20

const diskSize = 6<<20 + 512

func sh(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s (Debian package qemu-utils)", name, strings.Join(args, " "), err, out)
	}
}

// chain makes a qcow2 chain of so many links and returns its top.
func chain(t testing.TB, dir, name string, links int, size int64) string {
	t.Helper()
	r := rand.NewChaCha8([32]byte{byte(len(name)), byte(links)})
	below := ""
	for l := range links {
		file := filepath.Join(dir, fmt.Sprintf("%s-%d.qcow2", name, l))
		args := []string{"create", "-q", "-f", "qcow2"}
		if below != "" {
			args = append(args, "-F", "qcow2", "-b", filepath.Base(below))
		}
		sh(t, "qemu-img", append(args, file, fmt.Sprint(size))...)
		b := make([]byte, size/2)
		off := int64(l) * 300 << 10
		if l > 0 {
			b = b[:200<<10]
		}
		_, _ = r.Read(b) // never fails
		piece := filepath.Join(t.TempDir(), "piece")
		if err := os.WriteFile(piece, b, 0o600); err != nil {
			t.Fatal(err)
		}
		sh(t, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -q -s %s %d %d", piece, off, len(b)), file)
		below = file
	}
	return below
}

// fixture is a backup, a state and a local target.
type fixture struct {
	t     testing.TB
	dir   string
	files []string
	repo  *backup.Repository
	b     backup.Backup
	st    *State
	out   string
	tgt   target.Target
	key   ed25519.PrivateKey
}

// setup makes a backup of two disks in a folder, moves it, and opens it.
func setup(t testing.TB, links int, size int64) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir()}
	made := filepath.Join(f.dir, "made")
	moved := filepath.Join(f.dir, "moved here")
	f.out = filepath.Join(f.dir, "out")
	for _, d := range []string{made, f.out} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		f.files = append(f.files, filepath.Join(moved, filepath.Base(chain(t, made, fmt.Sprint("disk", i), links, size+int64(i)<<20))))
	}
	if err := os.Rename(made, moved); err != nil {
		t.Fatal(err)
	}
	f.openBackup()
	var err error
	if f.st, err = OpenState(filepath.Join(f.dir, "state")); err != nil {
		t.Fatal(err)
	}
	if f.key, err = SigningKey(filepath.Join(f.dir, "key")); err != nil {
		t.Fatal(err)
	}
	f.tgt, err = local.Open(target.Settings{Name: "there", Values: map[string]string{"dir": f.out}})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) openBackup() {
	f.t.Helper()
	var err error
	if f.repo, f.b, err = backup.FromFiles(f.t.Context(), f.files); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { f.repo.Close() })
}

func (f *fixture) open(ctx context.Context, i int) (disk.Image, error) {
	return f.repo.OpenDisk(ctx, f.b, i)
}

func (f *fixture) options() Options {
	return Options{Key: f.key, Software: "test 1", OpenDisk: f.open}
}

// job plans a restore and begins its job.
func (f *fixture) job(name string, format *image.Format, path string, change func(r *plan.Request)) *Job {
	f.t.Helper()
	var images []disk.Image
	for i := range f.b.Disks {
		img, err := f.open(f.t.Context(), i)
		if err != nil {
			f.t.Fatal(err)
		}
		defer img.Close()
		images = append(images, img)
	}
	sources, err := plan.Measure(f.t.Context(), images)
	if err != nil {
		f.t.Fatal(err)
	}
	var maps []*disk.Map
	m := &vm.Machine{CPU: vm.CPU{Sockets: 1}, Memory: vm.GiB, Firmware: vm.BIOS}
	for i, s := range sources {
		maps = append(maps, s.Map)
		m.Disks = append(m.Disks, vm.Disk{Index: i, Size: s.Info.Size})
	}
	r := plan.Request{
		Backup:  plan.BackupRef{Repository: f.repo.Root().Path(), ID: f.b.ID, VM: f.b.VM},
		Machine: m, Target: plan.TargetRef{Name: "there", Platform: vm.Local}, Caps: f.tgt.Capabilities(),
		Sources: sources, Name: name, Format: format, Path: path, Seed: f.b.ID, Now: time.Now(),
	}
	if change != nil {
		change(&r)
	}
	p, err := plan.Make(r)
	if err != nil {
		f.t.Fatal(err)
	}
	if p.Stopped() {
		f.t.Fatalf("%+v", p.Findings)
	}
	j, err := f.st.Create(name, p, Fingerprint(images), maps)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(j.Close)
	return j
}

// compare compares a landed disk with the backup's.
func (f *fixture) compare(i int, format image.Format, object string) {
	f.t.Helper()
	sh(f.t, "qemu-img", "compare", "-f", "qcow2", "-F", format.Name, f.files[i], object)
}

// listing is every file of a folder with its content.
func listing(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			all[p] = "folder"
			return err
		}
		b, err := os.ReadFile(p)
		all[p] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

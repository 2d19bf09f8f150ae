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

	"ascend/internal/backup"
	"ascend/internal/disk"
	"ascend/internal/engine"
	"ascend/internal/image"
	"ascend/internal/plan"
	"ascend/internal/qemu"
	"ascend/internal/store"
	"ascend/internal/target"
	"ascend/internal/target/local"
	"ascend/internal/vm"
)

func TestMain(m *testing.M) {
	qemu.Main()
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	os.Exit(func() int {
		var err error
		if quickDir, err = os.MkdirTemp("", "ascend-test-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(quickDir)
		return m.Run()
	}())
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

// fixture is a backup, a local target and a service.
type fixture struct {
	t     testing.TB
	dir   string
	files []string
	out   string
	tgt   target.Target                 // what jobs get, in place of the local target
	open  func() (target.Target, error) // likewise, anew each time
	key   ed25519.PrivateKey
	tab   Store
	s     *Service
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
	var err error
	if f.key, err = SigningKey(filepath.Join(f.dir, "key")); err != nil {
		t.Fatal(err)
	}
	f.start(nil)
	return f
}

// start makes the service, anew when there is one.
func (f *fixture) start(change func(c *Config)) {
	f.t.Helper()
	st, err := openStore(f.t.Context(), f.dir)
	if err != nil {
		f.t.Fatal(err)
	}
	f.tab = Tables(st)
	c := Config{Store: f.tab, Engine: localEngine(st), Resolver: f, Dir: filepath.Join(f.dir, "state"), Key: f.key, Software: "test 1", Tick: 10 * time.Millisecond}
	if change != nil {
		change(&c)
	}
	if f.s, err = New(c); err != nil {
		f.t.Fatal(err)
	}
	s := f.s
	f.t.Cleanup(func() {
		_ = s.Close(context.Background())
		_ = st.Close()
	})
}

// Target opens what the fixture says, or the local target.
func (f *fixture) Target(context.Context, string) (target.Target, error) {
	if f.open != nil {
		return f.open()
	}
	if f.tgt != nil {
		return f.tgt, nil
	}
	return openLocal(f.out)
}

func openLocal(dir string) (target.Target, error) {
	return local.Open(target.Settings{Name: "there", Values: map[string]string{"dir": dir}})
}

func (f *fixture) Source(ctx context.Context, ref SourceRef) (Source, error) {
	return openFiles(ctx, ref)
}

// files is a Source of image files.
type files struct {
	r *backup.Repository
	b backup.Backup
}

func openFiles(ctx context.Context, ref SourceRef) (Source, error) {
	r, b, err := backup.FromFilesAs(ctx, ref.Files, ref.Format)
	if err != nil {
		return nil, err
	}
	return &files{r, b}, nil
}

func (f *files) OpenDisk(ctx context.Context, i int) (disk.Image, error) {
	return f.r.OpenDisk(ctx, f.b, i)
}

func (f *files) Check(ctx context.Context, progress func(done, total int64)) error {
	return f.r.Verify(ctx, f.b, progress)
}

func (f *files) Close() error { return f.r.Close() }

// request plans a restore.
func (f *fixture) request(name string, format *image.Format, path string, change func(r *plan.Request)) Request {
	f.t.Helper()
	ctx := f.t.Context()
	src, err := openFiles(ctx, SourceRef{Files: f.files})
	if err != nil {
		f.t.Fatal(err)
	}
	defer src.Close()
	var images []disk.Image
	for i := range f.files {
		img, err := src.OpenDisk(ctx, i)
		if err != nil {
			f.t.Fatal(err)
		}
		defer img.Close()
		images = append(images, img)
	}
	sources, err := plan.Measure(ctx, images)
	if err != nil {
		f.t.Fatal(err)
	}
	tgt, err := f.Target(ctx, "there")
	if err != nil {
		f.t.Fatal(err)
	}
	b := src.(*files).b
	req := Request{}
	m := &vm.Machine{Name: name, CPU: vm.CPU{Sockets: 1}, Memory: vm.GiB, Firmware: vm.BIOS}
	for i, s := range sources {
		req.Maps = append(req.Maps, s.Map)
		m.Disks = append(m.Disks, vm.Disk{Index: i, Size: s.Info.Size})
	}
	r := plan.Request{
		Backup:  plan.BackupRef{Repository: filepath.Dir(f.files[0]), ID: b.ID, VM: b.VM},
		Machine: m, Target: plan.TargetRef{Name: "there", Platform: vm.Local}, Caps: tgt.Capabilities(),
		Sources: sources, Name: name, Format: format, Path: path, Seed: b.ID, Now: time.Now(),
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
	req.Spec = Spec{Plan: p, Source: SourceRef{Files: f.files}, Fingerprint: Fingerprint(images)}
	req.Key = name
	return req
}

func (f *fixture) submit(r Request) *Job {
	f.t.Helper()
	j, err := f.s.Submit(f.t.Context(), r)
	if err != nil {
		f.t.Fatal(err)
	}
	return j
}

// wait waits for a job and wants it in a status.
func (f *fixture) wait(id string, want Status) *Job {
	f.t.Helper()
	j, err := f.s.Wait(f.t.Context(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	if j.Status != want {
		events, _ := f.s.Events(f.t.Context(), id, 0, 0)
		f.t.Fatalf("status %s, not %s: %s; %v", j.Status, want, j.Error, events)
	}
	return j
}

func (f *fixture) receipt(id string) *Receipt {
	f.t.Helper()
	b, err := f.s.Receipt(f.t.Context(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	rc, err := ParseReceipt(b, f.key.Public().(ed25519.PublicKey))
	if err != nil {
		f.t.Fatal(err)
	}
	return rc
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
		name := strings.TrimPrefix(p, dir)
		if err != nil || e.IsDir() {
			all[name] = "folder"
			return err
		}
		b, err := os.ReadFile(p)
		all[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// openStore opens the tables of a fixture's folder.
func openStore(ctx context.Context, dir string) (*store.Store, error) {
	return store.Open(ctx, "sqlite:"+filepath.Join(dir, "ascend.db"), store.Options{})
}

func localEngine(st *store.Store) func(engine.Handlers) (engine.Engine, error) {
	return func(h engine.Handlers) (engine.Engine, error) {
		return engine.NewLocal(st, h, engine.LocalOptions{Jobs: 100}), nil
	}
}

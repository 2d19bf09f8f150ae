package backup

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ascend/internal/disk"
)

// size of the test disks: small, and no multiple of a cluster.
const size = 3<<20 + 512

// qemu runs qemu-img.
func qemu(t testing.TB, args ...string) {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %s: %v\n%s(qemu-img is in the Debian package qemu-utils)", strings.Join(args, " "), err, out)
	}
}

// qemuIO runs one qemu-io command on a qcow2 image.
func qemuIO(t testing.TB, file, command string) {
	t.Helper()
	out, err := exec.Command("qemu-io", "-f", "qcow2", "-c", command, file).CombinedOutput()
	if err != nil || strings.Contains(string(out), "failed") {
		t.Fatalf("qemu-io %s: %v\n%s(qemu-io is in the Debian package qemu-utils)", command, err, out)
	}
}

func mkdir(t testing.TB, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, name, text string) {
	t.Helper()
	mkdir(t, filepath.Dir(name))
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// rawFile makes a raw disk of random bytes with a hole in it.
func rawFile(t testing.TB, name string, seed uint64) []byte {
	t.Helper()
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b[:1<<20]) // it never fails
	_, _ = r.Read(b[2<<20:])
	if name != "" {
		mkdir(t, filepath.Dir(name))
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// run is one backup run that repo makes: which disks it covers, and when.
type run struct {
	time  time.Time
	disks []int
	full  bool
	after time.Duration // between the disks' times
}

// repo makes a repository as the platform does.
type repo struct {
	t       testing.TB
	dir     string // of the repository
	ctx     string // the context folder
	vm      string
	backing string                 // prefix of backing names instead of dir; "" for relative ones
	want    map[int]map[int][]byte // per run, per disk: the content at that point
	now     map[int][]byte
	last    map[int]string
	id      map[int]string
}

var t0 = time.Date(2026, 5, 1, 3, 12, 7, 0, time.UTC)

func newRepo(t testing.TB, vmName string) *repo {
	r := &repo{t: t, dir: t.TempDir(), vm: vmName, want: map[int]map[int][]byte{}, now: map[int][]byte{}, last: map[int]string{}, id: map[int]string{}}
	r.ctx = "ctx-" + vmName + "-" + t0.Format("20060102-150405")
	return r
}

func (r *repo) path(disk int, stamp string) string {
	return filepath.Join(r.dir, r.ctx, fmt.Sprintf("disk-%d", disk), fmt.Sprintf("backup-%s-disk%d-%s.qcow2", r.vm, disk, stamp))
}

// run makes the files of one run and remembers what the disks held.
func (r *repo) run(n int, v run) {
	r.t.Helper()
	at := v.time
	for _, d := range v.disks {
		stamp := at.Format("20060102-150405")
		name := r.path(d, stamp)
		mkdir(r.t, filepath.Dir(name))
		kind, parent := "full", ""
		if v.full {
			raw := filepath.Join(r.t.TempDir(), "raw")
			r.now[d] = rawFile(r.t, raw, uint64(n*100+d))
			qemu(r.t, "convert", "-f", "raw", "-O", "qcow2", raw, name)
		} else {
			kind, parent = "incremental", r.id[d]
			back := filepath.Base(r.last[d])
			if r.backing != "" {
				back = r.backing + strings.TrimPrefix(r.last[d], r.dir)
			}
			// Whole clusters are written before the image is given its parent, which
			// need not be where the image says.
			qemu(r.t, "create", "-q", "-f", "qcow2", name, fmt.Sprint(size))
			r.change(name, d, n)
			qemu(r.t, "rebase", "-u", "-f", "qcow2", "-b", back, "-F", "qcow2", name)
		}
		r.last[d] = name
		id := fmt.Sprintf("b-%d-%d", n, d)
		side, _ := json.Marshal(map[string]any{
			"backup_id": id, "vm_context_id": "c1", "vm_name": r.vm, "disk_id": fmt.Sprint(d), "backup_type": kind, "parent_backup_id": parent,
			"created_at": at.Format(time.RFC3339), "size_bytes": 1, "qcow2_info": map[string]any{"virtual_size": size},
			"metadata": map[string]any{"vmware_info": map[string]any{"vm_moref": "vm-42", "cbt": true, "disks": []int{1}}},
		})
		r.id[d] = id
		write(r.t, name+".json", string(side))
		at = at.Add(v.after)
	}
	r.want[n] = map[int][]byte{}
	for d, b := range r.now {
		r.want[n][d] = b
	}
}

// change writes into an incremental's image and into the content to expect.
func (r *repo) change(name string, d, n int) {
	b := append([]byte(nil), r.now[d]...)
	off, fill := (n*300<<10)%(2<<20), byte(n*16+d+1)
	for i := off; i < off+100<<10; i++ {
		b[i] = fill
	}
	r.now[d] = b
	lo, hi := off/65536*65536, (off+100<<10+65535)/65536*65536
	raw := filepath.Join(r.t.TempDir(), "range")
	if err := os.WriteFile(raw, b[lo:hi], 0o600); err != nil {
		r.t.Fatal(err)
	}
	qemuIO(r.t, name, fmt.Sprintf("write -s %s %d %d", raw, lo, hi-lo))
}

// chain makes a machine with disks and a full run followed by incrementals, a
// day apart.
func chain(t testing.TB, vmName string, links int, disks ...int) *repo {
	r := newRepo(t, vmName)
	for n := range links {
		r.run(n, run{time: t0.AddDate(0, 0, n), disks: disks, full: n == 0, after: 3 * time.Second})
	}
	return r
}

func open1(t testing.TB, dir string) *Repository {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func list(t testing.TB, dir string) (*Repository, []Backup) {
	t.Helper()
	r := open1(t, dir)
	start := time.Now()
	all, err := r.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > time.Minute {
		t.Errorf("the listing took %v", d)
	}
	seen := map[string]bool{}
	for _, b := range all {
		if seen[b.ID] || b.ID == "" {
			t.Errorf("the ID %q is not unique", b.ID)
		}
		seen[b.ID] = true
		if b.Machine == nil || len(b.Machine.Disks) != len(b.Disks) {
			t.Errorf("%s: the machine's disks are not parallel", b.Path)
		}
		if _, err := json.Marshal(b); err != nil {
			t.Error(err)
		}
	}
	return r, all
}

// content reads disk i of a backup whole.
func content(t testing.TB, r *Repository, b Backup, i int) []byte {
	t.Helper()
	img, err := r.OpenDisk(context.Background(), b, i)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = img.Close() }()
	return bytesOf(t, img)
}

func bytesOf(t testing.TB, img disk.Disk) []byte {
	t.Helper()
	out, err := io.ReadAll(io.NewSectionReader(img, 0, img.Size()))
	if err != nil {
		t.Fatal(err)
	}
	if err := img.Unchanged(); err != nil {
		t.Error(err)
	}
	return out
}

func hasNote(b Backup, part string) bool {
	return strings.Contains(strings.Join(b.Notes, "\n"), part)
}

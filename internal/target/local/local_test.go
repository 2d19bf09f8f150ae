package local

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/target"
	"ascend/internal/target/targettest"
)

// peer is a folder.
type peer struct {
	dir string
	ova bool
}

var (
	_ targettest.Occupier = (*peer)(nil)
	_ targettest.Breaker  = (*peer)(nil)
)

// newPeer makes a folder in memory where there is one: the suite syncs often.
func newPeer(t testing.TB, ova bool) *peer {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "local-test")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return &peer{dir: dir, ova: ova}
}

func settings(dir string) target.Settings {
	return target.Settings{Name: "test", Platform: "local", Values: map[string]string{"dir": dir}}
}

func openTarget(t testing.TB, dir string) target.Target {
	t.Helper()
	tgt, err := target.NewRegistry(Kind()).Open(t.Context(), settings(dir))
	if err != nil {
		t.Fatal(err)
	}
	return tgt
}

func (p *peer) Open(t testing.TB) target.Target { return openTarget(t, p.dir) }

func (p *peer) Order(_ testing.TB, o *target.Order) {
	if p.ova {
		o.Options = map[string]string{"package": "ova"}
	}
}

// path is where the order's machine is.
func (p *peer) path(o *target.Order) string {
	path := filepath.Join(p.dir, safeName(o.Machine.Name))
	if p.ova {
		path += ".ova"
	}
	return path
}

func (p *peer) Read(t testing.TB, o *target.Order, i int) []byte {
	t.Helper()
	path := p.path(o)
	format := o.Disks[i].Delivery.Format
	suffix := fmt.Sprintf("-disk%d.%s", i+1, format.Extension())
	if !p.ova {
		return targettest.Decode(t, readFile(t, one(t, filepath.Join(path, "*"+suffix))), format.Name)
	}
	for _, name := range strings.Fields(run(t, "tar", "-tf", path)) {
		if strings.HasSuffix(name, suffix) {
			return targettest.Decode(t, []byte(run(t, "tar", "-xOf", path, name)), format.Name)
		}
	}
	t.Fatalf("%s has no member *%s", path, suffix)
	return nil
}

func (p *peer) Inventory(t testing.TB) []string { return list(t, p.dir) }

// list is every path below dir with its kind, length and digest.
func list(t testing.TB, dir string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		line := fmt.Sprintf("%v %q", e.Type(), strings.TrimPrefix(path, dir))
		if e.Type().IsRegular() {
			b := readFile(t, path)
			line += fmt.Sprintf(" %d %x", len(b), sha256.Sum256(b))
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func (p *peer) Occupy(t testing.TB, o *target.Order) {
	t.Helper()
	if p.ova {
		writeFile(t, p.path(o), "somebody's work")
	} else if err := os.Mkdir(p.path(o), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (p *peer) Break(t testing.TB) map[string]target.Target {
	t.Helper()
	file := filepath.Join(t.TempDir(), "a file")
	writeFile(t, file, "")
	return map[string]target.Target{
		"not there":    openTarget(t, filepath.Join(p.dir, "nowhere")),
		"a file":       openTarget(t, file),
		"not writable": openTarget(t, "/proc"),
	}
}

func TestConformance(t *testing.T) {
	light := map[string]bool{}
	for _, d := range openTarget(t, t.TempDir()).Capabilities().Deliveries {
		kind := d.Path + "-" + string(d.Mode) + fmt.Sprint(d.Patchable)
		name := strings.NewReplacer("/", "-", "+", "-").Replace(d.Path + "-" + d.Format.String())
		t.Run(name, func(t *testing.T) {
			targettest.Run(t, targettest.Harness{
				New:         func(t testing.TB) targettest.Peer { return newPeer(t, d.Path == PathOVA) },
				Delivery:    d,
				UniqueNames: true,
				Light:       light[kind],
			})
		})
		light[kind] = true
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// one is the only path that matches.
func one(t testing.TB, pattern string) string {
	t.Helper()
	dir, base := filepath.Split(pattern)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		if ok, err := filepath.Match(base, e.Name()); err != nil {
			t.Fatal(err)
		} else if ok {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s means %q", pattern, found)
	}
	return found[0]
}

// run runs a program that tests need and gives its output.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is needed: apt-get install tar 7zip python3 qemu-utils", name)
	}
	var stderr strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, stderr.String())
	}
	return string(out)
}

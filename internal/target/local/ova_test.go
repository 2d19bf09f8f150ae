package local

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

func sha(p []byte) []byte {
	h := sha256.Sum256(p)
	return h[:]
}

// member is one file of an OVA or a folder.
type member struct {
	name    string
	content []byte
}

// readTar reads an archive by Go's own reader.
func readTar(t testing.TB, r io.Reader) (all []member) {
	t.Helper()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, member{h.Name, b})
	}
}

// checkPackage asserts that a descriptor, and the manifest if wanted, describe
// the disks.
func checkPackage(t *testing.T, files []member, disks [][]byte, manifest bool) {
	t.Helper()
	get := func(name string) []byte {
		i := slices.IndexFunc(files, func(m member) bool { return strings.HasSuffix(m.name, name) })
		if i < 0 {
			return nil
		}
		return files[i].content
	}
	var envelope struct {
		XMLName xml.Name
		Files   []struct {
			Href string `xml:"href,attr"`
			Size int64  `xml:"size,attr"`
		} `xml:"References>File"`
	}
	if err := xml.Unmarshal(get(".ovf"), &envelope); err != nil {
		t.Fatalf("the descriptor is no XML: %v", err)
	}
	if envelope.XMLName.Local != "Envelope" || len(envelope.Files) != len(disks) {
		t.Fatalf("the descriptor has %d files of %d: %+v", len(envelope.Files), len(disks), envelope)
	}
	for i, f := range envelope.Files {
		if f.Size != int64(len(disks[i])) || !bytes.Equal(get(f.Href), disks[i]) {
			t.Errorf("%s has %d bytes in the descriptor, landed are %d of %d", f.Href, f.Size, len(get(f.Href)), len(disks[i]))
		}
	}
	if (get(".mf") != nil) != manifest {
		t.Errorf("a manifest is wanted: %v; there is %q", manifest, get(".mf"))
	}
	if !manifest {
		return
	}
	lines := regexp.MustCompile(`(?m)^SHA256\((.+)\)= ([0-9a-f]{64})$`).FindAllStringSubmatch(string(get(".mf")), -1)
	if len(lines) != len(disks)+1 {
		t.Errorf("the manifest has %d lines: %s", len(lines), get(".mf"))
	}
	for _, l := range lines {
		if got := fmt.Sprintf("%x", sha(get(l[1]))); got != l[2] {
			t.Errorf("%s has SHA-256 %s, the manifest says %s", l[1], got, l[2])
		}
	}
}

// Every reader at hand finds the same files in an OVA, and they are what the
// descriptor and the manifest say.
func TestOVA(t *testing.T) {
	disks := [][]byte{random(70_001), random(512), random(1_000_000)}
	for _, c := range []struct {
		format           image.Format
		option           string
		manifest, undone bool
	}{
		{formatDeflate, "", true, false},
		{formatDeflate, "no", false, false},
		{formatStored, "", false, false},
		{formatStored, "yes", true, false},
	} {
		t.Run(c.format.String()+c.option, func(t *testing.T) {
			dir := t.TempDir()
			o := newOrder("Büro \"VM\"", PathOVA, c.format, int64(len(disks[0])), int64(len(disks[1])), int64(len(disks[2])))
			if c.option != "" {
				o.Options = map[string]string{"manifest": c.option}
			}
			sess := begin(t, dir, o, new(targettest.MemRecorder))
			path := filepath.Join(dir, "Büro \"VM\".ova")
			for i, p := range disks {
				if head := readFile(t, path); len(head) > 0 && !bytes.Equal(head[:min(512, len(head))], make([]byte, min(512, len(head)))) {
					t.Error("an unfinished OVA looks like one")
				}
				landed := send(t, sess, i, p)
				if !strings.HasPrefix(landed.Object, path+"#B_ro_VM-disk") || landed.Bytes != int64(len(p)) {
					t.Errorf("landed: %+v", landed)
				}
				if want := map[bool]string{true: "sha256"}[c.format == formatDeflate]; landed.Verdict != want {
					t.Errorf("the verdict is %q, want %q", landed.Verdict, want)
				}
			}
			made := finish(t, sess)
			if made.ID != path || !strings.HasPrefix(made.URL, "file:///") || strings.ContainsAny(made.URL, "\" ") {
				t.Errorf("made %+v", made)
			}
			want := []string{"B_ro_VM.ovf", "B_ro_VM.mf", "B_ro_VM-disk1.vmdk", "B_ro_VM-disk2.vmdk", "B_ro_VM-disk3.vmdk"}
			if !c.manifest {
				want = slices.Delete(want, 1, 2)
			}
			names := func(files []member) (n []string) {
				for _, f := range files {
					n = append(n, f.name)
				}
				return n
			}
			ours := readTar(t, bytes.NewReader(readFile(t, path)))
			if got := names(ours); !slices.Equal(got, want) {
				t.Errorf("Go finds %q, want %q", got, want)
			}
			checkPackage(t, ours, disks, c.manifest)
			if got := strings.Fields(run(t, "tar", "-tf", path)); !slices.Equal(got, want) {
				t.Errorf("GNU tar finds %q, want %q", got, want)
			}
			out := t.TempDir()
			run(t, "7zz", "x", "-ttar", "-o"+out, path)
			var seven []member
			for _, name := range want {
				seven = append(seven, member{name, readFile(t, filepath.Join(out, name))})
			}
			if len(list(t, out)) != len(want) {
				t.Errorf("7-Zip finds %q", list(t, out))
			}
			checkPackage(t, seven, disks, c.manifest)
			sums := strings.Fields(run(t, "python3", "-c", `
import tarfile, hashlib, sys
with tarfile.open(sys.argv[1]) as t:
    for m in t: print(hashlib.sha256(t.extractfile(m).read()).hexdigest())`, path))
			for i, f := range ours {
				if i >= len(sums) || sums[i] != fmt.Sprintf("%x", sha(f.content)) {
					t.Errorf("Python reads other bytes in %s", f.name)
				}
			}
		})
	}
}

// The same machine gives the same OVA.
func TestOVADeterministic(t *testing.T) {
	var first []byte
	for range 2 {
		dir := t.TempDir()
		sess := begin(t, dir, newOrder("vm", PathOVA, formatDeflate, -1), new(targettest.MemRecorder))
		send(t, sess, 0, random(5000))
		b := readFile(t, finish(t, sess).ID)
		if first != nil && !bytes.Equal(first, b) {
			t.Error("two OVAs of one machine differ")
		}
		first = b
	}
}

// Members above 8 GiB need more than ustar's eleven digits. The file is a
// hole almost everywhere.
func TestOVALargeMembers(t *testing.T) {
	p := newPeer(t, true)
	sizes := []int64{9<<30 + 512, 8<<30 - 1, 3 << 40}
	o := newOrder("large", PathOVA, formatStored, sizes...)
	sess := begin(t, p.dir, o, new(targettest.MemRecorder))
	ends := [][]byte{random(500), random(501), random(502)}
	for i, size := range sizes {
		up := ranges(t, sess, i)
		if err := up.WriteRange(t.Context(), size-int64(len(ends[i])), ends[i]); err != nil {
			t.Fatal(err)
		}
		if _, err := up.Complete(t.Context(), target.Sum{Bytes: size}); err != nil {
			t.Fatal(err)
		}
	}
	path := finish(t, sess).ID
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var want []string
	tr := tar.NewReader(f)
	for i := -1; i < len(sizes); i++ {
		h, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprint(h.Size))
		if i < 0 {
			continue
		}
		if h.Size != sizes[i] {
			t.Errorf("Go reads size %d, want %d", h.Size, sizes[i])
		}
		// The reader skips what is not read, so look where the member ends.
		pos, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(ends[i]))
		if _, err := f.ReadAt(got, pos+sizes[i]-int64(len(got))); err != nil || !bytes.Equal(got, ends[i]) {
			t.Errorf("disk %d does not end as it was sent: %v", i, err)
		}
	}
	if h, err := tr.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last disk: %+v, %v", h, err)
	}
	column := func(text string, n int) (out []string) {
		for l := range strings.Lines(text) {
			if f := strings.Fields(l); len(f) > n && (strings.HasSuffix(strings.TrimSpace(l), ".vmdk") || strings.HasSuffix(strings.TrimSpace(l), ".ovf")) {
				out = append(out, f[n])
			}
		}
		return out
	}
	if got := column(run(t, "tar", "-tvf", path), 2); !slices.Equal(got, want) {
		t.Errorf("GNU tar finds sizes %q, want %q", got, want)
	}
	if got := column(run(t, "7zz", "l", "-ttar", path), 3); !slices.Equal(got, want) {
		t.Errorf("7-Zip finds sizes %q, want %q", got, want)
	}
	if got := strings.Fields(run(t, "python3", "-c", "import tarfile, sys\nfor m in tarfile.open(sys.argv[1]): print(m.size)", path)); !slices.Equal(got, want) {
		t.Errorf("Python finds sizes %q, want %q", got, want)
	}
}

func TestFolder(t *testing.T) {
	disks := [][]byte{random(4096), random(9000)}
	for _, c := range []struct {
		format   image.Format
		option   string
		manifest bool
	}{
		{formatQCOW2, "", false}, {formatQCOW2, "yes", true}, {formatQCOW2, "no", false},
		{formatDeflate, "", true}, {formatDeflate, "no", false}, {formatZlib, "", false}, {formatZlib, "yes", true},
	} {
		t.Run(c.format.String()+c.option, func(t *testing.T) {
			dir := t.TempDir()
			o := newOrder("web 1", PathFolder, c.format, int64(len(disks[0])), int64(len(disks[1])))
			if c.option != "" {
				o.Options = map[string]string{"manifest": c.option, "package": "folder"}
			}
			sess := begin(t, dir, o, new(targettest.MemRecorder))
			for i, p := range disks {
				send(t, sess, i, p)
			}
			folder := finish(t, sess).ID
			var files []member
			entries, err := os.ReadDir(folder)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if st, err := e.Info(); err != nil || st.Mode().Perm() != 0o600 {
					t.Errorf("%s has permissions %v, %v", e.Name(), st.Mode(), err)
				}
				files = append(files, member{e.Name(), readFile(t, filepath.Join(folder, e.Name()))})
			}
			checkPackage(t, files, disks, c.manifest)
			var m vm.Machine
			if err := json.Unmarshal(readFile(t, filepath.Join(folder, "vm.json")), &m); err != nil {
				t.Fatal(err)
			}
			if m.Name != "web 1" || m.Memory != vm.GiB || len(m.Disks) != 2 || m.Disks[1].Size != 10*vm.GiB || m.NICs[0].MAC != "00:50:56:00:00:01" {
				t.Errorf("vm.json says %+v", m)
			}
			if n := len(files); n != map[bool]int{false: 4, true: 5}[c.manifest] {
				t.Errorf("the folder has %d files", n)
			}
		})
	}
}

// Reading a large file back for the manifest can be cancelled.
func TestManifestCancelled(t *testing.T) {
	p := newPeer(t, false)
	o := newOrder("vm", PathFolder, formatRaw, 1<<40)
	o.Options = map[string]string{"manifest": "yes"}
	sess := begin(t, p.dir, o, new(targettest.MemRecorder))
	if _, err := ranges(t, sess, 0).Complete(t.Context(), target.Sum{Bytes: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30_000_000)
	defer cancel()
	if _, err := sess.Finish(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Finish: %v", err)
	}
}

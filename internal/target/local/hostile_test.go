package local

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/target/targettest"
)

func symlink(t testing.TB, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(err)
	}
}

func remove1(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// A symlink where the machine is to go is something that exists, wherever it
// leads.
func TestSymlinkAtDestination(t *testing.T) {
	outside := t.TempDir()
	writeFile(t, filepath.Join(outside, "secret"), "not ours")
	for name, to := range map[string]string{
		"to a folder outside": outside,
		"to a file outside":   filepath.Join(outside, "secret"),
		"to nothing":          filepath.Join(outside, "new"),
		"to a folder inside":  "inside",
	} {
		for _, path := range []string{PathFolder, PathOVA} {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "inside"), 0o755); err != nil {
				t.Fatal(err)
			}
			at := filepath.Join(dir, "vm")
			if path == PathOVA {
				at += ".ova"
			}
			symlink(t, to, at)
			before, around := list(t, dir), list(t, outside)
			rec := new(targettest.MemRecorder)
			_, err := openTarget(t, dir).Begin(t.Context(), newOrder("vm", path, formatStored, 4096), rec)
			says(t, err, target.ErrExists, "vm")
			undo(t, dir, rec)
			if after := list(t, dir); !slices.Equal(before, after) {
				t.Errorf("%s, %s: the folder has %q, before %q", path, name, after, before)
			}
			if after := list(t, outside); !slices.Equal(around, after) {
				t.Errorf("%s, %s: outside there is %q, before %q", path, name, after, around)
			}
		}
	}
}

// Something planted under the hidden name is removed, not written through.
func TestSymlinkAtHiddenName(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "victim")
	for _, path := range []string{PathFolder, PathOVA} {
		writeFile(t, outside, "not ours")
		dir := t.TempDir()
		o := newOrder("vm", path, formatStored, 4096)
		name := "vm"
		if path == PathOVA {
			name += ".ova"
		}
		symlink(t, outside, filepath.Join(dir, hiddenName(o.Job, name)))
		sess := begin(t, dir, o, new(targettest.MemRecorder))
		send(t, sess, 0, random(4096))
		finish(t, sess)
		if got := string(readFile(t, outside)); got != "not ours" {
			t.Errorf("%s: the file outside was written to: %.20q", path, got)
		}
	}
}

// What is put in the place of something of the job's, between two processes
// or before Undo, is neither written to nor removed.
func TestReplaced(t *testing.T) {
	for _, c := range []struct {
		name  string
		path  string
		stays bool // the job's folder cannot be removed, because of what is in it
		plant func(t *testing.T, dir, outside string)
	}{
		{"the disk by a symlink", PathFolder, true, func(t *testing.T, dir, outside string) {
			disk := filepath.Join(dir, "vm", "vm-disk1.vmdk")
			remove1(t, disk)
			symlink(t, outside, disk)
		}},
		{"the disk by a file", PathFolder, true, func(t *testing.T, dir, _ string) {
			disk := filepath.Join(dir, "vm", "vm-disk1.vmdk")
			remove1(t, disk)
			writeFile(t, disk, "somebody's work")
		}},
		{"the folder by another", PathFolder, false, func(t *testing.T, dir, _ string) {
			if err := os.Rename(filepath.Join(dir, "vm"), filepath.Join(dir, "moved away")); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "vm"), 0o755); err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(dir, "vm", "vm-disk1.vmdk"), "somebody's work")
		}},
		{"the folder by a symlink", PathFolder, false, func(t *testing.T, dir, _ string) {
			if err := os.Rename(filepath.Join(dir, "vm"), filepath.Join(dir, "moved away")); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "other"), 0o755); err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(dir, "other", "vm-disk1.vmdk"), "somebody's work")
			symlink(t, "other", filepath.Join(dir, "vm"))
		}},
		{"the OVA by a symlink", PathOVA, false, func(t *testing.T, dir, outside string) {
			remove1(t, filepath.Join(dir, "vm.ova"))
			symlink(t, outside, filepath.Join(dir, "vm.ova"))
		}},
		{"the OVA by a file", PathOVA, false, func(t *testing.T, dir, _ string) {
			remove1(t, filepath.Join(dir, "vm.ova"))
			writeFile(t, filepath.Join(dir, "vm.ova"), "somebody's work")
		}},
		{"the OVA by a folder", PathOVA, false, func(t *testing.T, dir, _ string) {
			remove1(t, filepath.Join(dir, "vm.ova"))
			if err := os.Mkdir(filepath.Join(dir, "vm.ova"), 0o755); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			outside := filepath.Join(t.TempDir(), "victim")
			writeFile(t, outside, "not ours")
			rec := new(targettest.MemRecorder)
			o := newOrder("vm", c.path, formatStored, 4096)
			sess := begin(t, dir, o, rec)
			send(t, sess, 0, random(4096))
			c.plant(t, dir, outside)
			before := list(t, dir)
			if vm, err := sess.Finish(t.Context()); err == nil {
				t.Errorf("Finish made %+v", vm)
			}
			if _, err := openTarget(t, dir).Begin(t.Context(), o, rec); !target.IsPermanent(err) {
				t.Errorf("Begin goes on: %v", err)
			}
			err := targettest.UndoAll(t.Context(), openTarget(t, dir), rec)
			if c.stays && !errors.Is(err, target.ErrPermanent) || !c.stays && err != nil {
				t.Errorf("Undo: %v", err)
			}
			if after := list(t, dir); !slices.Equal(before, after) {
				t.Errorf("the folder has %q, before %q", after, before)
			}
			if got := string(readFile(t, outside)); got != "not ours" {
				t.Errorf("the file outside was written to: %.20q", got)
			}
		})
	}
}

func TestRemovedMeanwhile(t *testing.T) {
	for _, path := range []string{PathFolder, PathOVA} {
		dir := t.TempDir()
		o := newOrder("vm", path, formatStored, 4096)
		rec := new(targettest.MemRecorder)
		sess := begin(t, dir, o, rec)
		send(t, sess, 0, random(4096))
		if err := os.RemoveAll(filepath.Join(dir, "vm")); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "vm.ova")); err != nil {
			t.Fatal(err)
		}
		_, err := sess.Finish(t.Context())
		says(t, err, target.ErrPermanent, "vm")
		_, err = openTarget(t, dir).Begin(t.Context(), o, rec)
		says(t, err, target.ErrPermanent, "removed", "undo the job")
		undo(t, dir, rec)
		if left := list(t, dir); len(left) > 0 {
			t.Errorf("%s: left behind: %q", path, left)
		}
	}
}

// A shortened file must not pass for one that landed.
func TestShortened(t *testing.T) {
	dir := t.TempDir()
	sess := begin(t, dir, newOrder("vm", PathFolder, formatRaw, 4096), new(targettest.MemRecorder))
	up := ranges(t, sess, 0)
	if err := up.WriteRange(t.Context(), 0, random(4096)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "vm", "vm-disk1.raw"), 4095); err != nil {
		t.Fatal(err)
	}
	_, err := up.Complete(t.Context(), target.Sum{Bytes: 4096})
	says(t, err, target.ErrDigest, "4095")
}

// A stream that somebody changes while it is written is found out.
func TestTamperedStream(t *testing.T) {
	dir := t.TempDir()
	rec := new(targettest.MemRecorder)
	o := newOrder("vm", PathFolder, formatDeflate, -1)
	up := stream(t, begin(t, dir, o, rec), 0)
	if err := up.Append(t.Context(), random(600_000)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "vm", "vm-disk1.vmdk")
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("tampered"), 1000); err != nil {
		t.Fatal(err)
	}
	again := stream(t, begin(t, dir, o, rec), 0)
	if off, err := again.Offset(t.Context()); err != nil || off != 600_000 {
		t.Fatalf("offset %d, %v", off, err)
	}
	_, err = again.Complete(t.Context(), target.Sum{Bytes: 600_000, SHA256: sha(random(600_000))})
	says(t, err, target.ErrDigest, "reads back")
}

func TestUndo(t *testing.T) {
	dir := t.TempDir()
	rec := new(targettest.MemRecorder)
	sess := begin(t, dir, newOrder("vm", PathFolder, formatRaw, 512), rec)
	send(t, sess, 0, random(512))
	finish(t, sess)
	foreign := filepath.Join(dir, "vm", "notes.txt")
	writeFile(t, foreign, "somebody's work")
	tgt := openTarget(t, dir)
	err := targettest.UndoAll(t.Context(), tgt, rec)
	says(t, err, target.ErrPermanent, "files that this job did not make")
	if got := list(t, dir); len(got) != 2 || !strings.Contains(strings.Join(got, ""), "notes.txt") {
		t.Errorf("the folder has %q, want the foreign file alone", got)
	}
	remove1(t, foreign)
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Error(err)
	}
	if left := list(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// Records that this target did not write are refused.
func TestUndoStrangeRecords(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "dir")
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{filepath.Join(parent, "f"), filepath.Join(dir, "a", "b", "f")} {
		writeFile(t, p, "not ours")
	}
	before := list(t, parent)
	tgt := openTarget(t, dir)
	for _, name := range []string{"", ".", "..", "../f", "/etc/passwd", "a/../../f", "a/b/f", "a/..", "a/", "/"} {
		for _, kind := range []string{kindFolder, kindFile, "vm"} {
			err := tgt.Undo(t.Context(), target.Resource{Job: "job", Kind: kind, Name: name, ID: "1@2.3", Done: true})
			if err == nil {
				t.Errorf("a record of %s %q is undone", kind, name)
			}
		}
	}
	if after := list(t, parent); !slices.Equal(before, after) {
		t.Errorf("there is %q, before %q", after, before)
	}
	gone := openTarget(t, filepath.Join(parent, "not mounted"))
	if err := gone.Undo(t.Context(), target.Resource{Job: "job", Kind: kindFile, Name: "vm.ova", ID: "1"}); err == nil {
		t.Error("Undo in a folder that is not there is done")
	}
}

// A folder that is not there holds nothing, and nothing can be restored to it.
func TestNoFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nowhere")
	tgt := openTarget(t, dir)
	rec := new(targettest.MemRecorder)
	_, err := tgt.Begin(t.Context(), newOrder("vm", PathFolder, formatRaw, 512), rec)
	says(t, err, target.ErrPermanent, "nowhere")
	if rec.Calls() != 0 {
		t.Error("something was recorded")
	}
	inv, err := tgt.Inventory(t.Context())
	if err != nil || len(inv.Taken) > 0 || len(inv.Places) == 0 {
		t.Errorf("inventory: %+v, %v", inv, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, "")
	_, err = openTarget(t, file).Inventory(t.Context())
	says(t, err, target.ErrPermanent, "file")
}

// A receipt names what it likes; nothing outside the folder is read.
func TestReadLandedConfined(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "dir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(parent, "secret"), strings.Repeat("secret", 512))
	symlink(t, filepath.Join(parent, "secret"), filepath.Join(dir, "link"))
	symlink(t, "../secret", filepath.Join(dir, "relative"))
	writeFile(t, filepath.Join(dir, "not.ova"), strings.Repeat("no archive", 512))
	writeFile(t, filepath.Join(dir, "empty.ova"), strings.Repeat("\x00", 1024))
	r, ok := target.As[target.Reader](openTarget(t, dir))
	if !ok {
		t.Fatal("the target does not read what landed")
	}
	for _, object := range []string{
		"", "/", "secret", dir, filepath.Join(parent, "secret"), dir + "/../secret", dir + "/link", dir + "/relative", "relative",
		dir + "/not.ova#vm-disk1.vmdk", dir + "/empty.ova#vm-disk1.vmdk", dir + "/link#x", dir + "/#", dir + "/..#x", "#",
	} {
		for _, f := range []image.Format{formatRaw, formatDeflate} {
			if d, err := r.ReadLanded(t.Context(), object, f); err == nil {
				t.Errorf("%q is a disk of %d bytes", object, d.Size())
			}
		}
	}
}

// A name with the mark in it.
func TestReadLandedMark(t *testing.T) {
	for _, path := range []string{PathFolder, PathOVA} {
		dir := t.TempDir()
		raw := random(4096)
		file := targettest.Encode(t, raw, formatDeflate)
		o := newOrder("a#b", path, formatDeflate, -1)
		sess := begin(t, dir, o, new(targettest.MemRecorder))
		landed := send(t, sess, 0, file)
		finish(t, sess)
		r, _ := target.As[target.Reader](openTarget(t, dir))
		d, err := r.ReadLanded(t.Context(), landed.Object, formatDeflate)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(raw))
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s: other bytes, %v", landed.Object, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ascend/internal/disk"
	"ascend/internal/vm"
)

// Chains of 1, 2 and 5 links, of machines with one and two disks: every link is
// a point in time whose disks read as they were.
func TestContextChains(t *testing.T) {
	for _, c := range []struct {
		vm    string
		links int
		disks []int
	}{
		{"web", 1, []int{0}},
		{"db-01", 2, []int{0}},
		{"mail", 5, []int{0, 2}},
		{`näme "mit" 'quotes' & spaces, #1`, 2, []int{0}},
		{"a-20230101", 2, []int{0, 1}},
	} {
		t.Run(fmt.Sprintf("%s %d", c.vm, c.links), func(t *testing.T) {
			made := chain(t, c.vm, c.links, c.disks...)
			r, all := list(t, made.dir)
			if len(all) != c.links {
				t.Fatalf("%d backups, want %d: %+v", len(all), c.links, all)
			}
			for n, b := range all {
				want := Incremental
				if n == 0 {
					want = Full
				}
				if b.VM != c.vm || b.Type != want || b.Fault != "" || len(b.Notes) > 0 || b.Layout != LayoutContext || b.Path != made.ctx || b.Origin != vm.VMware {
					t.Errorf("point %d: %+v", n, b)
				}
				if !b.Created.Equal(t0.AddDate(0, 0, n)) {
					t.Errorf("point %d was made %v", n, b.Created)
				}
				if b.ID != fmt.Sprintf("b-%d-%d", n, c.disks[0]) {
					t.Errorf("ID %q", b.ID)
				}
				if b.Machine.CPU.Total() != 0 || b.Machine.Memory != 0 || b.Machine.Tags["vmware.vm_moref"] != "vm-42" || b.Machine.Tags["vmware.cbt"] != "true" {
					t.Errorf("machine %+v", b.Machine)
				}
				if len(b.Disks) != len(c.disks) {
					t.Fatalf("%d disks", len(b.Disks))
				}
				for i, d := range b.Disks {
					if d.Index != c.disks[i] || d.Size != size || d.Chain != n+1 || d.Format != "qcow2" || d.Bytes < 1<<20 {
						t.Errorf("disk %+v", d)
					}
					if !bytes.Equal(content(t, r, b, i), made.want[n][d.Index]) {
						t.Errorf("point %d disk %d reads other bytes", n, d.Index)
					}
				}
			}
		})
	}
}

// A repository that was written with absolute backing names elsewhere, then
// moved here, also in part.
func TestContextMoved(t *testing.T) {
	made := newRepo(t, "moved vm")
	made.backing = "/mnt/some-other-machine/backups"
	for n := range 3 {
		made.run(n, run{time: t0.AddDate(0, 0, n), disks: []int{0, 1}, full: n == 0})
	}
	check := func(t *testing.T, dir string) {
		r, all := list(t, dir)
		if len(all) != 3 {
			t.Fatalf("%d backups", len(all))
		}
		for n, b := range all {
			if b.Fault != "" {
				t.Fatalf("point %d: %s", n, b.Fault)
			}
			for i := range b.Disks {
				if !bytes.Equal(content(t, r, b, i), made.want[n][i]) {
					t.Errorf("point %d disk %d reads other bytes", n, i)
				}
			}
		}
	}
	t.Run("root", func(t *testing.T) { check(t, made.dir) })
	t.Run("context as root", func(t *testing.T) { check(t, filepath.Join(made.dir, made.ctx)) })
	t.Run("renamed context", func(t *testing.T) {
		if err := os.Rename(filepath.Join(made.dir, made.ctx), filepath.Join(made.dir, "ctx-x-1")); err != nil {
			t.Fatal(err)
		}
		check(t, made.dir)
	})
	t.Run("deeper", func(t *testing.T) {
		outer := t.TempDir()
		if err := os.Rename(filepath.Join(made.dir, "ctx-x-1"), filepath.Join(outer, "y")); err != nil {
			t.Fatal(err)
		}
		mkdir(t, filepath.Join(outer, "a/b/c"))
		if err := os.Rename(filepath.Join(outer, "y"), filepath.Join(outer, "a/b/c/y")); err != nil {
			t.Fatal(err)
		}
		check(t, outer)
	})
}

// An incremental in a context of its own whose full backup lies in another.
func TestContextParentElsewhere(t *testing.T) {
	made := chain(t, "web", 2, 0)
	second := strings.Replace(made.last[0], made.ctx, "ctx-web-20260502-031207", 1)
	mkdir(t, filepath.Dir(second))
	for _, ext := range []string{"", ".json"} {
		if err := os.Rename(made.last[0]+ext, second+ext); err != nil {
			t.Fatal(err)
		}
	}
	_, all := list(t, made.dir)
	if len(all) != 2 || all[1].Fault == "" {
		t.Fatalf("a relative name that leads nowhere: %+v", all)
	}
	qemu(t, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", made.path(0, "20260501-031207"), second)
	r, all := list(t, made.dir)
	if len(all) != 2 || all[1].Fault != "" || all[1].Path != "ctx-web-20260502-031207" {
		t.Fatalf("%+v", all)
	}
	if !bytes.Equal(content(t, r, all[1], 0), made.want[1][0]) {
		t.Error("other bytes")
	}
}

func TestContextWithoutSidecars(t *testing.T) {
	made := chain(t, "plain vm", 2, 0, 1)
	for _, pattern := range []string{"*/*/*.json"} {
		files, err := filepath.Glob(filepath.Join(made.dir, pattern))
		if err != nil || len(files) != 4 {
			t.Fatal(files, err)
		}
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, all := list(t, made.dir)
	if len(all) != 2 {
		t.Fatalf("%+v", all)
	}
	for n, b := range all {
		if b.VM != "plain vm" || b.Fault != "" || !hasNote(b, "no sidecar") || !b.Created.Equal(t0.AddDate(0, 0, n)) || b.Type != []Type{Full, Incremental}[n] {
			t.Errorf("%+v", b)
		}
		for i := range b.Disks {
			if !bytes.Equal(content(t, r, b, i), made.want[n][i]) {
				t.Errorf("point %d disk %d reads other bytes", n, i)
			}
		}
	}
}

// A point at which only one disk was backed up takes the other one's newest
// backup before it, and says so.
func TestContextUnevenDisks(t *testing.T) {
	made := newRepo(t, "uneven")
	made.run(0, run{time: t0, disks: []int{0, 1}, full: true, after: 9 * time.Second})
	made.run(1, run{time: t0.AddDate(0, 0, 1), disks: []int{0}})
	made.run(2, run{time: t0.AddDate(0, 0, 2), disks: []int{1, 0}, after: time.Minute})
	made.run(3, run{time: t0.AddDate(0, 0, 3), disks: []int{2}, full: true})
	r, all := list(t, made.dir)
	if len(all) != 4 {
		t.Fatalf("%d backups: %+v", len(all), all)
	}
	for n, disks := range [][]int{{0, 1}, {0, 1}, {0, 1}, {0, 1, 2}} {
		b := all[n]
		if len(b.Disks) != len(disks) || b.Fault != "" {
			t.Fatalf("point %d: %+v", n, b)
		}
		for i, d := range disks {
			if !bytes.Equal(content(t, r, b, i), made.want[n][d]) {
				t.Errorf("point %d disk %d reads other bytes", n, d)
			}
		}
	}
	if !hasNote(all[1], "disk 1 was not backed up at this point") || hasNote(all[2], "not backed up") || !hasNote(all[0], "disk 2 has no backup as early") {
		t.Errorf("notes %q / %q / %q", all[0].Notes, all[1].Notes, all[2].Notes)
	}
}

// The second of two alternating gaps: ranks pair up wrongly, times tell.
func TestContextAlternating(t *testing.T) {
	made := newRepo(t, "alt")
	made.run(0, run{time: t0, disks: []int{0, 1}, full: true})
	made.run(1, run{time: t0.AddDate(0, 0, 1), disks: []int{1}})
	made.run(2, run{time: t0.AddDate(0, 0, 2), disks: []int{0}})
	r, all := list(t, made.dir)
	if len(all) != 3 {
		t.Fatalf("%d backups: %+v", len(all), all)
	}
	for n, b := range all {
		for i := range b.Disks {
			if !bytes.Equal(content(t, r, b, i), made.want[n][i]) {
				t.Errorf("point %d disk %d reads other bytes", n, i)
			}
		}
	}
}

func TestGroup(t *testing.T) {
	at := func(n int, minutes ...int) []*layer {
		var out []*layer
		for _, m := range minutes {
			tm := t0.Add(time.Duration(m) * time.Minute)
			out = append(out, &layer{number: n, path: fmt.Sprintf("%d-%d", n, m), time: tm, created: tm})
		}
		return out
	}
	const day = 24 * 60
	for name, c := range map[string]struct {
		layers [][]*layer
		want   string
	}{
		"one disk":              {[][]*layer{at(0, 0, 1, 2)}, "0-0|0-1|0-2"},
		"same times":            {[][]*layer{at(0, 0, day), at(1, 0, day)}, "0-0 1-0|0-1440 1-1440"},
		"hours apart":           {[][]*layer{at(0, 0, day), at(1, 300, day+300)}, "0-0 1-300|0-1440 1-1740"},
		"second disk first":     {[][]*layer{at(0, 5, day), at(1, 0, day+5)}, "0-5 1-0|0-1440 1-1445"},
		"one run missing":       {[][]*layer{at(0, 0, day, 2*day), at(1, 1, 2*day-1)}, "0-0 1-1|0-1440|0-2880 1-2879"},
		"only the full":         {[][]*layer{at(0, 0, 60, 120), at(1, 0)}, "0-0 1-0|0-60|0-120"},
		"same time, short gaps": {[][]*layer{at(0, 0, 1, 2, 3), at(1, 0, 2)}, "0-0 1-0|0-1|0-2 1-2|0-3"},
	} {
		var all []*layer
		for _, l := range c.layers {
			all = append(all, l...)
		}
		var got []string
		for _, p := range group(all, len(c.layers)) {
			var names []string
			for _, n := range sortedKeys(p.layers) {
				names = append(names, p.layers[n].path)
			}
			got = append(got, strings.Join(names, " "))
		}
		if s := strings.Join(got, "|"); s != c.want {
			t.Errorf("%s: %s, want %s", name, s, c.want)
		}
	}
}

func TestContextMachine(t *testing.T) {
	made := chain(t, "web", 2, 0, 1)
	file := filepath.Join(made.dir, made.ctx, "vm.json")
	write(t, file, `{"name":"web.example","cpu":{"sockets":2,"cores_per_socket":2},"memory":4294967296,"firmware":"uefi","new_field":{"a":[1]},
	 "disks":[{"index":1,"size":999,"controller":"pvscsi","unit":1},{"index":0,"size":`+fmt.Sprint(size)+`,"controller":"pvscsi","boot":true},{"index":7,"size":1}],
	 "nics":[{"mac":"00-50-56-AA-BB-CC","model":"quantum"}]}`)
	_, all := list(t, made.dir)
	for _, b := range all {
		m := b.Machine
		if b.Fault != "" || m.CPU.Total() != 4 || m.Memory != 4<<30 || m.Firmware != vm.UEFI || m.Platform != vm.VMware || m.Name != "web.example" || b.VM != "web" {
			t.Errorf("%+v", b)
		}
		if m.Disks[0].Index != 0 || !m.Disks[0].Boot || m.Disks[1].Unit != 1 || m.Disks[1].Size != size || m.NICs[0].MAC != "00:50:56:aa:bb:cc" || m.NICs[0].Model != "" {
			t.Errorf("machine %+v", m)
		}
		for _, n := range []string{"disk 1 has 999 bytes", "does not hold: 7", `adapter model "quantum"`} {
			if !hasNote(b, n) {
				t.Errorf("no note %q in %q", n, b.Notes)
			}
		}
	}
	for name, text := range map[string]string{
		"wrong types": `{"name":5}`, "no JSON": `hello`, "array": `[]`, "negative": `{"memory":-1}`, "in MiB": `{"memory":4096}`, "many processors": `{"cpu":{"sockets":65536,"cores_per_socket":2}}`,
		"huge disk": `{"disks":[{"size":9223372036854775807}]}`, "bad MAC": `{"nics":[{"mac":"nonsense"}]}`, "secure BIOS": `{"firmware":"bios","secure_boot":true}`,
		"too long": `{"name":"` + strings.Repeat("a", maxMachine) + `"}`, "deep": strings.Repeat(`{"disks":`, 20000),
	} {
		write(t, file, text)
		if _, all := list(t, made.dir); len(all) != 2 || all[0].Fault != "" || !hasNote(all[0], "vm.json is not usable") || all[0].Machine.Memory != 0 {
			t.Errorf("%s: %+v", name, all)
		}
	}
}

func TestContextChainFile(t *testing.T) {
	made := chain(t, "web", 2, 0)
	file := filepath.Join(made.dir, made.ctx, "disk-0", "chain.json")
	for text, want := range map[string]string{
		`{"chain_id":"x","full_backup_id":"b-0-0","backup_ids":["b-0-0","b-1-0"],"total_backups":2}`: "",
		`{"backup_ids":["b-0-0","b-1-0","b-9-0"],"total_backups":3}`:                                 `lists the backup "b-9-0", which is not`,
		`{"backup_ids":["b-0-0"],"total_backups":"1"}`:                                               `does not list the backup "b-1-0"`,
		`{"full_backup_id":"b-1-0"}`:                                                                 `names the incremental backup "b-1-0" as the full one`,
		`{"backup_ids":["b-0-0","b-1-0","b-0-0","b-1-0","b-0-0"]}`:                                   "lists a backup twice",
		`{"backup_ids":{"a":1}}`:                                                                     "not understood and left out: backup_ids",
		`nonsense`:                                                                                   "not usable",
		strings.Repeat(" ", maxSidecar+1):                                                            "more than the",
		`{"backup_ids":["` + strings.Repeat(`","`, maxSidecar/8) + `"]}`:                             "lists a backup twice",
	} {
		write(t, file, text)
		_, all := list(t, made.dir)
		for _, b := range all {
			if b.Fault != "" || want == "" && len(b.Notes) > 0 || !hasNote(b, want) {
				t.Errorf("%.60s: %+v", text, b)
			}
		}
	}
}

func TestContextSidecars(t *testing.T) {
	for name, c := range map[string]struct{ text, note, fault string }{
		"wrong types": {`{"backup_id":7,"vm_name":["a"],"backup_type":{},"created_at":true,"qcow2_info":3,"metadata":[]}`, "left out: backup_type, created_at, metadata, qcow2_info, vm_name", ""},
		"array":       {`[1]`, "not usable", ""},
		"null":        {`null`, "not usable", ""},
		"deep":        {strings.Repeat(`[`, 500000), "not usable", ""},
		"wrong size":  {`{"qcow2_info":{"virtual_size":"42"}}`, "says 42 bytes", ""},
		"incremental": {`{"backup_type":"incremental"}`, "", "says incremental and the image names no parent"},
	} {
		made := chain(t, "web", 1, 0)
		write(t, made.last[0]+".json", c.text)
		_, all := list(t, made.dir)
		if len(all) != 1 || !hasNote(all[0], c.note) || !strings.Contains(all[0].Fault, c.fault) || c.fault == "" && all[0].Fault != "" || all[0].VM != "web" {
			t.Errorf("%s: %+v", name, all)
		}
	}
	made := chain(t, "web", 1, 0)
	f, err := os.OpenFile(made.last[0]+".json", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(100<<20), f.Close()); err != nil { // 100 MB
		t.Fatal(err)
	}
	if _, all := list(t, made.dir); len(all) != 1 || all[0].Fault != "" || !hasNote(all[0], "more than the 1048576 that are read") {
		t.Errorf("%+v", all)
	}
}

// Broken and hostile entries are listed with their faults; the good ones beside
// them stay.
func TestContextHostile(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, r *repo)
		fault string
		good  int // points without a fault
		want  error
	}{
		"nothing wrong":   {func(*testing.T, *repo) {}, "", 3, nil},
		"backing passwd":  {func(t *testing.T, r *repo) { r.rebase("/etc/passwd") }, "leaves the repository", 2, disk.ErrEscape},
		"backing dots":    {func(t *testing.T, r *repo) { r.rebase("../../../../../../../etc/passwd") }, "leaves the repository", 2, disk.ErrEscape},
		"backing json":    {func(t *testing.T, r *repo) { r.rebase(`json:{"driver":"raw"}`) }, "leaves the repository", 2, disk.ErrEscape},
		"backing missing": {func(t *testing.T, r *repo) { r.rebase("/nowhere/else.qcow2") }, "not in the repository", 2, disk.ErrMissing},
		"backing itself":  {func(t *testing.T, r *repo) { r.rebase(filepath.Base(r.last[0])) }, "comes back to", 2, disk.ErrCorrupt},
		"foreign file":    {func(t *testing.T, r *repo) { write(t, r.last[0], strings.Repeat("no image ", 1000)) }, "", 2, disk.ErrFormat},
		"empty file":      {func(t *testing.T, r *repo) { write(t, r.last[0], "") }, "", 2, nil},
		"cut file": {func(t *testing.T, r *repo) {
			if err := os.Truncate(r.last[0], 100); err != nil {
				t.Fatal(err)
			}
		}, "ends in its header", 2, disk.ErrCorrupt},
		"link out": {func(t *testing.T, r *repo) {
			secret := filepath.Join(t.TempDir(), "secret.qcow2")
			qemu(t, "create", "-q", "-f", "qcow2", secret, "1M")
			relink(t, secret, r.last[0])
		}, "leaves the repository", 2, disk.ErrEscape},
		"link loop": {func(t *testing.T, r *repo) { relink(t, filepath.Base(r.last[0]), r.last[0]) }, "", 2, nil},
		"folder": {func(t *testing.T, r *repo) {
			if err := os.Remove(r.last[0]); err != nil {
				t.Fatal(err)
			}
			mkdir(t, r.last[0])
		}, "", 2, nil},
		"pipe": {func(t *testing.T, r *repo) { fifo(t, r.last[0]) }, "pipe", 2, nil},
		"full missing": {func(t *testing.T, r *repo) {
			if err := os.Remove(r.path(0, t0.Format("20060102-150405"))); err != nil {
				t.Fatal(err)
			}
		}, "not in the repository", 0, disk.ErrMissing},
		"full broken":  {func(t *testing.T, r *repo) { write(t, r.path(0, t0.Format("20060102-150405")), "x") }, "", 0, nil},
		"empty folder": {func(t *testing.T, r *repo) { mkdir(t, filepath.Join(r.dir, r.ctx, "disk-1")) }, "disk-1: the folder holds no backup", 0, nil},
		"linked folder": {func(t *testing.T, r *repo) {
			relink(t, "disk-0", filepath.Join(r.dir, r.ctx, "disk-1"))
		}, "symbolic link", 0, nil},
		"two folders": {func(t *testing.T, r *repo) {
			write(t, filepath.Join(r.dir, r.ctx, "disk-00", "backup-web-disk0-20260501-031207.qcow2"), "x")
		}, "two folders for disk 0", 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			made := chain(t, "web", 3, 0)
			other := chain(t, "other", 1, 0)
			if err := os.Rename(filepath.Join(other.dir, other.ctx), filepath.Join(made.dir, other.ctx)); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, made)
			r, all := list(t, made.dir)
			good, faults := 0, ""
			for _, b := range all {
				if b.VM == "other" {
					if b.Fault != "" || !bytes.Equal(content(t, r, b, 0), other.want[0][0]) {
						t.Errorf("the other machine suffers: %+v", b)
					}
					continue
				}
				if b.Fault == "" {
					content(t, r, b, 0)
					good++
					continue
				}
				faults += b.Fault + "\n"
				for i := range b.Disks {
					if _, err := r.OpenDisk(context.Background(), b, i); b.Disks[i].Fault != "" && !errors.Is(err, ErrFault) {
						t.Errorf("the faulty disk opens: %v", err)
					}
					b.Disks[i].Fault = "" // a caller who ignores it
					if img, err := r.OpenDisk(context.Background(), b, i); c.want != nil && !errors.Is(err, c.want) {
						t.Errorf("opened in spite of the fault: %v, %v, want %v", img, err, c.want)
					}
				}
			}
			if good != c.good || !strings.Contains(faults, c.fault) || c.fault == "" && (faults == "") != (name == "nothing wrong" || name == "folder") {
				t.Errorf("%d good of %d, faults %q", good, len(all), faults)
			}
		})
	}
}

func (r *repo) rebase(back string) {
	qemu(r.t, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", back, r.last[0])
}

func TestContextEmpty(t *testing.T) {
	dir := t.TempDir()
	mkdir(t, filepath.Join(dir, "ctx-gone-20260501-031207"))
	mkdir(t, filepath.Join(dir, "ctx-void-20260501-031207", "disk-0"))
	_, all := list(t, dir)
	if len(all) != 2 || all[0].VM != "gone" || all[1].VM != "void" || all[0].Fault == "" || !strings.Contains(all[1].Fault, "no backup file") || !all[0].Created.Equal(t0) {
		t.Errorf("%+v", all)
	}
}

// Other image formats in the disk folders of a context are read as well.
func TestContextOtherFormats(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(t.TempDir(), "raw")
	want := rawFile(t, raw, 3)
	name := filepath.Join(dir, "ctx-web-1700000000", "disk-0", "backup-web-disk0-1700000000.vmdk")
	mkdir(t, filepath.Dir(name))
	qemu(t, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, name)
	r, all := list(t, dir)
	if len(all) != 1 || all[0].Fault != "" || all[0].VM != "web" || all[0].Created.Unix() != 1700000000 || all[0].Disks[0].Format != "vmdk" {
		t.Fatalf("%+v", all)
	}
	if !bytes.Equal(content(t, r, all[0], 0), want) {
		t.Error("other bytes")
	}
}

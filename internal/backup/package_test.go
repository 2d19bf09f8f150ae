package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/ovf"
	"ascend/internal/vm"
)

// pack is a folder with an OVF package of two streamOptimized disks.
type pack struct {
	dir  string
	want [][]byte
	text string // of the descriptor
}

func makePackage(t *testing.T) *pack {
	t.Helper()
	p := &pack{dir: t.TempDir()}
	m := &vm.Machine{
		Name: "shop", CPU: vm.CPU{Sockets: 1, CoresPerSocket: 2}, Memory: 2 << 30, Firmware: vm.UEFI,
		NICs: []vm.NIC{{Model: vm.VMXNET3, Network: "prod"}},
	}
	var files []ovf.File
	for i, format := range []string{"vmdk", "qcow2"} {
		raw := filepath.Join(t.TempDir(), "raw")
		p.want = append(p.want, rawFile(t, raw, uint64(50+i)))
		name := fmt.Sprintf("shop-disk%d.%s", i+1, format)
		args := []string{"convert", "-f", "raw", "-O", format, raw, filepath.Join(p.dir, name)}
		f := ovf.File{Name: name, Format: format, Disk: i}
		if format == "vmdk" {
			args = append(args, "-o", "subformat=streamOptimized")
			f.Subformat = "streamOptimized"
		}
		qemu(t, args...)
		st, err := os.Stat(filepath.Join(p.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		f.Size = st.Size()
		files = append(files, f)
		m.Disks = append(m.Disks, vm.Disk{Index: i, Size: size, Controller: vm.BusPVSCSI, Unit: i})
	}
	b, err := ovf.Marshal(m, files)
	if err != nil {
		t.Fatal(err)
	}
	p.text = string(b)
	write(t, filepath.Join(p.dir, "shop.ovf"), p.text)
	p.manifest(t)
	return p
}

// manifest writes the manifest of what is there now.
func (p *pack) manifest(t *testing.T) {
	t.Helper()
	var ds []ovf.Digest
	for _, n := range []string{"shop.ovf", "shop-disk1.vmdk", "shop-disk2.qcow2"} {
		b, err := os.ReadFile(filepath.Join(p.dir, n))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		ds = append(ds, ovf.Digest{Name: n, Algorithm: "SHA256", Sum: sum[:]})
	}
	b, err := ovf.MarshalManifest(ds)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(p.dir, "shop.mf"), string(b))
}

// ova packs the folder with tar.
func (p *pack) ova(t *testing.T, format string, names ...string) string {
	t.Helper()
	if len(names) == 0 {
		names = []string{"shop.ovf", "shop.mf", "shop-disk1.vmdk", "shop-disk2.qcow2"}
	}
	out := filepath.Join(t.TempDir(), "shop export.ova")
	args := append([]string{"-c", "--hard-dereference", "-b", "1", "--format=" + format, "-f", out, "-C", p.dir}, names...)
	if b, err := exec.Command("tar", args...).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, b)
	}
	return out
}

func (p *pack) check(t *testing.T, r *Repository, b Backup) {
	t.Helper()
	if b.Fault != "" || b.VM != "shop" || b.Machine.CPU.Total() != 2 || b.Machine.Memory != 2<<30 || b.Machine.Firmware != vm.UEFI || len(b.Disks) != 2 || b.Origin != vm.VMware {
		t.Fatalf("%+v", b)
	}
	for i, d := range b.Disks {
		if d.Size != size || b.Machine.Disks[i].Controller != vm.BusPVSCSI || b.Machine.Disks[i].Unit != i || d.Format != []string{"vmdk", "qcow2"}[i] {
			t.Errorf("%+v", d)
		}
		if !bytes.Equal(content(t, r, b, i), p.want[i]) {
			t.Errorf("disk %d reads other bytes", i)
		}
	}
}

func TestOVA(t *testing.T) {
	p := makePackage(t)
	for _, format := range []string{"ustar", "gnu", "pax"} {
		ova := p.ova(t, format)
		r, all := list(t, filepath.Dir(ova))
		if len(all) != 1 || all[0].Layout != LayoutOVA || all[0].Path != "shop export.ova" || len(all[0].Notes) > 0 {
			t.Fatalf("%s: %+v", format, all)
		}
		p.check(t, r, all[0])
		// A backup that went through JSON opens and verifies as well.
		text, err := json.Marshal(all[0])
		if err != nil {
			t.Fatal(err)
		}
		var again Backup
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatal(err)
		}
		p.check(t, r, again)
		var last, sum int64
		calls := 0
		if err := r.Verify(context.Background(), again, func(done, total int64) { last, sum = done, total; calls++ }); err != nil || last != sum || sum < 2<<20 || calls < 4 {
			t.Errorf("%v: %d of %d bytes in %d calls", err, last, sum, calls)
		}
	}
}

// One flipped bit of a disk in an archive is found by Verify, not by List.
func TestOVADigest(t *testing.T) {
	p := makePackage(t)
	ova := p.ova(t, "ustar")
	b, err := os.ReadFile(ova)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-200_000] ^= 4
	write(t, ova, string(b))
	r, all := list(t, filepath.Dir(ova))
	if len(all) != 1 || all[0].Fault != "" {
		t.Fatalf("%+v", all)
	}
	if err := r.Verify(context.Background(), all[0], nil); !errors.Is(err, ErrDigest) {
		t.Errorf("Verify: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Verify(ctx, all[0], nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled Verify: %v", err)
	}
	ova = p.ova(t, "ustar", "shop.ovf", "shop-disk1.vmdk", "shop-disk2.qcow2")
	r, all = list(t, filepath.Dir(ova))
	if err := r.Verify(context.Background(), all[0], nil); !errors.Is(err, ErrNoManifest) {
		t.Errorf("without a manifest: %v", err)
	}
}

// A member of more than 8 GiB, whose size ustar cannot hold, behind which the
// second disk lies; the archive is sparse.
func TestOVALarge(t *testing.T) {
	p := makePackage(t)
	big := filepath.Join(p.dir, "big.bin")
	write(t, big, "")
	if err := os.Truncate(big, 9<<30); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "pax"} {
		// GNU tar would write the zeros; the archive is made of its first part and
		// of its last, with a hole between.
		head := p.ova(t, format, "shop.ovf", "shop.mf", "shop-disk1.vmdk")
		cut(t, head)
		hdr := header(t, p, format, "big.bin")
		tail, err := os.ReadFile(p.ova(t, format, "shop-disk2.qcow2"))
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(head, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		st, _ := f.Stat()
		if _, err := f.WriteAt(hdr, st.Size()); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(tail, st.Size()+int64(len(hdr))+9<<30); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		r, all := list(t, filepath.Dir(head))
		if len(all) != 1 {
			t.Fatalf("%+v", all)
		}
		p.check(t, r, all[0])
	}
}

// cut removes the two zero blocks that end a tar file.
func cut(t *testing.T, name string) {
	t.Helper()
	st, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, st.Size()-1024); err != nil {
		t.Fatal(err)
	}
}

// header is what tar writes before the content of one large file.
func header(t *testing.T, p *pack, format, name string) []byte {
	t.Helper()
	cmd := exec.Command("sh", "-c", `tar -c --format="$1" -C "$2" "$3" | head -c 4096`, "sh", format, p.dir, name)
	b, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	n := len(bytes.TrimRight(b, "\x00"))
	return b[:(n+511)/512*512]
}

func TestOVAHostile(t *testing.T) {
	p := makePackage(t)
	good := p.text
	for name, c := range map[string]struct {
		make  func(t *testing.T) string
		fault string
	}{
		"no descriptor": {func(t *testing.T) string { return p.ova(t, "ustar", "shop-disk1.vmdk") }, "no OVF descriptor"},
		"disk missing":  {func(t *testing.T) string { return p.ova(t, "ustar", "shop.ovf", "shop-disk1.vmdk") }, `"shop-disk2.qcow2" is not in the archive`},
		"disk twice": {func(t *testing.T) string {
			return p.ova(t, "ustar", "shop.ovf", "shop-disk1.vmdk", "shop-disk2.qcow2", "shop-disk1.vmdk")
		}, "twice"},
		"cut off": {func(t *testing.T) string {
			ova := p.ova(t, "ustar")
			st, _ := os.Stat(ova)
			if err := os.Truncate(ova, st.Size()/2); err != nil {
				t.Fatal(err)
			}
			return ova
		}, "cut off"},
		"compressed archive": {func(t *testing.T) string {
			ova := p.ova(t, "ustar")
			out, err := exec.Command("gzip", "-c", ova).Output()
			if err != nil {
				t.Fatal(err)
			}
			write(t, ova, string(out))
			return ova
		}, "damaged after 0 members"},
		"no archive": {func(t *testing.T) string {
			name := filepath.Join(t.TempDir(), "x.ova")
			write(t, name, strings.Repeat("nonsense", 1000))
			return name
		}, "damaged"},
		"empty": {func(t *testing.T) string {
			name := filepath.Join(t.TempDir(), "x.ova")
			write(t, name, "")
			return name
		}, "no OVF descriptor"},
		"compressed disk": {func(t *testing.T) string {
			return p.with(t, `ovf:href="shop-disk1.vmdk"`, `ovf:href="shop-disk1.vmdk" ovf:compression="gzip"`)
		}, "compressed as a whole (gzip)"},
		"chunks": {func(t *testing.T) string {
			return p.with(t, `ovf:href="shop-disk1.vmdk"`, `ovf:href="shop-disk1.vmdk" ovf:chunkSize="2000"`)
		}, "in pieces of 2000 bytes"},
		"absolute name": {func(t *testing.T) string { return p.with(t, "shop-disk1.vmdk", "/etc/passwd") }, "not in the archive"},
		"dots":          {func(t *testing.T) string { return p.with(t, "shop-disk1.vmdk", "../../etc/passwd") }, "not in the archive"},
		"short":         {func(t *testing.T) string { return p.with(t, `ovf:size="`, `ovf:size="9`) }, "it is cut off"},
		"dangling":      {func(t *testing.T) string { return p.with(t, `ovf:fileRef="file1"`, `ovf:fileRef="file7"`) }, "does not list"},
		"delta": {func(t *testing.T) string {
			return p.with(t, `ovf:fileRef="file1"`, `ovf:fileRef="file1" ovf:parentRef="x"`)
		}, "delta"},
		"huge blank": {func(t *testing.T) string {
			return p.with(t, ` ovf:fileRef="file1"`, ` ovf:capacityAllocationUnits="byte * 2^40"`)
		}, "a blank disk of"},
		"no XML": {func(t *testing.T) string { return p.with(t, "<", "[") }, "not an OVF descriptor"},
		"sparse member": {func(t *testing.T) string {
			if err := os.Truncate(filepath.Join(p.dir, "sparse.vmdk"), 1<<20); err != nil {
				write(t, filepath.Join(p.dir, "sparse.vmdk"), "")
				if err := os.Truncate(filepath.Join(p.dir, "sparse.vmdk"), 1<<20); err != nil {
					t.Fatal(err)
				}
			}
			write(t, filepath.Join(p.dir, "shop.ovf"), strings.ReplaceAll(good, "shop-disk1.vmdk", "sparse.vmdk"))
			out := filepath.Join(t.TempDir(), "x.ova")
			if b, err := exec.Command("tar", "-cS", "--format=pax", "-f", out, "-C", p.dir, "shop.ovf", "sparse.vmdk", "shop-disk2.qcow2").CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, b)
			}
			return out
		}, "sparse member"},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, filepath.Join(p.dir, "shop.ovf"), good)
			ova := c.make(t)
			web := chain(t, "web", 1, 0)
			if err := os.Rename(filepath.Join(web.dir, web.ctx), filepath.Join(filepath.Dir(ova), web.ctx)); err != nil {
				t.Fatal(err)
			}
			r, all := list(t, filepath.Dir(ova))
			if len(all) != 2 {
				t.Fatalf("%d backups: %+v", len(all), all)
			}
			for _, b := range all {
				if b.VM == "web" {
					if b.Fault != "" {
						t.Errorf("the good one suffers: %+v", b)
					}
					continue
				}
				if !strings.Contains(b.Fault, c.fault) {
					t.Errorf("fault %q, want %q", b.Fault, c.fault)
				}
				for i := range b.Disks {
					if b.Disks[i].Fault != "" {
						if img, err := r.OpenDisk(context.Background(), b, i); !errors.Is(err, ErrFault) {
							t.Errorf("opened: %v, %v", img, err)
						}
					}
				}
			}
		})
	}
}

// with is an archive whose descriptor is changed.
func (p *pack) with(t *testing.T, from, to string) string {
	t.Helper()
	if !strings.Contains(p.text, from) {
		t.Fatalf("the descriptor has no %q", from)
	}
	write(t, filepath.Join(p.dir, "shop.ovf"), strings.ReplaceAll(p.text, from, to))
	return p.ova(t, "ustar")
}

// A qcow2 in an archive that names a parent: the parent may lie in the
// repository, the archive's disk is refused all the same.
func TestOVAOutside(t *testing.T) {
	p := makePackage(t)
	qemu(t, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "outside.qcow2", filepath.Join(p.dir, "shop-disk2.qcow2"))
	ova := p.ova(t, "ustar")
	qemu(t, "create", "-q", "-f", "qcow2", filepath.Join(filepath.Dir(ova), "outside.qcow2"), fmt.Sprint(size))
	_, all := list(t, filepath.Dir(ova))
	for _, b := range all {
		if b.Layout == LayoutOVA && b.Fault == "" {
			t.Errorf("%+v", b)
		}
	}
}

func TestOVFFolder(t *testing.T) {
	p := makePackage(t)
	r, all := list(t, p.dir)
	if len(all) != 1 || all[0].Layout != LayoutOVF || all[0].Path != "shop.ovf" || len(all[0].Notes) > 0 {
		t.Fatalf("%+v", all)
	}
	p.check(t, r, all[0])
	if err := r.Verify(context.Background(), all[0], nil); err != nil {
		t.Error(err)
	}
	mf := filepath.Join(p.dir, "shop.mf")
	text, err := os.ReadFile(mf)
	if err != nil {
		t.Fatal(err)
	}
	for from, c := range map[string]struct {
		to   string
		want error
	}{
		"shop-disk1.vmdk)": {"../shop-disk1.vmdk)", disk.ErrEscape},
		"(shop-disk1.vmdk": {"(/etc/passwd", disk.ErrEscape},
		"SHA256(":          {"SHA257(", ovf.ErrManifest},
		"shop-disk2.qcow2": {"other.qcow2", disk.ErrMissing},
		string(bytes.SplitAfter(text, []byte("\n"))[1]): {"", disk.ErrMissing}, // a disk that is not listed
	} {
		write(t, mf, strings.Replace(string(text), from, c.to, 1))
		if err := r.Verify(context.Background(), all[0], nil); !errors.Is(err, c.want) {
			t.Errorf("%q → %q: %v, want %v", from, c.to, err, c.want)
		}
	}
	write(t, mf, string(text))
	name := filepath.Join(p.dir, "shop-disk1.vmdk")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	write(t, name, string(b))
	if err := r.Verify(context.Background(), all[0], nil); !errors.Is(err, ErrDigest) {
		t.Errorf("a changed disk: %v", err)
	}
	if err := os.Remove(mf); err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(context.Background(), all[0], nil); !errors.Is(err, ErrNoManifest) {
		t.Errorf("no manifest: %v", err)
	}
}

func TestOVFFolderHostile(t *testing.T) {
	p := makePackage(t)
	secret := filepath.Join(t.TempDir(), "secret.vmdk")
	qemu(t, "create", "-q", "-f", "vmdk", secret, "1M")
	for to, fault := range map[string]string{
		"../secret.vmdk":               "no name of a file beside",
		"/etc/passwd":                  "no name of a file beside",
		"a/../../secret.vmdk":          "no name of a file beside",
		"%2e%2e/secret.vmdk":           "no name of a file beside",
		"https://example.org/a.vmdk":   "lies elsewhere",
		"nothing.vmdk":                 "is missing",
		".":                            "no name of a file beside",
		"linked.vmdk":                  "leaves the repository",
		"shop.ovf":                     "a known signature",
		"file:///etc/passwd":           "lies elsewhere",
		"\\\\host\\share\\a.vmdk":      "is missing",
		strings.Repeat("a/", 200) + "": "",
	} {
		relink(t, secret, filepath.Join(p.dir, "linked.vmdk"))
		write(t, filepath.Join(p.dir, "shop.ovf"), strings.ReplaceAll(p.text, "shop-disk1.vmdk", to))
		_, all := list(t, p.dir)
		found := false
		for _, b := range all {
			if b.Layout != LayoutOVF {
				continue
			}
			found = true
			if b.Fault == "" || fault != "a known signature" && !strings.Contains(b.Fault, fault) {
				t.Errorf("%q: fault %q, want %q", to, b.Fault, fault)
			}
		}
		if !found {
			t.Errorf("%q: %+v", to, all)
		}
	}
}

// Two machines in one package are two backups; a disk without a file starts
// blank.
func TestOVFTwoMachines(t *testing.T) {
	p := makePackage(t)
	at := strings.Index(p.text, "<VirtualSystem ")
	end := strings.Index(p.text, "</Envelope>")
	one := p.text[at:end]
	two := strings.NewReplacer(`ovf:id="shop"`, `ovf:id="store"`, "<Name>shop", "<Name>store").Replace(one)
	text := p.text[:at] + "<VirtualSystemCollection><Info/>" + one + two + "</VirtualSystemCollection>" + p.text[end:]
	text = strings.Replace(text, ` ovf:fileRef="file2"`, "", 1)
	write(t, filepath.Join(p.dir, "shop.ovf"), text)
	r, all := list(t, p.dir)
	if len(all) != 2 || all[0].VM != "shop" || all[1].VM != "store" || all[0].Fault != "" || all[1].Fault != "" {
		t.Fatalf("%+v", all)
	}
	if !hasNote(all[1], "starts blank") || !bytes.Equal(content(t, r, all[1], 1), make([]byte, size)) || !bytes.Equal(content(t, r, all[1], 0), p.want[0]) {
		t.Errorf("%+v", all[1])
	}
	if _, _, err := FromFiles(context.Background(), []string{filepath.Join(p.dir, "shop.ovf")}); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("two machines in one file: %v", err)
	}
}

// A capacity that the image does not have is a note; the image counts.
func TestOVFCapacity(t *testing.T) {
	p := makePackage(t)
	write(t, filepath.Join(p.dir, "shop.ovf"), strings.Replace(p.text, fmt.Sprintf(`ovf:capacity="%d"`, size), `ovf:capacity="4194304"`, 1))
	_, all := list(t, p.dir)
	if len(all) != 1 || all[0].Fault != "" || !hasNote(all[0], "has 4194304 bytes") || all[0].Machine.Disks[0].Size != size {
		t.Errorf("%+v", all)
	}
}

func FuzzArchive(f *testing.F) {
	p := filepath.Join(f.TempDir(), "x.ovf")
	write(f, p, "<Envelope><VirtualSystem/></Envelope>")
	for _, format := range []string{"ustar", "gnu", "pax", "v7"} {
		out, err := exec.Command("tar", "-c", "--format="+format, "-C", filepath.Dir(p), "x.ovf").Output()
		if err != nil {
			f.Fatalf("tar: %v", err)
		}
		f.Add(out[:2048])
		binary.BigEndian.PutUint64(out[124:], 1<<63|1<<62)
		f.Add(out[:1024])
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		write(t, filepath.Join(dir, "a.ova"), string(b))
		root, err := disk.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = root.Close() }()
		file, err := root.Open("a.ova")
		if err != nil {
			t.Fatal(err)
		}
		a, _ := scan(file)
		for _, m := range a.members {
			if m.fault == "" && (m.off < 0 || m.size < 0 || m.off > int64(len(b)) || m.size > int64(len(b))-m.off) {
				t.Fatalf("member %+v of %d bytes", m, len(b))
			}
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		r := &Repository{root: root}
		if _, err := r.List(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
}

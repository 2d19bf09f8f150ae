package regf

import (
	"bytes"
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func tool(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s is missing: run build/deps", argv[0])
	}
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

// made is a hive that hivexregedit filled: many keys, values of every size.
func made(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	p := filepath.Join(dir, "SYSTEM")
	reg := "Windows Registry Editor Version 5.00\n"
	b := New()
	var err error
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	reg += "\n[HKLM\\S\\ControlSet001]\n\n[HKLM\\S\\ControlSet001\\Services]\n"
	for _, s := range []string{"disk", "LSI_SAS", "storahci", "Zeta", "äöü"} {
		reg += "\n[HKLM\\S\\ControlSet001\\Services\\" + s + "]\n\"Start\"=dword:00000003\n\"ImagePath\"=\"system32\\\\drivers\\\\" + s + ".sys\"\n"
	}
	f := filepath.Join(dir, "a.reg")
	if err := os.WriteFile(f, []byte(reg), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "hivexregedit", "--merge", p, "--prefix", `HKLM\S`, f)
	if b, err = os.ReadFile(p); err != nil {
		t.Fatal(err)
	}
	return b
}

func xml(t testing.TB, b []byte) []string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "h")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.ReplaceAll(tool(t, "hivexml", p), "><", ">\n<"), "\n")
	// Where in the file a thing stands is no part of what the hive says.
	return slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "byte_run") })
}

// What hivex reads before and after an edit differs in what was asked for, and
// in nothing else.
func TestEdit(t *testing.T) {
	b := made(t)
	before := xml(t, b)
	h, err := Open(bytes.Clone(b))
	if err != nil {
		t.Fatal(err)
	}
	svc, err := h.Root().Key(`controlset001\SERVICES`)
	if err != nil {
		t.Fatal(err)
	}
	k, err := svc.Create("viostor")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{k.SetDWord("Start", 0), k.SetString("ImagePath", ExpandSZ, `system32\drivers\viostor.sys`), k.SetStrings("Names", []string{"é", "b"}), k.Set("Blob", Binary, bytes.Repeat([]byte{7}, 40))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	d, err := svc.Key("disk")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SetDWord("Start", 0); err != nil {
		t.Fatal(err)
	}
	out := bytes.Clone(h.Bytes())
	after := xml(t, out)
	var gone, came []string
	count := map[string]int{}
	for _, l := range before {
		count[l]++
	}
	for _, l := range after {
		if count[l]--; count[l] < 0 {
			came = append(came, l)
		}
	}
	for l, n := range count {
		for ; n > 0; n-- {
			gone = append(gone, l)
		}
	}
	if len(gone) != 1 || !strings.Contains(gone[0], `value="3"`) {
		t.Errorf("hivexml lost %q", gone)
	}
	want := []string{
		`<value type="int32" key="Start" value="0">`, // disk
		`<node name="viostor">`,
		`<value type="int32" key="Start" value="0">`,
		`<value type="expand" key="ImagePath" value="system32\drivers\viostor.sys">`,
		`<value type="string-list" key="Names">`, `<string>é</string>`, `<string>b</string>`, `<string>`, `</string>`, // the list's end
		`<value type="binary" encoding="base64" key="Blob" value="` + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 40)) + `">`,
		`</value>`, `</value>`, `</value>`, `</value>`, `</node>`,
	}
	if !slices.Equal(came, want) {
		t.Errorf("hivexml shows new lines %q, not %q", came, want)
	}
	// And it reads back here, and again after many more keys.
	if h, err = Open(out); err != nil {
		t.Fatal(err)
	}
	svc, _ = h.Root().Key(`ControlSet001\Services`)
	for i := range 600 {
		if _, err := svc.Create("k" + strings.Repeat("x", i%40) + string(rune('a'+i%26)) + strings.Repeat("y", i/40)); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := svc.Keys()
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(strings.Join(xml(t, h.Bytes()), "\n"), `<node name="k`); n+7 < len(keys) || n < 590 {
		t.Errorf("hivex reads %d of %d keys", n, len(keys))
	}
	if v, ok := func() (uint32, bool) { k, _ := svc.Key("DISK"); return k.DWord("start") }(); !ok || v != 0 {
		t.Errorf("Start reads %d, %v", v, ok)
	}
}

// entry makes a log's entry of the new format.
func entry(seq, size uint32, at uint32, page []byte) []byte {
	e := make([]byte, (48+len(page)+511)/512*512)
	copy(e, "HvLE")
	le.PutUint32(e[4:], uint32(len(e)))
	le.PutUint32(e[12:], seq)
	le.PutUint32(e[16:], size)
	le.PutUint32(e[20:], 1)
	le.PutUint32(e[40:], at)
	le.PutUint32(e[44:], uint32(len(page)))
	copy(e[48:], page)
	le.PutUint64(e[24:], marvin32(e[40:]))
	le.PutUint64(e[32:], marvin32(e[:32]))
	return e
}

func TestLogs(t *testing.T) {
	clean := made(t)
	h, err := Open(bytes.Clone(clean))
	if err != nil {
		t.Fatal(err)
	}
	k, _ := h.Root().Key(`ControlSet001\Services\disk`)
	if err := k.SetDWord("Start", 0); err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(h.Bytes())
	dirty := bytes.Clone(clean)
	seq := le.Uint32(dirty[8:])
	le.PutUint32(dirty[4:], seq+1)
	le.PutUint32(dirty[508:], sum(dirty))
	log := bytes.Clone(dirty[:512])
	le.PutUint32(log[4:], seq)
	size := le.Uint32(want[40:])
	for at := uint32(0); at < size; at += 4096 {
		log = append(log, entry(seq+at/4096, size, at, want[base+at:base+at+4096])...)
	}
	if _, err := Open(bytes.Clone(dirty)); !errors.Is(err, ErrDirty) {
		t.Fatalf("a dirty hive is opened: %v", err)
	}
	h, err = OpenLogs(bytes.Clone(dirty), log)
	if err != nil {
		t.Fatal(err)
	}
	if out := h.Bytes(); !bytes.Equal(out[base:], want[base:]) {
		t.Error("the replayed hive differs")
	} else if _, err := Open(bytes.Clone(out)); err != nil {
		t.Errorf("the replayed hive is not clean: %v", err)
	}
	bad := bytes.Clone(log)
	bad[600] ^= 1
	if _, err := OpenLogs(bytes.Clone(dirty), bad); !errors.Is(err, ErrDirty) {
		t.Errorf("a log with a wrong hash: %v", err)
	}
}

// oldLog makes a log of the format before Windows 8.1, of the pieces that differ.
func oldLog(was, is []byte, seq uint32) []byte {
	l := bytes.Clone(is[:512])
	le.PutUint32(l[4:], seq)
	le.PutUint32(l[8:], seq)
	le.PutUint32(l[28:], 1)
	le.PutUint32(l[508:], sum(l))
	n := (len(is) - base) / 512
	marks := make([]byte, n/8)
	var pieces []byte
	for i := range n {
		at := base + i*512
		if at+512 > len(was) || !bytes.Equal(was[at:at+512], is[at:at+512]) {
			marks[i/8] |= 1 << (i % 8)
			pieces = append(pieces, is[at:at+512]...)
		}
	}
	l = append(append(l, "DIRT"...), marks...)
	l = append(l, make([]byte, (512-len(l)%512)%512)...)
	return append(l, pieces...)
}

func TestOldLogs(t *testing.T) {
	clean := made(t)
	h, err := Open(bytes.Clone(clean))
	if err != nil {
		t.Fatal(err)
	}
	k, _ := h.Root().Key(`ControlSet001\Services\disk`)
	for i := range 40 { // the hive grows
		if err := k.Set("v"+string(rune('a'+i)), Binary, bytes.Repeat([]byte{byte(i)}, 300)); err != nil {
			t.Fatal(err)
		}
	}
	want := bytes.Clone(h.Bytes())
	if len(want) == len(clean) {
		t.Fatal("the hive did not grow")
	}
	dirty := bytes.Clone(clean)
	seq := le.Uint32(dirty[8:]) + 1
	le.PutUint32(dirty[4:], seq)
	le.PutUint32(dirty[508:], sum(dirty))
	log := oldLog(clean, want, seq)
	got, err := OpenLogs(bytes.Clone(dirty), []byte("no log"), log)
	if err != nil {
		t.Fatal(err)
	}
	if out := got.Bytes(); !bytes.Equal(out[base:], want[base:]) {
		t.Error("the replayed hive differs")
	} else if _, err := Open(bytes.Clone(out)); err != nil || !slices.Equal(xml(t, out), xml(t, want)) {
		t.Errorf("the replayed hive: %v", err)
	}
	for name, l := range map[string][]byte{"of another time": oldLog(clean, want, seq+1), "cut short": log[:len(log)-512], "torn": append(bytes.Clone(log[:4]), append([]byte{9}, log[5:]...)...), "none": nil} {
		if _, err := OpenLogs(bytes.Clone(dirty), l); !errors.Is(err, ErrDirty) {
			t.Errorf("a log %s: %v", name, err)
		}
	}
}

// TestDelete: what hivexregedit exports afterwards is what it exported before, less
// exactly what was deleted, and every descriptor is counted as often as it is used.
func TestDelete(t *testing.T) {
	b := made(t)
	before := export(t, b)
	h, err := Open(bytes.Clone(b))
	if err != nil {
		t.Fatal(err)
	}
	svc, _ := h.Root().Key(`ControlSet001\Services`)
	was, free := descriptors(t, h), freeBytes(h)
	k, err := svc.Create(`stornvme\StartOverride\deep\er`)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		if err := k.Set("v"+string(rune('a'+i)), Binary, bytes.Repeat([]byte{1}, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := svc.Delete("STORNVME"); err != nil {
		t.Fatal(err)
	}
	if after := export(t, h.Bytes()); after != before {
		t.Errorf("made and deleted, the hive says\n%s\nnot\n%s", after, before)
	}
	if is := descriptors(t, h); is != was {
		t.Errorf("%d users of descriptors, were %d", is, was)
	}
	if n := freeBytes(h); n < free {
		t.Errorf("%d bytes are free, were %d", n, free)
	}
	d, _ := svc.Key("disk")
	if err := errors.Join(d.Unset("start"), d.Unset("nothing"), svc.Delete("nothing")); err != nil {
		t.Fatal(err)
	}
	if err := svc.Delete("zeta"); err != nil {
		t.Fatal(err)
	}
	after := export(t, h.Bytes())
	for _, gone := range []string{"\\Zeta]\n\"ImagePath\"=hex(1):", "[\\ControlSet001\\Services\\disk]\n\"ImagePath\"="} {
		if n := strings.Count(after, gone); n != strings.Count(gone, "disk") {
			t.Errorf("%q stands %d times in\n%s", gone, n, after)
		}
	}
	for _, n := range []string{"disk", "LSI_SAS", "storahci", "äöü"} {
		if err := svc.Delete(n); err != nil {
			t.Fatal(err)
		}
	}
	if keys, err := svc.Keys(); err != nil || len(keys) != 0 || !strings.HasSuffix(strings.TrimSpace(export(t, h.Bytes())), "Services]") {
		t.Errorf("%v, %v left", keys, err)
	}
}

func export(t testing.TB, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "h")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return tool(t, "hivexregedit", "--export", p, `\`)
}

// descriptors walks the ring of security descriptors and sums up their users.
func descriptors(t *testing.T, h *Hive) (users uint32) {
	t.Helper()
	first := le.Uint32(h.Root().c()[44:])
	for at, n := first, 0; n == 0 || at != first; n++ {
		c, err := h.cell(at)
		if err != nil || n > 1000 {
			t.Fatalf("the ring of descriptors: %v", err)
		}
		users += le.Uint32(c[12:])
		at = le.Uint32(c[4:])
	}
	return users
}

func freeBytes(h *Hive) (n int) {
	for at := uint32(0); at < h.size(); {
		end := at + le.Uint32(h.b[base+at+8:])
		for at += 32; at < end; {
			l := int32(le.Uint32(h.b[base+at:]))
			if l > 0 {
				n += int(l)
			}
			at += uint32(max(l, -l))
		}
	}
	return n
}

// TestDamaged turns bytes of a hive at random and edits it all the same: it is
// refused, or what comes out still opens.
func TestDamaged(t *testing.T) {
	whole := made(t)
	r := rand.New(rand.NewPCG(1, 2))
	const trials = 400
	refused := 0
	for range trials {
		b := bytes.Clone(whole)
		for range 1 + r.IntN(6) {
			b[base+r.IntN(len(b)-base)] = byte(r.Uint32())
		}
		h, err := Open(b)
		if err == nil {
			err = vandal(h)
		}
		if err != nil {
			refused++
			continue
		}
		if h, err = Open(bytes.Clone(h.Bytes())); err == nil {
			err = h.ready()
		}
		if err != nil {
			t.Fatalf("after an edit the hive is worse: %v", err)
		}
	}
	if refused == 0 || refused == trials {
		t.Errorf("%d refused", refused)
	}
}

// vandal edits whatever it finds.
func vandal(h *Hive) error {
	k, err := h.Root().Create(`ControlSet001\Services\new`)
	if err != nil {
		return err
	}
	svc, err := h.Root().Key(`ControlSet001\Services`)
	if err != nil {
		return err
	}
	keys, err := svc.Keys()
	if err != nil {
		return err
	}
	errs := []error{k.SetString("v", SZ, "text"), k.SetDWord("w", 3), k.Set("w", Binary, make([]byte, 100)), k.Unset("v")}
	for _, x := range keys[:min(len(keys), 4)] {
		errs = append(errs, x.SetDWord("Start", 0), svc.Delete(x.Name()))
		_, err := x.Values() // of a key that is gone
		if err == nil {
			errs = append(errs, errors.New("a deleted key has values"))
		}
	}
	return errors.Join(errs...)
}

// FuzzLogs has a dirty hive and any log.
func FuzzLogs(f *testing.F) {
	clean := made(f)
	h, err := Open(bytes.Clone(clean))
	if err != nil {
		f.Fatal(err)
	}
	k, _ := h.Root().Key(`ControlSet001\Services\disk`)
	if err := k.SetDWord("Start", 0); err != nil {
		f.Fatal(err)
	}
	is := bytes.Clone(h.Bytes())
	le.PutUint32(clean[4:], le.Uint32(clean[8:])+1)
	le.PutUint32(clean[508:], sum(clean))
	f.Add(oldLog(clean, is, le.Uint32(clean[4:])))
	f.Add(append(append([]byte{}, clean[:512]...), entry(le.Uint32(clean[8:]), le.Uint32(is[40:]), 0, is[base:2*base])...))
	f.Fuzz(func(t *testing.T, log []byte) {
		if len(log) > 1<<20 {
			return
		}
		h, err := OpenLogs(bytes.Clone(clean), log)
		if err != nil {
			return
		}
		if _, err := Open(bytes.Clone(h.Bytes())); err != nil {
			t.Errorf("a hive that was replayed does not open: %v", err)
		}
	})
}

func FuzzOpen(f *testing.F) {
	f.Add(made(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		h, err := Open(b)
		if err != nil {
			return
		}
		n := 0
		var walk func(k Key, depth int)
		walk = func(k Key, depth int) {
			if n++; n > 500 || depth > 20 {
				return
			}
			vs, _ := k.Values()
			for _, v := range vs[:min(len(vs), 50)] {
				_, _ = v.Data()
				_ = v.Name()
			}
			ks, _ := k.Keys()
			for _, s := range ks {
				walk(s, depth+1)
			}
		}
		walk(h.Root(), 0)
		if vandal(h) == nil {
			if h, err = Open(bytes.Clone(h.Bytes())); err == nil {
				err = h.ready()
			}
			if err != nil {
				t.Errorf("after an edit the hive is worse: %v", err)
			}
		}
	})
}

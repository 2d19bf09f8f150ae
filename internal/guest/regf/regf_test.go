package regf

import (
	"bytes"
	"encoding/base64"
	"errors"
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
	oldLog := append(bytes.Clone(dirty[:512]), "DIRT"...)
	if _, err := OpenLogs(bytes.Clone(dirty), oldLog); !errors.Is(err, ErrDirty) || !strings.Contains(err.Error(), "8.1") {
		t.Errorf("a log of the old format: %v", err)
	}
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
		if k, err := h.Root().Create(`a\b`); err == nil {
			_ = k.SetString("v", SZ, "text")
		}
		_ = h.Bytes()
	})
}

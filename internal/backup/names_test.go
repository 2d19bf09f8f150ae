package backup

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"ascend/internal/vm"
)

func TestParseTime(t *testing.T) {
	want := time.Date(2026, 5, 1, 3, 12, 7, 0, time.UTC)
	for _, s := range []string{
		"20260501-031207", "20260501_031207", "20260501031207", "20260501T031207Z", "20260501T031207", "2026-05-01T03:12:07Z", "2026-05-01T05:12:07+02:00",
		"2026-05-01 03:12:07", "2026-05-01T03-12-07", "2026-05-01-031207", "2026-05-01_03-12-07", "1777605127", "1777605127000", "1777605127000000", "1777605127000000000",
		"2026-05-01T03:12:07", " 2026-05-01 03:12:07Z ",
	} {
		if got, ok := parseTime(s); !ok || !got.Equal(want) {
			t.Errorf("%q: %v, %v", s, got, ok)
		}
	}
	if got, ok := parseTime("2026-05-01T03:12:07.123456789Z"); !ok || got.Nanosecond() != 123456789 {
		t.Errorf("nanoseconds: %v", got)
	}
	for _, s := range []string{"", "031207", "web", "12345678", "-1777605127", "99999999999999999999", "20261301-031207", "0001-01-01T00:00:00Z", "18000101"} {
		if got, ok := parseTime(s); ok {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestParseContext(t *testing.T) {
	for name, want := range map[string][2]string{
		"ctx-web-20260501-031207":          {"web", "20260501-031207"},
		"ctx-web-01-20260501031207":        {"web-01", "20260501031207"},
		"ctx-a b (ä)-2026-05-01T03:12:07Z": {"a b (ä)", "2026-05-01T03:12:07Z"},
		"ctx-vm-1700000000-1700000001":     {"vm-1700000000", "1700000001"},
		"ctx-web":                          {"web", ""},
		"ctx-web-latest":                   {"web-latest", ""},
		"ctx--20260501-031207":             {"-20260501-031207", ""},
	} {
		vm, stamp, ok := parseContext(name)
		if !ok || vm != want[0] || stamp != want[1] {
			t.Errorf("%q: %q, %q, %v", name, vm, stamp, ok)
		}
	}
	for _, name := range []string{"", "ctx", "ctx-", "web-20260501"} {
		if vm, stamp, ok := parseContext(name); ok {
			t.Errorf("%q: %q, %q", name, vm, stamp)
		}
	}
	n, ok := parseFile("backup-a-disk1-b-disk12-20260501-031207.qcow2")
	if !ok || n != (fileName{"a-disk1-b", 12, "20260501-031207"}) {
		t.Errorf("%+v", n)
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"ctx-web-20260501-031207", "backup-web-disk0-20260501-031207.qcow2", "1777605127000", "disk-0", "2026-05-01T03:12:07+02:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if vm, stamp, ok := parseContext(s); ok && !strings.HasPrefix(s, "ctx-"+vm) || ok && stamp != "" && s != "ctx-"+vm+"-"+stamp {
			t.Fatalf("%q: %q %q", s, vm, stamp)
		}
		if n, ok := parseFile(s); ok && n.disk < 0 {
			t.Fatalf("%+v", n)
		}
		if at, ok := parseTime(s); ok && (at.Year() < 1997 || at.Year() > 2201) {
			t.Fatalf("%v", at)
		}
		if n, ok := diskNumber(s); ok && (n < 0 || n > 9999) {
			t.Fatal(n)
		}
		if c := clean(s); !utf8.ValidString(c) || len(c) > maxNameSize || strings.ContainsAny(c, "\x00\n\r\x1b") {
			t.Fatalf("%q", c)
		}
	})
}

func FuzzSidecar(f *testing.F) {
	f.Add([]byte(`{"backup_id":"a","backup_type":"full","created_at":"2026-05-01T03:12:07Z","qcow2_info":{"virtual_size":1},"metadata":{"vmware_info":{"a":1,"b":[{}]},"custom_metadata":{"x":"y"}}}`))
	f.Add([]byte(`{"chain_id":1,"full_backup_id":"a","backup_ids":["a","a",3],"total_backups":"7"}`))
	f.Add([]byte(`{"name":"a","cpu":{"sockets":2},"memory":1048576,"disks":[{"index":0},{"index":0}],"nics":[{"mac":"00:50:56:00:00:01"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseSidecar("x.json", b); err == nil {
			if s.virtual < 0 || len(s.tags) > maxTags || !s.created.IsZero() && !plausible(s.created) && s.created.Year() != 1997 && s.created.Year() != 2200 {
				t.Fatalf("%+v", s)
			}
			for k, v := range s.tags {
				if len(v) > maxNameSize || k == "" {
					t.Fatalf("tag %q %q", k, v)
				}
			}
		}
		if c, err := parseChain("chain.json", b); err == nil && len(c.ids) > len(b) {
			t.Fatalf("%+v", c)
		}
		if m, _, err := parseMachine(b); err == nil {
			d := &Backup{Disks: []Disk{{Index: 0, Size: 512}, {Index: 5}}}
			d.bare(nil)
			d.describe(m)
			if len(d.Machine.Disks) != 2 || d.Machine.Disks[0].Size != 512 || d.Machine.CPU.Total() < 0 {
				t.Fatalf("%+v", d.Machine)
			}
		}
	})
}

// The example of the documentation is read without a note, whole.
func TestDocumentedExample(t *testing.T) {
	doc, err := os.ReadFile("../../docs/vm.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(doc), "```json\n")
	text, _, ok := strings.Cut(text, "```")
	m, notes, err := ReadMachine(strings.NewReader(text))
	if err != nil || !ok || len(notes) > 0 || m.Name != "mail-01" || m.CPU.Total() != 4 || m.Memory != 8<<30 || !m.SecureBoot || len(m.Disks) != 2 || len(m.NICs) != 1 {
		t.Fatalf("%v %q %+v", err, notes, m)
	}
	back, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if err := errors.Join(json.Unmarshal([]byte(text), &a), json.Unmarshal(back, &b)); err != nil || !reflect.DeepEqual(a, b) {
		t.Errorf("%v\n%s", err, back)
	}
	// Every field of the structures is documented.
	for _, v := range []any{vm.Machine{}, vm.CPU{}, vm.GuestOS{}, vm.Disk{}, vm.NIC{}} {
		for f := range reflect.TypeOf(v).Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !strings.Contains(string(doc), "`"+name+"`") && !strings.Contains(string(doc), "."+name+"`") && name != "cpu" {
				t.Errorf("docs/vm.md does not mention %s", name)
			}
		}
	}
}

package restore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/boot"
	"ascend/internal/guest"
	"ascend/internal/image"
	"ascend/internal/vm"
)

// bootSector is a first sector that says a text on the first serial port and powers
// the machine off: the smallest system whose boot can be watched.
func bootSector(t *testing.T, text string) []byte {
	t.Helper()
	code := []byte{
		0x31, 0xc0, 0x8e, 0xd8, // xor ax,ax; mov ds,ax
		0xbe, 0x26, 0x7c, // mov si,text
		0xac, 0x84, 0xc0, 0x74, 0x10, // next: lodsb; test al,al; jz end
		0x50, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb, 0x58, // wait for the port
		0xba, 0xf8, 0x03, 0xee, 0xeb, 0xeb, // out dx,al; jmp next
		0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4, 0xeb, 0xfd, // end: off, by ACPI
	}
	b := make([]byte, 512)
	n := copy(b, code)
	if n += copy(b[n:510], text); n >= 510 {
		t.Fatal("the text is too long")
	}
	b[510], b[511] = 0x55, 0xaa
	return b
}

// TestBootProof has a job boot what it is to send: a system that fails and one that comes
// to its login without a network, each under what is asked for.
func TestBootProof(t *testing.T) {
	f := setup(t, 1, 1<<20)
	for _, c := range []struct {
		name  string
		proof Proof
		text  string
		end   Status
		grade boot.Grade
		says  string
	}{
		{"advised, fails", Proof{Mode: ProofAdvise}, "Linux version 6\nKernel panic - not syncing: VFS\n", Completed, boot.F, "the kernel panicked"},
		{"required, fails", Proof{Mode: ProofRequire}, "Linux version 6\nKernel panic - not syncing: VFS\n", RolledBack, boot.F, "the kernel panicked"},
		{"required, good enough", Proof{Mode: ProofRequire, Grade: boot.B}, "Linux version 6\nEXT4-fs (sda1): mounted filesystem\n", Completed, boot.B, "grade B"},
		{"required, below the grade", Proof{Mode: ProofRequire, Grade: boot.A}, "Linux version 6\nEXT4-fs (sda1): mounted filesystem\nweb login: ", RolledBack, boot.B, "grade A was required"},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := filepath.Join(f.dir, "sector")
			if err := os.WriteFile(raw, append(bootSector(t, c.text), make([]byte, 1<<20-512)...), 0o600); err != nil {
				t.Fatal(err)
			}
			f.files = []string{filepath.Join(f.dir, "moved here", "boots.qcow2")}
			sh(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, f.files[0])
			before := bytesOf(t, f.files[0])
			r := f.request(c.name, &image.Format{Name: "raw"}, asFile, nil)
			r.Guest = &Guest{Inspection: &guest.Inspection{Firmware: vm.BIOS}, Proof: c.proof}
			j := f.wait(f.submit(r).ID, c.end)
			evidence := filepath.Join(f.s.jobDir(j.ID), "proof")
			if console := bytesOf(t, filepath.Join(evidence, "console.txt")); !strings.Contains(console, "Linux version 6") {
				t.Errorf("the console: %q", console)
			}
			if kept := bytesOf(t, filepath.Join(evidence, "result.json")); !strings.Contains(kept, `"grade": "`+string(c.grade)+`"`) {
				t.Errorf("the result kept: %s", kept)
			}
			there, err := filepath.Glob(filepath.Join(evidence, "*.*"))
			if err != nil || len(there) < 2 {
				t.Fatal(there, err)
			}
			for _, name := range there {
				name = filepath.Base(name)
				if name == "result.json" { // the receipt has it
					continue
				}
				b, err := f.tab.Blob(t.Context(), j.ID, BlobEvidence+name)
				if err != nil || string(b) != bytesOf(t, filepath.Join(evidence, name)) {
					t.Errorf("%s in the tables: %d bytes, %v", name, len(b), err)
				}
			}
			if bytesOf(t, f.files[0]) != before {
				t.Error("the backup was changed")
			}
			if c.end == RolledBack {
				if !strings.Contains(j.Error, c.says) || !strings.Contains(j.Error, evidence) {
					t.Errorf("%s", j.Error)
				}
				if _, err := os.Stat(filepath.Join(f.out, c.name)); err == nil {
					t.Error("something was made on the target")
				}
				steps, err := f.s.Steps(t.Context(), j.ID)
				for _, s := range steps {
					if s.Kind == "transfer" && s.Done > 0 || err != nil {
						t.Errorf("sent before the proof: %+v, %v", s, err)
					}
				}
				return
			}
			g := f.receipt(j.ID).Guest
			if g == nil || g.Proof == nil || g.Proof.Grade != c.grade || len(g.Proof.Files) == 0 || g.Result != nil || g.Changed(0) {
				t.Fatalf("the receipt: %+v", g)
			}
			for _, file := range g.Proof.Files {
				if _, err := os.Stat(filepath.Join(f.s.jobDir(j.ID), file)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

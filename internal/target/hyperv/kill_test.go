package hyperv

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"ascend/internal/secret"
	"ascend/internal/target/hyperv/hostshare"
	"ascend/internal/target/hyperv/hostshare/sambatest"
	"ascend/internal/target/hyperv/wsmansim"
	"ascend/internal/target/targettest"
)

// onlyFile is the inode of the one disk at the host.
func onlyFile(t *testing.T, p *peer) uint64 {
	t.Helper()
	var found []uint64
	err := filepath.WalkDir(p.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".vhdx") {
			var st fs.FileInfo
			if st, err = d.Info(); err == nil {
				found = append(found, st.Sys().(*syscall.Stat_t).Ino)
			}
		}
		return err
	})
	if err != nil || len(found) != 1 {
		t.Fatalf("%d disks, %v", len(found), err)
	}
	return found[0]
}

// landedIn are the offsets in a journal.
func landedIn(t *testing.T, journal string) map[int64]bool {
	t.Helper()
	b, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	out := map[int64]bool{}
	for line := range bytes.Lines(b) {
		if off, err := strconv.ParseInt(strings.TrimSpace(string(line)), 10, 64); err == nil && bytes.HasSuffix(line, []byte("\n")) {
			out[off] = true
		}
	}
	return out
}

// childUploads uploads, a line in the journal and on standard output for each
// range that landed, until it is killed.
func childUploads(t *testing.T) {
	at := strings.Split(os.Getenv(killed), "\n")
	l := &sambatest.Server{Config: hostshare.Config{Password: secret.New(at[4])}}
	p := &peer{Sim: &wsmansim.Sim{URL: at[0], CAFile: at[1]}, smb: l, user: at[3], values: map[string]string{"smb_address": at[2]}, net: nowhere(t)}
	tgt := p.open(t)
	o, _ := order(t, p, tgt, "kill", 4096)
	file, err := os.ReadFile(at[7])
	if err != nil {
		t.Fatal(err)
	}
	s, err := tgt.Begin(t.Context(), o, targettest.NewFileRecorder(at[5]))
	if err != nil {
		t.Fatal(err)
	}
	j, err := os.OpenFile(at[6], os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	landed := landedIn(t, at[6])
	err = send(t.Context(), s, 0, file, func(off int64) bool { return landed[off] }, func(off int64) {
		fmt.Fprintln(j, off)
		fmt.Println(off)
	})
	t.Fatalf("was to be killed and ended with %v", err)
}

// nowhere is a network that is not used.
func nowhere(t *testing.T) *network {
	n, err := listen("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	return n
}

// nobody is a server that is not used.
var nobody = &sambatest.Server{}

package targettest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ascend/internal/target"
)

// Product is the built command line with one configured target, in a folder of its
// own: for the test of a connector as users have it.
type Product struct {
	t       testing.TB
	Dir     string // of everything that is written
	program string
	env     []string
	secrets []string
	said    bytes.Buffer
}

// NewProduct builds the command line and adds the target of set, its secrets by
// files.
func NewProduct(t testing.TB, set target.Settings) *Product {
	t.Helper()
	dir := t.TempDir()
	p := &Product{t: t, Dir: dir, program: filepath.Join(t.TempDir(), "ascend")}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", p.program, "ascend/cmd/ascend")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.env = append(os.Environ(), "HOME="+dir, "ASCEND_STATE_DIR="+filepath.Join(dir, "state"), "ASCEND_CONFIG="+filepath.Join(dir, "config.yaml"))
	p.Add(set)
	return p
}

// Add adds a target.
func (p *Product) Add(set target.Settings) {
	p.t.Helper()
	keep := p.t.TempDir() // what the secrets are read from is searched for none
	args := []string{"target", "add", set.Name, "--platform", string(set.Platform)}
	for k, v := range set.Values {
		args = append(args, "--set", k+"="+v)
	}
	for k, v := range set.Secrets {
		file := filepath.Join(keep, k)
		if err := os.WriteFile(file, []byte(v.Reveal()+"\n"), 0o600); err != nil {
			p.t.Fatal(err)
		}
		args = append(args, "--set", k+"_file="+file)
		p.secrets = append(p.secrets, v.Reveal())
	}
	p.Run(args...)
}

func (p *Product) command(args ...string) *exec.Cmd {
	c := exec.CommandContext(p.t.Context(), p.program, args...)
	c.Env = p.env
	return c
}

// Try runs it to its end.
func (p *Product) Try(args ...string) (string, error) {
	out, err := p.command(args...).CombinedOutput()
	p.said.Write(out)
	return string(out), err
}

// Run runs it to its end and wants success.
func (p *Product) Run(args ...string) string {
	p.t.Helper()
	out, err := p.Try(args...)
	if err != nil {
		p.t.Fatalf("ascend %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Kill begins to run it and kills it once a moment has come.
func (p *Product) Kill(moment func() bool, args ...string) {
	p.t.Helper()
	cmd := p.command(args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	over := make(chan struct{})
	go func() { _ = cmd.Wait(); close(over) }() // it is killed, or its words tell
	for start := time.Now(); !moment(); time.Sleep(2 * time.Millisecond) {
		select {
		case <-over:
			p.t.Fatalf("it ended before the moment came: %s", out.String())
		default:
		}
		if time.Since(start) > time.Minute {
			_ = cmd.Process.Kill()
			<-over
			p.t.Fatalf("the moment does not come: %s", out.String())
		}
	}
	for _, of := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", cmd.Process.Pid, of))
		if err != nil {
			p.t.Error(err)
		}
		p.look("the process's "+of, b, p.secrets)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
	<-over
	p.said.Write(out.Bytes())
}

func (p *Product) look(where string, b []byte, secrets []string) {
	p.t.Helper()
	for _, s := range secrets {
		if bytes.Contains(b, []byte(s)) {
			p.t.Errorf("%s holds %q", where, s)
		}
	}
}

// NothingSecret looks for the targets' secrets, and for what more is named, in all
// that the product said and wrote: logs, the database, receipts, errors.
func (p *Product) NothingSecret(more ...string) {
	p.t.Helper()
	secrets := slices.Concat(p.secrets, more)
	p.look("what was said", p.said.Bytes(), secrets)
	files := 0
	err := filepath.WalkDir(p.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		p.look(path, b, secrets)
		return err
	})
	if err != nil {
		p.t.Error(err)
	}
	if files < 3 || p.said.Len() == 0 { // configuration, database, receipt
		p.t.Errorf("only %d files and %d bytes of output were searched", files, p.said.Len())
	}
}

// ReceiptFile is where Receipt reads.
func (p *Product) ReceiptFile() string { return filepath.Join(p.Dir, "receipt.json") }

// Receipt is what a restore with --receipt ReceiptFile() says.
func (p *Product) Receipt() (r ProductReceipt) {
	p.t.Helper()
	b, err := os.ReadFile(p.ReceiptFile())
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		p.t.Fatalf("%v: %s", err, b)
	}
	return r
}

// ProductReceipt is what a test asks of a receipt.
type ProductReceipt struct {
	Job string `json:"job"`
	VM  struct {
		ID string `json:"id"`
	} `json:"vm"`
	Disks []struct {
		Object   string `json:"object"`
		Verified string `json:"verified"`
		Virtual  int64  `json:"virtual"`
	} `json:"disks"`
}

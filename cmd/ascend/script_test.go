package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"ascend/internal/appliance"
	"ascend/internal/appliance/appliancetest"
	"ascend/internal/qemu"
	"ascend/internal/store/storetest"
	"ascend/internal/target/aws/awssim"
)

func TestMain(m *testing.M) {
	qemu.Main()
	testscript.Main(whole{m}, map[string]func(){"ascend": func() { os.Exit(run(os.Args[1:])) }})
}

// whole runs the tests between making and removing what they share.
type whole struct{ *testing.M }

func (w whole) Run() int {
	var err error
	if programDir, err = os.MkdirTemp("", "ascend-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(programDir)
	return storetest.Main(w.M)
}

func TestScripts(t *testing.T) {
	im := appliancetest.Image(t)
	cache, err := appliance.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			for k, v := range map[string]string{
				"HOME": e.WorkDir, "ASCEND_STATE_DIR": filepath.Join(e.WorkDir, "state"), "ASCEND_CONFIG": filepath.Join(e.WorkDir, "config.yaml"),
			} {
				e.Setenv(k, v)
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"noise": noise, "exits": exits, "jsonlines": jsonLines, "json": jsonDocument, "damage": damage, "interrupt": interrupt, "copyone": copyOne, "edit": edit, "awsaccount": awsAccount, "guest": guestDisk,
			"appliance": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Setenv("ASCEND_CACHE_DIR", cache)
				ts.Setenv("ASCEND_AGENT", im.Agent)
			},
		},
	})
}

// noise FILE MIB makes a raw disk: random bytes in its first half.
func noise(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := make([]byte, n<<20)
	_, err = rand.NewChaCha8([32]byte{byte(n)}).Read(b[:len(b)/2])
	ts.Check(err)
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[0])), 0o755))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// exits CODE ARGS… runs the program and wants that exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("ascend", args[1:]...)
	got := "0"
	if e, ok := err.(interface{ ExitCode() int }); ok {
		got = strconv.Itoa(e.ExitCode())
	} else {
		ts.Check(err)
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, not %s: %v", got, args[0], args[1:])
	}
}

// jsonLines FILE WORD… wants every line to be an object, and each word as the
// event, step or state of one.
func jsonLines(ts *testscript.TestScript, _ bool, args []string) {
	seen := map[any]bool{}
	for _, l := range strings.Split(strings.TrimSpace(ts.ReadFile(args[0])), "\n") {
		m := map[string]any{}
		if err := json.Unmarshal([]byte(l), &m); err != nil {
			ts.Fatalf("%q: %v", l, err)
		}
		seen[m["event"]], seen[m["step"]], seen[m["state"]] = true, true, true
	}
	for _, w := range args[1:] {
		if !seen[w] {
			ts.Fatalf("no line says %s", w)
		}
	}
}

// jsonDocument FILE wants one JSON document and nothing after it.
func jsonDocument(ts *testscript.TestScript, _ bool, args []string) {
	if !json.Valid([]byte(ts.ReadFile(args[0]))) {
		ts.Fatalf("no JSON: %s", ts.ReadFile(args[0]))
	}
}

// damage FILE OFFSET turns a bit.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	b[at] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// copyOne PATTERN FILE copies the one file that a pattern matches.
func copyOne(ts *testscript.TestScript, _ bool, args []string) {
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(names) != 1 {
		ts.Fatalf("%s: %d files", args[0], len(names))
	}
	b, err := os.ReadFile(names[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o600))
}

// edit FROM TO SECTION OLD NEW copies a plan with one text replaced, the first of
// a section.
func edit(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	at := strings.Index(text, "\n"+args[2]+":")
	if at < 0 {
		at = strings.Index(text, "\n  \""+args[2]+"\":")
	}
	if at < 0 || !strings.Contains(text[at:], args[3]) {
		ts.Fatalf("%s has no %q below %s", args[0], args[3], args[2])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text[:at]+strings.Replace(text[at:], args[3], args[4], 1)), 0o600))
}

// interrupt SIGNAL FILE ARGS… runs the program and signals it once FILE, a
// pattern, is longer than nothing. Its exit code is in $EXIT, what it said in the
// file interrupted.
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	self, err := os.Executable()
	ts.Check(err)
	var out bytes.Buffer
	r, w, err := os.Pipe()
	ts.Check(err)
	p, err := os.StartProcess(self, append([]string{"ascend"}, args[2:]...), &os.ProcAttr{
		Dir: ts.MkAbs("."), Files: []*os.File{nil, w, w},
		Env: []string{"HOME=" + ts.Getenv("HOME"), "ASCEND_STATE_DIR=" + ts.Getenv("ASCEND_STATE_DIR"), "PATH=" + ts.Getenv("PATH")},
	})
	ts.Check(err)
	w.Close()
	read := make(chan struct{})
	go func() {
		_, _ = out.ReadFrom(r)
		close(read)
	}()
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if names, _ := filepath.Glob(ts.MkAbs(args[1])); len(names) > 0 {
			if st, err := os.Stat(names[0]); err == nil && st.Size() > 0 {
				break
			}
		}
		if time.Since(begin) > time.Minute {
			_ = p.Kill()
			<-read
			ts.Fatalf("%s did not appear: %s", args[1], out.String())
		}
	}
	time.Sleep(250 * time.Millisecond)
	sig := map[string]os.Signal{"INT": os.Interrupt, "KILL": syscall.SIGKILL}[args[0]]
	ts.Check(p.Signal(sig))
	st, err := p.Wait()
	ts.Check(err)
	<-read
	ts.Check(os.WriteFile(ts.MkAbs("interrupted"), out.Bytes(), 0o600))
	ts.Logf("%s", out.String())
	ts.Setenv("EXIT", strconv.Itoa(st.ExitCode()))
}

// guestDisk NAME FILE copies a disk that "make guests-ci" built.
func guestDisk(ts *testscript.TestScript, _ bool, args []string) {
	dir := os.Getenv("ASCEND_GUESTS")
	if dir == "" {
		dir = "/var/cache/ascend-guests"
	}
	b, err := os.ReadFile(filepath.Join(dir, args[0]+".qcow2"))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o600))
}

// awsAccount begins a simulated AWS account that the environment leads to.
func awsAccount(ts *testscript.TestScript, _ bool, _ []string) {
	sim := awssim.Start(awssim.Options{})
	ts.Defer(sim.Close)
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL": sim.URL, "AWS_ACCESS_KEY_ID": awssim.AccessKey, "AWS_SECRET_ACCESS_KEY": awssim.SecretKey, "AWS_EC2_METADATA_DISABLED": "true",
	} {
		ts.Setenv(k, v)
	}
}

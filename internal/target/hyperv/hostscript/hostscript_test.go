package hostscript

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// parsed is what testdata/parse.mjs finds in a script.
type parsed struct {
	Faults   []string `json:"faults"`
	Commands []struct {
		Line       int      `json:"line"`
		Name       string   `json:"name"`
		Operator   string   `json:"operator"`
		Parameters []string `json:"parameters"`
	} `json:"commands"`
	Functions []string `json:"functions"`
	Reads     []string `json:"reads"`
	Expanding []string `json:"expanding"`
	Calls     []string `json:"calls"`
}

// parse has a grammar of PowerShell read scripts.
func parse(t *testing.T, scripts ...string) []parsed {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "ascend", "tree-sitter-powershell-0.26.4")
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("tree-sitter-powershell is needed: run build/deps (%v)", err)
	}
	// Without the flag V8 compiles the grammar to faster code, for minutes.
	args := []string{"--liftoff-only", "testdata/parse.mjs", dir}
	for _, s := range scripts {
		name := filepath.Join(t.TempDir(), "script.ps1")
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, name)
	}
	var stderr strings.Builder
	cmd := exec.CommandContext(t.Context(), "node", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node (Debian package nodejs): %v\n%s", err, stderr.String())
	}
	var p []parsed
	if err := json.Unmarshal(out, &p); err != nil || len(p) != len(scripts) {
		t.Fatalf("%v\n%s", err, out)
	}
	return p
}

// releases whose reference pages count: the oldest host and a newer one.
const oldest, newer = "winserver2016-ps", "winserver2022-ps"

// sets are the parameter sets of each cmdlet, by release; those of Windows PowerShell
// 5.1 itself are of both.
func sets(t *testing.T) map[string]map[string][][]string {
	t.Helper()
	b, err := os.ReadFile("testdata/cmdlets.tsv")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string][][]string{oldest: {}, newer: {}}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if strings.HasPrefix(line, "#") || len(f) < 2 {
			continue
		}
		f = append(f, "")
		for release, cmdlets := range out {
			if strings.Contains(f[1], release) || strings.HasPrefix(f[1], "reference/5.1/") {
				cmdlets[f[0]] = append(cmdlets[f[0]], strings.Fields(f[2]))
			}
		}
	}
	return out
}

// common parameters of every cmdlet (about_CommonParameters) that the script uses.
var common = []string{"ErrorAction"}

// unknown lists uses of cmdlets and parameters that the reference does not know
// together in one parameter set.
func unknown(p parsed, known map[string][][]string) []string {
	var out []string
	for _, c := range p.Commands {
		if slices.Contains(p.Functions, c.Name) && c.Operator == "" {
			continue
		}
		fits := slices.ContainsFunc(known[c.Name], func(set []string) bool {
			for _, param := range c.Parameters {
				if param = strings.TrimPrefix(param, "-"); !slices.Contains(set, param) && !slices.Contains(common, param) {
					return false
				}
			}
			return true
		})
		if !fits {
			out = append(out, strings.Join(append([]string{c.Operator + c.Name}, c.Parameters...), " "))
		}
	}
	return out
}

// TestScript reads the script with a grammar of PowerShell: it parses; every
// cmdlet and parameter is one of the reference; no command is made of text; and what it
// reads of the document is what the document has.
func TestScript(t *testing.T) {
	p := parse(t, Script, Bootstrap)
	for i, name := range []string{"host.ps1", "the bootstrap"} {
		if len(p[i].Faults) > 0 {
			t.Errorf("%s does not parse: %q", name, p[i].Faults)
		}
	}
	script := p[0]
	if len(script.Commands) < 50 || len(script.Functions) < 10 {
		t.Fatalf("%d commands, %d functions", len(script.Commands), len(script.Functions))
	}
	for release, known := range sets(t) {
		for _, u := range unknown(script, known) {
			// The script asks first whether the host has it.
			if release != oldest || u != "Set-VM -VM -AutomaticCheckpointsEnabled" {
				t.Errorf("%s does not know: %s", release, u)
			}
		}
	}
	if len(script.Expanding) > 0 {
		t.Errorf("commands are made of text: %q", script.Expanding)
	}
	for _, c := range script.Commands {
		if c.Operator != "" || strings.HasPrefix(c.Name, "$") {
			t.Errorf("line %d runs what a value says", c.Line)
		}
	}
	for _, bad := range []string{"ScriptBlock", "InvokeScript", "InvokeCommand", "Invoke", "ExpandString", "NewScriptBlock"} {
		if slices.ContainsFunc(script.Calls, func(c string) bool { return strings.HasSuffix(c, bad) || strings.Contains(c, bad+"]") }) {
			t.Errorf("the script calls %s", bad)
		}
	}
	var has []string
	for f := range reflect.TypeFor[Request]().Fields() {
		has = append(has, f.Tag.Get("json"))
	}
	for _, r := range script.Reads {
		if !slices.Contains(has, r) {
			t.Errorf("the script reads %q, which no document has", r)
		}
	}
	for _, h := range has {
		if !slices.Contains(script.Reads, h) {
			t.Errorf("the script does not read %q", h)
		}
	}
	for _, op := range []string{OpLook, OpFolder, OpDisk, OpCreate, OpStart, OpState, OpRemove, OpDelete, OpPull} {
		if !strings.Contains(Script, "        '"+op+"' {") {
			t.Errorf("the script knows no %s", op)
		}
	}
	if n := len(Program + " " + strings.Join(Arguments(), " ")); n > 8000 {
		t.Errorf("the command line has %d characters", n)
	}
	if strings.Contains(Script, "\r") {
		t.Error("the script has carriage returns")
	}
}

// TestTheTestFails: a script with mistakes is told from one without.
func TestTheTestFails(t *testing.T) {
	p := parse(t, "if ($x { 1 }", "Set-VMFirmwares -VM $m\nSet-VM -VM $m -Name $n\n& $in.name\nNew-VM -Name \"x $($in.name)\"", "Set-VM -VM $m -Notes $n")
	if len(p[0].Faults) == 0 {
		t.Error("a missing bracket is no fault")
	}
	known := sets(t)[newer]
	if u := unknown(p[1], known); !slices.Contains(u, "Set-VMFirmwares -VM") || !slices.Contains(u, "Set-VM -VM -Name") {
		t.Errorf("unknown: %q", u)
	}
	if len(p[1].Expanding) != 1 || !strings.Contains(p[1].Commands[2].Operator+p[1].Commands[2].Name, "&") {
		t.Errorf("%+v", p[1])
	}
	if u := unknown(p[2], known); len(p[2].Faults)+len(u) != 0 {
		t.Errorf("%q %q", p[2].Faults, u)
	}
}

// TestAnswer reads what a host may say.
func TestAnswer(t *testing.T) {
	var l Look
	if err := Answer([]byte("eyJyZXN1bHQiOnsibmFtZSI6IkhWMSJ9fQ=="), &l); err != nil || l.Name != "HV1" {
		t.Errorf("%+v %v", l, err)
	}
	var e *Error
	if err := Answer([]byte("eyJlcnJvciI6eyJtZXNzYWdlIjoibm8iLCJjb21tYW5kIjoiTmV3LVZNIn19"), &l); !errors.As(err, &e) || e.Error() != "no (New-VM)" {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{"", "x", "eA==", "W10="} {
		if err := Answer([]byte(bad), &l); err == nil {
			t.Errorf("%q is an answer", bad)
		}
	}
}

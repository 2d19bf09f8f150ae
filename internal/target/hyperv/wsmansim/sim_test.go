package wsmansim

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"ascend/internal/target/hyperv/hostscript"
)

func start(t *testing.T, o Options) *Sim {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

type outcome struct {
	Stdout, Stderr string
	Code           int
}

// judge has somebody else's client run a program. The clients are Debian's
// python3-winrm, which the system's own Python has, and PyPI's pypsrp.
func judge(t *testing.T, s *Sim, client, auth, password, program string, args []string, input []byte) (outcome, error) {
	t.Helper()
	python := "python3"
	if client == "pywinrm" {
		python = "/usr/bin/python3"
	}
	job, err := json.Marshal(map[string]any{
		"url": s.URL, "ca": s.CAFile, "user": User, "password": password, "program": program, "arguments": args, "stdin": base64.StdEncoding.EncodeToString(input),
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/judge.py", client, auth)
	cmd.Stdin = bytes.NewReader(job)
	out, err := cmd.Output()
	if err != nil {
		if e, ok := err.(*exec.ExitError); ok {
			if strings.Contains(string(e.Stderr), "ModuleNotFoundError") {
				t.Fatalf("Debian's python3-winrm and PyPI's pypsrp are needed: run build/deps\n%s", e.Stderr)
			}
			return outcome{Stderr: string(e.Stderr)}, err
		}
		t.Fatal(err)
	}
	var r outcome
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return r, nil
}

// TestJudges: two clients that others wrote, and that speak to real Windows hosts,
// run the script on the simulated one; wrong passwords and other programs are refused.
func TestJudges(t *testing.T) {
	for _, c := range [][2]string{{"pywinrm", "ntlm"}, {"pywinrm", "ssl"}, {"pypsrp", "ntlm"}, {"pypsrp", "basic"}} {
		t.Run(c[0]+" "+c[1], func(t *testing.T) {
			t.Parallel()
			s := start(t, Options{Slow: 300 * time.Millisecond, Quiet: 100 * time.Millisecond})
			for range 300 {
				s.AddMachine(strings.Repeat("name ", 40)) // more than one part of output
			}
			input, err := hostscript.Input(hostscript.Request{Op: hostscript.OpLook})
			if err != nil {
				t.Fatal(err)
			}
			r, err := judge(t, s, c[0], c[1], Password, hostscript.Program, hostscript.Arguments(), input)
			if err != nil || r.Code != 0 {
				t.Fatalf("%v %d\n%s", err, r.Code, r.Stderr)
			}
			var l hostscript.Look
			if err := hostscript.Answer([]byte(r.Stdout), &l); err != nil || l.Name != HostName || len(l.Machines) != 300 {
				t.Errorf("%+v %v", l.Name, err)
			}
			if n := s.Shells(); n != 0 {
				t.Errorf("%d shells are left", n)
			}
		})
	}
	s := start(t, Options{})
	if r, err := judge(t, s, "pypsrp", "ntlm", "wrong", hostscript.Program, hostscript.Arguments(), nil); err == nil {
		t.Errorf("a wrong password is let in: %+v", r)
	}
	if r, err := judge(t, s, "pypsrp", "ntlm", Password, "cmd.exe", []string{"/c", "del", "*"}, []byte("x")); err == nil && r.Code == 0 || len(s.Foreign()) != 1 {
		t.Errorf("another program is run: %+v %v %q", r, err, s.Foreign())
	}
	other := strings.Replace(hostscript.Script, "Remove-VM", "Remove-Vm", 1)
	input := base64.StdEncoding.EncodeToString([]byte(other)) + "\n" + base64.StdEncoding.EncodeToString([]byte("{}")) + "\n"
	if r, err := judge(t, s, "pypsrp", "ntlm", Password, hostscript.Program, hostscript.Arguments(), []byte(input)); err != nil || r.Code == 0 || len(s.Foreign()) != 2 {
		t.Errorf("another script is run: %+v %v", r, err)
	}
}

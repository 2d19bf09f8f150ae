package prismsim

import (
	"os"
	"os/exec"
	"testing"
)

// TestBoto drives Objects Lite by boto3, which signs and parses by itself.
func TestBoto(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), "python3", "-c", "import boto3").CombinedOutput(); err != nil {
		t.Fatalf("boto3 is needed: apt-get install python3-boto3\n%s", out)
	}
	s, err := Start(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cmd := exec.CommandContext(t.Context(), "python3", "testdata/drive.py")
	cmd.Env = append(os.Environ(), "PRISM_URL="+s.URL, "PRISM_CA="+s.CAFile, "PRISM_USER="+User, "PRISM_PASSWORD="+Password)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if left := s.Inventory(); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

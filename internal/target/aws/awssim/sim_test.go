package awssim

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestBoto drives the account by boto3, which parses replies by the service's
// own models and signs by itself, through a snapshot, an image and an instance.
func TestBoto(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), "python3", "-c", "import boto3").CombinedOutput(); err != nil {
		t.Fatalf("boto3 is needed: apt-get install python3-boto3\n%s", out)
	}
	s := Start(Options{TLS: true})
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.CertificatePEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "python3", "testdata/drive.py")
	cmd.Env = append(os.Environ(), "AWS_CA_BUNDLE="+ca, "AWS_ENDPOINT_URL="+s.URL, "AWS_REGION=eu-central-1", "AWS_DEFAULT_REGION=eu-central-1",
		"AWS_ACCESS_KEY_ID="+AccessKey, "AWS_SECRET_ACCESS_KEY="+SecretKey, "SUBNET="+Subnet, "GROUP="+Group, "BUCKET="+Bucket)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if left := s.Inventory(); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

package aws

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ascend/internal/awsapi"
	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/aws/awssim"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// A restore by the product with temporary credentials, killed in the middle and run
// again: little is sent twice, the snapshot holds the disk, nothing secret is left
// anywhere, and undoing leaves nothing.
func TestProduct(t *testing.T) {
	var taken atomic.Int64 // blocks
	s := awssim.Start(awssim.Options{Log: func(x awssim.Exchange) {
		if x.Action == "PutSnapshotBlock" && x.Status == http.StatusCreated {
			taken.Add(1)
		}
	}})
	t.Cleanup(s.Close)
	const access, key, token = "ASIATEMPORARY0000001", "temporary/secret+key/never/seen", "temporary/session+token/never/seen=="
	s.AddKey(access, key, token, time.Now().Add(time.Hour))
	settings := func(name, key, token string) target.Settings {
		return target.Settings{
			Name: name, Platform: vm.AWS,
			Values:  map[string]string{setRegion: "eu-central-1", setEndpoint: s.URL, setKey: access},
			Secrets: map[string]secret.String{setSecret: secret.New(key), setToken: secret.New(token)},
		}
	}
	p := targettest.NewProduct(t, settings("there", key, token))
	p.Run("target", "validate", "there")
	const size = 40 << 20
	raw := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(raw) // never fails
	src := filepath.Join(p.Dir, "disk.raw")
	if err := os.WriteFile(src, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	s.SetLatency(10 * time.Millisecond)
	restore := []string{
		"restore", src, "-f", "raw", "--cpus", "2", "--memory", "4G", "--firmware", "bios", "--name", "web 01", "--to", "there", "--accept", "--power-on",
		"--place", "instance_type=m5.large", "--place", "subnet=" + awssim.Subnet, "--receipt", p.ReceiptFile(), "--keep", "-m", "4",
	}
	p.Kill(func() bool { return taken.Load() > 16 }, restore...)
	const blocks = size / awsapi.BlockSize
	if taken.Load() >= blocks {
		t.Fatal("all blocks were sent before the kill")
	}
	p.Run(restore...)
	// 4 workers were at units of two blocks.
	if again := taken.Load() - blocks; again > 8 {
		t.Errorf("%d blocks were sent twice; at most 8 were under way", again)
	}
	r := p.Receipt()
	if len(r.Disks) != 1 || r.Disks[0].Virtual != vm.GiB || s.State(r.VM.ID) != "running" {
		t.Fatalf("%+v", r)
	}
	got := s.Blocks(r.Disks[0].Object)
	for n := range int64(blocks) {
		if !bytes.Equal(got[n], raw[n*awsapi.BlockSize:][:awsapi.BlockSize]) {
			t.Fatalf("block %d is not the disk's", n)
		}
	}
	if len(got) != blocks {
		t.Errorf("%d blocks landed", len(got))
	}
	p.Run("verify", p.ReceiptFile())
	p.Run("jobs", "logs", r.Job)
	p.Run("jobs", "show", r.Job, "--json")
	p.Run("undo", r.Job)
	if left := s.Inventory(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	p.Add(settings("wrong key", "another/secret+key/that/is/wrong", token))
	p.Add(settings("wrong token", key, "another/session+token/that/is/wrong"))
	for _, name := range []string{"wrong key", "wrong token"} {
		if out, err := p.Try("target", "validate", name); err == nil || !strings.Contains(out, "identity") {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	p.NothingSecret("Signature=", "AWS4-HMAC-SHA256")
}

package aws

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"ascend/internal/disk"
	imgopen "ascend/internal/disk/open"
	"ascend/internal/image"
	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/aws/awssim"
	"ascend/internal/target/targettest"
	"ascend/internal/transfer"
	"ascend/internal/vm"
)

// BenchmarkColdsnap measures the upload of a raw disk of 1 GiB, a quarter of it
// data, against coldsnap, which sends to the same simulated account and leaves
// zeros out as well. Both are timed from the start to the sealed snapshot, ours
// with its digest of the disk, coldsnap with the start of its process.
//
//	cargo install --locked coldsnap
//	go test ./internal/target/aws -run '^$' -bench Coldsnap -benchtime 3x
//
// ratio-wall is ours by coldsnap's; requests are those to the EBS direct APIs. The
// simulator's latency is what the network's would be. Both snapshots must hold the
// same blocks.
func BenchmarkColdsnap(b *testing.B) {
	for _, c := range []struct {
		name    string
		latency time.Duration
	}{{"near", 0}, {"20ms", 20 * time.Millisecond}} {
		b.Run(c.name, func(b *testing.B) { benchColdsnap(b, c.latency) })
	}
}

func benchColdsnap(b *testing.B, latency time.Duration) {
	program, err := exec.LookPath("coldsnap")
	if err != nil {
		b.Fatalf("coldsnap is needed: cargo install --locked coldsnap: %v", err)
	}
	const size, data = 1 << 30, 256 << 20
	raw := filepath.Join(b.TempDir(), "disk.raw")
	f, err := os.Create(raw)
	if err != nil {
		b.Fatal(err)
	}
	rnd, piece := rand.NewChaCha8([32]byte{3}), make([]byte, 4<<20)
	for off := int64(0); off < size; off += int64(len(piece)) * (size / data) {
		_, _ = rnd.Read(piece) // never fails
		if _, err := f.WriteAt(piece, off); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		b.Fatal(err)
	}
	f.Close()
	var ours, theirs time.Duration
	var oursSent, theirsSent int
	for b.Loop() {
		d, n, holds := toAccount(b, latency, func(url string) { sendRaw(b, url, raw) })
		ours, oursSent = ours+d, oursSent+n
		d, n, same := toAccount(b, latency, func(url string) {
			cmd := exec.CommandContext(b.Context(), program, "--endpoint", url, "--region", "eu-central-1", "upload", "--no-progress", "--omit-zero-blocks", raw)
			cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+awssim.AccessKey, "AWS_SECRET_ACCESS_KEY="+awssim.SecretKey, "AWS_EC2_METADATA_DISABLED=true")
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		})
		theirs, theirsSent = theirs+d, theirsSent+n
		if holds != same {
			b.Fatalf("the snapshots differ: %x and %x", holds, same)
		}
	}
	n := float64(b.N)
	b.ReportMetric(ours.Seconds()/n, "s-ours")
	b.ReportMetric(theirs.Seconds()/n, "s-coldsnap")
	b.ReportMetric(ours.Seconds()/theirs.Seconds(), "ratio-wall")
	b.ReportMetric(float64(oursSent)/n, "requests-ours")
	b.ReportMetric(float64(theirsSent)/n, "requests-coldsnap")
}

// toAccount times how against a new account, counts its requests and digests the
// one snapshot that is there afterwards.
func toAccount(b *testing.B, latency time.Duration, how func(url string)) (took time.Duration, requests int, holds [sha256.Size]byte) {
	b.Helper()
	var sent atomic.Int64
	sim := awssim.Start(awssim.Options{})
	defer sim.Close()
	sim.SetLatency(latency)
	sim.SetFault(func(q awssim.Request) *awssim.Fault {
		if q.Service == "ebs" {
			sent.Add(1)
		}
		return nil
	})
	began := time.Now()
	how(sim.URL)
	took = time.Since(began)
	ids := sim.Snapshots()
	if len(ids) != 1 {
		b.Fatalf("%d snapshots", len(ids))
	}
	blocks, h := sim.Blocks(ids[0]), sha256.New()
	for _, n := range slices.Sorted(maps.Keys(blocks)) {
		fmt.Fprintln(h, n)
		h.Write(blocks[n])
	}
	return took, int(sent.Load()), [sha256.Size]byte(h.Sum(nil))
}

// sendRaw sends a raw file as a restore does.
func sendRaw(b *testing.B, url, raw string) {
	b.Helper()
	t, err := open(b.Context(), target.Settings{
		Values:  map[string]string{setRegion: "eu-central-1", setEndpoint: url, setKey: awssim.AccessKey},
		Secrets: map[string]secret.String{setSecret: secret.New(awssim.SecretKey)},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer t.Close()
	root, err := disk.OpenRoot(filepath.Dir(raw))
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	img, err := imgopen.Disk(root, filepath.Base(raw), "raw")
	if err != nil {
		b.Fatal(err)
	}
	defer img.Close()
	m, err := disk.ReadMap(b.Context(), img)
	if err != nil {
		b.Fatal(err)
	}
	d := t.Capabilities().Deliveries[0]
	o := &target.Order{
		Job: "bench", Machine: &vm.Machine{Name: "bench", Disks: []vm.Disk{{Size: img.Size()}}},
		Disks: []target.DiskOrder{{Delivery: d, Virtual: img.Size(), FileSize: img.Size()}},
	}
	s, err := t.Begin(b.Context(), o, new(targettest.MemRecorder))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close(b.Context())
	up, err := s.Upload(b.Context(), 0)
	if err != nil {
		b.Fatal(err)
	}
	file, err := image.New(image.Source{Disk: img, Map: m}, d.Format, image.Options{})
	if err != nil {
		b.Fatal(err)
	}
	res, err := transfer.Ranges(b.Context(), file, up.(target.RangeUpload), nil,
		transfer.Options{Workers: d.Workers, MaxRange: d.MaxRange, Block: d.Block, BlockSums: d.BlockSums})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := up.Complete(b.Context(), target.Sum{Bytes: res.Bytes, Blocks: res.Blocks}); err != nil {
		b.Fatal(err)
	}
}

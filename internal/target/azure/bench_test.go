package azure

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"ascend/internal/convert"
	"ascend/internal/disk"
	imgopen "ascend/internal/disk/open"
	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/target/azure/armsim"
	"ascend/internal/target/targettest"
	"ascend/internal/transfer"
)

// BenchmarkStaged measures a restore from a compressed qcow2 against the usual
// way: qemu-img convert to a fixed VHD, then writing the file's pages that are
// not zeros, one after the other ("serial") or 16 at once. Both end in Azurite.
//
//	go test ./internal/target/azure -run '^$' -bench Staged -benchtime 3x
//
// ratio-… is our wall time by theirs; unconverted is the part of the parallel way that is
// left when its conversion costs nothing. Azurite, one process of JavaScript, takes 15 to
// 30 MiB a second whoever sends, so that the ratios move with the machine's load.
func BenchmarkStaged(b *testing.B) {
	b.Run("dense", func(b *testing.B) { benchStaged(b, 96*mib) })
	b.Run("spread", func(b *testing.B) { benchStaged(b, mib) })
}

// benchStaged has 96 MiB of data in runs of so many bytes, spread evenly.
func benchStaged(b *testing.B, run int64) {
	const size, data = 1 << 30, 96 * mib
	dir := b.TempDir()
	raw, src := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
	f, err := os.Create(raw)
	if err != nil {
		b.Fatal(err)
	}
	rnd := rand.NewChaCha8([32]byte{9})
	piece := make([]byte, mib)
	for i := range int64(data / mib) { // spread over the disk, half of it compressible
		_, _ = rnd.Read(piece[:mib/2])
		copy(piece[mib/2:], bytes.Repeat([]byte("some text of a log file, again and again\n"), mib/80))
		if _, err := f.WriteAt(piece, i*mib/run*(size/data*run)+i*mib%run); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		b.Fatal(err)
	}
	f.Close()
	qemuImg(b, "convert", "-f", "raw", "-O", "qcow2", "-c", raw, src)
	var ours, serial, parallel, converting time.Duration
	for b.Loop() {
		ours += restoreOnce(b, func(up target.Upload) { computed(b, src, up) })
		serial += restoreOnce(b, func(up target.Upload) { staged(b, dir, src, up, 1) })
		parallel += restoreOnce(b, func(up target.Upload) { converting += staged(b, dir, src, up, 16) })
	}
	n := float64(b.N)
	b.ReportMetric(ours.Seconds()/n, "s-ours")
	b.ReportMetric(serial.Seconds()/n, "s-serial")
	b.ReportMetric(parallel.Seconds()/n, "s-parallel")
	b.ReportMetric(ours.Seconds()/serial.Seconds(), "ratio-serial")
	b.ReportMetric(ours.Seconds()/parallel.Seconds(), "ratio-parallel")
	b.ReportMetric((parallel-converting).Seconds()/parallel.Seconds(), "unconverted")
}

func qemuImg(b *testing.B, args ...string) {
	b.Helper()
	if out, err := exec.CommandContext(b.Context(), "qemu-img", args...).CombinedOutput(); err != nil {
		b.Fatalf("qemu-img %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// restoreOnce takes the time of sending one disk of 1 GiB, from the upload's
// opening to its end.
func restoreOnce(b *testing.B, how func(up target.Upload)) time.Duration {
	b.Helper()
	s := newSim(b, armsim.Options{})
	o, rec, tgt := s.order(b, "bench", 1024), new(targettest.MemRecorder), s.open(b)
	sess := begin(b, tgt, o, rec)
	up := upload0(b, sess, 0)
	began := time.Now()
	how(up)
	if _, err := up.Complete(b.Context(), target.Sum{Bytes: o.Disks[0].FileSize}); err != nil {
		b.Fatal(err)
	}
	took := time.Since(began)
	if err := targettest.UndoAll(b.Context(), tgt, rec); err != nil {
		b.Fatal(err)
	}
	return took
}

// computed sends the file while it is computed, as a restore does, digest
// included.
func computed(b *testing.B, src string, up target.Upload) {
	b.Helper()
	img, err := convert.OpenSource(src, "", imgopen.Options{Format: "qcow2"})
	if err != nil {
		b.Fatal(err)
	}
	defer img.Close()
	m, err := disk.ReadMap(b.Context(), img)
	if err != nil {
		b.Fatal(err)
	}
	f, err := image.New(image.Source{Disk: img, Map: m}, image.Format{Name: "vpc", Subformat: "fixed"}, image.Options{})
	if err != nil {
		b.Fatal(err)
	}
	d := (&azure{cfg: &config{}}).Capabilities().Deliveries[0]
	if _, err := transfer.Ranges(b.Context(), f, up.(target.RangeUpload), nil, transfer.Options{Workers: d.Workers, MaxRange: d.MaxRange}); err != nil {
		b.Fatal(err)
	}
}

// staged converts into a file and sends that, as scripts do. It tells how long the
// conversion took.
func staged(b *testing.B, dir, src string, up target.Upload, workers int) (converting time.Duration) {
	b.Helper()
	began := time.Now()
	vhd := filepath.Join(dir, "staged.vhd")
	qemuImg(b, "convert", "-f", "qcow2", "-O", "vpc", "-o", "subformat=fixed,force_size=on", src, vhd)
	converting = time.Since(began)
	defer os.Remove(vhd)
	u := up.(*upload)
	client, err := pageblob.NewClientWithNoCredential(u.access.url, &pageblob.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: u.s.t.cfg.http}})
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(vhd)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	work := make(chan int64)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			p := make([]byte, 4*mib)
			for off := range work {
				n, _ := f.ReadAt(p, off)
				if len(bytes.TrimLeft(p[:n], "\x00")) == 0 {
					continue
				}
				_, err := client.UploadPages(b.Context(), streaming.NopCloser(bytes.NewReader(p[:n])), blob.HTTPRange{Offset: off, Count: int64(n)}, nil)
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	st, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	for off := int64(0); off < st.Size(); off += 4 * mib {
		work <- off
	}
	close(work)
	wg.Wait()
	return converting
}

package aws

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ascend/internal/awsapi"
	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/aws/awssim"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// peer is a simulated account as the suite sees it.
type peer struct {
	sim    *awssim.Sim
	bucket string // of the target; "": none
}

// newS3Peer is one whose target has a bucket.
func newS3Peer(t testing.TB) targettest.Peer {
	p := newPeer(t).(*peer)
	p.bucket = awssim.Bucket
	return p
}

func newPeer(t testing.TB) targettest.Peer {
	p := &peer{sim: awssim.Start(awssim.Options{Invisible: 2})}
	t.Cleanup(p.sim.Close)
	return p
}

func (p *peer) open(t testing.TB, secretKey string) *cloud {
	t.Helper()
	c, err := open(t.Context(), target.Settings{
		Name: "sim", Platform: vm.AWS,
		Values:  map[string]string{setRegion: "eu-central-1", setEndpoint: p.sim.URL, setKey: awssim.AccessKey, setBucket: p.bucket},
		Secrets: map[string]secret.String{setSecret: secret.New(secretKey)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (p *peer) Open(t testing.TB) target.Target { return p.open(t, awssim.SecretKey) }

func (p *peer) Order(_ testing.TB, o *target.Order) {
	o.Placement.Fields = map[string]string{fieldSubnet: awssim.Subnet, fieldGroups: awssim.Group, fieldKey: awssim.KeyName}
}

// Read puts a disk together from the blocks of the snapshot that bears the
// order's tags, past the connector.
func (p *peer) Read(t testing.TB, o *target.Order, i int) []byte {
	t.Helper()
	list, err := p.open(t, awssim.SecretKey).c.Snapshots(t.Context(), awsapi.Params{}.Filter("tag:"+tagJob, o.Job).Filter("tag:"+tagPart, diskName(i)))
	if err != nil || len(list) != 1 {
		t.Fatalf("there are %d snapshots of disk %d: %v", len(list), i, err)
	}
	blocks := p.sim.Blocks(list[0].ID)
	out := make([]byte, (o.Disks[i].Virtual+awsapi.BlockSize-1)/awsapi.BlockSize*awsapi.BlockSize)
	for n, b := range blocks {
		if len(bytes.Trim(b, "\x00")) == 0 {
			t.Errorf("block %d of zeros was sent", n)
		}
		copy(out[n*awsapi.BlockSize:], b)
	}
	if len(bytes.Trim(out[o.Disks[i].Virtual:], "\x00")) != 0 {
		t.Error("the last block is not filled with zeros")
	}
	return out[:o.Disks[i].Virtual]
}

func (p *peer) Inventory(testing.TB) []string { return p.sim.Inventory() }

func (p *peer) Running(_ testing.TB, v *target.VM) bool {
	return len(p.sim.Running("Name", v.Name)) == 1
}

func (p *peer) Crash(testing.TB, target.Target) { p.sim.Drop() }

func (p *peer) Stall(testing.TB) func() { p.sim.Stall(); return p.sim.Release }

func (p *peer) Break(t testing.TB) map[string]target.Target {
	return map[string]target.Target{"wrong secret": p.open(t, "wrong"), "no such role": p.role(t)}
}

func (p *peer) role(t testing.TB) target.Target {
	c, err := open(t.Context(), target.Settings{
		Name: "sim", Platform: vm.AWS,
		Values: map[string]string{
			setRegion: "eu-central-1", setEndpoint: p.sim.URL, setKey: awssim.AccessKey, setRole: "arn:aws:iam::999999999999:role/other",
		},
		Secrets: map[string]secret.String{setSecret: secret.New(awssim.SecretKey)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// first gives the first n requests for an action to the fault.
func (p *peer) first(n int, action string, f awssim.Fault) func(testing.TB, *target.Order) {
	return func(testing.TB, *target.Order) {
		var mu sync.Mutex
		p.sim.SetFault(func(q awssim.Request) *awssim.Fault {
			mu.Lock()
			defer mu.Unlock()
			if q.Action != action || n == 0 {
				return nil
			}
			n--
			return &f
		})
	}
}

func (p *peer) Faults() []targettest.Fault {
	if p.bucket != "" {
		return []targettest.Fault{
			{Name: "S3 asks to slow down", Arm: p.first(4, "UploadPart", awssim.Fault{Status: 503, Code: "SlowDown"})},
			{Name: "connections break", Arm: p.first(4, "UploadPart", awssim.Fault{})},
			{Name: "parts' answers are lost", Arm: p.first(2, "UploadPart", awssim.Fault{Late: true})},
			{Name: "the object's answer is lost", Arm: p.first(1, "CompleteMultipartUpload", awssim.Fault{Late: true})},
			{Name: "the token expires before the commit", Arm: p.first(2, "CompleteMultipartUpload", awssim.Fault{Status: 400, Code: "ExpiredToken"})},
			{Name: "the import's answer is lost", Arm: p.first(1, "ImportSnapshot", awssim.Fault{Late: true})},
			{Name: "the upload's answer is lost", Arm: p.first(1, "CreateMultipartUpload", awssim.Fault{Late: true})},
		}
	}
	return []targettest.Fault{
		{Name: "a storm of throttling", Arm: p.first(6, "PutSnapshotBlock", awssim.Fault{Status: 400, Code: "RequestThrottledException"})},
		{Name: "429 for blocks", Arm: p.first(4, "PutSnapshotBlock", awssim.Fault{Status: 429, Code: "TooManyRequestsException"})},
		{Name: "503 for blocks", Arm: p.first(4, "PutSnapshotBlock", awssim.Fault{Status: 503, Code: "ServiceUnavailable"})},
		{Name: "connections break", Arm: p.first(4, "PutSnapshotBlock", awssim.Fault{})},
		{Name: "the token expires before the commit", Arm: p.first(2, "CompleteSnapshot", awssim.Fault{Status: 403, Code: "ExpiredTokenException"})},
		{Name: "the commit's answer is lost", Arm: p.first(1, "CompleteSnapshot", awssim.Fault{Late: true})},
		{Name: "blocks' answers are lost", Arm: p.first(3, "PutSnapshotBlock", awssim.Fault{Late: true})},
		{Name: "EC2 throttles", Arm: p.first(3, "DescribeSnapshots", awssim.Fault{Status: 503, Code: "RequestLimitExceeded"})},
		{Name: "registering is throttled", Arm: p.first(3, "RegisterImage", awssim.Fault{Status: 503, Code: "RequestLimitExceeded"})},
	}
}

func TestConformance(t *testing.T) {
	c, err := open(t.Context(), target.Settings{Values: map[string]string{setRegion: "eu-central-1"}})
	if err != nil {
		t.Fatal(err)
	}
	d := c.Capabilities().Deliveries[0]
	d.Align = 512 // what lies between an odd disk's end and its volume's is zeros
	t.Run(d.Path, func(t *testing.T) { targettest.Run(t, targettest.Harness{New: newPeer, Delivery: d}) })
	s3 := byS3()
	s3.Align = 512
	t.Run(s3.Path, func(t *testing.T) { targettest.Run(t, targettest.Harness{New: newS3Peer, Delivery: s3}) })
}

// TestPace plans at least 95 % of the service's ceiling at 100 ms of latency,
// and never more than the quota in any second, on a simulated clock.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const blocks = 20_000
		p := newPacer(putRate)
		work := make(chan int, blocks)
		for i := range blocks {
			work <- i
		}
		close(work)
		start := time.Now()
		var (
			wg   sync.WaitGroup
			mu   sync.Mutex
			sent []time.Duration
		)
		for range workers {
			wg.Go(func() {
				for range work {
					if err := p.wait(context.Background()); err != nil {
						t.Error(err)
					}
					mu.Lock()
					sent = append(sent, time.Since(start))
					mu.Unlock()
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		if r := blocks / time.Since(start).Seconds(); r < 950 {
			t.Errorf("%.0f blocks a second are planned, which is %.0f MiB/s", r, r/2)
		}
		for i := range sent {
			if j := i + 1000; j < len(sent) && sent[j]-sent[i] < time.Second {
				t.Fatalf("1,001 blocks are sent within %v", sent[j]-sent[i])
			}
		}
	})
}

// TestNoSecrets asks with a secret that is wrong and looks for it in what is said.
func TestNoSecrets(t *testing.T) {
	p := newPeer(t).(*peer)
	const wrong = "do-not-show-this-secret"
	for _, c := range p.open(t, wrong).Validate(t.Context()) {
		if s := fmt.Sprintf("%+v", c); bytes.Contains([]byte(s), []byte(wrong)) {
			t.Errorf("a check shows the secret: %s", s)
		}
	}
}

// TestAttach attaches disks to an instance that exists, twice, and undoes it.
func TestAttach(t *testing.T) {
	p := newPeer(t).(*peer)
	tgt := p.Open(t)
	mk := func(job string, attach string) (*target.VM, *targettest.MemRecorder) {
		o := &target.Order{
			Job: job, Machine: &vm.Machine{Name: "m " + job, CPU: vm.CPU{Sockets: 2}, Memory: 1 << 30, Firmware: vm.UEFI, Disks: []vm.Disk{{Size: 1 << 20}}},
			Disks:   []target.DiskOrder{{Delivery: tgt.Capabilities().Deliveries[0], Virtual: 1 << 20, FileSize: 1 << 20}},
			Options: map[string]string{optAttach: attach},
		}
		rec := new(targettest.MemRecorder)
		for range 2 {
			s, err := tgt.Begin(t.Context(), o, rec)
			if err != nil {
				t.Fatal(err)
			}
			u, err := s.Upload(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := u.Complete(t.Context(), target.Sum{Bytes: 1 << 20, Blocks: func(func(int64, [32]byte) bool) {}}); err != nil {
				t.Fatal(err)
			}
			v, err := s.Finish(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := s.PowerOn(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			if attach != "" || v.ID != "" {
				defer func() { _ = s.Close(context.Background()) }()
			}
			if attach == "" {
				return v, rec
			}
		}
		return &target.VM{ID: attach}, rec
	}
	host, _ := mk("host", "")
	before := len(p.sim.Inventory())
	_, rec := mk("guest", host.ID)
	if n := len(p.sim.Inventory()); n != before+2 {
		t.Errorf("a snapshot and a volume are made and there are %d things more: %q", n-before, p.sim.Inventory())
	}
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Fatal(err)
	}
	if n := len(p.sim.Inventory()); n != before {
		t.Errorf("undoing leaves %d things", n-before)
	}
}

package restore

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/plan"
	"ascend/internal/target"
	"ascend/internal/transfer"
	"ascend/internal/transfer/journal"
)

// Options of one run of a job.
type Options struct {
	Disks     int           // transfers at once; 0: 4
	Workers   int           // ranges at once for each disk; 0: the target's or the default
	InFlight  int64         // bytes at once for each disk; 0: the default
	Limit     *rate.Limiter // of all disks together; may be nil
	NoVerify  bool          // leave reading back out where the platform has no verdict of its own
	Key       ed25519.PrivateKey
	Software  string
	Observe   func(Event) // told what happens; called concurrently; may be nil
	OpenDisk  func(ctx context.Context, i int) (disk.Image, error)
	SyncEvery time.Duration
}

// Event is one thing that happened in a job.
type Event struct {
	Time   time.Time `json:"time"`
	Job    string    `json:"job"`
	Step   string    `json:"step"`
	Disk   int       `json:"disk"`  // position of the disk, -1: none
	State  string    `json:"state"` // started, done, failed
	Detail string    `json:"detail,omitempty"`
	// Meter of the disk's transfer, with State started of transfer and verify.
	Meter *transfer.Meter `json:"-"`
}

// Steps are the names of a plan's steps in order; those of the disks come once
// for each disk.
func Steps(p *plan.Plan) []string {
	s := []string{"open", "prepare", "transfer", "create", "verify"}
	if p.PowerOn {
		s = append(s, "power on")
	}
	return append(s, "receipt")
}

// Fingerprint identifies the files of opened images by their names, lengths and
// times, for Create and Run.
func Fingerprint(images []disk.Image) []string {
	var out []string
	for _, img := range images {
		info := img.Info()
		h := sha256.New()
		fmt.Fprintln(h, info.Size, info.FileBytes)
		for _, l := range info.Chain {
			fmt.Fprintf(h, "%q %s %d %d\n", l.Path, l.Format, l.Size, l.Modified.UnixNano())
		}
		out = append(out, hex.EncodeToString(h.Sum(nil)))
	}
	return out
}

// ErrSourceChanged: the backup is not the one that the job was begun with.
var ErrSourceChanged = errors.New("the backup has changed since this restore began")

// run is one execution of a job.
type run struct {
	j     *Job
	t     target.Target
	o     Options
	disks []disk.Image
	rec   *recorder
	began time.Time
}

// Run carries the job out, or on, and returns its receipt. On an error what was
// made stays recorded, for Run again or Undo.
func (j *Job) Run(ctx context.Context, t target.Target, o Options) (*Receipt, error) {
	if j.Status == Completed {
		return ReadReceipt(j.Receipt(), nil)
	}
	rec, err := j.recorder()
	if err != nil {
		return nil, err
	}
	if err := j.update(func(r *Record) { r.Status, r.Error = Running, "" }); err != nil {
		return nil, err
	}
	r := &run{j: j, t: t, o: o, rec: rec, began: time.Now()}
	receipt, err := r.all(ctx)
	for _, d := range r.disks {
		d.Close()
	}
	if err != nil {
		status := Failed
		if ctx.Err() != nil {
			status = Cancelled
			err = fmt.Errorf("restore cancelled: %w", err)
		}
		return nil, errors.Join(err, j.update(func(r *Record) { r.Status, r.Error = status, err.Error() }))
	}
	return receipt, nil
}

func (r *run) event(step string, disk int, state, detail string, m *transfer.Meter) {
	if r.o.Observe != nil {
		r.o.Observe(Event{Time: time.Now(), Job: r.j.ID, Step: step, Disk: disk, State: state, Detail: detail, Meter: m})
	}
}

// step runs f as a named step.
func (r *run) step(name string, f func() (string, error)) error {
	r.event(name, -1, "started", "", nil)
	detail, err := f()
	if err != nil {
		r.event(name, -1, "failed", err.Error(), nil)
		return err
	}
	r.event(name, -1, "done", detail, nil)
	return nil
}

func (r *run) all(ctx context.Context) (*Receipt, error) {
	p := r.j.Plan
	if err := r.step("open", func() (string, error) { return "", r.open(ctx) }); err != nil {
		return nil, err
	}
	var s target.Session
	err := r.step("prepare", func() (_ string, err error) {
		s, err = r.t.Begin(ctx, p.Order(r.j.ID), r.rec)
		return "", err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot begin on %s: %w", p.Target.Name, err)
	}
	defer s.Close(context.WithoutCancel(ctx))
	if err := r.step("transfer", func() (string, error) { return "", r.transferAll(ctx, s) }); err != nil {
		return nil, err
	}
	var v *target.VM
	err = r.step("create", func() (string, error) {
		if v, err = s.Finish(ctx); err != nil {
			return "", err
		}
		return v.Name, r.j.update(func(rec *Record) { rec.VM = v })
	})
	if err != nil {
		return nil, fmt.Errorf("cannot create the machine: %w", err)
	}
	if err := r.step("verify", func() (string, error) { return r.verifyAll(ctx, s) }); err != nil {
		return nil, err
	}
	if p.PowerOn {
		if err := r.step("power on", func() (string, error) { return "", s.PowerOn(ctx, v) }); err != nil {
			return nil, fmt.Errorf("cannot power on the machine: %w", err)
		}
	}
	var receipt *Receipt
	err = r.step("receipt", func() (string, error) {
		receipt, err = r.receipt(v)
		return r.j.Receipt(), err
	})
	return receipt, err
}

func (r *run) open(ctx context.Context) error {
	for i := range r.j.Plan.Disks {
		img, err := r.o.OpenDisk(ctx, i)
		if err != nil {
			return err
		}
		r.disks = append(r.disks, img)
	}
	if !slices.Equal(Fingerprint(r.disks), r.j.Source) {
		return fmt.Errorf("%w: undo the job and start again", ErrSourceChanged)
	}
	return nil
}

func (r *run) transferAll(ctx context.Context, s target.Session) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(r.o.Disks, 0) + map[bool]int{true: 4, false: 0}[r.o.Disks <= 0])
	for i := range r.disks {
		g.Go(func() error {
			if r.j.landed(i) != nil {
				return nil
			}
			d, err := r.transfer(ctx, s, i)
			if err != nil {
				r.event("transfer", i, "failed", err.Error(), nil)
				return fmt.Errorf("disk %d: %w", r.j.Plan.Disks[i].Index, err)
			}
			r.event("transfer", i, "done", d.Object, nil)
			return r.j.update(func(rec *Record) { rec.Landed[i] = d })
		})
	}
	return g.Wait()
}

func (j *Job) landed(i int) *DiskReceipt {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.Landed[i]
}

// transfer moves one disk, or what of it has not landed.
func (r *run) transfer(ctx context.Context, s target.Session, i int) (*DiskReceipt, error) {
	pd := r.j.Plan.Disks[i]
	d := &DiskReceipt{Index: pd.Index, Virtual: pd.Virtual, Chain: pd.Source.Chain, Format: pd.Delivery.Format, Started: time.Now().UTC().Truncate(time.Millisecond)}
	src, patches, err := r.source(i)
	if err != nil {
		return nil, err
	}
	d.Patches, d.Allocated = patches, src.Map.Bytes()
	meter := transfer.NewMeter()
	r.event("transfer", i, "started", "", meter)
	u, err := s.Upload(ctx, i)
	if err != nil {
		return nil, err
	}
	defer u.Abort()
	jn, err := r.journal(i, src.Map)
	if err != nil {
		return nil, err
	}
	defer jn.Close()
	src.Map = jn.Map()
	res, err := Send(ctx, src, pd.Delivery, image.Options{BlockSize: pd.BlockSize, Level: pd.Level, Seed: r.seed(i), Name: r.j.Plan.Machine.Name}, u, jn, transfer.Options{
		Workers: r.o.Workers, InFlight: r.o.InFlight, Limit: r.o.Limit, Meter: meter, SyncEvery: r.o.SyncEvery,
	})
	if err != nil {
		return nil, err
	}
	if err := r.disks[i].Unchanged(); err != nil {
		return nil, err
	}
	landed, err := u.Complete(ctx, target.Sum{Bytes: res.Bytes, SHA1: res.Sums["sha1"], SHA256: res.Sums["sha256"], Blocks: res.Blocks})
	if err != nil {
		return nil, err
	}
	d.Digest, d.Bytes, d.Sent, d.Object, d.Verified = res.Digest, res.Bytes, res.Sent, landed.Object, landed.Verdict
	d.SHA1, d.SHA256 = hex.EncodeToString(res.Sums["sha1"]), hex.EncodeToString(res.Sums["sha256"])
	d.Finished = time.Now().UTC().Truncate(time.Millisecond)
	return d, nil
}

// source is the disk as it is to be sent: padded where the target asks for it.
func (r *run) source(i int) (image.Source, []image.Patch, error) {
	m, err := r.j.Map(i)
	if err != nil {
		return image.Source{}, nil, err
	}
	src := image.Source{Disk: r.disks[i], Map: m}
	if a := r.j.Plan.Disks[i].Delivery.Align; a > 1 {
		padded, err := image.Pad(src, a)
		if err != nil {
			return image.Source{}, nil, err
		}
		return padded.Source, padded.Patches, nil
	}
	return src, nil, nil
}

func (r *run) seed(i int) [32]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s/%d", r.j.Plan.Seed, i))
}

// journal continues the disk's journal, or begins one when there is none or the
// target cannot go on with an upload.
func (r *run) journal(i int, m *disk.Map) (*journal.Journal, error) {
	pd := r.j.Plan.Disks[i]
	key := fmt.Sprintf("%s disk %d as %s", r.j.ID, i, pd.Delivery.Format)
	path := r.j.path(fmt.Sprintf("disk-%d.journal", i))
	if pd.Delivery.Resumable {
		jn, err := journal.Load(path, key)
		if !errors.Is(err, journal.ErrNone) {
			return jn, err
		}
	}
	return journal.Create(path, key, m)
}

// Send moves one disk to an upload in the way the delivery says.
func Send(ctx context.Context, src image.Source, d target.Delivery, io image.Options, u target.Upload, jn *journal.Journal, o transfer.Options) (*transfer.Result, error) {
	if o.Workers == 0 {
		o.Workers = d.Workers
	}
	o.MaxRange, o.Block, o.BlockSums, o.Dirty, o.Sums = d.MaxRange, d.Block, d.BlockSums, !d.Clean, d.Digests
	if !d.Format.Ordered() {
		f, err := image.New(src, d.Format, io)
		if err != nil {
			return nil, err
		}
		switch u := u.(type) {
		case target.RangeUpload:
			return transfer.Ranges(ctx, f, u, jn, o)
		case target.StreamUpload:
			return transfer.Sequential(ctx, f, u, jn, o)
		}
		return nil, fmt.Errorf("upload takes neither ranges nor a stream")
	}
	s, err := image.NewStream(src, d.Format, io)
	if err != nil {
		return nil, err
	}
	su, ok := u.(target.StreamUpload)
	if !ok {
		return nil, fmt.Errorf("%s is made in order and the upload takes ranges", d.Format)
	}
	return transfer.Stream(ctx, src, s, su, jn, o)
}

// verifyAll reads every disk back that the platform itself did not check.
func (r *run) verifyAll(ctx context.Context, s target.Session) (string, error) {
	rb, ok := target.As[target.ReadBacker](s)
	how := "by the platform's own digest"
	for i := range r.disks {
		d := r.j.landed(i)
		if d.Verified != "" || !ok || r.o.NoVerify {
			if d.Verified == "" {
				how = "not verified: the platform has no verdict"
			}
			continue
		}
		meter := transfer.NewMeter()
		r.event("verify", i, "started", "", meter)
		if err := r.readBack(ctx, rb, i, d, meter); err != nil {
			r.event("verify", i, "failed", err.Error(), nil)
			return "", fmt.Errorf("disk %d: %w", d.Index, err)
		}
		r.event("verify", i, "done", d.Digest.String(), nil)
		if err := r.j.update(func(*Record) { d.Verified = "read back" }); err != nil {
			return "", err
		}
		how = "read back"
	}
	return how, nil
}

func (r *run) readBack(ctx context.Context, rb target.ReadBacker, i int, d *DiskReceipt, meter *transfer.Meter) error {
	img, err := rb.ReadBack(ctx, i)
	if err != nil {
		return fmt.Errorf("cannot read back: %w", err)
	}
	defer img.Close()
	return CheckDigest(ctx, img, d.Virtual, d, meter)
}

// CheckDigest reads a disk and compares its digest with the receipt's.
func CheckDigest(ctx context.Context, img disk.Disk, size int64, d *DiskReceipt, meter *transfer.Meter) error {
	if img.Size() != size {
		return fmt.Errorf("%w: the disk has %d bytes and should have %d", target.ErrDigest, img.Size(), size)
	}
	m, err := disk.ReadMap(ctx, img)
	if err != nil {
		return err
	}
	sum, err := transfer.Scan(ctx, image.Source{Disk: img, Map: m}, transfer.Options{Meter: meter})
	if err != nil {
		return err
	}
	if sum != d.Digest {
		return fmt.Errorf("%w: %v landed and %v was sent", target.ErrDigest, sum, d.Digest)
	}
	return img.Unchanged()
}

func (r *run) receipt(v *target.VM) (*Receipt, error) {
	p := r.j.Plan
	rc := &Receipt{
		Version: 1, Job: r.j.ID, Software: r.o.Software, Started: r.j.Created.Truncate(time.Millisecond), Finished: time.Now().UTC().Truncate(time.Millisecond),
		Backup: p.Backup, Target: p.Target, VM: *v, PoweredOn: p.PowerOn,
	}
	for i := range p.Disks {
		rc.Disks = append(rc.Disks, r.j.landed(i))
	}
	if err := rc.SignWith(r.o.Key); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(rc, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := writeFile(r.j.Receipt(), append(b, '\n')); err != nil {
		return nil, fmt.Errorf("cannot write receipt: %w", err)
	}
	if err := r.j.update(func(rec *Record) { rec.Status = Completed }); err != nil {
		return nil, err
	}
	r.forget()
	return rc, nil
}

// forget removes what only a resume needs.
func (r *run) forget() {
	for i := range r.j.Plan.Disks {
		_ = os.Remove(r.j.path(fmt.Sprintf("disk-%d.journal", i)))
		_ = os.Remove(r.j.path(fmt.Sprintf("disk-%d.map", i)))
	}
}

// Undo removes everything the job recorded, the newest first, and nothing else.
// It goes on after a failure and returns all of them; run it again to retry.
func (j *Job) Undo(ctx context.Context, t target.Target) error {
	rec, err := j.recorder()
	if err != nil {
		return err
	}
	// What is half undone is not gone on with: a new Run sends everything again.
	j.remove("disk-*.journal")
	if err := j.update(func(r *Record) { r.Landed, r.VM = map[int]*DiskReceipt{}, nil }); err != nil {
		return err
	}
	all, err := rec.Recorded(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, res := range slices.Backward(all) {
		if res.Gone {
			continue
		}
		if err := t.Undo(ctx, res); err != nil {
			errs = append(errs, fmt.Errorf("cannot undo %s %q: %w", res.Kind, res.Name, err))
			continue
		}
		res.Gone = true
		if err := rec.Record(ctx, res); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	j.remove("disk-*.map")
	return j.update(func(r *Record) { r.Status = Undone })
}

// remove removes the job's files of a pattern.
func (j *Job) remove(pattern string) {
	names, _ := filepath.Glob(j.path(pattern))
	for _, n := range names {
		_ = os.Remove(n)
	}
}

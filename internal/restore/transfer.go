package restore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/transfer"
	"ascend/internal/transfer/digest"
	"ascend/internal/transfer/journal"
)

// Levels of a note.
const (
	levelInfo    = "info"
	levelWarning = "warning"
)

// transfer sends one disk, or what of it has not landed.
func (t *task) transfer(ctx context.Context) (err error) {
	u, err := t.session(ctx)
	if err != nil {
		return err
	}
	defer func() { u.done(err) }()
	if err := t.deliver(ctx, u, t.in.Disk); err != nil {
		return diskError(t.spec, t.in.Disk, err)
	}
	return t.done(ctx)
}

// deliver sees to it that disk i has landed: it sends it unless it is known to
// be there.
func (t *task) deliver(ctx context.Context, u *use, i int) error {
	known, err := t.landed(ctx, i)
	if err != nil {
		return err
	}
	if known != nil && (t.spec.Plan.Disks[i].Delivery.Resumable || known.Session == u.token) {
		return nil
	}
	if known != nil {
		there, err := t.isThere(ctx, u, known, i)
		if err != nil || there {
			return err
		}
		if err := t.note(ctx, levelWarning, "disk %d is sent again: what had landed went with the interrupted upload", t.spec.Plan.Disks[i].Index); err != nil {
			return err
		}
	}
	up, err := u.Upload(ctx, i)
	if errors.Is(err, target.ErrExpired) {
		return errors.Join(err, t.dropJournal(ctx, i))
	}
	if err != nil {
		return err
	}
	defer up.Abort()
	l, err := t.send(ctx, up, i)
	if errors.Is(err, target.ErrExpired) {
		return errors.Join(err, t.dropJournal(ctx, i)) // all of it must be sent again
	}
	if err != nil {
		return err
	}
	l.Session = u.token
	if err := t.save(ctx, blobLanded(i), l); err != nil {
		return err
	}
	if l.Empty {
		if err := t.note(ctx, levelWarning, "disk %d is empty: it holds nothing but zeros", l.Index); err != nil {
			return err
		}
	}
	return t.dropJournal(ctx, i)
}

// isThere asks the target for a disk that landed in a session that is over,
// where uploads do not survive theirs: the upload answers for a disk that it has
// whole and refuses for one that it has not.
func (t *task) isThere(ctx context.Context, u *use, l *landing, i int) (bool, error) {
	up, err := u.Upload(ctx, i)
	if err != nil {
		return false, err
	}
	defer up.Abort()
	landed, err := up.Complete(ctx, l.sum())
	if err != nil {
		return false, ctx.Err() // a connection that broke meanwhile costs sending again
	}
	l.Session, l.Object = u.token, landed.Object
	return true, t.save(ctx, blobLanded(i), l)
}

// sum is what was sent, as Complete takes it.
func (l *landing) sum() target.Sum {
	s := target.Sum{Bytes: l.Bytes}
	s.SHA1, _ = hex.DecodeString(l.SHA1)     // as we wrote it
	s.SHA256, _ = hex.DecodeString(l.SHA256) // likewise
	return s
}

// send moves the bytes of disk i and completes the upload.
func (t *task) send(ctx context.Context, up target.Upload, i int) (*landing, error) {
	pd, o := t.spec.Plan.Disks[i], t.spec.Options
	release, err := t.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	origin, err := t.source(ctx)
	if err != nil {
		return nil, err
	}
	defer origin.Close()
	img, err := t.openDisk(ctx, origin, i)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	src, patches, err := t.padded(ctx, img, i)
	if err != nil {
		return nil, err
	}
	l := &landing{DiskReceipt: DiskReceipt{Index: pd.Index, Virtual: pd.Virtual, Chain: pd.Source.Chain, Format: pd.Delivery.Format, Patches: patches, Allocated: src.Map.Bytes(), Started: stamp()}}
	jn, err := t.journal(ctx, i, into(up), src.Map)
	if err != nil {
		return nil, err
	}
	defer jn.Close()
	src.Map = jn.Map()
	meter := transfer.NewMeter()
	stop := t.follow(ctx, meter)
	defer stop()
	res, err := Send(ctx, src, pd.Delivery, t.imageOptions(i),
		guard(up, t.gate()), jn.Journal, transfer.Options{Workers: o.Workers, InFlight: o.InFlight, Meter: meter, SyncEvery: t.s.syncEvery})
	if err != nil {
		return nil, err
	}
	if err := img.Unchanged(); err != nil {
		return nil, err
	}
	landed, err := up.Complete(ctx, target.Sum{Bytes: res.Bytes, SHA1: res.Sums["sha1"], SHA256: res.Sums["sha256"], Blocks: res.Blocks})
	if err != nil {
		return nil, err
	}
	l.Digest, l.Bytes, l.Sent, l.Object, l.Verified = res.Digest, res.Bytes, res.Sent, landed.Object, landed.Verdict
	l.SHA1, l.SHA256 = hex.EncodeToString(res.Sums["sha1"]), hex.EncodeToString(res.Sums["sha256"])
	l.Finished = stamp()
	if l.Empty, err = isEmpty(res.Digest, src.Size()); err != nil {
		return nil, err
	}
	t.measured(ctx, "transfer", meter.Read())
	return l, nil
}

// isEmpty tells whether a digest is that of a disk of zeros.
func isEmpty(sum digest.Sum, size int64) (bool, error) {
	zeros, err := digest.NewRoot(size, func(int64) bool { return true }).Sum()
	return sum == zeros, err
}

// measured keeps the rate that was reached, for later estimates. Less than a
// second says nothing.
func (t *task) measured(ctx context.Context, what string, p transfer.Progress) {
	if fresh := p.Done - p.Resumed; p.Elapsed >= time.Second && fresh > 0 {
		// An estimate is not worth a failed step.
		_ = t.s.store.Measured(ctx, t.spec.Plan.Target.Name, what, fresh, p.Elapsed)
	}
}

// slot waits until the job may send or read back one more disk. The job's own
// bound comes first, so that a waiting disk keeps none of another job away.
func (t *task) slot(ctx context.Context) (release func(), err error) {
	waiting := func() {
		// A line in the log is not worth a failed step.
		_ = t.note(ctx, levelInfo, "%s waits for its turn: as many disks as allowed are under way", t.a.Step.Name)
	}
	one, err := t.s.ownSlots(t.a.Job, t.spec.Options.Disks).acquire(ctx, t.a.Job, waiting)
	if err != nil {
		return nil, err
	}
	two, err := t.s.limits.disks.acquire(ctx, t.a.Job, waiting)
	if err != nil {
		one()
		return nil, err
	}
	return func() { two(); one() }, nil
}

func (t *task) gate() *gate {
	g := &gate{job: t.a.Job, all: &t.s.limits.bandwidth, requests: t.s.limits.ofTarget(t.spec.Plan.Target.Name)}
	if b := t.spec.Options.Bandwidth; b > 0 {
		g.own = t.s.ownRate(t.a.Job, b)
	}
	return g
}

// newRate is a cap of b bytes a second with a burst that one write fits in.
func newRate(b int64) *rate.Limiter { return rate.NewLimiter(rate.Limit(b), int(min(b, 1<<20))) }

// padded is the disk as it is to be sent: padded where the target asks for it.
func (t *task) padded(ctx context.Context, img disk.Image, i int) (image.Source, []image.Patch, error) {
	m, err := t.extents(ctx, i)
	if err != nil {
		return image.Source{}, nil, err
	}
	src := image.Source{Disk: img, Map: m}
	if size := t.spec.Plan.Disks[i].Delivery.Padded(src.Size()); size != src.Size() {
		padded, err := image.Pad(src, size)
		if err != nil {
			return image.Source{}, nil, err
		}
		return padded.Source, padded.Patches, nil
	}
	return src, nil, nil
}

func (t *task) seed(i int) [32]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s/%d", t.spec.Plan.Seed, i))
}

func (t *task) imageOptions(i int) image.Options {
	d := t.spec.Plan.Disks[i]
	return image.Options{BlockSize: d.BlockSize, Level: d.Level, Seed: t.seed(i), Name: t.spec.Plan.Machine.Name}
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

// forgetDisk undoes a transfer's own part: what was sent is removed with what
// was created, and the disk is not taken for landed again.
func (t *task) forgetDisk(ctx context.Context) error {
	if err := t.s.store.DeleteBlob(ctx, t.a.Job, blobLanded(t.in.Disk)); err != nil {
		return err
	}
	return t.dropJournal(ctx, t.in.Disk)
}

// verify reads a landed disk back, unless the platform itself checked what it
// received.
func (t *task) verify(ctx context.Context) (err error) {
	i := t.in.Disk
	l, err := t.landed(ctx, i)
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("disk %d has not landed: %w", t.spec.Plan.Disks[i].Index, errNotLanded)
	}
	if l.Verified != "" || l.Unverified != "" {
		return t.done(ctx)
	}
	u, err := t.session(ctx)
	if err != nil {
		return err
	}
	defer func() { u.done(err) }()
	rb, ok := target.As[target.ReadBacker](u.Session)
	switch {
	case t.spec.Options.NoVerify:
		l.Unverified = "verification was left out, as asked for"
	case !ok:
		l.Unverified = "the platform has no digest of its own and its disks cannot be read back"
	default:
		if err := t.readBack(ctx, rb, l, i); err != nil {
			return diskError(t.spec, i, err)
		}
		l.Verified = "read back"
	}
	if l.Unverified != "" {
		if err := t.note(ctx, levelWarning, "disk %d was not verified: %s", l.Index, l.Unverified); err != nil {
			return err
		}
	}
	if err := t.save(ctx, blobLanded(i), l); err != nil {
		return err
	}
	return t.done(ctx)
}

var errNotLanded = errors.New("nothing to verify")

func (t *task) readBack(ctx context.Context, rb target.ReadBacker, l *landing, i int) error {
	release, err := t.slot(ctx)
	if err != nil {
		return err
	}
	defer release()
	img, err := rb.ReadBack(ctx, i)
	if err != nil {
		return fmt.Errorf("cannot read back: %w", err)
	}
	defer img.Close()
	meter := transfer.NewMeter()
	stop := t.follow(ctx, meter)
	defer stop()
	if err := CheckDigest(ctx, img, l.Virtual, &l.DiskReceipt, meter); err != nil {
		return err
	}
	t.measured(ctx, "verify", meter.Read())
	return nil
}

// CheckDigest reads a disk and compares its digest with the receipt's.
func CheckDigest(ctx context.Context, img disk.Disk, size int64, d *DiskReceipt, meter *transfer.Meter) error {
	if img.Size() != size {
		return fmt.Errorf("%w: the disk has %d bytes and should have %d", target.ErrDigest, img.Size(), size)
	}
	return checkSource(ctx, img, d, meter)
}

// CheckBackup is CheckDigest of a backup's disk, which is padded as it was on its
// way when the target's disk is larger.
func CheckBackup(ctx context.Context, img disk.Disk, d *DiskReceipt, meter *transfer.Meter) error {
	if img.Size() >= d.Virtual {
		return CheckDigest(ctx, img, d.Virtual, d, meter)
	}
	return checkSource(ctx, img, d, meter)
}

// checkSource compares the digest of a disk, padded to the receipt's size.
func checkSource(ctx context.Context, img disk.Disk, d *DiskReceipt, meter *transfer.Meter) error {
	m, err := disk.ReadMap(ctx, img)
	if err != nil {
		return err
	}
	src := image.Source{Disk: img, Map: m}
	if img.Size() < d.Virtual {
		padded, err := image.Pad(src, d.Virtual)
		if err != nil {
			return err
		}
		src = padded.Source
	}
	sum, err := transfer.Scan(ctx, src, transfer.Options{Meter: meter})
	if err != nil {
		return err
	}
	if sum != d.Digest {
		return fmt.Errorf("%w: %v landed and %v was sent", target.ErrDigest, sum, d.Digest)
	}
	return img.Unchanged()
}

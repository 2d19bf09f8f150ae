package restore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ascend/internal/adapt"
	"ascend/internal/boot"
	"ascend/internal/disk"
	"ascend/internal/disk/overlay"
	"ascend/internal/engine"
	"ascend/internal/guest"
	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// Guest is what the plan has decided of the system on the disks.
type Guest struct {
	Inspection *guest.Inspection `json:"inspection"`
	// Adaptation is carried out as it stands; nil: nothing is changed.
	Adaptation *guest.Adaptation `json:"adaptation,omitempty"`
	// KeyFiles hold keys of the guest's LUKS containers: they are read when they are
	// needed, and kept nowhere.
	KeyFiles []string `json:"key_files,omitempty"`
	Proof    Proof    `json:"proof,omitempty"`
}

// Proof says what a boot proof is for.
type Proof struct {
	Mode ProofMode `json:"mode,omitempty"`
	// Grade is the least that Require takes; "": C, everything that comes up.
	Grade boot.Grade `json:"grade,omitempty"`
}

// ProofMode is whether a boot is tried before the first byte is sent.
type ProofMode string

// Modes of a boot proof.
const (
	ProofOff     ProofMode = "off"
	ProofAdvise  ProofMode = "advise"  // a machine that does not come up is a warning
	ProofRequire ProofMode = "require" // it stops the job
)

// ParseProof reads off, advise, require or require:GRADE.
func ParseProof(s string) (Proof, error) {
	mode, grade, graded := strings.Cut(s, ":")
	p := Proof{Mode: ProofMode(mode), Grade: boot.Grade(strings.ToUpper(grade))}
	switch p.Mode {
	case "", ProofOff, ProofAdvise, ProofRequire:
	default:
		return p, fmt.Errorf("a boot proof is off, advise, require or require:GRADE, not %q", s)
	}
	if graded && (p.Mode != ProofRequire || slices.Index(grades, p.Grade) < 0) {
		return p, fmt.Errorf("boot proof %s: a grade is A, B or C, and stands with require", s)
	}
	return p, nil
}

// GuestReceipt is the part of the guest.
type GuestReceipt struct {
	*adapt.Result
	// Layers identify what was changed on each disk; Disks[i].Digest includes it.
	Layers []string `json:"layers,omitempty"`
	// FileSizes are the lengths of the target files with the changes; -1: known at the
	// end. The plan's are those of the disks as backed up.
	FileSizes []int64      `json:"file_sizes,omitempty"`
	Proof     *boot.Result `json:"proof,omitempty"`
	// ProofFailed says why nothing could be proven either way.
	ProofFailed string `json:"proof_failed,omitempty"`
}

// Changed tells whether disk i was sent with changes of the guest.
func (g *GuestReceipt) Changed(i int) bool {
	none := sha256.Sum256(nil)
	return g != nil && i < len(g.Layers) && g.Layers[i] != hex.EncodeToString(none[:])
}

func (s *Spec) adapts() bool {
	return s.Guest != nil && s.Guest.Adaptation != nil && !s.Guest.Adaptation.Nothing()
}

func (s *Spec) proves() bool { return s.Guest != nil && s.Guest.Proof.Wanted() }

// Wanted tells whether a boot is to be tried.
func (p Proof) Wanted() bool { return p.Mode == ProofAdvise || p.Mode == ProofRequire }

const (
	blobGuest = "guest" // GuestReceipt; its Layers make the layers valid
	blobProof = "proof"
	// adaptLog is the appliance's log of an adaptation that failed.
	adaptLog = "adapt.log"
)

func layerName(i int) string { return fmt.Sprintf("disk-%d.layer", i) }

// adapt changes the guest, once: the layers are kept with the job until all has
// landed, so that whoever resumes it sends the same bytes. An attempt that was
// killed left layers without a record, which the next one throws away.
func (t *task) adapt(ctx context.Context) (err error) {
	done := &GuestReceipt{}
	if ok, err := t.load(ctx, blobGuest, done); ok || err != nil {
		return err
	}
	if err := t.forgetLayers(ctx); err != nil {
		return err
	}
	im, err := t.s.appliance()
	if err != nil {
		return fmt.Errorf("cannot adapt the guest: %w (build the appliance, or restore the disks as they are with --guest=off): %w", err, engine.ErrPermanent)
	}
	if _, err := t.dir(); err != nil {
		return err
	}
	src, err := t.source(ctx)
	if err != nil {
		return err
	}
	defer src.Close()
	var layers []*overlay.Overlay
	var images []disk.Image
	var disks []disk.Disk
	defer func() {
		for _, l := range layers {
			err = errors.Join(err, l.Close())
		}
		if err != nil {
			err = errors.Join(err, t.forgetLayers(ctx))
		}
	}()
	for i := range t.spec.Plan.Disks {
		img, err := t.openBackup(ctx, src, i)
		if err != nil {
			return err
		}
		l, err := overlay.Create(t.file(layerName(i)), img)
		if err != nil {
			img.Close()
			return err
		}
		layers, images, disks = append(layers, l), append(images, img), append(disks, l)
	}
	keys, err := ReadKeys(t.spec.Guest.KeyFiles)
	if err != nil {
		return &permanent{err}
	}
	res, err := adapt.Apply(ctx, disks, t.spec.Guest.Inspection, t.spec.Guest.Adaptation, adapt.Options{Image: im, Keys: keys})
	var failed *adapt.Failure
	if errors.As(err, &failed) && ctx.Err() == nil {
		if failed.Log != "" {
			if werr := writeFile(t.file(adaptLog), []byte(failed.Log)); werr == nil {
				err = fmt.Errorf("%w; the appliance's log: %s", err, t.file(adaptLog))
			}
		}
		return &permanent{err} // the same backup and the same changes fail again
	}
	if err != nil {
		return err
	}
	done.Result = res
	for i, l := range layers {
		if err := l.Unchanged(); err != nil {
			return err
		}
		if err := l.Sync(); err != nil {
			return err
		}
		sum, err := l.Digest()
		if err != nil {
			return err
		}
		done.Layers = append(done.Layers, hex.EncodeToString(sum[:]))
		m, err := disk.ReadMap(ctx, l)
		if err != nil {
			return err
		}
		b, err := m.AppendBinary(nil)
		if err != nil {
			return err
		}
		if err := t.s.store.PutBlob(ctx, t.a.Job, blobMap(i), b); err != nil {
			return err
		}
		size, err := t.fileSize(ctx, layered{l, images[i]}, i)
		if err != nil {
			return err
		}
		done.FileSizes = append(done.FileSizes, size)
	}
	for _, c := range res.Changes {
		level, text := levelInfo, fmt.Sprintf("guest: %s %s: %s", c.Kind, c.Subject, c.Reason)
		if c.Skipped != "" {
			level, text = levelWarning, fmt.Sprintf("guest: %s %s was left out: %s", c.Kind, c.Subject, c.Skipped)
		}
		if err := t.note(ctx, level, "%s", text); err != nil {
			return err
		}
	}
	return t.save(ctx, blobGuest, done) // from here on the layers count
}

// fileSize is the length of the target file of an adapted disk; -1: known at the end.
func (t *task) fileSize(ctx context.Context, img disk.Image, i int) (int64, error) {
	d := t.spec.Plan.Disks[i]
	if d.FileSize < 0 {
		return -1, nil
	}
	src, _, err := t.padded(ctx, img, i)
	if err != nil {
		return 0, err
	}
	f, err := image.New(src, d.Delivery.Format, t.imageOptions(i))
	if err != nil {
		return 0, err
	}
	return f.Size(), nil
}

// order is the plan in the target's terms, with the lengths of adapted disks.
func (t *task) order(ctx context.Context) (*target.Order, error) {
	o := t.spec.Plan.Order(t.a.Job)
	done := &GuestReceipt{}
	if _, err := t.load(ctx, blobGuest, done); err != nil {
		return nil, err
	}
	for i, n := range done.FileSizes {
		o.Disks[i].FileSize = n
	}
	return o, nil
}

// maxKeyFile is cryptsetup's own bound.
const maxKeyFile = 8 << 20

// ReadKeys reads files with keys of LUKS containers.
func ReadKeys(files []string) (keys [][]byte, err error) {
	for _, f := range files {
		st, err := os.Stat(f)
		if err == nil && st.Size() > maxKeyFile {
			err = fmt.Errorf("it has %d bytes, more than %d", st.Size(), maxKeyFile)
		}
		var b []byte
		if err == nil {
			b, err = os.ReadFile(f)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read a key of the guest: %w", err)
		}
		keys = append(keys, b)
	}
	return keys, nil
}

// layered is a disk under the layer of its adapted guest.
type layered struct {
	*overlay.Overlay
	img disk.Image
}

func (l layered) Info() disk.Info { return l.img.Info() }

// adapted puts the layer over a disk of the backup, which it closes on error. It
// must be the one that was recorded: what was sent before a kill came from it.
func (t *task) adapted(ctx context.Context, img disk.Image, i int) (_ disk.Image, err error) {
	defer func() {
		if err != nil {
			img.Close()
		}
	}()
	done := &GuestReceipt{}
	ok, err := t.load(ctx, blobGuest, done)
	if err == nil && (!ok || i >= len(done.Layers)) {
		err = fmt.Errorf("the guest was not adapted: %w", engine.ErrPermanent)
	}
	if err != nil {
		return nil, err
	}
	const lost = "the changes made to the guest are not what was recorded; undo the job and begin a new one"
	l, err := overlay.Open(t.file(layerName(i)), img)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s (%w): %w", lost, err, engine.ErrPermanent)
	}
	if err != nil {
		return nil, err
	}
	sum, err := l.Digest()
	if err == nil && hex.EncodeToString(sum[:]) != done.Layers[i] {
		err = fmt.Errorf("%s: %w", lost, engine.ErrPermanent)
	}
	if err != nil {
		_ = l.Close() // img with it; closing that again does no harm
		return nil, err
	}
	return layered{l, img}, nil
}

// forgetLayers removes the layers and what says that they count.
func (t *task) forgetLayers(ctx context.Context) error {
	for i := range t.spec.Plan.Disks {
		for _, suffix := range []string{"", ".map", ".map.new"} {
			if err := os.Remove(t.file(layerName(i)) + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("cannot remove the guest's changes: %w", err)
			}
		}
	}
	return nil
}

// onModels leaves the hardware to the boot room where QEMU has no model of the
// plan's: the proof is on neutral hardware then, and graded so. AWS's disks are NVMe,
// which QEMU has; its adapter is not.
func onModels(q *boot.Request) {
	switch q.Platform {
	case vm.HyperV, vm.Azure:
		q.Storage, q.NIC = "", ""
	case vm.AWS:
		q.Storage, q.NIC = vm.BusNVMe, ""
	}
}

// grades from the best.
var grades = []boot.Grade{boot.A, boot.B, boot.C}

// proof boots the disks as they are to be sent on the target's virtual hardware.
func (t *task) proof(ctx context.Context) error {
	if ok, err := t.load(ctx, blobProof, &GuestReceipt{}); ok || err != nil {
		return err
	}
	m, want := t.spec.Plan.Machine, t.spec.Guest.Proof
	if want.Grade == "" {
		want.Grade = boot.C
	}
	q := boot.Request{Platform: t.spec.Plan.Target.Platform, Firmware: m.Firmware, SecureBoot: m.SecureBoot, Evidence: t.file("proof")}
	if q.Firmware == "" {
		q.Firmware = t.spec.Guest.Inspection.Firmware
	}
	if want.Grade != boot.A {
		q.Until = boot.Root
	} else if im, err := t.s.appliance(); err == nil {
		q.Appliance = im // the guest itself tells of its adapters; without, the login has to do
		keys, err := ReadKeys(t.spec.Guest.KeyFiles)
		if err != nil {
			return &permanent{err}
		}
		q.Keys = guest.KeyForms(keys)
	}
	if _, err := t.dir(); err != nil {
		return err
	}
	src, err := t.source(ctx)
	if err != nil {
		return err
	}
	defer src.Close()
	for i := range t.spec.Plan.Disks {
		img, err := t.openDisk(ctx, src, i)
		if err != nil {
			return err
		}
		defer img.Close()
		q.Disks = append(q.Disks, img)
	}
	if b := t.spec.Guest.Inspection.BootDisk; b > 0 && b < len(q.Disks) {
		first := q.Disks[b]
		q.Disks = append([]disk.Disk{first}, slices.Delete(q.Disks, b, b+1)...)
	}
	if b := m.BootDisk(); b >= 0 {
		q.Storage = m.Disks[b].Controller
	}
	if len(m.NICs) > 0 {
		q.NIC, q.MAC = m.NICs[0].Model, m.NICs[0].MAC
	}
	onModels(&q)
	out := &GuestReceipt{}
	out.Proof, err = boot.Prove(ctx, q)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	level, text := levelInfo, ""
	switch {
	case err != nil:
		out.ProofFailed = err.Error()
		level, text = levelWarning, "the boot could not be proven: "+err.Error()
	case out.Proof.Grade == boot.F:
		level, text = levelWarning, "the machine does not come up: "+out.Proof.Failure
	default:
		text = fmt.Sprintf("boot proof: grade %s, came to %s", out.Proof.Grade, out.Proof.Milestone)
		if out.Proof.Limit != "" {
			text += "; " + out.Proof.Limit
		}
	}
	if out.Proof != nil {
		for i, f := range out.Proof.Files {
			if err := t.keepEvidence(ctx, q.Evidence, f); err != nil {
				return err
			}
			out.Proof.Files[i] = filepath.Join("proof", f)
		}
	}
	if err := t.note(ctx, level, "%s", text); err != nil {
		return err
	}
	if want.Mode == ProofRequire && (out.Proof == nil || slices.Index(grades, out.Proof.Grade) < 0 || slices.Index(grades, out.Proof.Grade) > slices.Index(grades, want.Grade)) {
		return fmt.Errorf("%s (grade %s was required; evidence: %s): %w", text, want.Grade, q.Evidence, engine.ErrPermanent)
	}
	return t.save(ctx, blobProof, out)
}

// BlobEvidence begins the names of the job's blobs that are evidence of a boot proof:
// the console, the screen. They outlive the job's folder, and are read from any machine.
const BlobEvidence = "evidence/"

// maxEvidence bounds one of them, in bytes; more stays in the folder alone.
const maxEvidence = 4 << 20

func (t *task) keepEvidence(ctx context.Context, dir, name string) error {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return fmt.Errorf("cannot keep the evidence: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEvidence+1))
	if err != nil {
		return fmt.Errorf("cannot keep the evidence: %w", err)
	}
	if len(b) > maxEvidence {
		return nil
	}
	return t.s.store.PutBlob(ctx, t.a.Job, BlobEvidence+filepath.Base(name), b)
}

// guestReceipt is what the receipt says of the guest; nil: nothing was done.
func (t *task) guestReceipt(ctx context.Context) (*GuestReceipt, error) {
	out, proof := &GuestReceipt{}, &GuestReceipt{}
	adapted, err := t.load(ctx, blobGuest, out)
	if err != nil {
		return nil, err
	}
	proven, err := t.load(ctx, blobProof, proof)
	if err != nil || !adapted && !proven {
		return nil, err
	}
	out.Proof, out.ProofFailed = proof.Proof, proof.ProofFailed
	return out, nil
}

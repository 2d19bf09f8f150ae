// Package restore carries plans out. A job is a list of steps, made from the
// plan before it starts: validate, reserve, open the source, begin on the target,
// send each disk, make the machine, verify each disk, power on, write the
// receipt, clean up. Package engine drives them; this package is what each step
// does and how it is undone.
//
// Everything that a job knows stands in the store: the plan, what was created,
// which disks have landed. So a job is carried on after kill -9 by whatever
// process comes next, and undone exactly. Only the journal of a disk under way
// is a file, in the job's folder; where several machines share a store it is
// copied there about once a second.
package restore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"ascend/internal/disk"
	"ascend/internal/plan"
	"ascend/internal/target"
)

// Errors of jobs.
var (
	// ErrNoJob: there is no such job.
	ErrNoJob = errors.New("no such restore job")
	// ErrLocked: another process is at work on the job.
	ErrLocked = errors.New("another process is at work on this restore")
	// ErrSourceChanged: the backup is not the one that the job was begun with.
	ErrSourceChanged = errors.New("the backup has changed since this restore began")
	// ErrStopped: the process stopped before the job came to rest. The job goes
	// on when it is started again.
	ErrStopped = errors.New("stopped before the restore was finished")
)

// SourceRef names a backup so that it can be opened again later and elsewhere.
type SourceRef struct {
	Repository string `json:"repository,omitempty"` // its name or folder
	Backup     string `json:"backup,omitempty"`     // its id there
	// Files are image files that stand for a backup, in place of the above.
	Files  []string `json:"files,omitempty"`
	Format string   `json:"format,omitempty"` // of Files; "": told from their signatures
}

// sourceJSON is a SourceRef as JSON has it, which takes no names that are not
// UTF-8, as file names may be: those stand in Raw.
type sourceJSON struct {
	Repository string   `json:"repository,omitempty"`
	Backup     string   `json:"backup,omitempty"`
	Files      []string `json:"files,omitempty"`
	Raw        [][]byte `json:"files_raw,omitempty"`
	Format     string   `json:"format,omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (r SourceRef) MarshalJSON() ([]byte, error) {
	j := sourceJSON{Repository: r.Repository, Backup: r.Backup, Files: r.Files, Format: r.Format}
	for _, f := range r.Files {
		if !utf8.ValidString(f) {
			j.Files = nil
		}
	}
	for _, f := range r.Files {
		if j.Files == nil {
			j.Raw = append(j.Raw, []byte(f))
		}
	}
	return json.Marshal(j)
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *SourceRef) UnmarshalJSON(b []byte) error {
	var j sourceJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*r = SourceRef{Repository: j.Repository, Backup: j.Backup, Files: j.Files, Format: j.Format}
	for _, f := range j.Raw {
		r.Files = append(r.Files, string(f))
	}
	return nil
}

// Source is an opened backup.
type Source interface {
	// OpenDisk opens the disk at a position of the plan. The caller closes it.
	OpenDisk(ctx context.Context, i int) (disk.Image, error)
	// Check compares the backup's files with the digests it carries, and
	// returns backup.ErrNoManifest when it carries none.
	Check(ctx context.Context, progress func(done, total int64)) error
	Close() error
}

// Resolver turns the references that a job keeps into what they stand for. The
// secrets they need are read then, and kept nowhere. Methods are called
// concurrently; the caller closes the results.
type Resolver interface {
	Target(ctx context.Context, name string) (target.Target, error)
	Source(ctx context.Context, ref SourceRef) (Source, error)
}

// Options of one job.
type Options struct {
	// Keep leaves what was made when a step fails for good, so that the job can
	// be retried. Without it a failed job is undone.
	Keep bool `json:"keep,omitempty"`
	// NoVerify leaves reading back out where the platform has no verdict of its
	// own; the receipt says so.
	NoVerify bool `json:"no_verify,omitempty"`
	// CheckBackup reads the backup's files and compares them with the digests it
	// carries before anything is created.
	CheckBackup bool `json:"check_backup,omitempty"`
	// Disks at once of this job; 0: 4.
	Disks int `json:"disks,omitempty"`
	// Workers is the ranges at once for each disk; 0: the target's or the default.
	Workers int `json:"workers,omitempty"`
	// InFlight bounds the bytes read and not yet landed for each disk: memory,
	// and what is sent again after a kill. 0: the default.
	InFlight int64 `json:"in_flight,omitempty"`
	// Bandwidth caps the bytes a second of this job; 0: none.
	Bandwidth int64 `json:"bandwidth,omitempty"`
}

// Spec is what a job is to do. It is stored with the job, holds no secret and
// never changes.
type Spec struct {
	Plan   *plan.Plan `json:"plan"`
	Source SourceRef  `json:"source"`
	// Fingerprint identifies the files read: a backup changed since is refused.
	Fingerprint []string `json:"fingerprint"`
	Options     Options  `json:"options"`
	// Guest is what is done so that the system comes up; nil: the disks are sent
	// as they are, and no boot is proven.
	Guest *Guest `json:"guest,omitempty"`
}

// Fingerprint identifies the files of opened images by their names, lengths and
// times.
func Fingerprint(images []disk.Image) []string {
	var out []string
	for _, img := range images {
		out = append(out, fingerprint(img))
	}
	return out
}

func fingerprint(img disk.Image) string {
	info := img.Info()
	h := sha256.New()
	fmt.Fprintln(h, info.Size, info.FileBytes)
	for _, l := range info.Chain {
		fmt.Fprintf(h, "%q %s %d %d\n", l.Path, l.Format, l.Size, l.Modified.UnixNano())
	}
	return hex.EncodeToString(h.Sum(nil))
}

// stamp is the time now as receipts and jobs write it.
func stamp() time.Time { return time.Now().UTC().Truncate(stampUnit) }

const stampUnit = time.Millisecond

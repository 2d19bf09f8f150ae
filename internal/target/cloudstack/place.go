package cloudstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/target"
)

// fileUpload writes the ranges of one disk into a file of primary storage or into
// the block device of a volume. Both keep what was written when the process dies.
type fileUpload struct {
	s    *session
	i    int
	size int64
	// finish is called after everything is on stable storage and the file is
	// closed; it returns the identifier of what landed.
	finish func(ctx context.Context) (string, error)

	mu     sync.RWMutex // held for writing while the file is closed
	f      *os.File
	landed *target.Landed
	// again: an earlier session completed it. What is written is the same as what
	// is there, and is not written, until Complete.
	again bool
}

var (
	_ target.RangeUpload = (*fileUpload)(nil)
	_ target.ReadBacker  = importSession{}
)

// importSession can read back what it wrote: it has the files at hand.
type importSession struct{ *session }

// WriteRange writes p at off; see target.RangeUpload.
func (u *fileUpload) WriteRange(ctx context.Context, off int64, p []byte) error {
	u.mu.RLock()
	defer u.mu.RUnlock()
	err := ctx.Err()
	switch {
	case err != nil:
	case u.s.life.Err() != nil:
		err = context.Cause(u.s.life)
	case u.f == nil && !u.again:
		err = target.Permanent("the upload is complete or was given up", "")
	case off < 0 || off > u.size || int64(len(p)) > u.size-off:
		err = target.Permanent(fmt.Sprintf("%d bytes at %d are not in a file of %d bytes", len(p), off, u.size), "")
	case u.again:
	default:
		_, err = u.f.WriteAt(p, off)
	}
	if err != nil {
		return fmt.Errorf("cannot write disk %d: %w", u.i, err)
	}
	return nil
}

// Sync flushes to stable storage.
func (u *fileUpload) Sync(ctx context.Context) error {
	u.mu.RLock()
	defer u.mu.RUnlock()
	if u.f == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	if err := u.f.Sync(); err != nil {
		return fmt.Errorf("cannot flush disk %d: %w", u.i, err)
	}
	return nil
}

// Complete flushes, closes, and hands the disk over.
func (u *fileUpload) Complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	fail := func(err error) (*target.Landed, error) {
		return nil, fmt.Errorf("cannot complete disk %d: %w", u.i, translate(err))
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.landed != nil {
		u.again = false
		out := *u.landed
		return &out, nil
	}
	if u.f == nil {
		return fail(target.Permanent("the upload was given up", ""))
	}
	if sum.Bytes != 0 && sum.Bytes != u.size {
		return fail(target.Permanent(fmt.Sprintf("%d bytes were counted and the file has %d", sum.Bytes, u.size), ""))
	}
	if err := u.f.Sync(); err != nil {
		return fail(err)
	}
	if err := u.close(); err != nil {
		return fail(err)
	}
	id, err := u.finish(ctx)
	if err != nil {
		return fail(err)
	}
	if u.landed, err = u.s.arrived(ctx, u.i, id); err != nil {
		return fail(err)
	}
	out := *u.landed
	return &out, nil
}

func (u *fileUpload) close() error {
	f := u.f
	u.f = nil
	return f.Close()
}

// Abort closes the file; what was written stays.
func (u *fileUpload) Abort() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.f == nil {
		return nil
	}
	return u.close()
}

// fileSize is the length of a file below pool_dir; -1 when it is not there.
func (t *cloud) fileSize(name string) (int64, error) {
	fi, err := os.Lstat(filepath.Join(t.cfg.poolDir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot look at primary storage: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return 0, target.Permanent(name+" on primary storage is no file", "")
	}
	return fi.Size(), nil
}

// openFile makes disk i's file on primary storage, or continues it. Its name
// bears the job's id, so one that is there is the job's.
func (s *session) openFile(ctx context.Context, i int) (*fileUpload, error) {
	name, size := s.name(i), s.order.Disks[i].FileSize
	if _, err := s.t.fileSize(name); err != nil {
		return nil, err
	}
	if err := s.record(ctx, kindFile, name, "", false, map[string]string{dataDir: s.t.cfg.poolDir}); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(s.t.cfg.poolDir, name), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o644) //nolint:gosec // the hypervisor's user reads it
	if err != nil {
		return nil, fmt.Errorf("cannot make a file on primary storage: %w", err)
	}
	if err := f.Truncate(size); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot make a file on primary storage: %w", err)
	}
	return &fileUpload{s: s, i: i, size: size, f: f, finish: func(context.Context) (string, error) { return name, nil }}, nil
}

// importVolume has the platform take over disk i's file, if it has not, and
// returns the volume.
func (s *session) importVolume(ctx context.Context, i int) (string, error) {
	name := thing(s.order.Job, i)
	v, err := s.t.volumeNamed(ctx, s.f, name)
	if err != nil || v != nil {
		if err == nil {
			return v.ID, s.record(ctx, kindVolume, name, v.ID, true, nil)
		}
		return "", err
	}
	if err := s.record(ctx, kindVolume, name, "", false, nil); err != nil {
		return "", err
	}
	var out struct {
		Volume volumeRow `json:"volume"`
	}
	p := params{"path": s.name(i), "storageid": s.place.pool.ID, "name": name, "diskofferingid": s.place.disks[i]}
	if err := s.t.c.job(ctx, "importVolume", s.f.owned(p), &out); err != nil {
		return "", fmt.Errorf("cannot import disk %d: %w", i, translate(err))
	}
	return out.Volume.ID, s.record(ctx, kindVolume, name, out.Volume.ID, true, nil)
}

// openDevice makes disk i's volume, attaches it to the worker and opens its
// device, or continues with the one that is there.
func (s *session) openDevice(ctx context.Context, i int) (*fileUpload, error) {
	name, size := thing(s.order.Job, i), s.order.Disks[i].FileSize
	v, err := s.t.volumeNamed(ctx, s.f, name)
	if err != nil {
		return nil, err
	}
	if v == nil {
		if err := s.record(ctx, kindVolume, name, "", false, nil); err != nil {
			return nil, err
		}
		p := params{"name": name, "zoneid": s.place.zone.ID, "diskofferingid": s.place.disks[i], "size": strconv.FormatInt(size/s.t.cfg.unit, 10)}
		var out struct {
			Volume volumeRow `json:"volume"`
		}
		if err := s.t.c.job(ctx, "createVolume", s.f.owned(p), &out); err != nil {
			return nil, err
		}
		v = &out.Volume
	}
	if err := s.record(ctx, kindVolume, name, v.ID, false, nil); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.disks[i].id = v.ID
	s.mu.Unlock()
	worker := s.t.cfg.worker
	switch v.Machine {
	case worker:
	case "":
		if err := s.t.c.job(ctx, "attachVolume", params{"id": v.ID, "virtualmachineid": worker}, nil); err != nil {
			return nil, err
		}
	default:
		return nil, target.Permanent("volume "+name+" is attached to machine "+v.Machine, "detach it")
	}
	f, err := s.t.device(ctx, v.ID, size)
	if err != nil {
		return nil, err
	}
	return &fileUpload{s: s, i: i, size: size, f: f, finish: func(ctx context.Context) (string, error) {
		return v.ID, s.t.c.job(ctx, "detachVolume", params{"id": v.ID}, nil)
	}}, nil
}

// serial is what a guest sees of a volume's identifier: libvirt is given it
// without hyphens, cut to the 20 characters that a virtio disk has.
func serial(id string) string {
	s := strings.ReplaceAll(id, "-", "")
	return s[:min(len(s), 20)]
}

// device opens the block device of a volume that was attached to this machine,
// found by its serial and never by its size or place. It may take a while to
// appear.
func (t *cloud) device(ctx context.Context, id string, size int64) (*os.File, error) {
	var paths []string
	for _, bus := range []string{"virtio-", "scsi-0QEMU_QEMU_HARDDISK_", "scsi-SQEMU_QEMU_HARDDISK_"} {
		paths = append(paths, filepath.Join(t.cfg.devices, bus+serial(id)))
	}
	began := time.Now()
	for {
		for _, p := range paths {
			// On a block device O_EXCL without O_CREAT fails while it is in use.
			f, err := os.OpenFile(p, os.O_RDWR|unix.O_EXCL, 0)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("cannot open the volume's device: %w", err)
			}
			end, err := f.Seek(0, io.SeekEnd)
			if err == nil && end < size {
				err = target.Permanent(fmt.Sprintf("the device %s has %d bytes and the disk %d", p, end, size), "is this machine really the one that worker names?")
			}
			if err != nil {
				_ = f.Close()
				return nil, err
			}
			return f, nil
		}
		if time.Since(began) > t.cfg.patience {
			return nil, target.Permanent(fmt.Sprintf("the volume was attached to machine %s, and no device with the serial %s has appeared in %s", t.cfg.worker, serial(id), t.cfg.devices),
				"worker must be the machine that Ascend itself runs in, with virtio or virtio-scsi disks")
		}
		if err := sleep(ctx, t.cfg.pause/4); err != nil {
			return nil, err
		}
	}
}

// templateOf makes a template of the boot disk's volume, inside the cloud.
func (s *session) templateOf(ctx context.Context, volume string) (string, error) {
	name := thing(s.order.Job, s.order.Machine.BootDisk())
	t, err := s.t.templateNamed(ctx, s.f, name)
	if err != nil {
		return "", err
	}
	if t != nil && t.Ready {
		return t.ID, s.record(ctx, kindTemplate, name, t.ID, true, nil)
	}
	if err := s.t.removeNamed(ctx, s.f, kindTemplate, name); err != nil {
		return "", err
	}
	if err := s.record(ctx, kindTemplate, name, "", false, nil); err != nil {
		return "", err
	}
	p := params{"name": name, "displaytext": s.display, "ostypeid": s.place.osType, "volumeid": volume, "requireshvm": "true", "ispublic": "false"}
	var out struct {
		Template templateRow `json:"template"`
	}
	if err := s.t.c.job(ctx, "createTemplate", s.f.owned(p), &out); err != nil {
		return "", fmt.Errorf("cannot make a template of the boot disk: %w", translate(err))
	}
	return out.Template.ID, s.record(ctx, kindTemplate, name, out.Template.ID, true, nil)
}

// ReadBack opens the file of disk i on primary storage.
func (s importSession) ReadBack(_ context.Context, i int) (disk.Disk, error) {
	s.mu.Lock()
	landed := i >= 0 && i < len(s.disks) && s.disks[i].landed != nil
	s.mu.Unlock()
	if !landed {
		return nil, fmt.Errorf("cannot read back disk %d: %w", i, target.Permanent("it has not been completed", ""))
	}
	root, err := disk.OpenRoot(s.t.cfg.poolDir)
	if err != nil {
		return nil, fmt.Errorf("cannot read back disk %d: %w", i, err)
	}
	img, err := open.Disk(root, s.name(i), "qcow2")
	if err != nil {
		_ = root.Close()
		return nil, fmt.Errorf("cannot read back disk %d: %w", i, err)
	}
	return &rooted{img, root}, nil
}

// rooted is a disk that closes its folder.
type rooted struct {
	disk.Disk
	root *disk.Root
}

// Close releases the file and its folder.
func (r *rooted) Close() error { return errors.Join(r.Disk.Close(), r.root.Close()) }

package vmware

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
)

// nfcMIME is the media type of a streamOptimized VMDK that an import lease's
// URL takes by POST (vSphere Web Services SDK Programming Guide, "Importing OVF
// Templates": HttpNfcLease).
const nfcMIME = "application/x-vnd.vmware-streamVmdk"

// nfcSession is a restore by import lease.
type nfcSession struct {
	*session
	lease *lease   // nil when an earlier session completed it
	files []string // by the order's disks: the descriptor on its datastore, "" where there is none

	delivering atomic.Bool // the lease is being completed: its end is no loss
	delivered  atomic.Bool // and has been
}

func beginNFC(ctx context.Context, s *session, recorded []target.Resource) (*nfcSession, error) {
	n := &nfcSession{session: s}
	if r := recordedVM(recorded); r != nil {
		ok, err := s.adopt(ctx, r, stageImported, stageFinished)
		switch {
		case err != nil:
			return nil, err
		case ok:
			return n, n.restoreUploads()
		}
		if err := s.replace(ctx, r); err != nil {
			return nil, err
		}
	}
	if err := s.free(ctx); err != nil {
		return nil, err
	}
	if err := s.place.checkSpace(s.order, func(int) bool { return false }); err != nil {
		return nil, err
	}
	// The platform names the machine's folder, but not by a name of dots only.
	home := "[" + s.place.home.raw + "]"
	if strings.Trim(s.hw.name, ".") == "" {
		home += " " + folderName(s.order.Machine.Name, s.order.Job)
	}
	spec, err := s.hw.spec(s.place, home, nil)
	if err != nil {
		return nil, err
	}
	if err := s.intend(ctx, pathNFC); err != nil {
		return nil, err
	}
	if err := n.create(ctx, spec); err != nil {
		if n.lease != nil {
			n.lease.abort(ctx)
		}
		return nil, err
	}
	n.watch()
	return n, nil
}

// create makes the machine and waits until its disks can be sent.
func (n *nfcSession) create(ctx context.Context, spec *types.VirtualMachineConfigSpec) error {
	var host *object.HostSystem
	if h := n.place.host; h != nil {
		host = object.NewHostSystem(n.c.vim, h.ref)
	}
	raw, err := object.NewResourcePool(n.c.vim, n.place.pool).ImportVApp(ctx,
		&types.VirtualMachineImportSpec{ConfigSpec: *spec}, object.NewFolder(n.c.vim, n.place.folder.ref), host)
	if err != nil {
		return fmt.Errorf("cannot create the machine: %w", translate(err))
	}
	n.lease = &lease{c: n.c, ref: raw.Reference()}
	err = n.record(ctx, func(r *target.Resource) { r.Data[dataLease] = n.lease.ref.Value })
	if err != nil {
		return err
	}
	if err := n.lease.await(ctx); err != nil {
		return fmt.Errorf("cannot create the machine: %w", translate(err))
	}
	n.ref = n.lease.info.Entity
	err = n.record(ctx, func(r *target.Resource) {
		r.ID, r.Done = n.ref.Value, true
		r.Data[dataStage] = stageSending
	})
	if err != nil {
		return err
	}
	now, err := n.config(ctx)
	if err != nil {
		return err
	}
	if err := n.lease.match(n.hw.slots, now.Hardware.Device); err != nil {
		return err
	}
	placed := slotsOf(now.Hardware.Device)
	n.files = make([]string, len(n.hw.slots))
	for i, s := range n.hw.slots {
		if d := placed[s.key()]; d != nil {
			n.files[i] = plainFile(d)
		}
	}
	n.lease.askSHA1(ctx)
	return nil
}

// plainFile is the path of a disk's descriptor on its datastore, which names it
// for people and for ReadLanded; "" for a disk that is no plain file.
func plainFile(d *types.VirtualDisk) string {
	b, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok || b.Parent != nil || !landedPath.MatchString(b.FileName) {
		return ""
	}
	return b.FileName
}

// watch keeps the lease alive for as long as the session is. When the lease is
// lost, everything under way ends with that reason.
func (n *nfcSession) watch() {
	every := n.t.cfg.keepalive
	if every == 0 {
		every = min(max(n.lease.timeout()/10, time.Second), 30*time.Second)
	}
	n.keepAlive(every, func(ctx context.Context) bool {
		if n.delivered.Load() {
			return false
		}
		err := n.lease.beat(ctx, n.percent())
		if err == nil || ctx.Err() != nil || n.delivering.Load() {
			return true
		}
		n.stop(err)
		return false
	})
}

// percent is how much was sent, for the platform's own display; a file of
// unknown length counts as the disk's size.
func (n *nfcSession) percent() int32 {
	var sent, all int64
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, u := range n.streams {
		size := n.order.Disks[i].FileSize
		if size < 0 {
			size = n.order.Disks[i].Virtual
		}
		all += size
		switch {
		case u == nil:
		case u.complete():
			sent += size
		default:
			sent += min(u.bytes(), size)
		}
	}
	return int32(min(sent/max(all/100, 1), 99)) //nolint:gosec // 0 to 99
}

// Upload opens disk i's stream. A stream that broke is opened anew and begins
// at 0.
func (n *nfcSession) Upload(ctx context.Context, i int) (target.Upload, error) {
	return n.open(ctx, i, func() *stream {
		d := n.lease.disks[i]
		client := &http.Client{Transport: n.c.http.Transport}
		u := n.newStream(i, client, http.MethodPost, d.url, nfcMIME, func(ctx context.Context, sum target.Sum) (*target.Landed, error) {
			return n.land(ctx, i, sum)
		})
		send := u.send
		u.send = func(ctx context.Context, body io.ReadCloser) error {
			err := send(ctx, body)
			if err == nil && u.body.Sent() == u.size {
				return nil
			}
			if ctx.Err() != nil { // answered early, and broken off meanwhile: by a lost lease, it may be
				return cmp.Or(err, context.Cause(ctx))
			}
			// A lost lease ends requests in many ways, a success before the last byte
			// among them: the lease itself tells.
			if gone := n.lease.beat(ctx, n.percent()); errors.Is(gone, target.ErrExpired) {
				n.stop(gone)
				return gone
			}
			return err
		}
		return u
	})
}

// land compares the platform's digest of what it received with what was sent.
// Some servers tell theirs only when every disk has arrived; Finish asks again.
func (n *nfcSession) land(ctx context.Context, i int, sum target.Sum) (*target.Landed, error) {
	verdict, err := n.lease.verify(ctx, i, sum)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	where := n.files[i]
	if where == "" { // machine and slot find the disk later
		where = fmt.Sprintf("/%s/%s", n.ref.Value, n.hw.slots[i])
	}
	return &target.Landed{Object: where, Bytes: n.streams[i].bytes(), Verdict: verdict}, nil
}

// Finish completes the lease, after which the machine is a machine, and
// configures it.
func (n *nfcSession) Finish(ctx context.Context) (*target.VM, error) {
	fail := func(err error) (*target.VM, error) {
		return nil, fmt.Errorf("cannot finish restoring %q: %w", n.order.Machine.Name, err)
	}
	if st := n.stage(); st != stageImported && st != stageFinished {
		if err := n.deliver(ctx); err != nil {
			return fail(err)
		}
	}
	v, err := n.configure(ctx)
	if err != nil {
		return fail(err)
	}
	return v, nil
}

// deliver checks every digest, completes the lease and records what landed, so
// that a later session neither sends nor completes again.
func (n *nfcSession) deliver(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := context.Cause(n.life); err != nil {
		return err
	}
	n.mu.Lock()
	streams := slices.Clone(n.streams)
	n.mu.Unlock()
	for i, u := range streams {
		if u == nil || !u.complete() {
			return target.Permanent(fmt.Sprintf("disk %d has not been completed", i), "")
		}
	}
	if !n.delivered.Load() {
		for i, u := range streams {
			verdict, err := n.lease.verify(ctx, i, u.sum)
			if errors.Is(err, errMissing) {
				n.mu.Lock()
				n.streams[i] = nil
				n.mu.Unlock()
			}
			if err != nil {
				return fmt.Errorf("cannot verify disk %d: %w", i, err)
			}
			u.setVerdict(verdict)
		}
		n.delivering.Store(true)
		if err := n.lease.complete(ctx); err != nil {
			n.delivering.Store(false)
			return err
		}
		n.delivered.Store(true)
	}
	return n.uploaded(ctx, func(r *target.Resource) {
		for i, u := range streams {
			r.Data[diskKey(i, dataObject)] = u.landed.Object
			r.Data[diskKey(i, dataBytes)] = strconv.FormatInt(u.landed.Bytes, 10)
			r.Data[diskKey(i, dataVerdict)] = u.landed.Verdict
			r.Data[diskKey(i, dataSHA1)] = hex.EncodeToString(u.sum.SHA1)
		}
	})
}

func diskKey(i int, name string) string { return fmt.Sprintf("disk.%d.%s", i, name) }

// restoreUploads makes the uploads of an adopted machine, all complete.
func (n *nfcSession) restoreUploads() error {
	for i := range n.streams {
		bytes, err := strconv.ParseInt(n.res.Data[diskKey(i, dataBytes)], 10, 64)
		if err != nil {
			return target.Permanent(fmt.Sprintf("the record of disk %d is damaged", i), "undo the job and begin a new one")
		}
		sum, err := hex.DecodeString(n.res.Data[diskKey(i, dataSHA1)])
		if err != nil {
			return target.Permanent(fmt.Sprintf("the record of disk %d is damaged", i), "undo the job and begin a new one")
		}
		n.streams[i] = landedStream(fmt.Sprintf("disk %d", i), target.Sum{Bytes: bytes, SHA1: sum}, target.Landed{
			Object: n.res.Data[diskKey(i, dataObject)], Bytes: bytes, Verdict: n.res.Data[diskKey(i, dataVerdict)],
		})
	}
	return nil
}

// Close gives up a lease that was not completed, which on a real server removes
// the half-made machine, and signs out.
func (n *nfcSession) Close(ctx context.Context) error {
	n.end(errClosed)
	if n.lease != nil && !n.delivered.Load() {
		n.lease.abort(ctx)
	}
	return n.signOut(ctx)
}

package vmware

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// storeSession is a restore by files on the datastore: a flat file per disk,
// then a machine around them.
type storeSession struct {
	*session
	files []storeFile // by the order's disks
}

// storeFile is one disk's pair of files: NAME.vmdk, the descriptor, and
// NAME-flat.vmdk, the bytes.
type storeFile struct {
	dc, store *node
	base      string // the path of both, without datastore and suffix
}

// path is a datastore path, as the API writes it.
func (f storeFile) path(suffix string) string { return "[" + f.store.raw + "] " + f.base + suffix }

const (
	suffixFlat       = "-flat.vmdk"
	suffixDescriptor = ".vmdk"
)

func beginStore(ctx context.Context, s *session, recorded []target.Resource) (*storeSession, error) {
	d := &storeSession{session: s}
	for i, store := range s.place.datastores {
		d.files = append(d.files, storeFile{
			dc: s.place.dc, store: store, base: fmt.Sprintf("%s/disk-%d", d.folder(), i),
		})
	}
	if r := recordedVM(recorded); r != nil {
		s.res = *r
		if err := d.find(ctx); err != nil {
			return nil, err
		}
	}
	if err := d.restoreUploads(ctx, recorded); err != nil {
		return nil, err
	}
	if s.ref.Value == "" {
		if err := s.free(ctx); err != nil {
			return nil, err
		}
		if err := s.place.checkSpace(s.order, func(i int) bool { return s.streams[i] != nil }); err != nil {
			return nil, err
		}
		if err := d.makeFolders(ctx); err != nil {
			return nil, err
		}
	}
	// A session that is idle for half an hour is ended by the server.
	every := s.t.cfg.keepalive
	if every == 0 {
		every = 5 * time.Minute
	}
	s.keepAlive(every, func(ctx context.Context) bool {
		_, _ = methods.GetCurrentTime(ctx, s.c.vim)
		return true
	})
	return d, nil
}

// folder is the name of the job's folder on every datastore.
func (d *storeSession) folder() string { return folderName(d.order.Machine.Name, d.order.Job) }

// find looks for the machine that is recorded: one whose creation succeeded has
// all its disks, even if nobody lived to record it.
func (d *storeSession) find(ctx context.Context) error {
	if d.res.ID == "" {
		ref, err := d.c.findVM(ctx, d.place.folder.ref, d.order.Machine.Name)
		if err != nil || ref == nil {
			return err
		}
		ours, err := d.c.isOurs(ctx, *ref, d.order.Job)
		if err != nil || !ours {
			return err
		}
		return d.created(ctx, *ref)
	}
	r := d.res
	_, err := d.adopt(ctx, &r, stageSending, stageImported, stageFinished)
	return err
}

// created records a machine that exists.
func (d *storeSession) created(ctx context.Context, ref types.ManagedObjectReference) error {
	d.ref = ref
	return d.record(ctx, func(r *target.Resource) {
		r.ID, r.Done = ref.Value, true
		r.Data[dataStage] = stageSending
	})
}

// restoreUploads finds the files that an earlier session completed and that are
// still there, whole.
func (d *storeSession) restoreUploads(ctx context.Context, recorded []target.Resource) error {
	for i, f := range d.files {
		want := d.order.Disks[i].FileSize
		done := slices.ContainsFunc(recorded, func(r target.Resource) bool {
			return r.Kind == kindFile && r.Name == f.path(suffixDescriptor) && r.Done && !r.Gone &&
				r.Data[dataBytes] == strconv.FormatInt(want, 10)
		})
		if !done {
			continue
		}
		size, err := d.c.sizeOf(ctx, f)
		if err != nil {
			return err
		}
		if size == want {
			d.streams[i] = landedStream(fmt.Sprintf("disk %d", i), target.Sum{Bytes: want},
				target.Landed{Object: f.path(suffixDescriptor), Bytes: want})
		}
	}
	return nil
}

// makeFolders makes the job's folder on every datastore that gets a file.
func (d *storeSession) makeFolders(ctx context.Context) error {
	stores := append([]*node{d.place.home}, d.place.datastores...)
	var made []*node
	for _, store := range stores {
		if slices.Contains(made, store) {
			continue
		}
		made = append(made, store)
		s, _ := store.summary()
		if t := strings.ToLower(s.Type); t == "vsan" || t == "vvol" {
			return target.Permanent(fmt.Sprintf("datastore %s is a %s datastore, which takes no flat files", store.name, s.Type), "choose the delivery nfc")
		}
		r := target.Resource{
			Job: d.order.Job, Kind: kindFolder, Name: "[" + store.raw + "] " + d.folder(),
			Data: map[string]string{dataDatacenter: d.place.dc.ref.Value, dataDatastore: store.ref.Value},
		}
		if err := d.rec.Record(ctx, r); err != nil {
			return fmt.Errorf("cannot record folder %s: %w", r.Name, err)
		}
		err := object.NewFileManager(d.c.vim).MakeDirectory(ctx, r.Name, object.NewDatacenter(d.c.vim, d.place.dc.ref), false)
		// The name holds the job's id: one that is there is the job's.
		if err != nil && !isFault[*types.FileAlreadyExists](err) {
			return fmt.Errorf("cannot make folder %s: %w", r.Name, translate(err))
		}
		r.ID, r.Done = r.Name, true
		if err := d.rec.Record(ctx, r); err != nil {
			return fmt.Errorf("cannot record folder %s: %w", r.Name, err)
		}
	}
	return nil
}

// address is where a file of a datastore is read and written (vSphere Web
// Services SDK Programming Guide, "Datastore Access by HTTP": /folder).
func (c *conn) address(f storeFile, suffix string) *url.URL {
	return &url.URL{
		Scheme: "https", Host: c.cfg.sdk.Host, Path: "/folder/" + f.base + suffix,
		RawQuery: url.Values{"dcPath": {f.dc.path}, "dsName": {f.store.raw}}.Encode(),
	}
}

// Upload opens disk i's file. One that an earlier session completed is complete.
func (d *storeSession) Upload(ctx context.Context, i int) (target.Upload, error) {
	if i >= 0 && i < len(d.files) && !d.has(i) && ctx.Err() == nil {
		// /folder takes the API's session and renews none: an API call does.
		if _, err := methods.GetCurrentTime(ctx, d.c.vim); err != nil {
			return nil, fmt.Errorf("cannot upload disk %d: %w", i, translate(err))
		}
		if err := d.recordFile(ctx, i, false); err != nil {
			return nil, err
		}
	}
	return d.open(ctx, i, func() *stream {
		return d.newStream(i, d.c.http, http.MethodPut, d.c.address(d.files[i], suffixFlat), "application/octet-stream",
			func(ctx context.Context, _ target.Sum) (*target.Landed, error) { return d.land(ctx, i) })
	})
}

func (d *storeSession) has(i int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.streams[i] != nil && d.streams[i].complete()
}

// recordFile records disk i's pair of files under the descriptor's name.
func (d *storeSession) recordFile(ctx context.Context, i int, done bool) error {
	name := d.files[i].path(suffixDescriptor)
	r := target.Resource{
		Job: d.order.Job, Kind: kindFile, Name: name, Done: done,
		Data: map[string]string{dataDatacenter: d.place.dc.ref.Value},
	}
	if done {
		r.ID, r.Data[dataBytes] = name, strconv.FormatInt(d.order.Disks[i].FileSize, 10)
	}
	if err := d.rec.Record(ctx, r); err != nil {
		return fmt.Errorf("cannot record file %s: %w", name, err)
	}
	return nil
}

// land checks the file's length and writes the descriptor beside it.
func (d *storeSession) land(ctx context.Context, i int) (*target.Landed, error) {
	f, want := d.files[i], d.order.Disks[i].FileSize
	size, err := d.c.sizeOf(ctx, f)
	if err != nil {
		return nil, err
	}
	if size != want {
		return nil, fmt.Errorf("%w: the file has %d bytes, sent %d", target.ErrDigest, size, want)
	}
	text := descriptor(path.Base(f.base)+suffixFlat, want, d.hw.slots[i].kind.bus)
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, d.c.address(f, suffixDescriptor).String(), strings.NewReader(text))
	if err != nil {
		return nil, errors.New("the address of the descriptor is not valid")
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	if err := request(d.c.http, req, "the descriptor of disk "+strconv.Itoa(i)); err != nil {
		return nil, err
	}
	if err := d.recordFile(ctx, i, true); err != nil {
		return nil, err
	}
	return &target.Landed{Object: f.path(suffixDescriptor), Bytes: want}, nil
}

// sizeOf is the length of a flat file; -1 when it is not there.
func (c *conn) sizeOf(ctx context.Context, f storeFile) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, c.address(f, suffixFlat).String(), nil)
	if err != nil {
		return 0, errors.New("the address of the file is not valid")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("cannot look at %s: %w", f.path(suffixFlat), translate(err))
	}
	_ = res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotFound:
		return -1, nil
	case res.StatusCode != http.StatusOK:
		return 0, statusProblem(res, "looking at "+f.path(suffixFlat))
	}
	return res.ContentLength, nil
}

// descriptor is the text file that makes a flat file a virtual disk (Virtual
// Disk Format 5.0, "The Descriptor File"): one VMFS extent, the geometry that
// the adapter type implies.
func descriptor(flat string, size int64, bus vm.Bus) string {
	adapter, heads, sectors := "lsilogic", int64(255), int64(63)
	switch bus {
	case vm.BusIDE:
		adapter, heads = "ide", 16
	case vm.BusLSIBus:
		adapter = "buslogic"
	}
	// Any content identifier but the two reserved ones will do; the same file
	// always gets the same.
	cid := crc32.ChecksumIEEE([]byte(flat)) &^ 1
	if cid == 0xfffffffe {
		cid = 2
	}
	n := size / 512
	cylinders := max(n/(heads*sectors), 1)
	if adapter == "ide" {
		cylinders = min(cylinders, 16383)
	}
	return fmt.Sprintf(`# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=%08x
parentCID=ffffffff
createType="vmfs"

# Extent description
RW %d VMFS "%s"

# The Disk Data Base
#DDB

ddb.adapterType = "%s"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "%d"
ddb.geometry.sectors = "%d"
ddb.virtualHWVersion = "13"
`, cid, n, flat, adapter, cylinders, heads, sectors)
}

// Finish creates the machine around the files and configures it.
func (d *storeSession) Finish(ctx context.Context) (*target.VM, error) {
	fail := func(err error) (*target.VM, error) {
		return nil, fmt.Errorf("cannot finish restoring %q: %w", d.order.Machine.Name, err)
	}
	if d.ref.Value == "" {
		if err := d.create(ctx); err != nil {
			return fail(err)
		}
	}
	if st := d.stage(); st != stageImported && st != stageFinished {
		if err := d.uploaded(ctx, func(*target.Resource) {}); err != nil {
			return fail(err)
		}
	}
	v, err := d.configure(ctx)
	if err != nil {
		return fail(err)
	}
	return v, nil
}

func (d *storeSession) create(ctx context.Context) error {
	var disks []string
	for i, f := range d.files {
		if !d.has(i) {
			return target.Permanent(fmt.Sprintf("disk %d has not been completed", i), "")
		}
		disks = append(disks, f.path(suffixDescriptor))
	}
	vmx := fmt.Sprintf("[%s] %s/%s.vmx", d.place.home.raw, d.folder(), safeFileName(d.order.Machine.Name))
	spec, err := d.hw.spec(d.place, vmx, disks)
	if err != nil {
		return err
	}
	if d.stage() == stageIntent {
		// An earlier attempt failed without a word of how far it came.
		if err := d.find(ctx); err != nil || d.ref.Value != "" {
			return err
		}
	}
	if err := d.free(ctx); err != nil {
		return err
	}
	if err := d.intend(ctx, pathDatastore); err != nil {
		return err
	}
	req := types.CreateVM_Task{This: d.place.folder.ref, Config: *spec, Pool: d.place.pool}
	if h := d.place.host; h != nil {
		req.Host = &h.ref
	}
	res, err := methods.CreateVM_Task(ctx, d.c.vim, &req)
	if err != nil {
		return fmt.Errorf("cannot create the machine: %w", translate(err))
	}
	// The task goes on even when nobody waits: what it makes must be known.
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Minute)
	defer cancel()
	made, err := d.c.await(wait, res.Returnval)
	if err != nil {
		return fmt.Errorf("cannot create the machine: %w", translate(err))
	}
	ref, ok := made.(types.ManagedObjectReference)
	if !ok {
		return errors.New("the platform does not tell which machine it created")
	}
	return d.created(context.WithoutCancel(ctx), ref)
}

// Close stops what is under way and signs out. Files stay.
func (d *storeSession) Close(ctx context.Context) error {
	d.end(errClosed)
	return d.signOut(ctx)
}

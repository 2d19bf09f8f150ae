package aws

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"ascend/internal/awsapi"
	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/target/parts"
	"ascend/internal/vm"
)

// Kinds of recorded resources of a disk on its way by S3.
const (
	kindObject     = "object"      // in the bucket, and the multipart upload that makes it
	kindDiskImport = "disk import" // a task of ImportSnapshot, and its snapshot until that is recorded
)

// Data of a kindObject.
const (
	dataBucket = "bucket"
	dataKey    = "key"
	dataUpload = "upload" // the multipart upload's identifier
	dataBytes  = "bytes"  // of the object, once it is whole
)

const (
	partSize = 8 << 20
	// inFlight bounds the bytes of parts on their way; one part always is.
	inFlight = 64 << 20
)

// byS3 is the way by S3: of the formats that ImportSnapshot reads the one that leaves
// holes out (VM Import/Export requirements, "Image formats": stream-optimized VMDK).
func byS3() target.Delivery {
	return target.Delivery{
		Format: image.Format{Name: "vmdk", Subformat: "streamOptimized", Compression: "deflate"}, Mode: target.Ordered, Clean: true, Resumable: true,
		Lag: partSize, Align: vm.GiB, Path: pathS3, Rights: rightsOf(pathS3),
	}
}

// partOf is the size of the parts of a disk's file: such that their numbers suffice
// when nothing of it can be compressed.
func partOf(virtual int64) int64 {
	n := virtual/(awsapi.MaxParts-500) + 1
	return max(partSize, (n+1<<20-1)>>20<<20)
}

// object is the upload of one disk's file into the bucket.
type object struct {
	s    *session
	i    int
	r    target.Resource
	send *parts.Sender // nil once the object is whole

	mu     sync.Mutex
	sent   map[int]string // ETags of parts that landed
	landed *target.Landed
	gone   error // why nothing may be written any more
}

// openObject continues disk i's upload, or begins it.
func (s *session) openObject(ctx context.Context, i int) (*object, error) {
	fail := func(err error) (*object, error) {
		return nil, fmt.Errorf("cannot begin the upload of disk %d: %w", i, translate(err))
	}
	name := diskName(i)
	o := &object{s: s, i: i, sent: map[int]string{}}
	o.r = s.resource(kindObject, name)
	if r := s.resource(kindSnapshot, name); r.ID != "" && !r.Gone {
		sn, err := s.t.snapshot(ctx, r.ID)
		if err != nil {
			return fail(err)
		}
		if sn != nil && sn.State == "completed" {
			n, _ := strconv.ParseInt(o.r.Data[dataBytes], 10, 64) // as we wrote it
			o.landed = &target.Landed{Object: r.ID, Bytes: n, Verdict: s3Verdict}
			return o, nil
		}
	}
	if o.r.Data[dataBytes] != "" && !o.r.Gone {
		n, err := s.t.c.ObjectSize(ctx, o.r.Data[dataBucket], o.r.Data[dataKey])
		if err != nil {
			return fail(err)
		}
		if strconv.FormatInt(n, 10) == o.r.Data[dataBytes] {
			return o, nil
		}
	}
	landed := map[int]bool{}
	size := partOf(s.order.Disks[i].Virtual)
	if id := o.r.Data[dataUpload]; id != "" && !o.r.Gone && o.r.Data[dataBytes] == "" {
		have, err := s.t.c.Parts(ctx, o.r.Data[dataBucket], o.r.Data[dataKey], id)
		switch {
		case awsapi.Missing(err):
			n, serr := s.t.c.ObjectSize(ctx, o.r.Data[dataBucket], o.r.Data[dataKey])
			if serr != nil {
				return fail(serr)
			}
			if n >= 0 { // it was made, and the answer did not arrive
				return o, s.whole(ctx, o, n)
			}
			// The parts are gone, and with them what the journal says landed.
			o.r.Data = nil
			return fail(errors.Join(target.ErrExpired, s.record(ctx, o.r)))
		case err != nil:
			return fail(err)
		}
		for _, p := range have {
			if p.Size == size {
				landed[p.Number], o.sent[p.Number] = true, p.ETag
			}
		}
	} else if err := s.beginObject(ctx, o); err != nil {
		return fail(err)
	}
	o.send = parts.New(parts.Options{Size: size, Most: int(max(inFlight/size, 1)), Landed: landed, Put: o.put})
	return o, nil
}

// beginObject records the object and begins its multipart upload. What an earlier
// process began and could not record is found by the key, which nobody else has.
func (s *session) beginObject(ctx context.Context, o *object) error {
	if o.r.Data[dataKey] == "" || o.r.Gone {
		o.r = target.Resource{Job: s.order.Job, Kind: kindObject, Name: diskName(o.i), Data: map[string]string{
			dataBucket: s.t.bucket, dataKey: fmt.Sprintf("ascend/%s/disk-%d.vmdk", rand.Text(), o.i),
		}}
		if err := s.record(ctx, o.r); err != nil {
			return err
		}
	} else if err := s.t.dropUploads(ctx, o.r); err != nil {
		return err
	}
	id, err := s.t.c.CreateUpload(ctx, o.r.Data[dataBucket], o.r.Data[dataKey])
	if err != nil {
		return err
	}
	o.r.Data, o.r.ID, o.r.Done = maps.Clone(o.r.Data), "s3://"+o.r.Data[dataBucket]+"/"+o.r.Data[dataKey], true
	o.r.Data[dataUpload] = id
	delete(o.r.Data, dataBytes)
	return s.record(ctx, o.r)
}

// whole notes that the object is there with so many bytes.
func (s *session) whole(ctx context.Context, o *object, n int64) error {
	o.r.Data = maps.Clone(o.r.Data)
	o.r.Data[dataBytes] = strconv.FormatInt(n, 10)
	return s.record(ctx, o.r)
}

func (o *object) put(ctx context.Context, n int, p []byte) error {
	tag, err := o.s.t.c.PutPart(ctx, o.r.Data[dataBucket], o.r.Data[dataKey], o.r.Data[dataUpload], n, p)
	if awsapi.Missing(err) {
		return fmt.Errorf("%w: %w", target.ErrExpired, err)
	}
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sent[n] = tag
	return nil
}

func (o *object) fail(err error) error {
	return fmt.Errorf("cannot upload disk %d: %w", o.i, translate(err))
}

// sender is where bytes go; nil with an error when none may.
func (o *object) sender() (*parts.Sender, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.gone != nil:
		return nil, o.gone
	case o.send == nil:
		return nil, target.Permanent("the upload is complete", "")
	}
	return o.send, nil
}

// Offset implements target.StreamUpload.
func (o *object) Offset(context.Context) (int64, error) {
	if o.landed != nil {
		return o.landed.Bytes, nil
	}
	if n, err := strconv.ParseInt(o.r.Data[dataBytes], 10, 64); err == nil {
		return n, nil
	}
	n, err := o.send.Offset()
	if err != nil {
		err = o.fail(err)
	}
	return n, err
}

// Append implements target.StreamUpload.
func (o *object) Append(ctx context.Context, p []byte) error {
	s, err := o.sender()
	if err == nil {
		err = s.Append(ctx, p)
	}
	if err != nil {
		return o.fail(err)
	}
	return nil
}

// Sync implements target.StreamUpload: parts that are full have landed.
func (o *object) Sync(ctx context.Context) error {
	s, err := o.sender()
	if o.send == nil && o.gone == nil {
		return ctx.Err() // all of it has
	}
	if err == nil {
		err = s.Sync(ctx)
	}
	if err != nil {
		return o.fail(err)
	}
	return nil
}

// Patch implements target.StreamUpload, which does not offer it.
func (o *object) Patch(context.Context, []byte) error {
	return o.fail(target.Permanent("the start of a stream cannot be overwritten", ""))
}

// Abort implements target.Upload. What landed stays, for the next one.
func (o *object) Abort() error {
	o.mu.Lock()
	if o.gone == nil {
		o.gone = errors.New("the upload was aborted")
	}
	s := o.send
	o.mu.Unlock()
	if s != nil {
		s.Stop(o.gone)
	}
	return nil
}

// s3Verdict: S3 compares the digest of every part it takes; what ImportSnapshot makes
// of the object it does not tell a digest of.
const s3Verdict = "sha256 of each part of the file in S3"

// Complete implements target.Upload: the parts become an object, ImportSnapshot makes
// a snapshot of it, and the object is removed.
func (o *object) Complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	l, err := o.complete(ctx, sum)
	if err != nil {
		return nil, fmt.Errorf("cannot complete disk %d: %w", o.i, translate(err))
	}
	out := *l
	return &out, nil
}

func (o *object) complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	n, err := o.Offset(ctx)
	switch {
	case err != nil:
		return nil, err
	case sum.Bytes != n:
		return nil, target.Permanent(fmt.Sprintf("%d bytes were sent of %d", n, sum.Bytes), "")
	case o.landed != nil:
		return o.landed, nil
	}
	if o.send != nil {
		s, err := o.sender()
		if err != nil {
			return nil, err
		}
		number, err := s.Finish(ctx)
		if err != nil {
			return nil, err
		}
		if err := o.join(ctx, number, n); err != nil {
			return nil, err
		}
	}
	id, err := o.s.importDisk(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := o.s.t.undoObject(ctx, o.r); err != nil {
		return nil, err
	}
	o.r.Gone = true
	if err := o.s.record(ctx, o.r); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.landed = &target.Landed{Object: id, Bytes: n, Verdict: s3Verdict}
	return o.landed, nil
}

// join makes the object of so many parts, with so many bytes.
func (o *object) join(ctx context.Context, number int, bytes int64) error {
	var list []awsapi.Part
	o.mu.Lock()
	for n := 1; n <= number; n++ {
		list = append(list, awsapi.Part{Number: n, ETag: o.sent[n]})
	}
	o.mu.Unlock()
	bucket, key := o.r.Data[dataBucket], o.r.Data[dataKey]
	err := o.s.t.c.CompleteUpload(ctx, bucket, key, o.r.Data[dataUpload], list)
	if awsapi.Missing(err) { // perhaps it was done, and the answer did not arrive
		if n, serr := o.s.t.c.ObjectSize(ctx, bucket, key); serr == nil && n == bytes {
			err = nil
		} else {
			err = fmt.Errorf("%w: %w", target.ErrExpired, err)
		}
	}
	if err == nil {
		err = o.s.whole(ctx, o, bytes)
	}
	if err != nil {
		return err
	}
	o.mu.Lock()
	o.send = nil
	o.mu.Unlock()
	return nil
}

// importDisk has EC2 make a snapshot of the object, once, and records it.
func (s *session) importDisk(ctx context.Context, o *object) (string, error) {
	name := diskName(o.i)
	if r := s.resource(kindSnapshot, name); r.ID != "" || r.Job == "" {
		if err := s.record(ctx, target.Resource{Job: s.order.Job, Kind: kindSnapshot, Name: name}); err != nil {
			return "", err
		}
	}
	r, err := s.make(ctx, kindDiskImport, name, func(id string) (bool, error) {
		k, err := s.t.diskImport(ctx, id)
		if err != nil || k == nil || k.Snapshot == "" {
			return k != nil && k.Status != "deleted" && k.Status != "deleting", err
		}
		sn, err := s.t.snapshot(ctx, k.Snapshot) // somebody may have deleted it
		return sn != nil, err
	}, func(token string, tags []awsapi.Tag) (string, error) {
		p := awsapi.Params{
			"ClientToken": token, "Description": tagText(fmt.Sprintf("ascend job %.100s, disk %d", s.order.Job, o.i)),
			"DiskContainer.Format": "VMDK", "DiskContainer.UserBucket.S3Bucket": o.r.Data[dataBucket], "DiskContainer.UserBucket.S3Key": o.r.Data[dataKey],
		}
		if v := s.order.Options[optRole]; v != "" {
			p["RoleName"] = v
		}
		if s.order.Options[optEncrypt] == "yes" || s.order.Options[optKMS] != "" {
			p["Encrypted"] = "true"
			if v := s.order.Options[optKMS]; v != "" {
				p["KmsKeyId"] = v
			}
		}
		k, err := s.t.c.ImportSnapshot(ctx, p.Tags("import-snapshot-task", tags))
		return k.ID, err
	})
	if err != nil {
		return "", err
	}
	var task *awsapi.DiskImport
	err = await(ctx, 48*time.Hour, "importing the disk by "+r.ID, func() (_ bool, err error) {
		switch task, err = s.t.diskImport(ctx, r.ID); {
		case err != nil:
			return false, err
		case task == nil:
			return false, target.Permanent("the import task "+r.ID+" is gone", "retry the job")
		case task.Status == "deleted" || task.Status == "deleting":
			return false, importFailed(task.Message)
		}
		return task.Status == "completed" && task.Snapshot != "", nil
	})
	if err != nil {
		return "", err
	}
	p := awsapi.Params{"ResourceId.1": task.Snapshot}
	for i, t := range append(s.tags(name), awsapi.Tag{Key: tagSize, Value: fmt.Sprint(s.order.Disks[o.i].Virtual)}) {
		p[fmt.Sprintf("Tag.%d.Key", i+1)], p[fmt.Sprintf("Tag.%d.Value", i+1)] = t.Key, t.Value
	}
	if err := s.t.c.EC2(ctx, "CreateTags", p, nil); err != nil {
		return "", err
	}
	return task.Snapshot, s.record(ctx, target.Resource{Job: s.order.Job, Kind: kindSnapshot, Name: name, ID: task.Snapshot, Done: true})
}

// diskImport describes a task; nil when it is not there.
func (t *cloud) diskImport(ctx context.Context, id string) (*awsapi.DiskImport, error) {
	list, err := t.c.DiskImports(ctx, awsapi.Params{"ImportTaskId.1": id})
	if strings.HasPrefix(awsapi.Code(err), "InvalidConversionTaskId") || awsapi.Missing(err) || err == nil && len(list) == 0 {
		return nil, nil //nolint:nilnil // absence is an answer
	}
	if err != nil {
		return nil, err
	}
	return &list[0], nil
}

// findDiskImport is the task that an intent began.
func (t *cloud) findDiskImport(ctx context.Context, r target.Resource) (string, error) {
	all, err := t.c.DiskImports(ctx, awsapi.Params{})
	if err != nil {
		return "", err
	}
	for _, k := range all {
		if awsapi.TagValue(k.Tags, tagJob) == tagText(r.Job) && awsapi.TagValue(k.Tags, tagPart) == tagText(r.Name) && k.Status != "deleted" {
			return k.ID, nil
		}
	}
	return "", nil
}

// undoDiskImport ends a task and removes its snapshot.
func (t *cloud) undoDiskImport(ctx context.Context, id string) error {
	var task *awsapi.DiskImport
	there, err := t.endTask(ctx, id, func() (there, over bool, err error) {
		task, err = t.diskImport(ctx, id)
		return task != nil, task != nil && task.Over(), err
	})
	if err != nil || !there {
		return err
	}
	if task.Snapshot == "" {
		return nil
	}
	return t.undo(ctx, target.Resource{Kind: kindSnapshot, ID: task.Snapshot})
}

// undoObject removes the object and what was uploaded of it.
func (t *cloud) undoObject(ctx context.Context, r target.Resource) error {
	if r.Data[dataKey] == "" {
		return nil
	}
	if err := t.dropUploads(ctx, r); err != nil {
		return err
	}
	return t.c.DeleteObject(ctx, r.Data[dataBucket], r.Data[dataKey])
}

// dropUploads ends every multipart upload of an object.
func (t *cloud) dropUploads(ctx context.Context, r target.Resource) error {
	ids, err := t.c.Uploads(ctx, r.Data[dataBucket], r.Data[dataKey])
	if err != nil && awsapi.Code(err) != "NoSuchBucket" {
		return err
	}
	for _, id := range ids {
		err = cmp.Or(err, t.c.AbortUpload(ctx, r.Data[dataBucket], r.Data[dataKey], id))
	}
	if awsapi.Code(err) == "NoSuchBucket" {
		return nil
	}
	return err
}

package aws

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"ascend/internal/awsapi"
	"ascend/internal/disk"
	"ascend/internal/target"
)

// Tags of what is made.
const (
	tagJob  = "ascend:job"
	tagPart = "ascend:part" // the resource's name in the job
	tagSize = "ascend:size" // bytes of the disk in a snapshot
)

// Kinds of recorded resources.
const (
	kindSnapshot = "snapshot"
	kindImage    = "image"
	kindInstance = "instance"
	kindVolume   = "volume"
)

const dataToken = "token" // the ClientToken, made before it is used

// errClosed is what a session that was closed answers.
var errClosed = errors.New("the session is closed")

// session is one restore.
type session struct {
	t     *cloud
	order *target.Order
	rec   target.Recorder

	mu      sync.Mutex
	res     map[string]target.Resource // by kind and name
	uploads []target.Upload
	closed  bool
}

func newSession(t *cloud, o *target.Order, rec target.Recorder, recorded []target.Resource) *session {
	s := &session{t: t, order: o, rec: rec, res: map[string]target.Resource{}, uploads: make([]target.Upload, len(o.Disks))}
	for _, r := range recorded {
		s.res[r.Kind+"\x00"+r.Name] = r
	}
	return s
}

func diskName(i int) string { return fmt.Sprintf("disk %d", i) }

func (s *session) resource(kind, name string) target.Resource {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.res[kind+"\x00"+name]
}

func (s *session) record(ctx context.Context, r target.Resource) error {
	if err := s.rec.Record(ctx, r); err != nil {
		return fmt.Errorf("cannot record the %s %s: %w", r.Kind, r.Name, err)
	}
	s.mu.Lock()
	s.res[r.Kind+"\x00"+r.Name] = r
	s.mu.Unlock()
	return nil
}

// make makes a resource once: the intent is recorded, with the token that makes
// the call idempotent, then what an earlier process may have made is looked
// for, then it is made and recorded. exists tells whether a recorded one is
// still there.
func (s *session) make(ctx context.Context, kind, name string, exists func(id string) (bool, error),
	create func(token string, tags []awsapi.Tag) (string, error),
) (target.Resource, error) {
	r := s.resource(kind, name)
	if r.ID != "" && !r.Gone {
		ok, err := exists(r.ID)
		if err != nil {
			return r, err
		}
		if ok {
			return r, nil
		}
	}
	intent := target.Resource{Job: s.order.Job, Kind: kind, Name: name, Data: map[string]string{dataToken: rand.Text()}}
	if r.ID == "" && !r.Gone && r.Data[dataToken] != "" {
		intent = r
		id, err := s.t.find(ctx, r)
		if err != nil {
			return r, err
		}
		if id != "" {
			return s.made(ctx, intent, id)
		}
	} else if err := s.record(ctx, intent); err != nil {
		return r, err
	}
	id, err := create(intent.Data[dataToken], s.tags(name))
	if err != nil {
		return intent, err
	}
	return s.made(ctx, intent, id)
}

func (s *session) made(ctx context.Context, r target.Resource, id string) (target.Resource, error) {
	r.ID, r.Done, r.Data = id, true, maps.Clone(r.Data)
	return r, s.record(ctx, r)
}

// tags are what everything of the job bears.
func (s *session) tags(part string) []awsapi.Tag {
	return append([]awsapi.Tag{
		{Key: "Name", Value: tagText(s.order.Machine.Name)}, {Key: tagJob, Value: tagText(s.order.Job)}, {Key: tagPart, Value: tagText(part)},
	}, s.sourceTags()...)
}

// sourceTags are the machine's own, as far as they fit.
func (s *session) sourceTags() (out []awsapi.Tag) {
	for k, v := range s.order.Machine.Tags {
		if k != "Name" && k != "" && len([]rune(k)) <= 128 && !strings.HasPrefix(strings.ToLower(k), "aws:") && !strings.HasPrefix(k, "ascend:") && len(out) < 40 {
			out = append(out, awsapi.Tag{Key: tagText(k), Value: tagText(v)})
		}
	}
	return out
}

// tagText is a name as a tag's value holds it: at most 256 characters, none of
// them a control character.
func tagText(s string) string {
	r := []rune(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s))
	return string(r[:min(len(r), 256)])
}

// Upload implements target.Session: it starts what the disk is written into, or
// finds it.
func (s *session) Upload(ctx context.Context, i int) (target.Upload, error) {
	if i < 0 || i >= len(s.order.Disks) {
		return nil, fmt.Errorf("cannot upload disk %d of %d: %w", i, len(s.order.Disks), target.ErrPermanent)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot upload disk %d: %w", i, err)
	}
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	u, err := s.open(ctx, i)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.uploads[i] = u
	s.mu.Unlock()
	return u, nil
}

func (s *session) open(ctx context.Context, i int) (target.Upload, error) {
	if s.order.Disks[i].Delivery.Path == pathS3 {
		return s.openObject(ctx, i)
	}
	return s.openSnapshot(ctx, i)
}

// openSnapshot starts the disk's snapshot, or finds it.
func (s *session) openSnapshot(ctx context.Context, i int) (*upload, error) {
	u := &upload{s: s, i: i, size: s.order.Disks[i].FileSize}
	lost := false
	r, err := s.make(ctx, kindSnapshot, diskName(i), func(id string) (bool, error) {
		sn, err := s.t.snapshot(ctx, id)
		if err != nil {
			return false, err
		}
		u.landed = sn != nil && sn.State == "completed"
		lost = sn == nil || sn.State == "error"
		u.seen = !lost
		if sn != nil && lost { // its record is about to be the next one's
			err = s.t.c.EC2(ctx, "DeleteSnapshot", awsapi.Params{"SnapshotId": id}, nil)
			if awsapi.Missing(err) {
				err = nil
			}
		}
		return !lost, err
	}, func(token string, tags []awsapi.Tag) (string, error) {
		return s.t.c.StartSnapshot(ctx, awsapi.NewSnapshot{
			VolumeSize: (u.size + 1<<30 - 1) >> 30, ClientToken: token, Timeout: 24 * 60,
			Description: tagText(fmt.Sprintf("ascend job %.100s, disk %d", s.order.Job, i)),
			Tags:        append(tags, awsapi.Tag{Key: tagSize, Value: fmt.Sprint(u.size)}),
			Encrypted:   s.order.Options[optEncrypt] == "yes" || s.order.Options[optKMS] != "", KMSKey: s.order.Options[optKMS],
		})
	})
	if err != nil {
		return nil, fmt.Errorf("cannot start the snapshot of disk %d: %w", i, translate(err))
	}
	if lost { // a new one was started: what the journal says landed is not in it
		return nil, fmt.Errorf("cannot continue the snapshot of disk %d: %w", i, target.ErrExpired)
	}
	u.id = r.ID
	return u, nil
}

// snapshot describes one; nil when it is not there.
func (t *cloud) snapshot(ctx context.Context, id string) (*awsapi.SnapshotInfo, error) {
	list, err := t.c.Snapshots(ctx, awsapi.Params{"SnapshotId.1": id})
	if awsapi.Missing(err) || err == nil && len(list) == 0 {
		return nil, nil //nolint:nilnil // absence is an answer
	}
	if err != nil {
		return nil, err
	}
	return &list[0], nil
}

// landed is the snapshots of all disks, once each of them is complete.
func (s *session) landed(ctx context.Context) ([]string, error) {
	var ids []string
	for i := range s.order.Disks {
		r := s.resource(kindSnapshot, diskName(i))
		if r.ID == "" {
			return nil, target.Permanent(fmt.Sprintf("disk %d has not been uploaded", i), "")
		}
		sn, err := s.t.snapshot(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		if sn == nil || sn.State != "completed" {
			return nil, target.Permanent(fmt.Sprintf("the upload of disk %d is not complete", i), "")
		}
		ids = append(ids, r.ID)
	}
	return ids, nil
}

// ReadBack implements target.ReadBacker.
func (s *session) ReadBack(ctx context.Context, i int) (disk.Disk, error) {
	if i < 0 || i >= len(s.order.Disks) {
		return nil, fmt.Errorf("cannot read disk %d back: %w", i, target.ErrPermanent)
	}
	d, err := s.t.c.OpenSnapshot(ctx, s.resource(kindSnapshot, diskName(i)).ID, s.order.Disks[i].Virtual)
	if err != nil {
		return nil, fmt.Errorf("cannot read disk %d back: %w", i, translate(err))
	}
	return d, nil
}

// Close implements target.Session.
func (s *session) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, u := range s.uploads {
		if u != nil {
			_ = u.Abort() // never fails
		}
	}
	return nil
}

// await asks done, first soon and then less and less often, until it is true.
func await(ctx context.Context, limit time.Duration, what string, done func() (bool, error)) error {
	ctx, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s took more than %v", what, limit))
	defer stop()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 15*time.Second) {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

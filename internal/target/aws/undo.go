package aws

import (
	"context"
	"fmt"
	"time"

	"ascend/internal/awsapi"
	"ascend/internal/target"
)

// thing is what there is of a recorded resource.
type thing struct {
	id   string
	used bool // a volume that is attached
}

// look finds resources of a kind, by id or by the job's tags.
func (t *cloud) look(ctx context.Context, kind string, p awsapi.Params) (out []thing, err error) {
	switch kind {
	case kindSnapshot:
		l, e := t.c.Snapshots(ctx, p)
		for _, x := range l {
			out = append(out, thing{id: x.ID})
		}
		err = e
	case kindImage:
		l, e := t.c.Images(ctx, p)
		for _, x := range l {
			out = append(out, thing{id: x.ID})
		}
		err = e
	case kindVolume:
		l, e := t.c.Volumes(ctx, p)
		for _, x := range l {
			out = append(out, thing{id: x.ID, used: len(x.Attached) > 0})
		}
		err = e
	case kindInstance:
		l, e := t.c.Instances(ctx, p)
		for _, x := range l {
			if x.State != "terminated" {
				out = append(out, thing{id: x.ID})
			}
		}
		err = e
	default:
		err = target.Permanent(fmt.Sprintf("unknown kind %q", kind), "")
	}
	if awsapi.Missing(err) {
		return nil, nil
	}
	return out, err
}

// idParam names the parameter that asks for one resource of a kind.
var idParam = map[string]string{kindSnapshot: "SnapshotId.1", kindImage: "ImageId.1", kindVolume: "VolumeId.1", kindInstance: "InstanceId.1"}

// find is the identifier of what an intent made, "" when nothing was made.
func (t *cloud) find(ctx context.Context, r target.Resource) (string, error) {
	switch r.Kind {
	case kindImport:
		return t.findImport(ctx, r)
	case kindDiskImport:
		return t.findDiskImport(ctx, r)
	}
	l, err := t.look(ctx, r.Kind, awsapi.Params{}.Filter("tag:"+tagJob, tagText(r.Job)).Filter("tag:"+tagPart, tagText(r.Name)))
	if err != nil || len(l) == 0 {
		return "", err
	}
	return l[0].id, nil
}

// Undo implements target.Target.
func (t *cloud) Undo(ctx context.Context, r target.Resource) error {
	if err := t.undo(ctx, r); err != nil {
		return fmt.Errorf("cannot undo the %s %s: %w", r.Kind, r.Name, translate(err))
	}
	return nil
}

func (t *cloud) undo(ctx context.Context, r target.Resource) error {
	if r.Kind == kindObject {
		return t.undoObject(ctx, r)
	}
	id := r.ID
	if id == "" {
		var err error
		if id, err = t.find(ctx, r); err != nil || id == "" {
			return err
		}
	}
	switch r.Kind {
	case kindImport:
		return t.undoImport(ctx, id)
	case kindDiskImport:
		return t.undoDiskImport(ctx, id)
	}
	// An identifier is never given to another thing: what was recorded is the
	// job's, whatever became of its tags.
	l, err := t.look(ctx, r.Kind, awsapi.Params{idParam[r.Kind]: id})
	if err != nil || len(l) == 0 {
		return err // not there
	}
	switch r.Kind {
	case kindInstance:
		if err := t.c.EC2(ctx, "TerminateInstances", awsapi.Params{"InstanceId.1": id}, nil); err != nil && !awsapi.Missing(err) {
			return err
		}
		return await(ctx, 30*time.Minute, "terminating the instance "+id, func() (bool, error) {
			in, err := t.instance(ctx, id)
			return in == nil, err
		})
	case kindVolume:
		if l[0].used {
			if err := t.c.EC2(ctx, "DetachVolume", awsapi.Params{"VolumeId": id}, nil); err != nil && awsapi.Code(err) != "IncorrectState" {
				return err
			}
		}
		return await(ctx, 15*time.Minute, "detaching the volume "+id, func() (bool, error) {
			err := t.c.EC2(ctx, "DeleteVolume", awsapi.Params{"VolumeId": id}, nil)
			if awsapi.Code(err) == "VolumeInUse" {
				return false, nil
			}
			if awsapi.Missing(err) {
				err = nil
			}
			return err == nil, err
		})
	case kindImage:
		err = t.c.EC2(ctx, "DeregisterImage", awsapi.Params{"ImageId": id}, nil)
	case kindSnapshot:
		// An image that was deregistered may hold its snapshots for a moment.
		return await(ctx, 5*time.Minute, "deleting the snapshot "+id, func() (bool, error) {
			err := t.c.EC2(ctx, "DeleteSnapshot", awsapi.Params{"SnapshotId": id}, nil)
			if awsapi.Code(err) == "InvalidSnapshot.InUse" {
				return false, nil
			}
			if awsapi.Missing(err) {
				err = nil
			}
			return err == nil, err
		})
	}
	if awsapi.Missing(err) {
		return nil
	}
	return err
}

package cloudstack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"ascend/internal/target"
)

// Undo removes one recorded resource, which must bear the job's id in its name
// or, a machine, in its details; else nothing is touched.
func (t *cloud) Undo(ctx context.Context, r target.Resource) error {
	err := t.undo(ctx, r)
	if err != nil {
		return fmt.Errorf("cannot undo %s %q: %w", r.Kind, r.Name, translate(err))
	}
	return nil
}

func (t *cloud) undo(ctx context.Context, r target.Resource) error {
	if r.Kind != kindVM && !bearsJob(r.Name, r.Job) {
		if r.ID == "" && !r.Done {
			return nil // what was never made
		}
		return target.Permanent("its name does not bear the job's id", "it is left alone: if it is a leftover, remove it by hand")
	}
	if r.Kind == kindFile {
		dir := r.Data[dataDir]
		if dir == "" {
			dir = t.cfg.poolDir
		}
		err := os.Remove(filepath.Join(dir, filepath.Base(r.Name)))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	f, err := t.known(ctx)
	if err != nil {
		return err
	}
	switch r.Kind {
	case kindVM:
		return t.undoVM(ctx, f, r)
	case kindVolume, kindTemplate:
		return t.removeNamed(ctx, f, r.Kind, r.Name)
	}
	return target.Permanent("this connector makes no such resource", "")
}

// undoVM destroys a machine of the job. Disks of the job's own are detached
// first, and removed by themselves; others that were attached since stay.
func (t *cloud) undoVM(ctx context.Context, f *facts, r target.Resource) error {
	var all []machineRow
	var err error
	if r.ID != "" {
		all, err = list[machineRow](ctx, t.c, "listVirtualMachines", "virtualmachine", f.owned(params{"id": r.ID, "listall": "true"}))
	} else {
		all, err = t.machinesNamed(ctx, f, r.Name)
	}
	if isGone(err) || err == nil && len(all) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	m := ours(all, r.Job)
	switch {
	case m == nil && r.ID == "":
		return nil
	case m == nil:
		return target.Permanent(fmt.Sprintf("the machine does not bear the mark of job %s in its detail %s", r.Job, tagKey), "it is left alone: if it is a leftover, remove it by hand")
	case m.State == "Destroyed" || m.State == "Expunging":
		return nil
	}
	if m.State == "Running" {
		if err := t.c.job(ctx, "stopVirtualMachine", params{"id": m.ID, "forced": "true"}, nil); err != nil {
			return err
		}
	}
	disks, err := list[volumeRow](ctx, t.c, "listVolumes", "volume", f.owned(params{"virtualmachineid": m.ID, "listall": "true"}))
	if err != nil {
		return err
	}
	for _, d := range disks {
		if d.Type != "ROOT" && bearsJob(d.Name, r.Job) {
			if err := t.c.job(ctx, "detachVolume", params{"id": d.ID}, nil); err != nil && !isGone(err) {
				return err
			}
		}
	}
	err = t.c.job(ctx, "destroyVirtualMachine", params{"id": m.ID, "expunge": "true"}, nil)
	if e := refusal(err); e != nil && says(err, "expunge") {
		// Users may lack the right to expunge: the cloud does it later itself.
		err = t.c.job(ctx, "destroyVirtualMachine", params{"id": m.ID}, nil)
	}
	if isGone(err) {
		return nil
	}
	return err
}

// removeNamed removes every own volume or template of a name that bears a job's
// id. An upload that was broken off can be deleted once the cloud has noticed,
// which takes it upload.monitoring.interval (a minute).
func (t *cloud) removeNamed(ctx context.Context, f *facts, kind, name string) error {
	began, pause := time.Now(), t.cfg.pause/8
	for {
		id, err := t.removeOne(ctx, f, kind, name)
		switch {
		case err == nil && id == "":
			return nil
		case err == nil || isGone(err):
		case !isUploading(err) && !unsure(err) || ctx.Err() != nil:
			return fmt.Errorf("cannot delete %s %s: %w", kind, name, translate(err))
		case time.Since(began) > t.cfg.patience:
			return &target.Problem{
				Msg:  fmt.Sprintf("%s %s cannot be deleted: %v", kind, name, err),
				Hint: "the cloud waits for an upload that will not come: try again after the time of its global setting upload.operation.timeout", Cause: err,
			}
		}
		if err == nil {
			continue // until none is left
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(pause*3/2, t.cfg.maxPause)
	}
}

// removeOne removes one; the identifier is empty when there was none.
func (t *cloud) removeOne(ctx context.Context, f *facts, kind, name string) (string, error) {
	if kind == kindTemplate {
		r, err := t.templateNamed(ctx, f, name)
		if err != nil || r == nil {
			return "", err
		}
		p := params{"id": r.ID}
		if f.version.since(4, 9, 0) {
			p["forced"] = "true" // the machine made of it does not need it any more
		}
		return r.ID, t.c.job(ctx, "deleteTemplate", p, nil)
	}
	v, err := t.volumeNamed(ctx, f, name)
	if err != nil || v == nil {
		return "", err
	}
	if v.Machine != "" {
		if v.Machine != t.cfg.worker {
			return "", target.Permanent("it is attached to machine "+v.Machine, "detach it, then undo again")
		}
		if err := t.c.job(ctx, "detachVolume", params{"id": v.ID}, nil); err != nil {
			return "", err
		}
	}
	return v.ID, t.c.call(ctx, "deleteVolume", params{"id": v.ID}, nil)
}

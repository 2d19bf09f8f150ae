package nutanix

import (
	"context"
	"fmt"

	"ascend/internal/target"
)

// Undo removes one recorded resource, provided that it bears the job's id.
func (t *prism) Undo(ctx context.Context, r target.Resource) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a, err := t.api(ctx)
	if err != nil {
		return fmt.Errorf("cannot undo %s %q: %w", r.Kind, r.Name, translate(err))
	}
	switch r.Kind {
	case kindParts: // a record of parts of an object, which has its own
	case kindObject:
		err = t.undoObject(ctx, r)
	case kindImage:
		err = undoImage(ctx, a, r)
	case kindVM:
		err = undoVM(ctx, a, r)
	default:
		err = target.Permanent(fmt.Sprintf("a resource of kind %q is not of this platform", r.Kind), "")
	}
	if err != nil {
		return fmt.Errorf("cannot undo %s %q: %w", r.Kind, r.Name, translate(err))
	}
	return nil
}

func (t *prism) undoObject(ctx context.Context, r target.Resource) error {
	if !bearsJob(r.Name, r.Job) {
		return nil
	}
	if id := r.Data[dataUpload]; id != "" {
		if err := t.c.abortUpload(ctx, r.Name, id); err != nil {
			return err
		}
	}
	return t.c.deleteObject(ctx, r.Name)
}

func undoImage(ctx context.Context, a api, r target.Resource) error {
	if !bearsJob(r.Name, r.Job) {
		return nil
	}
	if err := settle(ctx, a, r); err != nil {
		return err
	}
	i, err := a.imageNamed(ctx, r.Name)
	if err != nil || i == nil {
		return err
	}
	return a.deleteImage(ctx, i.ID)
}

func undoVM(ctx context.Context, a api, r target.Resource) error {
	if err := settle(ctx, a, r); err != nil {
		return err
	}
	if r.ID != "" {
		m, err := a.machine(ctx, r.ID)
		if err != nil || m == nil {
			return err
		}
		if !marked(m.About, r.Job) {
			return target.Permanent("its description no longer has the line "+mark(r.Job), "put the line back, or delete the machine by hand")
		}
		return a.deleteVM(ctx, m.ID)
	}
	all, err := a.machinesNamed(ctx, r.Name)
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.Name == r.Name && marked(m.About, r.Job) {
			if err := a.deleteVM(ctx, m.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle waits for the task that makes a resource, so that nothing appears after
// it was undone. How the task ends does not matter.
func settle(ctx context.Context, a api, r target.Resource) error {
	task := r.Data[dataTask]
	if task == "" || r.Done {
		return nil
	}
	_, err := a.wait(ctx, task)
	if _, ended := errorAs[*taskError](err); ended || isGone(err) {
		return nil
	}
	return err
}

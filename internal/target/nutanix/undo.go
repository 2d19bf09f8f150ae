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
	var err error
	switch r.Kind {
	case kindParts: // a record of parts of an object, which has its own
	case kindObject:
		err = t.undoObject(ctx, r)
	case kindImage:
		err = t.undoImage(ctx, r)
	case kindVM:
		err = t.undoVM(ctx, r)
	default:
		err = permanent(fmt.Sprintf("a resource of kind %q is not of this platform", r.Kind), "")
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

func (t *prism) undoImage(ctx context.Context, r target.Resource) error {
	if !bearsJob(r.Name, r.Job) {
		return nil
	}
	if err := t.settle(ctx, r); err != nil {
		return err
	}
	i, err := t.imageNamed(ctx, r.Name)
	if err != nil || i == nil {
		return err
	}
	return t.deleteImage(ctx, i.ID)
}

func (t *prism) undoVM(ctx context.Context, r target.Resource) error {
	if err := t.settle(ctx, r); err != nil {
		return err
	}
	if r.ID != "" {
		m, _, err := t.vm(ctx, r.ID)
		if err != nil || m == nil || !marked(m.About, r.Job) {
			return err
		}
		return t.deleteVM(ctx, m.ID)
	}
	all, err := t.vmsNamed(ctx, r.Name)
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.Name == r.Name && marked(m.About, r.Job) {
			if err := t.deleteVM(ctx, m.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle waits for the task that makes a resource, so that nothing appears after
// it was undone. How the task ends does not matter.
func (t *prism) settle(ctx context.Context, r target.Resource) error {
	task := r.Data[dataTask]
	if task == "" || r.Done {
		return nil
	}
	_, err := t.c.wait(ctx, task)
	if _, ended := errorAs[*taskError](err); ended || isGone(err) {
		return nil
	}
	return err
}

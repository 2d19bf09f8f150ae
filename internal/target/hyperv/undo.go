package hyperv

import (
	"context"
	"fmt"

	"ascend/internal/target"
	"ascend/internal/target/hyperv/hostscript"
)

// Undo removes one recorded resource, provided that it bears the job's id.
func (t *host) Undo(ctx context.Context, r target.Resource) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var err error
	switch r.Kind {
	case kindFolder:
		if bears(r.Name, r.Job, false) {
			err = t.run(ctx, hostscript.Request{Op: hostscript.OpDelete, Folders: []string{r.Name}}, &struct{}{})
		}
	case kindFile:
		if bears(r.Name, r.Job, true) {
			err = t.run(ctx, hostscript.Request{Op: hostscript.OpDelete, Files: []string{r.Name}}, &struct{}{})
		}
	case kindVM:
		err = t.undoVM(ctx, r)
	default:
		err = target.Permanent(fmt.Sprintf("a resource of kind %q is not of this platform", r.Kind), "")
	}
	if err != nil {
		return fmt.Errorf("cannot undo %s %q: %w", r.Kind, r.Name, translate(err))
	}
	return nil
}

func (t *host) undoVM(ctx context.Context, r target.Resource) error {
	q := hostscript.Request{Op: hostscript.OpRemove, ID: r.ID, Job: jobPart(r.Job), Folder: r.Data[dataFolder], Temporary: folderName(r.Name, r.Job)}
	return t.run(ctx, q, &hostscript.Removed{})
}

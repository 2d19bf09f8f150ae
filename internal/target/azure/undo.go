package azure

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"ascend/internal/target"
)

// Undo removes one recorded resource that bears the job's tag. What bears
// another, or none, is left alone: without an error where only the intent to
// make it was recorded.
func (t *azure) Undo(ctx context.Context, r target.Resource) error {
	if err := t.undo(ctx, r); err != nil {
		return fmt.Errorf("cannot undo %s %q: %w", r.Kind, r.Name, translate(err))
	}
	return nil
}

func (t *azure) undo(ctx context.Context, r target.Resource) error {
	typ, ok := typeOf[r.Kind]
	if !ok {
		return target.Permanent("this connector makes no such resource", "")
	}
	id := r.ID
	if id == "" {
		id = r.Data[dataResource]
	}
	if !strings.HasPrefix(strings.ToLower(id), strings.ToLower(t.c.path("resourceGroups/"))) || !strings.Contains(strings.ToLower(id), strings.ToLower("/providers/"+typ+"/")) {
		return target.Permanent("it is not in the subscription that is set", "undo with the settings that it was made with")
	}
	api := apiOf[r.Kind]
	_, err := t.c.settle(ctx, id, api)
	if notFound(err) {
		return nil
	}
	if codeOf(err) != "" || err != nil && ctx.Err() != nil {
		return err
	}
	var there plain
	if err := t.c.get(ctx, id, api, &there); err != nil {
		if notFound(err) {
			return nil
		}
		return err
	}
	if there.Tags[jobTag] != jobValue(r.Job) {
		if r.ID == "" && !r.Done {
			return nil
		}
		return target.Permanent(fmt.Sprintf("it does not bear the tag %s=%s", jobTag, jobValue(r.Job)), "it is left alone: if it is a leftover, remove it by hand")
	}
	if r.Kind == kindDisk {
		if err := t.closeDisk(ctx, id); err != nil {
			return err
		}
	}
	for start := time.Now(); ; {
		err := t.c.do(ctx, http.MethodDelete, id, api, nil, nil)
		// The platform tells of what was just given up some time later: an adapter
		// is kept for a machine that could not be made for three minutes.
		if err == nil || notFound(err) {
			return nil
		}
		if !slices.Contains(lingering, codeOf(err)) || time.Since(start) > t.cfg.waiting {
			return err
		}
		if err := sleep(ctx, max(t.cfg.poll, t.cfg.waiting/60)); err != nil {
			return err
		}
	}
}

// lingering are refusals that may only tell of the past.
var lingering = []string{"NicReservedForAnotherVm", "AnotherOperationInProgress", "RetryableError", "ReferencedResourceNotProvisioned", "Conflict"}

// closeDisk revokes access to a disk: without that it cannot be deleted.
func (t *azure) closeDisk(ctx context.Context, id string) error {
	var d managedDisk
	if err := t.c.get(ctx, id, apiDisks, &d); err != nil {
		if notFound(err) {
			return nil
		}
		return err
	}
	switch d.Properties.DiskState {
	case "ActiveUpload", "ActiveSAS", "ActiveSASFrozen":
		return t.c.revoke(ctx, id)
	}
	return nil
}

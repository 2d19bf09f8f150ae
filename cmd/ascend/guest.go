package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"ascend/internal/adapt"
	"ascend/internal/appliance"
	"ascend/internal/disk"
	"ascend/internal/guest"
	"ascend/internal/plan"
	"ascend/internal/plan/facts"
	"ascend/internal/restore"
	"ascend/internal/vm"
)

func (r *requestFlags) registerGuest(c *cobra.Command) {
	c.Flags().StringVar(&r.guest, "guest", "auto", "auto: look at the system on the disks and change what keeps it from coming up on the target; off: send the disks as they are")
	complete(c, "guest", "auto", "off")
}

// inspect looks at the system on the disks, where the target will run it.
func (r *requestFlags) inspect(ctx context.Context, ch *chosen, p *prepared, req *plan.Request) error {
	switch r.guest {
	case "", "auto":
	case "off":
		return nil
	default:
		return usageError{fmt.Errorf("--guest is auto or off, not %q", r.guest)}
	}
	if req.Target.Platform == vm.Local {
		return nil
	}
	var o guest.Options
	if ch.b.Machine != nil {
		o.Firmware = ch.b.Machine.Firmware
	}
	if f := req.Machine.Firmware; f != "" {
		o.Firmware = f
	}
	var disks []disk.Disk
	for _, i := range p.images {
		disks = append(disks, i)
	}
	in, err := guest.Inspect(ctx, disks, o)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil: // a plan that says so is worth more than none
		req.Guest = facts.Unread(err)
	default:
		p.guest, req.Guest = &restore.Guest{Inspection: in}, facts.Of(in)
	}
	return nil
}

// make makes the plan. What the guest lacks on the machine that the plan chose is
// put right where it can be, and the plan made again with that known.
func (p *prepared) make(a *app, req *plan.Request) (err error) {
	if p.plan, err = plan.Make(*req); err != nil || p.guest == nil || len(p.guest.Inspection.Roots) == 0 {
		return err
	}
	ad := adapt.For(p.guest.Inspection, p.plan, guest.Choices{})
	if ad.Nothing() {
		return nil
	}
	why := adapt.Unfit(p.guest.Inspection, ad)
	if why == "" {
		if _, err := appliance.Open(""); err != nil {
			why = "the appliance is not built (ascend appliance build)"
		}
	}
	if why != "" {
		a.note("the guest is not adapted: %s", clean(why))
		return nil
	}
	p.guest.Adaptation = ad
	req.Guest.Mends = adapt.Mends(ad)
	if p.plan, err = plan.Make(*req); err != nil {
		return err
	}
	for _, c := range ad.Changes {
		a.note("the guest will be changed: %s %s: %s", c.Kind, clean(c.Subject), clean(c.Reason))
	}
	return nil
}

// prove adds the boot proof that is asked for.
func (p *prepared) prove(proof restore.Proof) error {
	if proof.Mode == "" || proof.Mode == restore.ProofOff {
		return nil
	}
	if p.guest == nil {
		return usageError{fmt.Errorf("--boot-proof needs a target that runs machines, and --guest=auto")}
	}
	p.guest.Proof = proof
	return nil
}

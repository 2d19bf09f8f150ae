package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"ascend/internal/adapt"
	"ascend/internal/appliance"
	"ascend/internal/boot"
	"ascend/internal/disk"
	"ascend/internal/guest"
	"ascend/internal/guest/winpack"
	"ascend/internal/plan"
	"ascend/internal/plan/facts"
	"ascend/internal/restore"
	"ascend/internal/vm"
)

func (r *requestFlags) registerGuest(c *cobra.Command) {
	c.Flags().StringVar(&r.guest, "guest", "auto", "auto: look at the system on the disks and change what keeps it from coming up on the target; off: send the disks as they are")
	c.Flags().StringVar(&r.drivers, "drivers", "", "pack of Windows drivers for a guest that lacks the target's: a `folder or ISO image`, as virtio-win, Nutanix VirtIO or AWS's")
	complete(c, "guest", "auto", "off")
}

// inspect looks at the system on the disks, where the target will run it.
func (r *requestFlags) inspect(ctx context.Context, ch *chosen, p *prepared, req *plan.Request) error {
	switch r.guest {
	case "", "auto":
	case "off":
		if r.drivers != "" {
			return usageError{fmt.Errorf("--drivers needs --guest=auto: drivers go into the guest")}
		}
		return nil
	default:
		return usageError{fmt.Errorf("--guest is auto or off, not %q", r.guest)}
	}
	if err := p.openPack(r.drivers); err != nil {
		return err
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
		facts.With(req.Guest, in, p.pack)
	}
	return nil
}

// openPack opens the operator's pack of drivers; the job finds it by its whole path.
func (p *prepared) openPack(name string) error {
	if name == "" {
		return nil
	}
	at, err := filepath.Abs(expandHome(name))
	if err != nil {
		return err
	}
	if p.pack, err = winpack.Open(at); err != nil {
		return withHint(err, "name a folder with INF files, or an ISO image of one")
	}
	return nil
}

// make makes the plan. What the guest lacks on the machine that the plan chose is
// put right where it can be, and the plan made again with that known.
func (p *prepared) make(a *app, req *plan.Request) (err error) {
	if p.plan, err = plan.Make(*req); err != nil || p.guest == nil || len(p.guest.Inspection.Roots) == 0 {
		return err
	}
	in := p.guest.Inspection
	ad := adapt.For(in, p.plan, guest.Choices{Pack: p.pack})
	if ad.Nothing() && p.pack == nil {
		return nil
	}
	why := adapt.Unfit(in, ad)
	if why == "" && !ad.Nothing() {
		if _, err := appliance.Open(""); err != nil {
			why = "the appliance is not built (ascend appliance build)"
		}
	}
	// What a pack brings counts where it is put in, and nowhere else.
	req.Guest = facts.Of(in)
	switch {
	case why != "":
		a.note("the guest is not adapted: %s", clean(why))
	case !ad.Nothing():
		p.guest.Adaptation = ad
		req.Guest.Mends = adapt.Mends(ad)
		facts.Decided(req.Guest, ad)
	}
	if p.plan, err = plan.Make(*req); err != nil || p.guest.Adaptation == nil {
		return err
	}
	for _, c := range ad.Changes {
		a.note("the guest will be changed: %s %s: %s", c.Kind, clean(c.Subject), clean(c.Reason))
	}
	return nil
}

// parseProof reads --boot-proof.
func parseProof(s string) (restore.Proof, error) {
	mode, grade, graded := strings.Cut(s, ":")
	p := restore.Proof{Mode: restore.ProofMode(mode), Grade: boot.Grade(strings.ToUpper(grade))}
	switch p.Mode {
	case "", restore.ProofOff, restore.ProofAdvise, restore.ProofRequire:
	default:
		return p, fmt.Errorf("--boot-proof is off, advise, require or require:GRADE, not %q", s)
	}
	if graded && (p.Mode != restore.ProofRequire || p.Grade != boot.A && p.Grade != boot.B && p.Grade != boot.C) {
		return p, fmt.Errorf("--boot-proof %s: a grade is A, B or C, and stands with require", s)
	}
	return p, nil
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

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"ascend/internal/adapt"
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
	c.Flags().StringVar(&r.hostname, "hostname", "", "host name that the system on the disks is to have (Linux)")
	c.Flags().StringArrayVar(&r.guestAddresses, "guest-address", nil, "what the system itself configures (Linux), for every adapter or nicN=…: keep, dhcp, or `ADDRESS/PREFIX[,GATEWAY]`")
	c.Flags().StringArrayVar(&r.guestKeys, "guest-key", nil, "`file` with a passphrase or key of an encrypted (LUKS) volume, to look inside and adapt what is there")
	_ = c.MarkFlagFilename("guest-key")
	c.Flags().BoolVar(&r.agents, "keep-agents", false, "leave the services of the source platform's agents enabled")
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
	var files []string
	for _, f := range r.guestKeys {
		abs, err := filepath.Abs(expandHome(f))
		if err != nil {
			return err
		}
		files = append(files, abs)
	}
	var err error
	if o.Keys, err = restore.ReadKeys(files); err != nil {
		return usageError{err}
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
		p.guest, req.Guest = &restore.Guest{Inspection: in, KeyFiles: files}, facts.Of(in)
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

// make makes the plan, and adapts the guest to what it has chosen.
func (p *prepared) make(a *app, req *plan.Request) error {
	var in *guest.Inspection
	if p.guest != nil {
		in = p.guest.Inspection
	}
	made, ad, why, err := adapt.Plan(req, in, guest.Choices{Pack: p.pack}, adapt.Ready)
	if err != nil {
		return err
	}
	p.plan = made
	if why != "" {
		a.note("the guest is not adapted: %s", clean(why))
		if req.GuestWish.Wants() {
			return withHint(fmt.Errorf("the guest cannot be changed as asked: %s", why), "leave out --hostname and --guest-address, or put right what stands in the way")
		}
	}
	if ad == nil {
		return nil
	}
	p.guest.Adaptation = ad
	for _, c := range ad.Changes {
		a.note("the guest will be changed: %s %s: %s", c.Kind, clean(c.Subject), clean(c.Reason))
	}
	return nil
}

// guestWish is what the flags want of the system on the disks; nil: nothing.
func (r *requestFlags) guestWish(nics int) (*plan.GuestWish, error) {
	w := &plan.GuestWish{Hostname: r.hostname, KeepAgents: r.agents}
	if len(r.guestAddresses) > 0 {
		w.Addresses = make([]string, nics)
	}
	for _, s := range r.guestAddresses {
		all := true
		if n, v, ok := strings.Cut(s, "="); ok && strings.HasPrefix(n, "nic") {
			i, err := strconv.Atoi(n[3:])
			if err != nil || i < 0 || i >= nics {
				return nil, fmt.Errorf("--guest-address %s: the machine has %d adapters", s, nics)
			}
			all, s, w.Addresses[i] = false, v, v
		}
		a, err := guest.ParseAddress(s)
		switch {
		case err != nil:
			return nil, fmt.Errorf("--guest-address: %w", err)
		case all && len(a.Static) > 0 && nics > 1:
			return nil, fmt.Errorf("--guest-address %s: the machine has %d adapters; say which, as nic0=%s", s, nics, s)
		}
		for i := range w.Addresses {
			if all {
				w.Addresses[i] = s
			}
		}
	}
	if w.Hostname == "" && len(w.Addresses) == 0 && !w.KeepAgents {
		return nil, nil
	}
	if r.guest == "off" {
		return nil, errors.New("--hostname, --guest-address and --keep-agents need --guest=auto")
	}
	return w, nil
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

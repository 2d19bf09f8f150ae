package adapt

import (
	"errors"
	"fmt"
	"regexp"
	"slices"

	"ascend/internal/appliance"
	"ascend/internal/guest"
	"ascend/internal/plan"
	"ascend/internal/plan/facts"
)

// Plan makes the plan of a request whose disks were inspected. What the guest lacks on
// the machine that the plan chose is put right where it can be, and the plan made
// again with that known. why says why the guest is left as it is although it should
// not be; it is "" when nothing has to be done, and then the adaptation is nil.
// ready tells whether the appliance, which carries changes out, is there.
func Plan(req *plan.Request, in *guest.Inspection, c guest.Choices, ready func() error) (p *plan.Plan, a *guest.Adaptation, why string, err error) {
	there := error(nil)
	if in != nil && len(in.Roots) > 0 && in.Roots[0].Linux != nil && req.Guest != nil {
		// Linux is given drivers safely and for next to nothing, so the target's first
		// choice of hardware is taken when it can be.
		there = ready()
		req.Guest.Adapts = there == nil
	}
	if p, err = plan.Make(*req); err != nil || in == nil || len(in.Roots) == 0 {
		if p != nil && p.Guest.Wants() {
			why = "no system was found on the disks, or nobody looked"
		}
		return p, nil, why, err
	}
	if err := wish(&c, p.Guest); err != nil {
		return nil, nil, "", err
	}
	if a = For(in, p, c); a.Nothing() && a.Boot.Verdict != guest.BootsNot && c.Pack == nil {
		return p, nil, "", nil
	}
	if why = Unfit(in, a); why == "" && !a.Nothing() {
		if there == nil && in.Roots[0].Linux == nil {
			there = ready()
		}
		if there != nil {
			why = there.Error()
		}
	}
	if c.Pack != nil { // what a pack brings counts where it is put in, and nowhere else
		adapts := req.Guest.Adapts
		req.Guest = facts.Of(in)
		req.Guest.Adapts = adapts
	}
	if why != "" {
		if req.Guest.Adapts || c.Pack != nil { // on hardware that the guest finds as it is
			req.Guest.Adapts = false
			p, err = plan.Make(*req)
		}
		return p, nil, why, err
	}
	if a.Nothing() {
		if c.Pack != nil {
			p, err = plan.Make(*req)
		}
		return p, nil, "", err
	}
	req.Guest.Mends = Mends(a)
	facts.Decided(req.Guest, a)
	p, err = plan.Make(*req)
	return p, a, "", err
}

// Ready tells whether there is an appliance here to carry changes out.
func Ready() error {
	if _, err := appliance.Open(""); err != nil {
		return errors.New("the appliance is not built (ascend appliance build)")
	}
	return nil
}

// wish adds what a plan wants of the guest.
func wish(c *guest.Choices, w *plan.GuestWish) error {
	if w == nil {
		return nil
	}
	c.Hostname, c.Agents = w.Hostname, w.KeepAgents
	if !hostname.MatchString(w.Hostname) {
		return fmt.Errorf("cannot plan: %q is no host name", w.Hostname)
	}
	c.Addresses = nil
	for i, s := range w.Addresses {
		a, err := guest.ParseAddress(s)
		if err != nil {
			return fmt.Errorf("cannot plan: address of adapter %d in the guest: %w", i, err)
		}
		c.Addresses = append(c.Addresses, a)
	}
	return nil
}

// hostname is that of RFC 1123, or none.
var hostname = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*)?$`)

// For decides for the machine that a plan has made.
func For(in *guest.Inspection, p *plan.Plan, c guest.Choices) *guest.Adaptation {
	t := guest.Target{Platform: p.Target.Platform, Firmware: p.Machine.Firmware, NICs: p.Machine.NICs}
	if b := p.Machine.BootDisk(); b >= 0 {
		t.Controller = p.Machine.Disks[b].Controller
	}
	if len(p.Machine.NICs) > 0 {
		t.NIC = p.Machine.NICs[0].Model
	}
	return guest.Decide(in, t, c)
}

// Mends are the plan's rules whose findings an adaptation puts right.
func Mends(a *guest.Adaptation) []string {
	var out []string
	for _, c := range a.Changes {
		code := map[guest.ChangeKind]string{
			guest.AppendInitramfs: "boot-driver-missing", guest.DeviceToUUID: "fstab-devices", guest.RemoveLVMDevices: "lvm-devices",
			guest.AddFallbackLoader: "efi-fallback", guest.DisableAgent: "foreign-agents", guest.PinInterface: "nic-names",
			guest.BootStartService: "boot-driver-missing", guest.InstallDriver: "boot-driver-missing", guest.SetDHCP: "static-ip",
		}[c.Kind]
		if code != "" && !slices.Contains(out, code) {
			out = append(out, code)
		}
	}
	return out
}

// Unfit says why an adaptation is not carried out; "" when it is.
func Unfit(in *guest.Inspection, a *guest.Adaptation) string {
	for _, f := range a.Findings {
		if f.Severity == guest.Critical {
			return f.Text
		}
	}
	for _, c := range a.Changes {
		if !Can(in, c) {
			return fmt.Sprintf("%s of %s is not carried out", c.Kind, c.Subject)
		}
	}
	return unfitWindows(in, a)
}

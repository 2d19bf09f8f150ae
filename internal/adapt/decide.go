package adapt

import (
	"fmt"
	"slices"

	"ascend/internal/guest"
	"ascend/internal/plan"
)

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
			guest.AddFallbackLoader: "efi-fallback", guest.DisableAgent: "foreign-agents",
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

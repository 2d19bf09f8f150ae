package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"ascend/internal/adapt"
	"ascend/internal/appliance"
	"ascend/internal/boot"
	"ascend/internal/disk"
	"ascend/internal/disk/overlay"
	"ascend/internal/guest"
	"ascend/internal/vm"
)

// hardware is a column of the report.
type hardware struct {
	platform vm.Platform
	firmware vm.Firmware
	storage  vm.Bus
	nic      vm.NICModel
}

func (h hardware) String() string { return fmt.Sprintf("%s-%s-%s", h.platform, h.firmware, h.storage) }

var columns = []hardware{
	{vm.VMware, vm.BIOS, vm.BusIDE, vm.VMXNET3}, // the source's own: it must come up there
	{vm.VMware, vm.BIOS, vm.BusPVSCSI, vm.VMXNET3},
	{vm.CloudStack, vm.BIOS, vm.BusVirtioBlk, vm.VirtioNet},
	{vm.Nutanix, vm.BIOS, vm.BusVirtioSCSI, vm.VirtioNet},
	{vm.AWS, vm.UEFI, vm.BusNVMe, vm.ENA},
	{vm.CloudStack, vm.UEFI, vm.BusVirtioBlk, vm.VirtioNet},
}

// row is one guest on one column.
type row struct {
	guest     string
	on        hardware
	predicted guest.Verdict
	before    boot.Grade
	after     *boot.Result
	changes   []string
	address   string
	seconds   float64
	cpu       float64
	adapting  float64 // of cpu
	wrong     string  // why the prediction is not what came
}

// mac is that of the new machine's adapter.
const mac = "52:54:00:a5:ce:0d"

// report prints a line for each guest and hardware, as each is done. Its error tells
// predictions that did not come true.
func report(ctx context.Context, im *appliance.Image, dir string, args []string) error {
	fl := flag.NewFlagSet("report", flag.ContinueOnError)
	only := fl.String("guests", "debian,debian-bios,debian-uefi,debian-uefi-nofallback,debian-devfstab,debian-static,debian-dracut,debian-dirty,debian-xfs,debian-btrfs,debian-lvm,debian-luks", "names")
	on := fl.String("on", "", "columns, as vmware-bios-pvscsi; all by default")
	evidence := fl.String("evidence", "", "`folder` for what each boot showed")
	if err := fl.Parse(args); err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "guest\ton\tpredicted\tbefore\tafter\tgrade\taddress\tseconds\tcpu-s\tof adapting\tchanges")
	var wrong []string
	for _, g := range strings.Split(*only, ",") {
		for _, h := range columns {
			if *on != "" && !slices.Contains(strings.Split(*on, ","), h.String()) || g == "debian-bios" && h.firmware == vm.UEFI || strings.HasPrefix(g, "debian-uefi") && h.firmware == vm.BIOS {
				continue
			}
			keep := func(when string) string {
				if *evidence == "" {
					return ""
				}
				return filepath.Join(*evidence, g+"-"+h.String(), when)
			}
			r, err := try(ctx, im, dir, g, h, keep)
			if err != nil {
				return fmt.Errorf("%s on %s: %w", g, h, err)
			}
			after, grade := "-", string(r.before)
			if r.after != nil {
				after, grade = came(r.after), string(r.after.Grade)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.0f\t%.0f\t%.1f\t%s\n", r.guest, r.on, r.predicted, up(r.before), after, grade, r.address, r.seconds, r.cpu, r.adapting, strings.Join(r.changes, " "))
			if err := w.Flush(); err != nil {
				return err
			}
			if r.wrong != "" {
				wrong = append(wrong, fmt.Sprintf("%s on %s: %s", g, h, r.wrong))
			}
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("predictions that did not come true: %s", strings.Join(wrong, "; "))
	}
	return nil
}

func up(g boot.Grade) string {
	if g == boot.F {
		return "no"
	}
	return "yes"
}

func came(r *boot.Result) string {
	if r.Failure != "" {
		return "no: " + r.Failure
	}
	return string(r.Milestone)
}

// try predicts, boots, adapts, predicts again and boots again with the marker.
func try(ctx context.Context, im *appliance.Image, dir, name string, h hardware, keep func(when string) string) (*row, error) {
	img, err := openImage(filepath.Join(dir, name+".qcow2"))
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(dir, ".report-")
	if err != nil {
		img.Close()
		return nil, err
	}
	defer os.RemoveAll(work)
	o, err := overlay.Create(filepath.Join(work, "layer"), img)
	if err != nil {
		img.Close()
		return nil, err
	}
	defer o.Close()
	disks := []disk.Disk{o}
	keys := [][]byte{luksKey}
	target := guest.Target{Platform: h.platform, Firmware: h.firmware, Controller: h.storage, NIC: h.nic, NICs: []vm.NIC{{Model: h.nic, MAC: mac}}}
	decide := func() (*guest.Inspection, *guest.Adaptation, error) {
		in, err := guest.Inspect(ctx, disks, guest.Options{Firmware: h.firmware, Keys: keys})
		if err != nil {
			return nil, nil, err
		}
		return in, guest.Decide(in, target, guest.Choices{}), nil
	}
	q := boot.Request{Disks: disks, Platform: h.platform, Firmware: h.firmware, Storage: h.storage, NIC: h.nic, MAC: mac, Until: boot.Root, Limit: 15 * time.Minute}
	if h.platform == vm.AWS { // QEMU has no ENA
		q.NIC = ""
	}
	in, a, err := decide()
	if err != nil {
		return nil, err
	}
	r := &row{guest: name, on: h, predicted: a.Boot.Verdict}
	q.Evidence = keep("before")
	first, err := boot.Prove(ctx, q)
	if err != nil {
		return nil, err
	}
	r.before, r.seconds, r.cpu = first.Grade, first.Seconds, first.CPU
	// A machine without boot entries does not find a loader that is not at the fallback path.
	needsLoader := slices.ContainsFunc(a.Changes, func(c guest.Change) bool { return c.Kind == guest.AddFallbackLoader })
	if boots := a.Boot.Verdict == guest.Boots && !needsLoader; boots != (first.Grade != boot.F) {
		r.wrong = fmt.Sprintf("predicted %s, and before adaptation: %s", a.Boot.Verdict, came(first))
	}
	if a.Nothing() {
		return r, nil
	}
	res, err := adapt.Apply(ctx, disks, in, a, adapt.Options{Image: im, Keys: keys})
	if err != nil {
		return nil, err
	}
	for _, c := range res.Changes {
		r.changes = append(r.changes, string(c.Kind))
	}
	r.adapting = res.CPU
	if _, again, err := decide(); err != nil {
		return nil, err
	} else if !again.Nothing() || again.Boot.Verdict != guest.Boots {
		r.wrong = fmt.Sprintf("once adapted: %s, and %d changes more", again.Boot.Verdict, len(again.Changes))
	}
	q.Until, q.Appliance, q.Keys, q.Evidence = "", im, keys, keep("after")
	if r.after, err = boot.Prove(ctx, q); err != nil {
		return nil, err
	}
	r.seconds, r.cpu = r.after.Seconds, r.after.CPU
	if r.after.Failure != "" {
		r.wrong = "adapted, and it does not come up: " + r.after.Failure
	}
	if m := r.after.Marker; m != nil {
		for _, n := range m.NICs {
			r.address = strings.TrimSpace(r.address + " " + n.Name + " " + strings.Join(n.Addresses, " "))
		}
	}
	return r, nil
}

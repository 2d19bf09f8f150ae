package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ascend/internal/appliance"
	"ascend/internal/boot"
	"ascend/internal/convert"
	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/vm"
)

func (a *app) bootProofCommand() *cobra.Command {
	var q boot.Request
	var platform, firmware, storage, nic, root, cache string
	var o open.Options
	var marker bool
	c := &cobra.Command{
		Use:   "boot-proof IMAGE... --to-platform P",
		Short: "start a machine's disks on a target's virtual hardware and watch",
		Long: `Start a throw-away layer over disk images on the virtual hardware that a target
gives, cut off from every network, and tell how far the guest comes. The images are
never written. The boot disk comes first.

Grades: A up to a login with its network on the target's models; B root file system
mounted on the target's storage; C on neutral hardware only; F it does not come up.`,
		Example: "  ascend boot-proof web01.qcow2 --to-platform vmware --firmware bios --evidence proof/",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := vm.ParsePlatform(platform)
			if err != nil {
				return usageError{err}
			}
			q.Platform, q.Firmware, q.Storage, q.NIC = p, vm.Firmware(strings.ToLower(firmware)), vm.Bus(storage), vm.NICModel(nic)
			if q.Firmware != vm.BIOS && q.Firmware != vm.UEFI {
				return usageError{fmt.Errorf("--firmware is bios or uefi, not %q", firmware)}
			}
			for _, f := range args {
				img, err := convert.OpenSource(f, root, o)
				if err != nil {
					return err
				}
				defer img.Close()
				q.Disks = append(q.Disks, disk.Disk(img))
			}
			if marker {
				if q.Appliance, err = appliance.Open(cache); err != nil {
					return err
				}
			}
			if !a.json {
				q.Progress = func(m boot.Milestone) { a.note("%s", m) }
			}
			res, err := boot.Prove(c.Context(), q)
			if err != nil {
				return err
			}
			if a.json {
				if err := printJSON(c, res); err != nil {
					return err
				}
			} else {
				showProof(c, res)
			}
			if res.Grade == boot.F {
				return mismatchError{fmt.Errorf("the guest does not come up on %s: %s", p, res.Failure)}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&platform, "to-platform", "", "whose virtual hardware: vmware, cloudstack, hyperv, aws, azure, nutanix")
	f.StringVar(&firmware, "firmware", "bios", "bios or uefi")
	f.BoolVar(&q.SecureBoot, "secure-boot", false, "with Secure Boot (UEFI)")
	f.StringVar(&storage, "storage", "", "storage controller instead of the platform's: pvscsi, nvme, virtio-blk, …")
	f.StringVar(&nic, "nic", "", "network adapter instead of the platform's: vmxnet3, e1000e, virtio, …")
	f.StringVar(&q.Evidence, "evidence", "", "`folder` for console, screenshot, capture and result")
	f.DurationVar(&q.Limit, "limit", 0, "give up after this (default 15m)")
	f.DurationVar(&q.Inactivity, "inactivity", 0, "give up when nothing changes for this (default 2m)")
	f.StringVar((*string)(&q.Until), "until", "", "stop at this milestone: kernel, root-mounted, login")
	f.BoolVar(&marker, "marker", false, "have the guest report from within (Linux with systemd; needs the appliance)")
	f.StringVar(&cache, "cache", "", "`folder` of the appliance (default $ASCEND_CACHE_DIR or ~/.cache/ascend)")
	f.StringVarP(&o.Format, "source-format", "f", "", "the images' format (default: told from their signatures)")
	f.StringVar(&root, "root", "", "`folder` that references may not leave (default: the image's own)")
	_ = c.MarkFlagRequired("to-platform")
	return c
}

func showProof(c *cobra.Command, r *boot.Result) {
	rows := [][]string{
		{"grade", string(r.Grade)}, {"came to", string(r.Milestone)},
		{"hardware", fmt.Sprintf("%s, %s, %s, %s", r.Hardware.Machine, r.Hardware.Firmware, r.Hardware.Storage, r.Hardware.NIC)},
		{"network", fmt.Sprintf("%d packets, %d DHCP requests, %s", r.Network.Packets, r.Network.DHCP, strings.Join(r.Network.Address, " "))},
		{"took", fmt.Sprintf("%.1f s, %.1f s of processor time (%s)", r.Seconds, r.CPU, r.Accel)},
	}
	if r.Failure != "" {
		rows = append(rows, []string{"failure", r.Failure})
	}
	if r.Limit != "" {
		rows = append(rows, []string{"not proven", r.Limit})
	}
	if m := r.Marker; m != nil {
		rows = append(rows, []string{"root device", clean(m.Root) + " (" + clean(m.Driver) + ")"})
		for _, n := range m.NICs {
			rows = append(rows, []string{"adapter", clean(n.Name) + " (" + clean(n.Driver) + ") " + clean(strings.Join(n.Addresses, " "))})
		}
		if len(m.Failed) > 0 {
			rows = append(rows, []string{"failed units", clean(strings.Join(m.Failed, " "))})
		}
	}
	table(c.OutOrStdout(), rows)
}

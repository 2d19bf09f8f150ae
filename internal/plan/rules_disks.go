package plan

import (
	"slices"
	"strconv"
	"strings"

	"ascend/internal/target"
	"ascend/internal/vm"
)

var diskRules = []rule{
	{"no-disks", Critical, "A machine without disks cannot be restored.", "choose a backup that holds disks", "backup's disks", func(p *Plan, _ Request, say say) {
		if len(p.Disks) == 0 {
			say("the backup holds no disks")
		}
	}},
	{"zero-size-disk", Critical, "A disk without a size is a broken backup.", "leave the disk out or restore another point in time", "disk sizes", func(_ *Plan, r Request, say say) {
		for i, s := range r.Sources {
			if s.Info.Size == 0 {
				say("disk %d has no size", r.Machine.Disks[i].Index)
			}
		}
	}},
	{"empty-disk", Warning, "A disk without any data may be an empty backup that looks green.", "look whether the backup is whole: a machine cannot start from an empty disk", "allocated bytes", func(_ *Plan, r Request, say say) {
		for i, s := range r.Sources {
			if s.Info.Size > 0 && s.Info.Allocated == 0 {
				say("disk %d holds no data at all", r.Machine.Disks[i].Index)
			}
		}
	}},
	{"disk-count", Critical, "Every platform bounds the number of disks, some by firmware.", "restore fewer disks or choose another target", "number of disks, firmware, target's limits", func(p *Plan, r Request, say say) {
		most := r.Caps.MaxDisks
		if l := r.Caps.Traits.For(p.Machine.Firmware); l.MaxDisks > 0 {
			most = l.MaxDisks
		}
		if most > 0 && len(p.Disks) > most {
			say("the machine has %d disks and the target takes %d", len(p.Disks), most)
		}
	}},
	{"disk-size", Critical, "Every platform bounds the size of a disk.", "shrink the disk in the guest before the backup or choose another target", "disk sizes, target's limits", func(p *Plan, r Request, say say) {
		for _, d := range p.Disks {
			if r.Caps.MaxDiskSize > 0 && d.Virtual > r.Caps.MaxDiskSize {
				say("disk %d has %s and the target takes %s", d.Index, vm.FormatSize(d.Virtual), vm.FormatSize(r.Caps.MaxDiskSize))
			}
		}
	}},
	{"boot-disk-size", Critical, "Some platforms start from smaller disks than they take.", "shrink the boot disk before the backup, or choose another target", "boot disk's size, firmware, target's limits", func(p *Plan, r Request, say say) {
		l := r.Caps.Traits.For(p.Machine.Firmware)
		if b := p.Machine.BootDisk(); b >= 0 && b < len(p.Disks) && l.MaxBootDisk > 0 && p.Disks[b].Virtual > l.MaxBootDisk {
			say("the boot disk %d has %s and %s starts from %s", p.Disks[b].Index, vm.FormatSize(p.Disks[b].Virtual), l.What, vm.FormatSize(l.MaxBootDisk))
		}
	}},
	{"boot-disk-mbr", Critical, "BIOS with an MBR reaches 2 TiB of the boot disk and no more.", "convert the disk to GPT before the backup, or choose another target", "boot disk's size and partition table, firmware, target's platform", func(p *Plan, r Request, say say) {
		b := p.Machine.BootDisk()
		if b < 0 || b >= len(p.Disks) || p.Machine.Firmware != vm.BIOS || p.Disks[b].Virtual <= 2*vm.TiB || r.Target.Platform == vm.Local {
			return
		}
		if tableOf(r.Sources[b].Image) == "mbr" {
			say("the boot disk %d has %s and an MBR, which reaches 2 TiB", p.Disks[b].Index, vm.FormatSize(p.Disks[b].Virtual))
		}
	}},
	{"bios-gpt", Warning, "BIOS starts from GPT only with a place for the boot loader, and Windows not at all.", "start the machine by UEFI if the disk has an EFI system partition", "boot disk's partition table, firmware, guest", func(p *Plan, r Request, say say) {
		b := p.Machine.BootDisk()
		if b < 0 || p.Machine.Firmware != vm.BIOS || b >= len(r.Sources) || r.Target.Platform == vm.Local {
			return
		}
		switch t := tableOf(r.Sources[b].Image); {
		case strings.HasPrefix(t, "gpt") && p.Machine.Guest.Family == vm.Windows:
			say("the boot disk has a GPT, and Windows starts by BIOS from an MBR only")
		case t == "gpt-no-bios":
			say("the boot disk has a GPT without a BIOS boot partition, and the machine starts by BIOS")
		}
	}},
	{"disk-format-limit", Critical, "Formats bound the size of a disk: a VHD holds 2,040 GiB.", "choose another format with --format", "disk sizes, format of the delivery", func(p *Plan, _ Request, say say) {
		for _, t := range p.tooBig {
			say("%s", t)
		}
	}},
	{"disk-padded", Information, "Azure counts disks in MiB and EBS in GiB.", "nothing to do: the disk grows by zeros at its end", "disk sizes, target's alignment", func(p *Plan, _ Request, say say) {
		for _, d := range p.Disks {
			if d.Virtual != d.Source.Size {
				say("disk %d grows from %d to %d bytes to fit the target's alignment", d.Index, d.Source.Size, d.Virtual)
			}
		}
	}},
	{"sector-size", Critical, "A file system made for sectors of 4,096 bytes does not start on a disk of 512, and the other way round.", "choose a target of that sector size, or convert the disk in the guest", "disk sector sizes", func(p *Plan, r Request, say say) {
		for _, d := range p.Source.Disks {
			if d.SectorSize > 512 && r.Target.Platform != vm.Local {
				say("disk %d has sectors of %d bytes and the target's have 512", d.Index, d.SectorSize)
			}
		}
	}},
	{"shared-disk", Warning, "A disk shared between machines is restored as one that is not.", "restore the cluster's machines together and share the disk by hand", "disks", func(p *Plan, _ Request, say say) {
		for _, d := range p.Machine.Disks {
			if d.Shared {
				say("disk %d was shared between machines; the restored one is not", d.Index)
			}
		}
	}},
	{"independent-disk", Warning, "Independent disks are left out of snapshots, so their data may be older or of another moment.", "look at the disk's data after the restore", "disks", func(p *Plan, _ Request, say say) {
		for _, d := range p.Source.Disks {
			if d.Independent {
				say("disk %d was independent of snapshots: what the backup holds of it may be of another moment", d.Index)
			}
		}
	}},
	{"raw-device-disk", Warning, "A raw device mapping becomes an ordinary disk.", "tell software that speaks to the storage through this disk", "disks", func(p *Plan, _ Request, say say) {
		for _, d := range p.Source.Disks {
			if d.RawDevice {
				say("disk %d was a raw device and becomes an ordinary virtual disk", d.Index)
			}
		}
	}},
	{"boot-disk", Information, "Disk 0 is not always the boot disk.", "look at the boot order if the machine does not start", "boot disk", func(p *Plan, _ Request, say say) {
		if b := p.Machine.BootDisk(); b > 0 {
			say("disk %d, not the first, is the boot disk", p.Machine.Disks[b].Index)
		}
	}},
	{"aws-import-volumes", Critical, "AWS converts Windows by ImportImage, which takes 21 volumes.", "restore fewer disks and attach the others later", "number of disks, guest, target's platform", func(p *Plan, r Request, say say) {
		if r.Target.Platform == vm.AWS && p.Machine.Guest.Family == vm.Windows && len(p.Disks) > 21 {
			say("the machine has %d disks and ImportImage takes 21", len(p.Disks))
		}
	}},
	{"source-note", Information, "What the reader of the disks noticed.", "", "disk images", func(p *Plan, _ Request, say say) {
		for _, d := range p.Disks {
			for _, n := range d.Source.Notes {
				say("disk %d: %s", d.Index, n)
			}
		}
	}},
}

// overClass tells in what a disk does not fit a class; "" when it does.
func overClass(c target.StorageClass, size int64, v target.Volume) (why string) {
	gib := int((size + vm.GiB - 1) / vm.GiB)
	switch {
	case c.MaxSize > 0 && size > c.MaxSize:
		return "takes " + vm.FormatSize(c.MaxSize)
	case c.MinSize > size:
		return "begins at " + vm.FormatSize(c.MinSize)
	case v.IOPS > 0 && (v.IOPS < c.IOPS.Min || v.IOPS > c.IOPS.Max):
		return rangeText("IOPS", c.IOPS)
	case v.IOPS > c.IOPS.Min && c.IOPSPerGiB > 0 && v.IOPS > c.IOPSPerGiB*gib:
		return "takes " + strconv.Itoa(c.IOPSPerGiB) + " IOPS" + " for each GiB at most"
	case v.Throughput > 0 && (v.Throughput < c.Throughput.Min || v.Throughput > c.Throughput.Max):
		return rangeText("MB/s", c.Throughput)
	case v.Throughput > c.Throughput.Min && c.PerThroughput > 0 && v.Throughput*c.PerThroughput > max(v.IOPS, c.IOPS.Min):
		return "needs " + strconv.Itoa(v.Throughput*c.PerThroughput) + " IOPS" + " for that throughput"
	}
	return ""
}

func rangeText(unit string, r target.Range) string {
	if r.Max == 0 {
		return "does not let " + unit + " be chosen"
	}
	return strings.Join([]string{"takes", strconv.Itoa(r.Min), "to", strconv.Itoa(r.Max), unit}, " ")
}

var storageRules = []rule{
	{"storage-unmapped", Critical, "Every disk needs a storage when the target has several.", "choose one with --place or --storage, or by a mapping", "placement, target's inventory", func(p *Plan, r Request, say say) {
		t := r.Caps.Traits
		if t.StorageField == "" || len(t.Classes) > 0 || r.Inventory == nil {
			return
		}
		places := r.Inventory.Places[t.StorageField]
		if len(places) < 2 || slices.ContainsFunc(r.Caps.Fields, func(f target.Field) bool { return f.Name == t.StorageField && f.Default != "" }) {
			return
		}
		for i, d := range p.Disks {
			if p.storageOf(i, t) == "" {
				say("disk %d has no %s on the target%s", d.Index, strings.ReplaceAll(t.StorageField, "_", " "), candidates(places))
			}
		}
	}},
	{"storage-missing", Critical, "The storage chosen must be there.", "choose a storage the target has", "placement, target's inventory and storage classes", func(p *Plan, r Request, say say) {
		t := r.Caps.Traits
		if t.StorageField == "" {
			return
		}
		var places []target.Place
		for _, c := range t.Classes {
			places = append(places, target.Place{Name: c.Name})
		}
		if r.Inventory != nil && len(t.Classes) == 0 {
			places = r.Inventory.Places[t.StorageField]
		}
		for i, d := range p.Disks {
			if s := p.storageOf(i, t); s != "" && len(places) > 0 && !knows(places, s) {
				say("disk %d: the target has no %s %q%s", d.Index, strings.ReplaceAll(t.StorageField, "_", " "), s, candidates(places))
			}
		}
	}},
	{"storage-class", Critical, "Each kind of storage has bounds of size, IOPS and throughput.", "choose another kind of storage, or other figures", "disk sizes, storage classes, IOPS, throughput", func(p *Plan, r Request, say say) {
		b := p.Machine.BootDisk()
		for i, d := range p.Disks {
			c, ok := r.Caps.Traits.Class(p.storageOf(i, r.Caps.Traits))
			if !ok {
				continue
			}
			if why := overClass(c, d.Virtual, p.volumeOf(i)); why != "" {
				say("disk %d has %s and %s %s", d.Index, vm.FormatSize(d.Virtual), c.Name, why)
			}
			if c.NoBoot && i == b {
				say("disk %d is the boot disk, which cannot be on %s", d.Index, c.Name)
			}
		}
	}},
	{"storage-large", Warning, "gp3 volumes above 16 TiB are new, and not to be had everywhere.", "ask for io2, or split the disk, if the region refuses the volume", "disk sizes, storage classes", func(p *Plan, r Request, say say) {
		for i, d := range p.Disks {
			if p.storageOf(i, r.Caps.Traits) == "gp3" && r.Target.Platform == vm.AWS && d.Virtual > 16*vm.TiB {
				say("disk %d has %s: gp3 takes more than 16 TiB in some regions only", d.Index, vm.FormatSize(d.Virtual))
			}
		}
	}},
	{"storage-full", Critical, "The data must fit what is free on the storage chosen.", "free space there or choose another storage", "allocated bytes, target's free space", func(p *Plan, r Request, say say) {
		if r.Inventory == nil {
			return
		}
		for _, n := range p.Needs(r.Caps.Traits, r.Inventory) {
			if n.Free > 0 && n.Bytes > n.Free {
				say("%s has %s free and the disks need %s", n.Place, vm.FormatSize(n.Free), vm.FormatSize(n.Bytes))
			}
		}
	}},
	{"storage-unknown", Information, "Free space that nobody tells cannot be checked.", "look at the free space yourself", "target's inventory", func(p *Plan, r Request, say say) {
		field := r.Caps.Traits.StorageField
		if r.Inventory == nil || field == "" || len(r.Caps.Traits.Classes) > 0 {
			return
		}
		seen := map[string]bool{}
		for i := range p.Disks {
			s := p.storageOf(i, r.Caps.Traits)
			if seen[s] {
				continue
			}
			seen[s] = true
			if k := slices.IndexFunc(r.Inventory.Places[field], func(pl target.Place) bool { return pl.Name == s || strings.HasSuffix(pl.Name, "/"+s) }); s != "" && k >= 0 && r.Inventory.Places[field][k].Free == 0 {
				say("how much is free on %s is not known", s)
			}
		}
	}},
}

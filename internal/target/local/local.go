// Package local restores machines to a folder: as a folder of disk files in
// any format beside an OVF descriptor and vm.json, or as one OVA.
//
//	DIR/<machine>/<machine>-disk1.qcow2 …    the disks
//	DIR/<machine>/<machine>.ovf              OVF 1.1 (DSP0243)
//	DIR/<machine>/<machine>.mf               digests, see the option manifest
//	DIR/<machine>/vm.json                    the machine as this project says it
//	DIR/<machine>.ova                        all of it in one tar, see archive.go
//
// A file is written where it stays; nothing is staged. Everything is made
// under a hidden name of the job's own, its identity is recorded, and it is
// then renamed into place without replacing anything; see ledger.go. Undo
// removes what has that identity and nothing else.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// Mechanisms, as target.Delivery.Path names them.
const (
	PathFolder = "file" // a folder of files
	PathOVA    = "ova"  // members of one OVA
)

// writeSize is the size of one write: 256 KiB stays in a processor's cache
// between reading, hashing and writing, which 1 MiB does not.
const writeSize = 256 << 10

// Kind describes the connector.
func Kind() target.Kind {
	return target.Kind{
		Platform: vm.Local,
		Settings: []target.Setting{
			{Field: target.Field{Name: "dir", Help: "folder the machines are put in", Required: true}},
			{Field: target.Field{
				Name: "package", Help: "what is preferred: a folder for each machine, or an OVA",
				Default: packageFolder, Values: []string{packageFolder, packageOVA},
			}},
			{Field: target.Field{Name: "format", Help: "the disk format that is preferred in a folder", Default: "qcow2", Values: formatNames()}},
		},
		Open: func(_ context.Context, s target.Settings) (target.Target, error) { return Open(s) },
	}
}

// Target is a folder that machines are restored to. Methods may be called
// concurrently.
type Target struct {
	dir        string // absolute
	deliveries []target.Delivery
}

var _ target.Target = (*Target)(nil)

// Open checks the settings' form. The folder itself is looked at by Validate
// and Begin: it may be mounted later.
func Open(s target.Settings) (*Target, error) {
	dir := s.Values["dir"]
	if dir == "" || strings.ContainsRune(dir, 0) {
		return nil, fmt.Errorf("target %s: the setting \"dir\" names no folder: %w", s.Name, target.ErrPermanent)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("target %s: cannot find folder %s: %w", s.Name, dir, err)
	}
	pack := s.Values["package"]
	if pack != "" && pack != packageFolder && pack != packageOVA {
		return nil, fmt.Errorf("target %s: package %q is neither %s nor %s: %w", s.Name, pack, packageFolder, packageOVA, target.ErrPermanent)
	}
	format := s.Values["format"]
	if format != "" && !slices.Contains(formatNames(), format) {
		return nil, fmt.Errorf("target %s: format %q is not one of %s: %w", s.Name, format, strings.Join(formatNames(), ", "), target.ErrPermanent)
	}
	return &Target{dir: abs, deliveries: deliveries(pack, format)}, nil
}

// Close does nothing: a Target holds nothing open.
func (*Target) Close() error { return nil }

// formatNames are the values of the setting "format".
func formatNames() []string {
	var names []string
	for _, f := range image.Formats() {
		names = append(names, f.Format.String())
		if !slices.Contains(names, f.Format.Name) {
			names = append(names, f.Format.Name)
		}
	}
	return names
}

// deliveries lists every format that can be made: a file of its own for each
// disk, and the two that may stand in an OVA. Those of the preferred package
// and format come first.
func deliveries(pack, format string) []target.Delivery {
	var folder, ova []target.Delivery
	for _, info := range image.Formats() {
		f := info.Format
		d := target.Delivery{Format: f, Mode: target.Ranges, Clean: true, Resumable: true, Path: PathFolder, MaxRange: writeSize}
		if f.Ordered() {
			d.Mode, d.Clean = target.Ordered, false
			if f.Name == "qcow2" {
				d.Patchable = true
			} else {
				d.Digests = []string{"sha256"}
			}
		}
		folder = append(folder, d)
		if f.Name == "vmdk" && f.Subformat == "streamOptimized" {
			d.Path, d.NeedSize = PathOVA, !f.Ordered()
			ova = append(ova, d)
		}
	}
	if format == "" {
		format = "qcow2"
	}
	slices.SortStableFunc(folder, func(a, b target.Delivery) int { return rank(a, format) - rank(b, format) })
	if pack == packageOVA {
		return append(ova, folder...)
	}
	return append(folder, ova...)
}

func rank(d target.Delivery, format string) int {
	switch format {
	case d.Format.String():
		return 0
	case d.Format.Name:
		return 1
	}
	return 2
}

// Capabilities implements target.Target. A description takes everything: what
// limits a machine is where it will be run.
func (t *Target) Capabilities() target.Capabilities {
	return target.Capabilities{
		Platform:   vm.Local,
		Deliveries: slices.Clone(t.deliveries),
		Firmware:   []vm.Firmware{vm.BIOS, vm.UEFI},
		SecureBoot: true,
		TPM:        true,
		Arch:       []vm.Arch{vm.AMD64, vm.I386, vm.ARM64},
		Controllers: []vm.Bus{
			vm.BusSATA, vm.BusVirtioSCSI, vm.BusVirtioBlk, vm.BusPVSCSI, vm.BusLSISAS, vm.BusLSILogic,
			vm.BusSCSI, vm.BusNVMe, vm.BusIDE, vm.BusLSIBus, vm.BusXenBlk, vm.BusVMBusSCSI,
		},
		NICModels: []vm.NICModel{
			vm.E1000, vm.E1000E, vm.VirtioNet, vm.VMXNET3, vm.NetVSC, vm.ENA, vm.RTL8139, vm.PCNet32,
		},
		KeepsMAC:  true,
		KeepsUUID: true,
		Options: []target.Field{
			{Name: optionPackage, Help: "folder or ova; must agree with the deliveries chosen", Values: []string{packageFolder, packageOVA}},
			{
				Name:    optionManifest,
				Help:    "write SHA-256 digests: auto does where they cost no reading back",
				Default: manifestAuto, Values: []string{manifestAuto, manifestYes, manifestNo},
			},
		},
	}
}

// Inventory implements target.Target: the folder with its free space, and the
// names that are taken in it.
func (t *Target) Inventory(ctx context.Context) (*target.Inventory, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(t.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a folder that is not there yet holds nothing
		return nil, fmt.Errorf("cannot list folder: %w", permanent(err))
	}
	inv := &target.Inventory{Places: map[string][]target.Place{}, Asked: time.Now()}
	place := target.Place{Name: t.dir}
	if st, err := statfs(t.dir); err == nil {
		place.Free, place.Note = st.free, st.note()
	}
	inv.Places["dir"] = []target.Place{place}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		if ova, ok := strings.CutSuffix(name, ".ova"); ok && !e.IsDir() {
			name = ova
		}
		if !slices.Contains(inv.Taken, name) {
			inv.Taken = append(inv.Taken, name)
		}
	}
	return inv, nil
}

// Undo implements target.Target.
func (t *Target) Undo(ctx context.Context, r target.Resource) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.Kind != kindFolder && r.Kind != kindFile {
		return fmt.Errorf("cannot undo a resource of the unknown kind %q: %w", r.Kind, target.ErrPermanent)
	}
	root, err := os.OpenRoot(t.dir)
	if errors.Is(err, fs.ErrNotExist) {
		// A file system that is not mounted must not look like work done.
		return fmt.Errorf("cannot undo %s: the folder %s is not there", r.Name, t.dir)
	}
	if err != nil {
		return fmt.Errorf("cannot undo %s: %w", r.Name, permanent(err))
	}
	defer root.Close()
	return remove(root, r)
}

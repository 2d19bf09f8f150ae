package adapt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"ascend/internal/appliance/proto"
	"ascend/internal/guest"
)

// does has one function for each kind of change that is carried out here.
var does = map[guest.ChangeKind]func(*work, context.Context, *guest.Root, guest.Change) error{
	guest.AppendInitramfs:   appendInitramfs,
	guest.PersistModules:    persist,
	guest.FirstBoot:         firstBoot,
	guest.DeviceToUUID:      deviceToUUID,
	guest.RemoveLVMDevices:  removeFile,
	guest.AddFallbackLoader: fallbackLoader,
	guest.PinInterface:      pin,
	guest.SetDHCP:           setAddress,
	guest.SetAddress:        setAddress,
	guest.SetMAC:            setMAC,
	guest.SetHostname:       setHostname,
	guest.DisableAgent:      disableAgent,
	guest.CloudDatasource:   datasource,
}

// bootLoaderFiles are where a kernel's options stand, by what starts it. The
// loader's own file and what it is generated from are both changed.
var bootLoaderFiles = []string{"/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/grub/menu.lst", "/boot/grub/grub.conf", "/boot/grub2/grubenv", "/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg", "/etc/default/grub", "/etc/kernel/cmdline"}

func deviceToUUID(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	swap := func(s string) string { return replaceName(s, c.Args["name"], "UUID="+c.Args["uuid"]) }
	if c.Args["file"] != "boot loader" {
		return w.edit(ctx, c.Args["file"], false, swap)
	}
	files := bootLoaderFiles
	var entries []proto.FileInfo
	err := w.Do(ctx, proto.Call{List: &proto.List{Root: sys, Path: "/boot/loader/entries"}}, &entries)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(string(e.Name), ".conf") {
			files = append(files[:len(files):len(files)], "/boot/loader/entries/"+string(e.Name))
		}
	}
	for _, f := range files {
		if n, err := w.size(ctx, sys, f); err != nil || n < 0 {
			if err != nil {
				return err
			}
			continue
		}
		if strings.HasSuffix(f, "/grubenv") { // of fixed length
			continue
		}
		if err := w.edit(ctx, f, false, swap); err != nil {
			return err
		}
	}
	if len(w.now.Files) == 0 {
		w.now.Skipped = "the name was found in no file of the boot loader that is written here"
	}
	return nil
}

func removeFile(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	was, err := w.size(ctx, sys, c.Subject)
	if err != nil || was < 0 {
		return err
	}
	if err := w.Do(ctx, proto.Call{Remove: &proto.Remove{Root: sys, Path: proto.Name(c.Subject)}}, nil); err != nil {
		return fmt.Errorf("cannot remove %s: %w", c.Subject, err)
	}
	w.record(c.Subject, was, -1, nil)
	return nil
}

// fallbackLoader copies the system's own boot loader to the path that a firmware
// without boot entries looks at (UEFI specification, 3.5.1.1). A shim takes the
// loader beside it along.
func fallbackLoader(w *work, ctx context.Context, r *guest.Root, _ guest.Change) error {
	if w.in.ESP == nil {
		return errors.New("there is no EFI system partition")
	}
	from, beside := pickLoader(w.in.ESP.Loaders)
	if from == "" {
		return fmt.Errorf("none of %s is a boot loader that is known", strings.Join(w.in.ESP.Loaders, ", "))
	}
	if err := w.Do(ctx, proto.Call{Mount: &proto.Mount{Root: esp, Device: device(w.in.ESP.Volume)}}, nil); err != nil {
		return fmt.Errorf("cannot mount %s: %w", w.in.ESP.Volume, err)
	}
	name := "BOOTX64.EFI"
	if strings.Contains(strings.ToLower(from), "aa64") {
		name = "BOOTAA64.EFI"
	}
	copies := map[string]string{from: "/EFI/BOOT/" + name}
	for _, b := range beside {
		copies[b] = "/EFI/BOOT/" + path.Base(b)
	}
	for from, to := range copies {
		b, err := w.read(ctx, esp, from, maxBinary)
		if err != nil {
			return err
		}
		if err := w.write(ctx, esp, to, b, 0o755); err != nil {
			return err
		}
	}
	return w.Do(ctx, proto.Call{Unmount: &proto.Unmount{Root: esp}}, nil)
}

// pickLoader is the loader to copy and those that must stand beside it.
func pickLoader(loaders []string) (from string, beside []string) {
	best := len(loaderNames)
	for _, l := range loaders {
		for i, n := range loaderNames {
			if strings.HasPrefix(strings.ToLower(path.Base(l)), n) && i < best {
				from, best = l, i
			}
		}
	}
	if best != 0 {
		return from, nil
	}
	for _, l := range loaders {
		b := strings.ToLower(path.Base(l))
		if path.Dir(l) == path.Dir(from) && (strings.HasPrefix(b, "grub") || strings.HasPrefix(b, "mm")) {
			beside = append(beside, l)
		}
	}
	return from, beside
}

var loaderNames = []string{"shim", "grub", "systemd-boot", "bootmgfw", "refind"}

func setHostname(w *work, ctx context.Context, r *guest.Root, c guest.Change) error {
	if err := w.edit(ctx, "/etc/hostname", true, func(string) string { return c.Subject + "\n" }); err != nil {
		return err
	}
	if r.Hostname == "" {
		return nil
	}
	return w.edit(ctx, "/etc/hosts", true, func(s string) string { return replaceName(s, r.Hostname, c.Subject) })
}

// disableAgent masks the agent's services; nothing is removed.
func disableAgent(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	for _, u := range c.Detail {
		if err := w.mask(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// mask links a unit to /dev/null, as systemctl mask does; a unit file of the
// administrator's own at that place is left alone.
func (w *work) mask(ctx context.Context, unit string) error {
	at := "/etc/systemd/system/" + unit
	ok, err := w.exists(ctx, sys, at)
	if err != nil {
		return err
	}
	if ok {
		w.now.Skipped = at + " is there: the administrator's own is left as it is"
		return nil
	}
	return w.link(ctx, at, "/dev/null")
}

func datasource(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	return w.edit(ctx, "/etc/cloud/cloud.cfg.d/99-zz-ascend.cfg", true, func(string) string {
		return "datasource_list: [ " + c.Subject + ", None ]\n"
	})
}

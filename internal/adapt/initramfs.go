package adapt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"ascend/internal/appliance/proto"
	"ascend/internal/cpio"
	"ascend/internal/guest"
	"ascend/internal/guest/initrd"
	"ascend/internal/guest/kmod"
	"ascend/internal/vm"
)

// indexes are what depmod writes and modprobe reads; the initramfs gets those of
// the guest's whole kernel, so that udev finds modules by their aliases.
var indexes = []string{
	"modules.dep", "modules.dep.bin", "modules.alias", "modules.alias.bin", "modules.symbols", "modules.symbols.bin", "modules.softdep",
	"modules.builtin", "modules.builtin.bin", "modules.builtin.alias.bin", "modules.builtin.modinfo", "modules.order", "modules.devname",
}

// spare is left free on the file system that an initramfs grows on.
const spare = 1 << 20

// appendInitramfs adds one segment with modules to a kernel's initramfs: what is
// there stays byte for byte, and cutting the file to its old length undoes it.
// The modules are the guest's own files, so their signatures hold.
func appendInitramfs(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	kv, under := c.Args["kernel"], c.Args["module_dir"]
	if under != "lib/modules" && under != "usr/lib/modules" {
		return fmt.Errorf("the initramfs holds no folder of modules that one could be added to")
	}
	base := "/lib/modules/" + kv
	dep, err := w.read(ctx, sys, base+"/modules.dep", 16<<20)
	if err != nil {
		return err
	}
	builtin, err := w.read(ctx, sys, base+"/modules.builtin", maxText)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	x := kmod.Parse(string(dep), string(builtin))
	order, missing := x.Closure(c.Detail...)
	if len(missing) > 0 {
		return fmt.Errorf("kernel %s has no %s", kv, strings.Join(missing, ", "))
	}
	var seg bytes.Buffer
	out := cpio.NewWriter(&seg)
	out.Have("lib", "usr", "usr/lib", "etc")
	for _, m := range order {
		b, err := w.read(ctx, sys, path.Join(base, x.Path[m]), maxBinary)
		if err != nil {
			return err
		}
		out.File(path.Join(under, kv, x.Path[m]), 0o644, b)
	}
	for _, n := range indexes {
		b, err := w.read(ctx, sys, base+"/"+n, maxBinary)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		out.File(path.Join(under, kv, n), 0o644, b)
	}
	was, err := w.size(ctx, sys, c.Subject)
	if err != nil || was < 0 {
		return errors.Join(err, fmt.Errorf("there is no %s", c.Subject))
	}
	mark, err := json.Marshal(map[string]any{"kernel": kv, "modules": order, "size_before": was})
	if err != nil {
		return err
	}
	out.File(initrd.Marker, 0o644, mark)
	if err := out.Close(); err != nil {
		return err
	}
	var room proto.Space
	if err := w.Do(ctx, proto.Call{Statfs: &proto.Statfs{Root: sys, Path: proto.Name(path.Dir(c.Subject))}}, &room); err != nil {
		return err
	}
	if need := int64(seg.Len()) + spare; room.Free < need {
		return &proto.Error{Code: "no-space", Text: fmt.Sprintf("%s has %s free, and %s are needed", path.Dir(c.Subject), vm.FormatSize(room.Free), vm.FormatSize(need))}
	}
	const align = 512 // the kernel asks for 4 after a compressed archive
	err = w.Send(ctx, func(port int) proto.Call {
		return proto.Call{Write: &proto.Write{Root: sys, Path: proto.Name(c.Subject), Port: &port, Append: true, Align: align}}
	}, bytes.NewReader(seg.Bytes()), nil)
	if err != nil {
		return err
	}
	w.record(c.Subject, was, (was+align-1)/align*align+int64(seg.Len()), seg.Bytes())
	return nil
}

// persist has the distribution's own tool put the modules into every initramfs
// that it makes from now on.
func persist(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	switch c.Subject {
	case "initramfs-tools":
		return w.edit(ctx, "/etc/initramfs-tools/modules", true, func(s string) string { return addLines(s, c.Detail) })
	case "dracut":
		return w.edit(ctx, "/etc/dracut.conf.d/90-ascend.conf", true, func(string) string {
			return "add_drivers+=\" " + strings.Join(c.Detail, " ") + " \"\n"
		})
	case "mkinitcpio":
		return w.edit(ctx, "/etc/mkinitcpio.conf.d/90-ascend.conf", true, func(string) string {
			return "MODULES+=(" + strings.Join(c.Detail, " ") + ")\n"
		})
	}
	w.now.Skipped = "the configuration of " + c.Subject + " is not written: add " + strings.Join(c.Detail, ", ") + " there before the next kernel"
	return nil
}

const (
	firstBootUnit = `[Unit]
Description=Make the initramfs anew on the machine's new hardware
After=multi-user.target
ConditionPathExists=/etc/ascend/first-boot.sh

[Service]
Type=oneshot
ExecStart=/bin/sh /etc/ascend/first-boot.sh

[Install]
WantedBy=multi-user.target
`
	// It removes itself only when it succeeded; until then the machine starts with
	// the modules that were appended.
	firstBootScript = `# The machine was restored to other hardware. The modules it needs were appended to
# its initramfs; this has the distribution's own tool make it anew, then removes itself.
set -e
exec >>/var/log/ascend-first-boot.log 2>&1
date
if command -v update-initramfs >/dev/null; then update-initramfs -u -k all
elif command -v dracut >/dev/null; then dracut --force --regenerate-all
elif command -v mkinitcpio >/dev/null; then mkinitcpio -P
fi
rm -f /etc/systemd/system/multi-user.target.wants/ascend-first-boot.service /etc/systemd/system/ascend-first-boot.service /etc/ascend/first-boot.sh
rmdir /etc/ascend 2>/dev/null || true
systemctl daemon-reload || true
echo done
`
)

func firstBoot(w *work, ctx context.Context, _ *guest.Root, _ guest.Change) error {
	const unit = "/etc/systemd/system/ascend-first-boot.service"
	if err := w.write(ctx, sys, "/etc/ascend/first-boot.sh", []byte(firstBootScript), 0o755); err != nil {
		return err
	}
	if err := w.write(ctx, sys, unit, []byte(firstBootUnit), 0o644); err != nil {
		return err
	}
	return w.link(ctx, "/etc/systemd/system/multi-user.target.wants/ascend-first-boot.service", unit)
}

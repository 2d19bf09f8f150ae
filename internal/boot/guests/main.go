// Command guests makes the test guests whose file systems need the appliance, and
// prints which guest comes up on which target's virtual hardware: what the
// inspection predicts, what a boot shows, and both again once the guest is adapted.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"ascend/internal/appliance"
	"ascend/internal/appliance/proto"
	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/disk/overlay"
	"ascend/internal/qemu"
)

func main() {
	qemu.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "guests:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	dir := os.Getenv("ASCEND_GUESTS")
	if dir == "" {
		dir = "/var/cache/ascend-guests"
	}
	if len(args) == 0 {
		return errors.New("say make or report")
	}
	im, err := appliance.Open("")
	if errors.Is(err, appliance.ErrNoImage) {
		im, err = appliance.Build(ctx, appliance.BuildOptions{Log: func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }})
	}
	if err != nil {
		return err
	}
	if args[0] == "report" {
		return report(ctx, im, dir, args[1:])
	}
	for _, n := range []string{"debian-xfs", "debian-btrfs", "debian-lvm", "debian-luks", "debian-dirty"} {
		out := filepath.Join(dir, n+".qcow2")
		if _, err := os.Stat(out); err != nil {
			if err := build(ctx, im, dir, n); err != nil {
				return fmt.Errorf("%s: %w", n, err)
			}
		}
		fmt.Println(out)
	}
	return nil
}

func openImage(file string) (disk.Image, error) {
	root, err := disk.OpenRoot(filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return open.Disk(root, filepath.Base(file), "qcow2")
}

// build fills a guest's disk in the appliance and publishes it.
func build(ctx context.Context, im *appliance.Image, dir, name string) error {
	base := filepath.Join(dir, name+".base.qcow2")
	if name == "debian-dirty" {
		base = filepath.Join(dir, "debian.qcow2")
	}
	img, err := openImage(base)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(dir, ".make-")
	if err != nil {
		return errors.Join(err, img.Close())
	}
	defer os.RemoveAll(work)
	o, err := overlay.Create(filepath.Join(work, "overlay"), img)
	if err != nil {
		return errors.Join(err, img.Close())
	}
	defer o.Close()
	s, err := appliance.Start(ctx, appliance.Options{Image: im, Disks: []disk.Disk{o}, Memory: 1 << 30})
	if err != nil {
		return err
	}
	defer s.Close()
	calls, fill := recipe(name)
	for _, c := range calls {
		if err := s.Do(ctx, c, nil); err != nil {
			return err
		}
	}
	if fill {
		f, err := os.Open(filepath.Join(dir, name+".tar"))
		if err != nil {
			return err
		}
		path := proto.Name("/")
		if name == "debian-btrfs" {
			path = "/@"
		}
		err = s.Send(ctx, func(p int) proto.Call { return proto.Call{Untar: &proto.Untar{Root: "g", Path: path, Port: p}} }, f, nil)
		f.Close()
		if err != nil {
			return err
		}
	}
	if name == "debian-dirty" {
		s.Close() // like a crash: the journal is not replayed
	} else if err := s.Finish(ctx); err != nil {
		return err
	}
	raw := filepath.Join(work, "raw")
	if err := dump(ctx, o, raw); err != nil {
		return err
	}
	tmp := filepath.Join(work, "qcow2")
	if out, err := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, tmp).CombinedOutput(); err != nil {
		return fmt.Errorf("qemu-img: %w: %s", err, out)
	}
	return os.Rename(tmp, filepath.Join(dir, name+".qcow2"))
}

// The UUIDs are build/guests'.
const (
	rootUUID = "11111111-2222-3333-4444-555555555555"
	bootUUID = "11111111-2222-3333-4444-666666666666"
	luksUUID = "11111111-2222-3333-4444-777777777777"
)

// luksKey is what build/guests puts into the guest's key file.
var luksKey = []byte("ascend test key")

// recipe is what makes the file systems of a guest, and whether its tree follows.
func recipe(name string) (calls []proto.Call, fill bool) {
	format := func(dev, fs, label, uuid string) proto.Call {
		return proto.Call{Format: &proto.Format{Device: dev, FS: fs, Label: label, UUID: uuid}}
	}
	mount := func(dev string, at proto.Name) proto.Call {
		return proto.Call{Mount: &proto.Mount{Root: "g", Device: dev, At: at}}
	}
	mkdir := proto.Call{Mkdir: &proto.Mkdir{Root: "g", Path: "/boot"}}
	switch name {
	case "debian-xfs":
		return []proto.Call{format("/dev/disk/0p3", "xfs", "root", rootUUID), mount("/dev/disk/0p3", "")}, true
	case "debian-btrfs":
		return []proto.Call{format("/dev/disk/0p3", "btrfs", "root", rootUUID), mount("/dev/disk/0p3", ""), {Subvolume: &proto.Subvolume{Root: "g", Path: "/@"}}}, true
	case "debian-lvm":
		return []proto.Call{
			format("/dev/disk/0p3", "ext4", "boot", bootUUID), format("/dev/disk/0p4", "lvm", "guest", ""), {LVM: &proto.LVM{}},
			format("/dev/mapper/guest-root", "ext4", "root", rootUUID), mount("/dev/mapper/guest-root", ""), mkdir, mount("/dev/disk/0p3", "/boot"),
		}, true
	case "debian-luks":
		key := luksKey
		return []proto.Call{
			format("/dev/disk/0p3", "ext4", "boot", bootUUID), {Format: &proto.Format{Device: "/dev/disk/0p4", FS: "luks", UUID: luksUUID, Key: key}},
			{LUKS: &proto.LUKS{Device: "/dev/disk/0p4", Name: "cryptroot", Key: key}},
			format("/dev/mapper/cryptroot", "ext4", "root", rootUUID), mount("/dev/mapper/cryptroot", ""), mkdir, mount("/dev/disk/0p3", "/boot"),
		}, true
	}
	return []proto.Call{
		mount("/dev/disk/0p3", ""),
		{Write: &proto.Write{Root: "g", Path: "/var/lib/journalled", Data: []byte("only the journal may know of this file\n")}},
		{Rename: &proto.Rename{Root: "g", From: "/etc/motd", To: "/etc/motd.old"}},
		{Sync: &proto.Sync{}},
	}, false
}

func dump(ctx context.Context, d disk.Disk, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(d.Size()); err != nil {
		return err
	}
	b := make([]byte, 1<<20)
	err = d.Extents(ctx, 0, d.Size(), func(e disk.Extent) error {
		for off := e.Off; e.Data && off < e.Off+e.Len; off += int64(len(b)) {
			p := b[:min(int64(len(b)), e.Off+e.Len-off)]
			if n, err := d.ReadAt(p, off); n < len(p) {
				return err
			}
			if _, err := f.WriteAt(p, off); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, f.Close())
}

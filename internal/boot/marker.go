package boot

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"ascend/internal/appliance"
	"ascend/internal/appliance/proto"
)

// Marker is what the guest itself reports.
type Marker struct {
	Root   string   `json:"root"`        // the block device of /
	Driver string   `json:"root_driver"` // of the controller it hangs on
	NICs   []NIC    `json:"nics"`
	Failed []string `json:"failed_units"`
}

// NIC is an adapter as the guest sees it.
type NIC struct {
	Name      string   `json:"name"`
	Driver    string   `json:"driver"`
	Addresses []string `json:"addresses"`
}

const (
	markerUnit = `[Unit]
Description=Report to the boot proof
After=multi-user.target network.target
[Service]
Type=oneshot
ExecStart=/bin/sh /etc/ascend-marker.sh
[Install]
WantedBy=multi-user.target
`
	// Names from /sys and addresses hold nothing that JSON would escape.
	markerScript = `set -u
driver() { d=$1; while [ "$d" != / ] && [ "$d" != /sys ]; do
  if [ -e "$d/driver" ]; then n=$(basename "$(readlink -f "$d/driver")"); case $n in sd|virtio_scsi_disk) ;; *) echo "$n"; return;; esac; fi
  d=$(dirname "$d"); done; }
i=0; while [ $i -lt 10 ] && ! ip -4 -o addr show scope global 2>/dev/null | grep -q inet; do sleep 1; i=$((i+1)); done
src=$(awk '$2=="/"{print $1}' /proc/self/mounts | tail -1); dev=$(readlink -f "$src")
sys=$(readlink -f "/sys/class/block/$(basename "$dev")")
while [ -n "$(ls "$sys/slaves" 2>/dev/null)" ]; do sys=$(readlink -f "$sys/slaves/$(ls "$sys/slaves" | head -1)"); done
out="{\"root\":\"$dev\",\"root_driver\":\"$(driver "$sys")\",\"nics\":["
sep=
for n in /sys/class/net/*; do [ -e "$n/device" ] || continue; name=$(basename "$n")
  a=$(ip -o addr show dev "$name" scope global 2>/dev/null | awk '{printf "%s\"%s\"", s, $4; s=","}')
  out="$out$sep{\"name\":\"$name\",\"driver\":\"$(driver "$(readlink -f "$n/device")")\",\"addresses\":[$a]}"; sep=,
done
failed=$(systemctl --failed --no-legend --plain 2>/dev/null | awk '{printf "%s\"%s\"", s, $1; s=","}' | tr -d '\\')
stty -F /dev/ttyS1 raw 2>/dev/null
printf '\nASCEND-MARKER %s],"failed_units":[%s]}\n' "$out" "$failed" >/dev/ttyS1
sync
systemctl poweroff
`
	markerWord = "ASCEND-MARKER "
)

// plant writes the marker unit into every Linux root with systemd that is found on
// partitions and volumes, in LUKS containers too that one of keys opens; false when
// there is none.
func plant(ctx context.Context, o appliance.Options, keys [][]byte) (bool, error) {
	s, err := appliance.Start(ctx, o)
	if err != nil {
		return false, err
	}
	defer s.Close()
	var devs []proto.Device
	if err := s.Do(ctx, proto.Call{Probe: &proto.Probe{}}, &devs); err != nil {
		return false, err
	}
	opened := 0
	for _, d := range devs {
		for _, k := range keys {
			if d.Type == "crypto_LUKS" && s.Do(ctx, proto.Call{LUKS: &proto.LUKS{Device: d.Path, Name: fmt.Sprint("opened", opened), Key: k}}, nil) == nil {
				opened++
				break
			}
		}
	}
	if opened > 0 {
		if err := s.Do(ctx, proto.Call{Probe: &proto.Probe{}}, &devs); err != nil {
			return false, err
		}
	}
	for _, d := range devs {
		if d.Type == "LVM2_member" {
			if err := s.Do(ctx, proto.Call{LVM: &proto.LVM{}}, nil); err != nil {
				return false, err
			}
			if err := s.Do(ctx, proto.Call{Probe: &proto.Probe{}}, &devs); err != nil {
				return false, err
			}
			break
		}
	}
	planted := false
	for _, d := range devs {
		var opts [][]string
		switch d.Type {
		case "ext4", "ext3", "ext2", "xfs":
			opts = [][]string{nil}
		case "btrfs":
			opts = [][]string{{"subvol=@"}, {"subvol=@rootfs"}, {"subvol=root"}, nil}
		}
		for _, o := range opts {
			ok, err := plantOn(ctx, s, d.Path, o)
			if err != nil {
				return false, err
			}
			if ok {
				planted = true
				break
			}
		}
	}
	return planted, s.Finish(ctx)
}

// plantOn tries one file system; one that does not mount, or is no root, is no
// failure: the boot will tell.
func plantOn(ctx context.Context, s *appliance.Session, dev string, opts []string) (bool, error) {
	const root = "guest"
	if s.Do(ctx, proto.Call{Mount: &proto.Mount{Root: root, Device: dev, Options: opts}}, nil) != nil {
		return false, ctx.Err()
	}
	planted := s.Do(ctx, proto.Call{Stat: &proto.Stat{Root: root, Path: "/etc/systemd/system"}}, nil) == nil
	if planted {
		const unit = "/etc/systemd/system/ascend-marker.service"
		for _, c := range []proto.Call{
			{Write: &proto.Write{Root: root, Path: unit, Data: []byte(markerUnit)}},
			{Write: &proto.Write{Root: root, Path: "/etc/ascend-marker.sh", Data: []byte(markerScript)}},
			{Mkdir: &proto.Mkdir{Root: root, Path: "/etc/systemd/system/multi-user.target.wants"}},
			{Symlink: &proto.Symlink{Root: root, Path: "/etc/systemd/system/multi-user.target.wants/ascend-marker.service", Target: unit}},
		} {
			if err := s.Do(ctx, c, nil); err != nil {
				return false, err
			}
		}
	}
	return planted, s.Do(ctx, proto.Call{Unmount: &proto.Unmount{Root: root}}, nil)
}

// parseMarker finds the report on the second port; nil until it is whole.
func parseMarker(text string) *Marker {
	_, rest, ok := strings.Cut(text, markerWord)
	if !ok {
		return nil
	}
	line, _, ok := strings.Cut(rest, "\n")
	m := &Marker{}
	if !ok || json.Unmarshal([]byte(line), m) != nil {
		return nil
	}
	return m
}

package boot

import "regexp"

// Milestone is how far the guest came.
type Milestone string

// Milestones, in order.
const (
	None   Milestone = ""
	Loader Milestone = "boot-loader"
	Kernel Milestone = "kernel"
	Root   Milestone = "root-mounted"
	Login  Milestone = "login"
	Marked Milestone = "marker"
)

var order = []Milestone{None, Loader, Kernel, Root, Login, Marked}

func (m Milestone) rank() int {
	for i, o := range order {
		if o == m {
			return i
		}
	}
	return 0
}

// Reached tells whether m is at least o.
func (m Milestone) Reached(o Milestone) bool { return m.rank() >= o.rank() }

// What a console says at each milestone. "systemd[1]:" is none: dracut runs systemd in
// the initramfs. Neither is a mount of the initramfs's own.
var signs = []struct {
	m  Milestone
	re *regexp.Regexp
}{
	{Login, regexp.MustCompile(`(?m)\blogin: *$|^\S+ login:`)},
	{Root, regexp.MustCompile(`EXT4-fs \([^)]*\): (re-)?mounted|XFS \([^)]*\): Ending (clean mount|recovery)|BTRFS info \(device [^)]*\): (using|enabling|disk space caching)|Switching root|Switched root`)},
	{Kernel, regexp.MustCompile(`Linux version \d|Loading, please wait|Decompressing Linux`)},
	{Loader, regexp.MustCompile(`GNU GRUB|Welcome to GRUB|Booting .Debian|GRUB loading|systemd-boot|Windows Boot Manager`)},
}

// What says that it will not come up.
var failures = []struct {
	text string
	re   *regexp.Regexp
}{
	{"the initramfs did not find the root file system", regexp.MustCompile(`\(initramfs\)|ALERT! .* does not exist`)},
	{"the initramfs (dracut) did not find the root file system", regexp.MustCompile(`dracut:/#|dracut-initqueue.*[Tt]imeout|Warning: /dev/\S+ does not exist`)},
	{"the system came up in emergency mode", regexp.MustCompile(`You are in emergency mode|Give root password for maintenance|Entering emergency mode`)},
	{"the kernel panicked", regexp.MustCompile(`Kernel panic - not syncing`)},
	{"the firmware found nothing to boot and stands in its shell", regexp.MustCompile(`UEFI Interactive Shell|Shell> `)},
	{"the firmware found nothing to boot", regexp.MustCompile(`No bootable device|Nothing to boot|No bootable option or device was found|BdsDxe: No bootable`)},
	{"the boot loader failed", regexp.MustCompile(`grub rescue>|error: no such (device|partition)|error: unknown filesystem`)},
	{"Secure Boot refused to start it", regexp.MustCompile(`Security Violation|bad shim signature|Verification failed`)},
	{"the disk asks for a passphrase", regexp.MustCompile(`Please unlock disk|Please enter passphrase for disk`)},
	{"Windows does not find its boot disk", regexp.MustCompile(`INACCESSIBLE_BOOT_DEVICE|0x0000007B`)},
}

// clockless is what Linux says when a timer that it tries out does not tick in time: an
// emulated one does not where the machine here is busy (arch/x86/kernel/apic/io_apic.c,
// check_timer).
var clockless = regexp.MustCompile(`Kernel panic - not syncing: IO-APIC \+ timer doesn't work`)

// hostsFault tells a failure that is none of the guest's.
func hostsFault(console string) bool { return clockless.MatchString(console) }

// judge reads a console.
func judge(text string) (m Milestone, failure string) {
	for _, s := range signs {
		if s.re.MatchString(text) {
			m = s.m
			break
		}
	}
	for _, f := range failures {
		if f.re.MatchString(text) {
			return m, f.text
		}
	}
	return m, ""
}

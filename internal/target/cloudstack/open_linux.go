package cloudstack

import "golang.org/x/sys/unix"

const (
	openNoFollow = unix.O_NOFOLLOW
	// On a block device O_EXCL without O_CREAT fails while it is in use.
	openExclusive = unix.O_EXCL
)

// Package proto is what the host and the appliance's agent say to each other:
// operations as JSON, results as JSON lines. docs/appliance.md describes both.
//
// A path is absolute within a root, a tree of mounted file systems with a name
// of its own; whatever symbolic links a guest holds, nothing outside its root is
// reached.
package proto

import (
	"encoding/json"
	"io/fs"
	"time"
	"unicode/utf8"
)

// Names of the virtio-serial ports. Data ports are numbered from 0.
const (
	PortResults = "ascend.results" // agent to host, JSON lines of Event
	PortControl = "ascend.control" // host to agent, JSON lines of Call, in sessions
	PortData    = "ascend.data."   // both ways, framed: see Frame
	DataPorts   = 4
)

// JobFile is where the appended cpio segment puts the job.
const JobFile = "ascend/job.json"

// Job is what the appliance starts with.
type Job struct {
	Calls []Call `json:"calls,omitempty"`
	// Session: having done the calls, take more from PortControl until it says
	// End; calls that come that way run side by side.
	Session bool `json:"session,omitempty"`
}

// Call is one operation: exactly one of the pointers is set.
type Call struct {
	ID int `json:"id"`
	// Continue goes on with the next call of the job when this one fails.
	Continue bool `json:"continue,omitempty"`
	End      bool `json:"end,omitempty"`

	Probe     *Probe     `json:"probe,omitempty"`
	LVM       *LVM       `json:"lvm,omitempty"`
	LUKS      *LUKS      `json:"luks,omitempty"`
	Mount     *Mount     `json:"mount,omitempty"`
	Unmount   *Unmount   `json:"unmount,omitempty"`
	Check     *Check     `json:"check,omitempty"`
	Trim      *Trim      `json:"trim,omitempty"`
	Statfs    *Statfs    `json:"statfs,omitempty"`
	List      *List      `json:"list,omitempty"`
	Stat      *Stat      `json:"stat,omitempty"`
	Read      *Read      `json:"read,omitempty"`
	Write     *Write     `json:"write,omitempty"`
	Truncate  *Truncate  `json:"truncate,omitempty"`
	Mkdir     *Mkdir     `json:"mkdir,omitempty"`
	Subvolume *Subvolume `json:"subvolume,omitempty"`
	Symlink   *Symlink   `json:"symlink,omitempty"`
	Rename    *Rename    `json:"rename,omitempty"`
	Remove    *Remove    `json:"remove,omitempty"`
	Tar       *Tar       `json:"tar,omitempty"`
	Untar     *Untar     `json:"untar,omitempty"`
	Format    *Format    `json:"format,omitempty"`
	Chroot    *Chroot    `json:"chroot,omitempty"`
	Sync      *Sync      `json:"sync,omitempty"`
}

// Name is a file's name or path: any bytes without NUL. In JSON a string, or
// {"b64": …} where it is not UTF-8.
type Name string

type rawName struct {
	B64 []byte `json:"b64"`
}

// MarshalJSON keeps every byte.
func (n Name) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(n)) {
		return json.Marshal(string(n))
	}
	return json.Marshal(rawName{[]byte(n)})
}

// UnmarshalJSON is MarshalJSON's reverse.
func (n *Name) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		var r rawName
		err := json.Unmarshal(b, &r)
		*n = Name(r.B64)
		return err
	}
	return json.Unmarshal(b, (*string)(n))
}

// The operations. Device is a path under /dev: disk N (from 0) of the session is
// /dev/disk/N, its partition P /dev/disk/NpP; volumes are /dev/VG/LV and
// /dev/mapper/NAME.
type (
	// Probe lists block devices and what blkid-like reading finds on them.
	Probe struct{}
	// LVM activates every volume group; the result is a list of volumes' paths.
	LVM struct{}
	// LUKS opens an encrypted device as /dev/mapper/Name. The key stands in the
	// job, which only QEMU's memory holds, and is never printed.
	LUKS struct {
		Device   string `json:"device"`
		Name     string `json:"name"`
		Key      []byte `json:"key"`
		ReadOnly bool   `json:"read_only,omitempty"`
	}
	// Mount mounts a device at a path of a root. With ReadOnly not even the
	// journal is replayed, so a dirty file system may look old or refuse. Writing to
	// an NTFS volume that is hibernated fails with code "hibernated".
	Mount struct {
		Root     string   `json:"root"`
		At       Name     `json:"at,omitempty"` // "": the root itself
		Device   string   `json:"device"`
		FS       string   `json:"fs,omitempty"` // "": by probing
		ReadOnly bool     `json:"read_only,omitempty"`
		Options  []string `json:"options,omitempty"`
	}
	// Unmount flushes and unmounts all of a root.
	Unmount struct {
		Root string `json:"root"`
	}
	// Check runs the file system's own checker on a device that is not mounted:
	// read-only unless Repair. The result is CheckResult; a file system with
	// errors is a result, not a failure.
	Check struct {
		Device string `json:"device"`
		FS     string `json:"fs,omitempty"`
		Repair bool   `json:"repair,omitempty"`
	}
	// Trim discards the unused blocks of what is mounted at a path; result: bytes.
	Trim struct {
		Root string `json:"root"`
		Path Name   `json:"path"`
	}
	// Statfs tells free space; result: Space.
	Statfs struct {
		Root string `json:"root"`
		Path Name   `json:"path"`
	}
	// List reads a directory: []FileInfo, by name. After and Limit page.
	List struct {
		Root  string `json:"root"`
		Path  Name   `json:"path"`
		After Name   `json:"after,omitempty"`
		Limit int    `json:"limit,omitempty"` // 0: 10000
	}
	// Stat tells of one file, not following a last symbolic link unless Follow.
	Stat struct {
		Root   string `json:"root"`
		Path   Name   `json:"path"`
		Follow bool   `json:"follow,omitempty"`
	}
	// Read returns up to Length bytes from Offset, following links; with Port it
	// streams the file there (-1 length: to the end) and returns the count.
	Read struct {
		Root   string `json:"root"`
		Path   Name   `json:"path"`
		Offset int64  `json:"offset,omitempty"`
		Length int64  `json:"length,omitempty"`
		Port   *int   `json:"port,omitempty"`
	}
	// Write makes or replaces a file, through a new file beside it that is renamed
	// over it; with Append it adds to the one that is there; with InPlace it writes
	// over that one, which keeps all else that is known of it. Content is Data or
	// what the port carries. Mode, owner and SELinux label are those of the file
	// replaced; for a new one Mode, UID and GID as given and the label of Like, else
	// of the directory.
	Write struct {
		Root    string            `json:"root"`
		Path    Name              `json:"path"`
		Data    []byte            `json:"data,omitempty"`
		Port    *int              `json:"port,omitempty"`
		Append  bool              `json:"append,omitempty"`
		InPlace bool              `json:"in_place,omitempty"`
		Align   int64             `json:"align,omitempty"` // pad with zeros to this before appending
		Mode    uint32            `json:"mode,omitempty"`  // 0: 0644 for new files
		UID     int               `json:"uid,omitempty"`
		GID     int               `json:"gid,omitempty"`
		Like    Name              `json:"like,omitempty"`
		XAttrs  map[string][]byte `json:"xattrs,omitempty"`
	}
	// Truncate cuts a file to Size.
	Truncate struct {
		Root string `json:"root"`
		Path Name   `json:"path"`
		Size int64  `json:"size"`
	}
	// Mkdir makes a directory and those above it; one that is there is left alone.
	Mkdir struct {
		Root   string            `json:"root"`
		Path   Name              `json:"path"`
		Mode   uint32            `json:"mode,omitempty"` // 0: 0755
		XAttrs map[string][]byte `json:"xattrs,omitempty"`
	}
	// Subvolume makes a btrfs subvolume.
	Subvolume struct {
		Root string `json:"root"`
		Path Name   `json:"path"`
	}
	// Symlink makes or replaces a symbolic link.
	Symlink struct {
		Root   string `json:"root"`
		Path   Name   `json:"path"`
		Target Name   `json:"target"`
	}
	// Rename moves a file within its root.
	Rename struct {
		Root string `json:"root"`
		From Name   `json:"from"`
		To   Name   `json:"to"`
	}
	// Remove deletes a file, a link, or a directory with All; what is not there is
	// no failure.
	Remove struct {
		Root string `json:"root"`
		Path Name   `json:"path"`
		All  bool   `json:"all,omitempty"`
	}
	// Tar streams a file or tree as a PAX archive to a port: owners, modes, times,
	// extended attributes, hard links, sparse runs (GNU.sparse.* records); result: TarResult.
	Tar struct {
		Root string `json:"root"`
		Path Name   `json:"path"`
		Port int    `json:"port"`
	}
	// Untar unpacks a tar archive from a port below a directory.
	Untar struct {
		Root string `json:"root"`
		Path Name   `json:"path"`
		Port int    `json:"port"`
	}
	// Format makes a file system ("ext4", "xfs", "btrfs", "vfat"), a swap-free LVM
	// ("lvm": a volume group Label with one volume "root") or a LUKS2 container
	// ("luks", with Key) on a device. All that was on it is lost.
	Format struct {
		Device string `json:"device"`
		FS     string `json:"fs"`
		Label  string `json:"label,omitempty"`
		UUID   string `json:"uuid,omitempty"`
		Key    []byte `json:"key,omitempty"`
		// KDF of a LUKS2 container: "pbkdf2" (default) or "argon2id", both at little cost:
		// what is made here is made to be tested with.
		KDF string `json:"kdf,omitempty"`
	}
	// Chroot runs a program of the guest in its root, with /dev, /proc and /sys.
	// This executes the guest's code, inside the appliance.
	Chroot struct {
		Root    string   `json:"root"`
		Argv    []string `json:"argv"`
		Seconds int      `json:"seconds,omitempty"` // 0: 600
	}
	// Sync flushes everything to the disks.
	Sync struct{}
)

// Event is one line of results. Kind is "ready" (the agent runs), "progress",
// "done", "failed" or "end" (all is flushed and unmounted; nothing follows).
type Event struct {
	Kind   string          `json:"kind"`
	ID     int             `json:"id,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
	Text   string          `json:"text,omitempty"`
	Bytes  int64           `json:"bytes,omitempty"`
}

// Error is why an operation failed.
type Error struct {
	// Code is stable: "not-found", "exists", "no-space", "read-only", "hibernated",
	// "dirty", "wrong-key", "unsupported", "corrupt", "immutable", "escapes",
	// "cut-short", "timeout", "failed".
	Code string `json:"code"`
	Text string `json:"text"`
}

func (e *Error) Error() string { return e.Text }

// Is lets errors.Is compare with the errors of io/fs.
func (e *Error) Is(target error) bool {
	return e.Code == "not-found" && target == fs.ErrNotExist || e.Code == "exists" && target == fs.ErrExist
}

// Device is what Probe tells of one block device.
type Device struct {
	Path  string `json:"path"`
	Disk  int    `json:"disk"`           // the session's disk it lies on; -1: a volume
	Part  int    `json:"part,omitempty"` // partition number
	Size  int64  `json:"size"`
	Type  string `json:"type,omitempty"` // ext4, xfs, btrfs, vfat, ntfs, LVM2_member, crypto_LUKS, swap, BitLocker …
	UUID  string `json:"uuid,omitempty"`
	Label string `json:"label,omitempty"`
}

// FileInfo is what List and Stat tell of a file.
type FileInfo struct {
	Name   Name              `json:"name"`
	Mode   uint32            `json:"mode"` // st_mode: type and permissions
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Size   int64             `json:"size"`
	Blocks int64             `json:"blocks"` // of 512 bytes
	Links  uint64            `json:"links"`
	Inode  uint64            `json:"inode"`
	Time   time.Time         `json:"time"` // last modification
	Target Name              `json:"target,omitempty"`
	XAttrs map[string][]byte `json:"xattrs,omitempty"` // Stat only
}

// Space is what Statfs tells.
type Space struct {
	Bytes, Free       int64
	Inodes, InodeFree int64
	ReadOnly          bool
}

// CheckResult is a checker's verdict.
type CheckResult struct {
	Clean    bool   `json:"clean"`    // no error is left
	Repaired bool   `json:"repaired"` // errors were found and mended
	Exit     int    `json:"exit"`
	Text     string `json:"text"`
}

// ChrootResult is what a program of the guest did.
type ChrootResult struct {
	Exit int    `json:"exit"`
	Text string `json:"text"` // the last of its output
}

// TarResult counts what was archived.
type TarResult struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
	// Skipped names what could not be read, at most 100 of Skips.
	Skips   int64    `json:"skips,omitempty"`
	Skipped []string `json:"skipped,omitempty"`
}

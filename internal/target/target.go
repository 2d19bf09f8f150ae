// Package target is the contract between a restore and the platforms it
// restores to. One package per platform stands behind it; package targettest is
// the conformance suite that each must pass.
//
// A restore uses a target like this:
//
//	t, _ := registry.Open(settings)
//	s, _ := t.Begin(ctx, order, recorder)   // reserves, creates what uploads need
//	u, _ := s.Upload(ctx, i)                // one per disk, in parallel
//	… WriteRange or Append, then u.Complete(ctx, digests)
//	vm, _ := s.Finish(ctx)                  // the machine exists, powered off
//	s.PowerOn(ctx, vm)
//	s.Close(ctx)
//
// and, to undo, t.Undo for every recorded resource in reverse order.
package target

import (
	"context"
	"crypto/sha256"
	"errors"
	"iter"
	"time"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/vm"
)

// Target is one configured place that machines are restored to. Methods may be
// called concurrently.
type Target interface {
	// Capabilities is data: what the platform and this connection can take. It
	// asks nobody and never fails.
	Capabilities() Capabilities

	// Validate checks credentials, permissions and reachability, one check a
	// line, and changes nothing. A check that could not be made has failed.
	Validate(ctx context.Context) []Check

	// Inventory lists what a restore can be placed on. It changes nothing.
	Inventory(ctx context.Context) (*Inventory, error)

	// Begin starts, or after a crash continues, the restore that order.Job
	// names. It is idempotent: with resources already recorded for the job it
	// uses those and creates nothing twice. Everything it and the session create
	// is recorded with rec before it is created.
	Begin(ctx context.Context, order *Order, rec Recorder) (Session, error)

	// Undo removes one recorded resource and nothing else. It is idempotent and
	// nil when the resource is not there or was never created.
	Undo(ctx context.Context, r Resource) error

	// Close releases connections and sessions. It deletes nothing.
	Close() error
}

// Session is one restore under way.
type Session interface {
	// Upload opens the upload of order.Disks[i], or continues it. Uploads of
	// different disks run in parallel. The result is a RangeUpload or a
	// StreamUpload, as the disk's Delivery says.
	Upload(ctx context.Context, i int) (Upload, error)

	// Finish makes the machine from the completed uploads, powered off, with
	// the order's hardware, and returns it. Idempotent.
	Finish(ctx context.Context) (*VM, error)

	// PowerOn starts the machine and returns when the platform says it runs.
	// Where it starts another thing than Finish made, v becomes that thing.
	PowerOn(ctx context.Context, v *VM) error

	// Close ends leases and sessions. What was created stays.
	Close(ctx context.Context) error
}

// Upload is what every upload of a disk has.
type Upload interface {
	// Complete commits what was written; nothing may be written afterwards. It
	// is idempotent. It returns what the platform says it holds. When the
	// platform's own digest differs from sum, the error is ErrDigest.
	Complete(ctx context.Context, sum Sum) (*Landed, error)
	// Abort gives the upload up without removing recorded resources; safe after
	// Complete, where it does nothing.
	Abort() error
}

// RangeUpload takes bytes of the file at any offset, in any order.
type RangeUpload interface {
	Upload
	// WriteRange writes p at off of the file. It returns when the platform has
	// taken the bytes. It is called concurrently for ranges that do not overlap
	// and is idempotent for the same bytes. It does not keep p.
	WriteRange(ctx context.Context, off int64, p []byte) error
	// Sync returns when every range whose WriteRange returned before survives a
	// power loss at this end. A no-op where WriteRange already means that.
	Sync(ctx context.Context) error
}

// BlockUpload is an optional power of a RangeUpload whose Delivery has
// BlockSums: it is given the digest that was computed anyway.
type BlockUpload interface {
	RangeUpload
	// WriteBlock is WriteRange of one whole block with its SHA-256.
	WriteBlock(ctx context.Context, off int64, p []byte, sum [sha256.Size]byte) error
}

// Identified is an optional power of an Upload whose platform may lose what was
// sent and begin anew: Identity names what the upload writes into. What landed
// under another identity is not in it.
type Identified interface{ Identity() string }

// StreamUpload takes the file's bytes strictly in order.
type StreamUpload interface {
	Upload
	// Offset is the number of bytes the platform has; Append continues there. A
	// target that cannot continue a broken stream answers 0.
	Offset(ctx context.Context) (int64, error)
	// Append sends the next bytes. It does not keep p.
	Append(ctx context.Context, p []byte) error
	// Sync is as for RangeUpload.
	Sync(ctx context.Context) error
	// Patch overwrites the start of the file after the last Append; only called
	// when the Delivery has Patchable.
	Patch(ctx context.Context, p []byte) error
}

// Sum is what was sent, for the platform to compare. Empty fields were not computed.
type Sum struct {
	Bytes  int64  // length of the file
	SHA1   []byte // of the file, for streams whose Delivery asks for it
	SHA256 []byte // of the file, likewise
	// Blocks yields number and SHA-256 of every block that was sent, by this
	// process and those before it, in ascending order; for ranges whose Delivery
	// has BlockSums. It may be ranged over more than once.
	Blocks iter.Seq2[int64, [sha256.Size]byte]
}

// Landed is what the platform says it holds.
type Landed struct {
	Object string `json:"object"`          // the disk's identifier or path there
	Bytes  int64  `json:"bytes,omitempty"` // of the file
	// Verdict says how the platform itself checked the bytes: "sha1",
	// "sha256 of each block", …; empty when it did not.
	Verdict string `json:"verdict,omitempty"`
}

// ReadBacker is an optional power of a Session: reading a landed disk as the
// guest will see it.
type ReadBacker interface {
	// ReadBack opens order.Disks[i] after Complete. The caller closes it.
	ReadBack(ctx context.Context, i int) (disk.Disk, error)
}

// Reader is an optional power of a Target: opening, at any time later, a disk
// that a receipt names.
type Reader interface {
	// ReadLanded opens the disk that Landed.Object named, of the format it was
	// delivered in. The caller closes it.
	ReadLanded(ctx context.Context, object string, f image.Format) (disk.Disk, error)
}

// Looker is an optional power of a Target: telling how a machine is that a
// restore made.
type Looker interface {
	// Look asks the platform and changes nothing. v is the machine as the session
	// that made it told it.
	Look(ctx context.Context, v VM) (*State, error)
}

// State is how a machine is now, by the platform's word.
type State struct {
	Running bool
	// Addresses are those of the guest that the platform knows; link-local ones are
	// left out.
	Addresses []string
}

// As finds an optional power of v, through decorators that have
// Unwrap() any.
func As[T any](v any) (T, bool) {
	for v != nil {
		if t, ok := v.(T); ok {
			return t, true
		}
		u, ok := v.(interface{ Unwrap() any })
		if !ok {
			break
		}
		v = u.Unwrap()
	}
	var zero T
	return zero, false
}

// Order is what is to be restored. It is the same for every Begin of a job.
type Order struct {
	Job       string            `json:"job"`     // unique; tags what is created
	Machine   *vm.Machine       `json:"machine"` // translated for the target
	Disks     []DiskOrder       `json:"disks"`   // parallel to Machine.Disks
	Placement Placement         `json:"placement"`
	PowerOn   bool              `json:"power_on,omitempty"`
	Options   map[string]string `json:"options,omitempty"` // of the platform, by Capabilities.Options
}

// DiskOrder is one disk of an Order.
type DiskOrder struct {
	Delivery Delivery `json:"delivery"`
	Virtual  int64    `json:"virtual"` // bytes the guest sees, padding included
	// FileSize is the exact length of the file to be sent; -1 when it is only
	// known at the end.
	FileSize int64 `json:"file_size"`
}

// Placement says where the parts go, in the target's own names.
type Placement struct {
	Fields   map[string]string `json:"fields,omitempty"`   // datacenter, cluster, folder, …
	Networks []string          `json:"networks,omitempty"` // parallel to Machine.NICs
	Storage  []string          `json:"storage,omitempty"`  // parallel to Machine.Disks; "" is the default
	// Volumes refines Storage, parallel to Machine.Disks; shorter means zero values.
	Volumes []Volume `json:"volumes,omitempty"`
	// Adapters refines Networks, parallel to Machine.NICs; shorter means zero values.
	Adapters []Adapter `json:"adapters,omitempty"`
}

// Volume is the performance wanted of one disk. 0 is what its storage class
// includes.
type Volume struct {
	IOPS       int `json:"iops,omitempty"`
	Throughput int `json:"throughput,omitempty"` // MB/s (AWS: MiB/s)
}

// AddressPolicy says what becomes of an adapter's addresses. "" leaves it to
// the platform and the guest.
type AddressPolicy string

// Address policies.
const (
	AddressKeep AddressPolicy = "keep" // those the machine had
	AddressDHCP AddressPolicy = "dhcp" // the network's DHCP gives them
	AddressNew  AddressPolicy = "new"  // Adapter.Addresses
)

// Adapter is how one network adapter is placed.
type Adapter struct {
	SecurityGroups []string      `json:"security_groups,omitempty"`
	Address        AddressPolicy `json:"address,omitempty"`
	Addresses      []string      `json:"addresses,omitempty"` // with AddressNew
}

// Mode is how a target takes a file's bytes.
type Mode string

// Modes.
const (
	Ranges  Mode = "ranges" // RangeUpload
	Ordered Mode = "stream" // StreamUpload
)

// Delivery is one way a target takes a disk, in the target's order of preference.
type Delivery struct {
	Format image.Format `json:"format"`
	Mode   Mode         `json:"mode"`
	// Clean promises that bytes never written read as zeros, so that holes need
	// not be sent. Without it every byte of the file is sent.
	Clean bool `json:"clean,omitempty"`
	// Resumable: an upload continues after the process was killed.
	Resumable bool `json:"resumable,omitempty"`
	// Lag is how many bytes of a resumable stream, counted back from where it was
	// synced last, may have to be sent again after the process was killed: what was
	// in a part that was not yet full. Parts of very large files may be larger.
	Lag int64 `json:"lag,omitempty"`
	// Patchable: the stream's first bytes may be overwritten at the end.
	Patchable bool `json:"patchable,omitempty"`
	// NeedSize: the exact length must be known before the first byte.
	NeedSize bool `json:"need_size,omitempty"`
	// Digests asks for Sum fields: "sha1", "sha256". Streams only.
	Digests []string `json:"digests,omitempty"`
	// Block, when not 0, wants every range to be whole aligned blocks of so many
	// bytes, the last one filled with zeros: several of them where MaxRange allows.
	// For formats that keep the disk's bytes at their place (raw, fixed VHD).
	Block int64 `json:"block,omitempty"`
	// BlockSums asks for Sum.Blocks: the SHA-256 of each block of Block bytes.
	BlockSums bool `json:"block_sums,omitempty"`
	// MaxRange bounds one WriteRange or Append in bytes; what lies together is
	// joined up to it. 0: no bound of the target's; with Block, one block.
	MaxRange int64 `json:"max_range,omitempty"`
	// Workers is a good number of ranges at once for one disk; 0: the default.
	Workers int `json:"workers,omitempty"`
	// Align is what the virtual size must be a multiple of; 0 or 1: anything.
	// Padding is zeros, and a GPT's backup header is moved to the new end.
	Align int64 `json:"align,omitempty"`
	// MinSize is the smallest virtual size taken, a multiple of Align; smaller
	// disks are padded like those that Align pads.
	MinSize int64 `json:"min_size,omitempty"`
	// Path names the platform's mechanism: "nfc", "datastore", "file", …
	Path string `json:"path"`
	// Rights are permissions, by their names in Inventory.Permissions, that this way
	// alone needs: where one is not granted, a plan takes the next way.
	Rights []string `json:"rights,omitempty"`
}

// Padded is the virtual size that a disk of so many bytes gets by Align and
// MinSize.
func (d Delivery) Padded(size int64) int64 {
	if d.Align > 1 {
		size = (size + d.Align - 1) / d.Align * d.Align
	}
	return max(size, d.MinSize)
}

// Capabilities is what a platform takes, as data; the compatibility matrix and
// the plan are computed from it. Zero limits are "not known".
type Capabilities struct {
	Platform     vm.Platform   `json:"platform"`
	Deliveries   []Delivery    `json:"deliveries"`
	Firmware     []vm.Firmware `json:"firmware"`
	SecureBoot   bool          `json:"secure_boot"`
	TPM          bool          `json:"tpm"`
	Arch         []vm.Arch     `json:"arch"`
	Controllers  []vm.Bus      `json:"controllers"` // by preference
	NICModels    []vm.NICModel `json:"nic_models"`  // by preference
	KeepsMAC     bool          `json:"keeps_mac"`
	KeepsUUID    bool          `json:"keeps_uuid"`
	MaxDisks     int           `json:"max_disks,omitempty"`
	MaxNICs      int           `json:"max_nics,omitempty"`
	MaxCPUs      int           `json:"max_cpus,omitempty"`
	MaxMemory    int64         `json:"max_memory,omitempty"`
	MaxDiskSize  int64         `json:"max_disk_size,omitempty"`
	NeedsNetwork bool          `json:"needs_network"` // every NIC must be mapped
	// Fields are the placement fields, Options the job's options.
	Fields  []Field `json:"fields,omitempty"`
	Options []Field `json:"options,omitempty"`
	// Traits are facts that plans are made from; package caps has each
	// platform's. nil: those.
	Traits *Traits `json:"traits,omitempty"`
}

// Field is one setting a target understands.
type Field struct {
	Name     string   `json:"name"`
	Help     string   `json:"help"`
	Default  string   `json:"default,omitempty"`
	Required bool     `json:"required,omitempty"`
	Values   []string `json:"values,omitempty"`
}

// Check is one line of Validate.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	Hint   string `json:"hint,omitempty"` // what to do when not OK
}

// Inventory is what a target has. Names are what Placement takes.
type Inventory struct {
	Places   map[string][]Place `json:"places"` // by placement field: "datastore" → …
	Networks []Place            `json:"networks"`
	Taken    []string           `json:"taken,omitempty"` // names of machines that exist
	Asked    time.Time          `json:"asked"`
	// What follows is nil or zero where the target was not or could not be asked.

	Region         string       `json:"region,omitempty"` // of the account or subscription used
	SecurityGroups []Place      `json:"security_groups,omitempty"`
	Sizes          []Size       `json:"sizes,omitempty"` // machine sizes offered here
	Quotas         []Quota      `json:"quotas,omitempty"`
	Permissions    []Permission `json:"permissions,omitempty"`
	// TokenExpires is when the credentials end that cannot be renewed.
	TokenExpires time.Time `json:"token_expires,omitzero"`
	// UEFI tells whether a host here starts machines by UEFI.
	UEFI *bool `json:"uefi,omitempty"`
	// KeyProvider tells whether virtual TPMs can be made here.
	KeyProvider *bool `json:"key_provider,omitempty"`
}

// Quota is one limit of the account. What it counts is told by Kind; others
// than these are shown and not checked.
type Quota struct {
	Kind  string `json:"kind"` // "cpus", "memory" (bytes), "disk" (bytes), "machines", "disks", "nics"
	Name  string `json:"name"` // as the platform calls it
	Used  int64  `json:"used"`
	Limit int64  `json:"limit"` // -1: none
}

// Permission is one right that a restore needs.
type Permission struct {
	Name    string `json:"name"`
	Granted bool   `json:"granted"`
}

// Size is a machine size: an instance type, a VM size, a service offering. Zero
// limits are not known and do not count.
type Size struct {
	Name     string        `json:"name"`
	CPUs     int           `json:"cpus"`
	Memory   int64         `json:"memory"` // bytes
	Arch     []vm.Arch     `json:"arch,omitempty"`
	Firmware []vm.Firmware `json:"firmware,omitempty"`
	MaxDisks int           `json:"max_disks,omitempty"` // boot disk included
	MaxNICs  int           `json:"max_nics,omitempty"`
	// Shared: each adapter after the first takes the place of a disk.
	Shared bool `json:"shared,omitempty"`
	// NVMe and ENA tell that the guest needs these drivers.
	NVMe       bool `json:"nvme,omitempty"`
	ENA        bool `json:"ena,omitempty"`
	Premium    bool `json:"premium,omitempty"`     // takes premium storage
	TPM        bool `json:"tpm,omitempty"`         // has a virtual TPM
	SecureBoot bool `json:"secure_boot,omitempty"` //
	Old        bool `json:"old,omitempty"`         // of an earlier generation
	Special    bool `json:"special,omitempty"`     // metal, accelerators, confidential: only when named
	Burst      bool `json:"burst,omitempty"`       // processor time is rationed
	// Custom sizes take any processors and memory up to CPUs and Memory.
	Custom bool `json:"custom,omitempty"`
}

// Place is one candidate for a placement field.
type Place struct {
	Name string `json:"name"`
	Free int64  `json:"free,omitempty"` // bytes, for storage; 0: not known
	Note string `json:"note,omitempty"`
}

// VM is the restored machine.
type VM struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	URL  string `json:"url,omitempty"` // where a person can look at it
}

// Resource is one external thing a job makes. ID is empty while only the
// intent is recorded.
type Resource struct {
	Job  string            `json:"job"`
	Kind string            `json:"kind"` // of the platform: "vm", "file", "snapshot"
	ID   string            `json:"id,omitempty"`
	Name string            `json:"name"`
	Data map[string]string `json:"data,omitempty"` // what Undo needs besides
	Done bool              `json:"done,omitempty"` // created for sure
	Gone bool              `json:"gone,omitempty"` // removed again, by the job itself
}

// Recorder stores resources durably. Record returns when the entry survives a
// crash. An entry with the same Kind and Name replaces the earlier one.
type Recorder interface {
	Record(ctx context.Context, r Resource) error
	// Recorded lists the job's entries in the order they were first recorded.
	Recorded(ctx context.Context) ([]Resource, error)
}

// Errors a restore tells apart. A target wraps the platform's errors with them.
var (
	// ErrPermanent: trying again will not help (wrong password, no such
	// datastore, quota). Everything else may be retried.
	ErrPermanent = errors.New("trying again does not help")
	// ErrDigest: the platform holds other bytes than were sent.
	ErrDigest = errors.New("digest of what landed differs from what was sent")
	// ErrExists: something of that name is there and is not of this job.
	ErrExists = errors.New("already exists")
	// ErrExpired: the upload is no longer known and must start again from 0.
	ErrExpired = errors.New("upload expired")
)

// IsPermanent tells whether retrying is of no use.
func IsPermanent(err error) bool {
	return errors.Is(err, ErrPermanent) || errors.Is(err, ErrDigest) || errors.Is(err, ErrExists) ||
		errors.Is(err, context.Canceled)
}

// Package adapt carries out what package guest decided: the named changes that
// make a guest come up on its target, all in one session of the appliance, on
// layers over the backup's disks. The disks below are never written; after a
// failure the layers are of no use and the guest is as it was.
//
// docs/guest.md describes every change.
package adapt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"ascend/internal/appliance"
	"ascend/internal/appliance/proto"
	"ascend/internal/disk"
	"ascend/internal/guest"
	"ascend/internal/qemu"
)

// Options of an adaptation.
type Options struct {
	Image *appliance.Image
	Accel qemu.Accelerator // Auto by default
	// Keys open the LUKS containers that were looked into: each is tried.
	Keys [][]byte
}

// File is one file that was written or removed.
type File struct {
	Path   string `json:"path"`
	Was    int64  `json:"was"` // bytes before; -1: it was not there
	Is     int64  `json:"is"`  // bytes now; -1: it was removed
	SHA256 string `json:"sha256,omitempty"`
}

// Applied is a change with what was done for it.
type Applied struct {
	guest.Change
	Files []File `json:"files,omitempty"`
	// Registry says what became of keys and values of Windows' SYSTEM hive.
	Registry []string `json:"registry,omitempty"`
	// Skipped says why nothing was done although the machine comes up without it.
	Skipped string `json:"skipped,omitempty"`
}

// Result is what was done to a guest. It is part of the receipt.
type Result struct {
	Changes []Applied `json:"changes"`
	// Files were written, and Registry set, once for several changes.
	Files    []File   `json:"files,omitempty"`
	Registry []string `json:"registry,omitempty"`
	// Trimmed counts bytes that the file systems do not use: they are not sent.
	Trimmed int64   `json:"trimmed"`
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpu_seconds"`
}

// Failure is an adaptation that was given up, with the appliance's last words.
type Failure struct {
	Err error
	Log string
}

func (f *Failure) Error() string {
	return fmt.Sprintf("cannot adapt the guest: %v (the backup is unchanged; --guest=off restores it as it is)", f.Err)
}

func (f *Failure) Unwrap() error { return f.Err }

// ErrCannot: the decision holds changes that are not carried out here.
var ErrCannot = errors.New("a change of the guest that is needed cannot be carried out")

// Can tells whether Apply carries a kind of change out for a system.
func Can(in *guest.Inspection, c guest.Change) bool {
	r := system(in, c.Root)
	if r != nil && r.Windows != nil {
		return doesWindows[c.Kind] != nil
	}
	if r == nil || r.Linux == nil {
		return false
	}
	if c.Kind == guest.SetDHCP || c.Kind == guest.SetAddress {
		return rewriter(c.Args["source"]) != nil
	}
	return does[c.Kind] != nil
}

// Apply carries a's changes out on disks, which are layers of the caller's over
// the disks that in was found on, in their order. On error the layers must be
// thrown away. It changes nothing that is as it should be already.
func Apply(ctx context.Context, disks []disk.Disk, in *guest.Inspection, a *guest.Adaptation, o Options) (*Result, error) {
	for _, c := range a.Changes {
		if !Can(in, c) {
			return nil, &Failure{Err: fmt.Errorf("%s %s: %w", c.Kind, c.Subject, ErrCannot)}
		}
	}
	packs, err := openPacks(a)
	defer packs.close()
	if err != nil {
		return nil, &Failure{Err: err}
	}
	s, err := appliance.Start(ctx, appliance.Options{Image: o.Image, Disks: disks, Accel: o.Accel})
	if err != nil {
		return nil, &Failure{Err: err}
	}
	defer s.Close()
	w := &work{Session: s, in: in, keys: o.Keys, res: &Result{Changes: []Applied{}}, packs: packs}
	err = w.all(ctx, a)
	if err == nil {
		err = s.Finish(ctx)
	}
	if err != nil {
		return nil, &Failure{Err: err, Log: s.Log()}
	}
	u := s.Usage()
	w.res.Seconds, w.res.CPU = u.Wall.Seconds(), u.CPU.Seconds()
	return w.res, nil
}

// work is one session.
type work struct {
	*appliance.Session
	in    *guest.Inspection
	keys  [][]byte
	res   *Result
	now   *Applied // the change under way
	win   *windows // the Windows under way; nil: another system
	packs packs
}

// Roots of the session: the system's tree, and its EFI partition.
const (
	sys = "guest"
	esp = "esp"
)

func system(in *guest.Inspection, volume string) *guest.Root {
	for i := range in.Roots {
		if in.Roots[i].Volume == volume {
			return &in.Roots[i]
		}
	}
	return nil
}

func volume(in *guest.Inspection, id string) *guest.Volume {
	for i := range in.Volumes {
		if in.Volumes[i].ID == id {
			return &in.Volumes[i]
		}
	}
	return nil
}

// device is a volume's path in the appliance.
func device(id string) string {
	if n, ok := strings.CutPrefix(id, "disk"); ok && !strings.Contains(id, "/") {
		return "/dev/disk/" + n
	}
	if strings.HasPrefix(id, "luks-") && !strings.Contains(id, "/") {
		return "/dev/mapper/" + id
	}
	return "/dev/" + id
}

func (w *work) all(ctx context.Context, a *guest.Adaptation) error {
	if err := w.unlock(ctx); err != nil {
		return err
	}
	if slices.ContainsFunc(w.in.Volumes, func(v guest.Volume) bool { return v.Content == "lvm2" }) {
		if err := w.Do(ctx, proto.Call{LVM: &proto.LVM{}}, nil); err != nil {
			return fmt.Errorf("cannot open the volume groups: %w", err)
		}
	}
	for i := range w.in.Roots {
		r := &w.in.Roots[i]
		of := func(c guest.Change) bool { return c.Root == r.Volume }
		if !slices.ContainsFunc(a.Changes, of) {
			continue
		}
		at, err := w.mount(ctx, r)
		if err != nil {
			return err
		}
		carry := does
		if w.win = nil; r.Windows != nil {
			w.win, carry = newWindows(r), doesWindows
		}
		for _, c := range a.Changes {
			if !of(c) {
				continue
			}
			w.now = &Applied{Change: c}
			if err := carry[c.Kind](w, ctx, r, c); err != nil {
				return fmt.Errorf("%s %s: %w", c.Kind, c.Subject, err)
			}
			w.res.Changes = append(w.res.Changes, *w.now)
		}
		if w.win != nil {
			if err := w.settle(ctx); err != nil {
				return err
			}
		}
		if err := w.leave(ctx, at); err != nil {
			return err
		}
	}
	return nil
}

// unlock opens the LUKS containers that the inspection looked into.
func (w *work) unlock(ctx context.Context) error {
	for _, v := range w.in.Volumes {
		if v.Unlocks == "" {
			continue
		}
		err := errors.New("no key is given")
		for _, key := range guest.KeyForms(w.keys) {
			var wrong *proto.Error
			err = w.Do(ctx, proto.Call{LUKS: &proto.LUKS{Device: device(v.Unlocks), Name: v.ID, Key: key}}, nil)
			if !errors.As(err, &wrong) || wrong.Code != "wrong-key" {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("cannot open the encrypted volume %s: %w", v.Unlocks, err)
		}
	}
	return nil
}

// mount mounts a system's tree: its root and what its fstab has of the folders
// that are written to. It returns the paths mounted.
func (w *work) mount(ctx context.Context, r *guest.Root) ([]string, error) {
	var options []string
	if r.Subvolume != "" {
		options = []string{"subvol=" + r.Subvolume}
	}
	if err := w.Do(ctx, proto.Call{Mount: &proto.Mount{Root: sys, Device: device(r.Volume), Options: options}}, nil); err != nil {
		return nil, fmt.Errorf("cannot mount %s: %w", r.Volume, err)
	}
	at := []string{"/"}
	if r.Linux == nil {
		return at, nil
	}
	mounts := slices.Clone(r.Linux.Mounts)
	slices.SortStableFunc(mounts, func(a, b guest.Mount) int { return len(a.Path) - len(b.Path) })
	for _, m := range mounts {
		v := volume(w.in, m.Volume)
		var options []string
		for _, o := range strings.Split(m.Options, ",") {
			if strings.HasPrefix(o, "subvol=") {
				options = []string{o}
			}
		}
		if v == nil || m.Volume == r.Volume && options == nil || !slices.Contains([]string{"/boot", "/usr", "/var", "/etc"}, path.Clean(m.Path)) {
			continue
		}
		if err := w.Do(ctx, proto.Call{Mount: &proto.Mount{Root: sys, At: proto.Name(m.Path), Device: device(m.Volume), Options: options}}, nil); err != nil {
			return nil, fmt.Errorf("cannot mount %s at %s: %w", m.Volume, m.Path, err)
		}
		at = append(at, m.Path)
	}
	return at, nil
}

// leave discards the unused blocks, so that they are not sent, and unmounts.
func (w *work) leave(ctx context.Context, at []string) error {
	for _, p := range at {
		var n int64
		err := w.Do(ctx, proto.Call{Trim: &proto.Trim{Root: sys, Path: proto.Name(p)}}, &n)
		var e *proto.Error
		if err != nil && !errors.As(err, &e) {
			return err
		}
		// A file system without discard is sent whole: no failure.
		w.res.Trimmed += n
	}
	return w.Do(ctx, proto.Call{Unmount: &proto.Unmount{Root: sys}}, nil)
}

// limited takes so many bytes and no more.
type limited struct {
	bytes.Buffer
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		return 0, errors.New("the file is larger than expected")
	}
	return l.Buffer.Write(p)
}

// Bounds of what is read.
const (
	maxText   = 4 << 20
	maxBinary = 64 << 20
)

// read is a file's content, links followed. It asks for the size first: a stream
// that fails before it begins takes the session with it.
func (w *work) read(ctx context.Context, root, name string, limit int64) ([]byte, error) {
	n, err := w.size(ctx, root, name)
	if err == nil && n < 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	b := &limited{left: limit}
	err = w.Receive(ctx, func(port int) proto.Call {
		return proto.Call{Read: &proto.Read{Root: root, Path: proto.Name(name), Length: -1, Port: &port}}
	}, b, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// size is a file's, links followed; -1 when it is not there.
func (w *work) size(ctx context.Context, root, name string) (int64, error) {
	var i proto.FileInfo
	err := w.Do(ctx, proto.Call{Stat: &proto.Stat{Root: root, Path: proto.Name(name), Follow: true}}, &i)
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	return i.Size, err
}

// write makes or replaces a file and records it.
func (w *work) write(ctx context.Context, root, name string, data []byte, mode uint32) error {
	was, err := w.size(ctx, root, name)
	if err != nil {
		return err
	}
	var file, folder map[string][]byte
	if root == sys && w.win != nil {
		file, folder = fileProtection, folderProtection
	}
	if was < 0 {
		if err := w.Do(ctx, proto.Call{Mkdir: &proto.Mkdir{Root: root, Path: proto.Name(path.Dir(name)), XAttrs: folder}}, nil); err != nil {
			return fmt.Errorf("cannot make %s: %w", path.Dir(name), err)
		}
	}
	err = w.Send(ctx, func(port int) proto.Call {
		return proto.Call{Write: &proto.Write{Root: root, Path: proto.Name(name), Port: &port, Mode: mode, XAttrs: file}}
	}, bytes.NewReader(data), nil)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	w.record(name, was, int64(len(data)), data)
	return nil
}

func (w *work) record(name string, was, is int64, data []byte) {
	f := File{Path: name, Was: was, Is: is}
	if is >= 0 {
		f.SHA256 = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	w.now.Files = append(w.now.Files, f)
}

// edit rewrites a text file when change has it otherwise. missing: one that is
// not there is empty.
func (w *work) edit(ctx context.Context, name string, missing bool, change func(string) string) error {
	b, err := w.read(ctx, sys, name, maxText)
	if errors.Is(err, fs.ErrNotExist) && missing {
		b, err = nil, nil
	}
	if err != nil {
		return err
	}
	if s := change(string(b)); s != string(b) {
		return w.write(ctx, sys, name, []byte(s), 0o644)
	}
	return nil
}

// link makes a symbolic link and records it as a file of its target's length.
func (w *work) link(ctx context.Context, name, to string) error {
	for _, c := range []proto.Call{
		{Mkdir: &proto.Mkdir{Root: sys, Path: proto.Name(path.Dir(name))}},
		{Symlink: &proto.Symlink{Root: sys, Path: proto.Name(name), Target: proto.Name(to)}},
	} {
		if err := w.Do(ctx, c, nil); err != nil {
			return fmt.Errorf("cannot make link %s: %w", name, err)
		}
	}
	w.now.Files = append(w.now.Files, File{Path: name + " -> " + to, Was: -1, Is: int64(len(to))})
	return nil
}

// exists tells whether there is a file of that name, a dangling link too.
func (w *work) exists(ctx context.Context, root, name string) (bool, error) {
	err := w.Do(ctx, proto.Call{Stat: &proto.Stat{Root: root, Path: proto.Name(name)}}, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

package adapt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"ascend/internal/appliance/proto"
	"ascend/internal/guest/regf"
)

// maxHive bounds a hive and each of its logs.
const maxHive = 256 << 20

// resolve is the path of a file as the volume writes it: Windows' names are one
// whatever their case, and ntfs-3g's are not. What is not there is taken as asked.
func (w *work) resolve(ctx context.Context, name string) (string, error) {
	at := "/"
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		next := path.Join(at, part)
		there, err := w.exists(ctx, sys, next)
		if err == nil && !there {
			next, err = w.folded(ctx, at, part)
		}
		if err != nil {
			return "", err
		}
		at = next
	}
	return at, nil
}

// folded looks for a name of any case in a folder.
func (w *work) folded(ctx context.Context, dir, name string) (string, error) {
	after := proto.Name("")
	for {
		const page = 2000
		var list []proto.FileInfo
		err := w.Do(ctx, proto.Call{List: &proto.List{Root: sys, Path: proto.Name(dir), After: after, Limit: page}}, &list)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		for _, e := range list {
			if strings.EqualFold(string(e.Name), name) {
				return path.Join(dir, string(e.Name)), nil
			}
			after = e.Name
		}
		if len(list) < page {
			return path.Join(dir, name), nil
		}
	}
}

// hive opens the SYSTEM hive once; a dirty one has its logs replayed.
func (w *work) hive(ctx context.Context) (*regf.Hive, error) {
	g := w.win
	if g.hive != nil {
		return g.hive, nil
	}
	name, err := w.resolve(ctx, g.root.Windows.SystemHive)
	if err != nil {
		return nil, err
	}
	b, err := w.read(ctx, sys, name, maxHive)
	if err != nil {
		return nil, err
	}
	g.hiveAt, g.hiveWas = name, int64(len(b))
	h, err := regf.Open(b)
	if errors.Is(err, regf.ErrDirty) {
		var logs [][]byte
		for _, s := range []string{".LOG1", ".LOG2", ".LOG"} {
			at, err := w.resolve(ctx, name+s)
			if err != nil {
				return nil, err
			}
			if l, err := w.read(ctx, sys, at, maxHive); err == nil {
				logs = append(logs, l)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		if h, err = regf.OpenLogs(b, logs...); err == nil {
			w.note("its logs were replayed")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot change %s: %w", name, err)
	}
	g.hive = h
	return h, nil
}

// saveHive writes the hive over the one that is there, which keeps its owner and
// its protection.
func (w *work) saveHive(ctx context.Context) error {
	g := w.win
	if g.hive == nil || !g.edited {
		return nil
	}
	b := g.hive.Bytes()
	if _, err := regf.Open(b); err != nil {
		return fmt.Errorf("%s would not be sound after the change: %w", g.hiveAt, err)
	}
	if err := w.overwrite(ctx, g.hiveAt, b); err != nil {
		return err
	}
	w.record(g.hiveAt, g.hiveWas, int64(len(b)), b)
	return nil
}

func (w *work) note(format string, a ...any) {
	w.now.Registry = append(w.now.Registry, fmt.Sprintf(format, a...))
}

// dword, text and expandable are data of values.
func dword(n uint32) datum { return datum{regf.DWord, binary.LittleEndian.AppendUint32(nil, n)} }
func text(s string) datum  { return datum{regf.SZ, regf.Text(s)} }
func expandable(s string) datum {
	return datum{regf.ExpandSZ, regf.Text(s)}
}
func blob(b []byte) datum      { return datum{regf.Binary, b} }
func texts(l ...string) datum  { return datum{regf.MultiSZ, regf.Texts(l)} }
func (d datum) String() string { return regf.Format(d.kind, d.data) }

type datum struct {
	kind uint32
	data []byte
}

// set sets a value below a key, which it makes where it is not, and notes what was
// there. A value that is so already stays.
func (w *work) set(ctx context.Context, key, name string, d datum) error {
	h, err := w.hive(ctx)
	if err != nil {
		return err
	}
	was := "not there"
	if k, err := h.Root().Key(key); err == nil {
		if v, err := k.Value(name); err == nil {
			b, err := v.Data()
			if err != nil {
				return err
			}
			if was = regf.Format(v.Type(), b); v.Type() == d.kind && string(b) == string(d.data) {
				return nil
			}
		}
	}
	k, err := h.Root().Create(key)
	if err == nil {
		err = k.Set(name, d.kind, d.data)
	}
	if err != nil {
		return fmt.Errorf(`cannot set %s\%s: %w`, key, name, err)
	}
	w.win.edited = true
	w.note(`%s\%s: %s, was %s`, key, name, d, was)
	return nil
}

// unset removes a value.
func (w *work) unset(ctx context.Context, key, name string) error {
	h, err := w.hive(ctx)
	if err != nil {
		return err
	}
	k, err := h.Root().Key(key)
	if errors.Is(err, regf.ErrMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	v, err := k.Value(name)
	if errors.Is(err, regf.ErrMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	b, err := v.Data()
	if err != nil {
		return err
	}
	was := regf.Format(v.Type(), b)
	if err := k.Unset(name); err != nil {
		return fmt.Errorf(`cannot remove %s\%s: %w`, key, name, err)
	}
	w.win.edited = true
	w.note(`%s\%s: removed, was %s`, key, name, was)
	return nil
}

// drop removes a subkey with all below it.
func (w *work) drop(ctx context.Context, key, sub string) error {
	h, err := w.hive(ctx)
	if err != nil {
		return err
	}
	k, err := h.Root().Key(key)
	if err != nil {
		return err
	}
	s, err := k.Key(sub)
	if errors.Is(err, regf.ErrMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	vs, err := s.Values()
	if err != nil {
		return err
	}
	var was []string
	for _, v := range vs {
		b, err := v.Data()
		if err != nil {
			return err
		}
		was = append(was, v.Name()+"="+regf.Format(v.Type(), b))
	}
	if err := k.Delete(sub); err != nil {
		return fmt.Errorf(`cannot remove %s\%s: %w`, key, sub, err)
	}
	w.win.edited = true
	w.note(`%s\%s: removed, was %s`, key, sub, strings.Join(was, " "))
	return nil
}

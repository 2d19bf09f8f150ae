package targettest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"ascend/internal/target"
)

// MemRecorder is a Recorder in memory that remembers every call and can be made
// to fail. The zero value is ready. It is safe for concurrent use.
type MemRecorder struct {
	// FailAt, when not 0, makes the FailAt-th call of Record, counted from 1, and
	// all later ones return ErrRecorder.
	FailAt int
	// Late makes the failing calls store the entry before they fail, as a crash
	// right after the write does.
	Late bool

	mu      sync.Mutex
	calls   int
	entries []target.Resource
	history []target.Resource
}

// ErrRecorder is what a MemRecorder fails with.
var ErrRecorder = errors.New("the recorder was made to fail")

// Record implements target.Recorder.
func (m *MemRecorder) Record(ctx context.Context, r target.Resource) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	fails := m.FailAt != 0 && m.calls >= m.FailAt
	if fails && !m.Late {
		return ErrRecorder
	}
	r.Data = maps.Clone(r.Data)
	m.entries = replace(m.entries, r)
	m.history = append(m.history, r)
	if fails {
		return ErrRecorder
	}
	return nil
}

// Recorded implements target.Recorder.
func (m *MemRecorder) Recorded(context.Context) ([]target.Resource, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return clone(m.entries), nil
}

// History lists every entry in the order of the calls, replaced ones too.
func (m *MemRecorder) History() []target.Resource {
	m.mu.Lock()
	defer m.mu.Unlock()
	return clone(m.history)
}

// Calls is how often Record was called.
func (m *MemRecorder) Calls() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}

// heal makes the recorder work again.
func (m *MemRecorder) heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.FailAt = 0
}

func replace(entries []target.Resource, r target.Resource) []target.Resource {
	i := slices.IndexFunc(entries, func(e target.Resource) bool { return e.Kind == r.Kind && e.Name == r.Name })
	if i < 0 {
		return append(entries, r)
	}
	entries[i] = r
	return entries
}

func clone(entries []target.Resource) []target.Resource {
	out := slices.Clone(entries)
	for i := range out {
		out[i].Data = maps.Clone(out[i].Data)
	}
	return out
}

// FileRecorder is a Recorder in a file of JSON lines, for tests in which
// another process goes on: open it again with the same path. It survives the
// process's death, not the system's. It is safe for concurrent use within one
// process.
type FileRecorder struct {
	mu   sync.Mutex
	path string
}

// NewFileRecorder uses the file path, which need not exist.
func NewFileRecorder(path string) *FileRecorder { return &FileRecorder{path: path} }

// Record implements target.Recorder.
func (f *FileRecorder) Record(ctx context.Context, r target.Resource) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	file, err := os.OpenFile(f.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(append(line, '\n'))
	return errors.Join(err, file.Close())
}

// Recorded implements target.Recorder.
func (f *FileRecorder) Recorded(context.Context) ([]target.Resource, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var entries []target.Resource
	for line := range bytes.Lines(b) {
		var r target.Resource
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", f.path, err)
		}
		entries = replace(entries, r)
	}
	return entries, nil
}

// UndoAll undoes what rec holds, the last first, as a restore does: entries
// already gone are left out, and each that is undone is recorded as gone.
func UndoAll(ctx context.Context, tgt target.Target, rec target.Recorder) error {
	entries, err := rec.Recorded(ctx)
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(entries) {
		if r.Gone {
			continue
		}
		if err := tgt.Undo(ctx, r); err != nil {
			return fmt.Errorf("cannot undo %s %q: %w", r.Kind, r.Name, err)
		}
		r.Gone = true
		if err := rec.Record(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

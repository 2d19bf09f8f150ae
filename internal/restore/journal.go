package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"ascend/internal/disk"
	"ascend/internal/target"
	"ascend/internal/transfer/journal"
)

func journalName(i int) string { return fmt.Sprintf("disk-%d.journal", i) }

// The copy of a disk's journal in the store is in blobs of whole records,
// journal-DISK/GENERATION/NUMBER, and journal-DISK/GENERATION/ready when what
// the generation began with is there. Every attempt begins a generation, so that
// one that was overtaken writes beside its successor's and not into it.
func journalPrefix(i int) string { return fmt.Sprintf("journal-%d/", i) }

const (
	mirrorEvery = time.Second
	mirrorChunk = 1 << 20
	mirrorReady = "ready"
)

// journaled is an open journal, copied to the store where the store is shared.
type journaled struct {
	*journal.Journal
	stop func()
}

func (j *journaled) Close() error {
	j.stop()
	return j.Journal.Close()
}

// into names what an upload writes into, "" where it is the same for all of a job.
func into(up target.Upload) string {
	if id, ok := target.As[target.Identified](up); ok {
		return " in " + id.Identity()
	}
	return ""
}

// journal continues the disk's journal, or begins one when there is none, when it
// is of another upload or when the target cannot go on with an upload.
func (t *task) journal(ctx context.Context, i int, into string, m *disk.Map) (*journaled, error) {
	if _, err := t.dir(); err != nil {
		return nil, err
	}
	d := t.spec.Plan.Disks[i].Delivery
	key := fmt.Sprintf("%s disk %d as %s%s", t.a.Job, i, d.Format, into)
	path := t.file(journalName(i))
	mirrored := t.s.shared && d.Resumable
	if mirrored {
		if err := t.fetchJournal(ctx, i, path); err != nil {
			return nil, err
		}
	}
	jn, err := (*journal.Journal)(nil), journal.ErrNone
	if d.Resumable {
		jn, err = journal.Load(path, key)
	}
	if errors.Is(err, journal.ErrNone) {
		jn, err = journal.Create(path, key, m)
	}
	if err != nil {
		return nil, err
	}
	if !mirrored {
		return &journaled{jn, func() {}}, nil
	}
	stop, err := t.mirror(ctx, i, jn)
	if err != nil {
		jn.Close()
		return nil, err
	}
	return &journaled{jn, stop}, nil
}

// generation is the newest generation in the store that is whole, 0 when there
// is none, and the names of its blobs in order.
func (t *task) generation(ctx context.Context, i int) (int, []string, error) {
	names, err := t.s.store.Blobs(ctx, t.a.Job, journalPrefix(i))
	if err != nil {
		return 0, nil, err
	}
	newest := 0
	chunks := map[int][]string{}
	for _, n := range names { // ascending
		g, chunk, _ := strings.Cut(strings.TrimPrefix(n, journalPrefix(i)), "/")
		gen, err := strconv.Atoi(g)
		if err != nil {
			continue
		}
		if chunk == mirrorReady {
			newest = max(newest, gen)
			continue
		}
		chunks[gen] = append(chunks[gen], n)
	}
	return newest, chunks[newest], nil
}

// fetchJournal puts the store's copy in place of the file, unless the file is
// what the copy was made from.
func (t *task) fetchJournal(ctx context.Context, i int, path string) error {
	gen, names, err := t.generation(ctx, i)
	if err != nil || gen == 0 {
		return err
	}
	mine, err := os.ReadFile(path + ".generation")
	if _, serr := os.Stat(path); err == nil && serr == nil && string(mine) == strconv.Itoa(gen) {
		return nil
	}
	var all []byte
	for _, n := range names {
		b, err := t.s.store.Blob(ctx, t.a.Job, n)
		if err != nil {
			return err
		}
		all = append(all, b...)
	}
	if err := writeFile(path, all); err != nil {
		return fmt.Errorf("cannot write journal: %w", err)
	}
	return nil
}

// mirror begins a generation with what the journal holds and adds to it about
// once a second. stop adds the last.
func (t *task) mirror(ctx context.Context, i int, jn *journal.Journal) (stop func(), err error) {
	old, err := t.s.store.Blobs(ctx, t.a.Job, journalPrefix(i))
	if err != nil {
		return nil, err
	}
	gen := fmt.Sprintf("%s%08d/", journalPrefix(i), t.a.Number)
	c := &copier{t: t, jn: jn, prefix: gen}
	if err := c.copy(ctx); err != nil {
		return nil, err
	}
	if err := t.s.store.PutBlob(ctx, t.a.Job, gen+mirrorReady, []byte{1}); err != nil {
		return nil, err
	}
	if err := writeFile(t.file(journalName(i))+".generation", []byte(strconv.Itoa(t.a.Number))); err != nil {
		return nil, fmt.Errorf("cannot write journal: %w", err)
	}
	for _, n := range old {
		if strings.HasPrefix(n, gen) {
			continue
		}
		if err := t.s.store.DeleteBlob(ctx, t.a.Job, n); err != nil {
			return nil, err
		}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(mirrorEvery)
		defer tick.Stop()
		for {
			select {
			case <-end:
				last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
				defer cancel()
				_ = c.copy(last) // what is missing is sent again
				return
			case <-tick.C:
				_ = c.copy(ctx) // tried again in a second
			}
		}
	}()
	return func() { close(end); <-ended }, nil
}

// copier adds to one generation.
type copier struct {
	t      *task
	jn     *journal.Journal
	prefix string
	at     int64 // bytes copied
	number int
}

func (c *copier) copy(ctx context.Context) error {
	b, err := c.jn.Tail(c.at)
	if err != nil {
		return err
	}
	for len(b) > 0 {
		p := b[:min(len(b), mirrorChunk)]
		if err := c.t.s.store.PutBlob(ctx, c.t.a.Job, fmt.Sprintf("%s%08d", c.prefix, c.number), p); err != nil {
			return err
		}
		c.at += int64(len(p))
		c.number++
		b = b[len(p):]
	}
	return nil
}

// dropJournal removes the disk's journal, here and in the store.
func (t *task) dropJournal(ctx context.Context, i int) error {
	path := t.file(journalName(i))
	for _, p := range []string{path, path + ".generation"} {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove journal: %w", err)
		}
	}
	if !t.s.shared {
		return nil
	}
	names, err := t.s.store.Blobs(ctx, t.a.Job, journalPrefix(i))
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := t.s.store.DeleteBlob(ctx, t.a.Job, n); err != nil {
			return err
		}
	}
	return nil
}

// Package journal remembers, for one transfer, what has landed, in a file that
// survives kill -9 and power loss at any byte.
//
// The file is a sequence of records: type (1 byte), payload length (uvarint),
// payload, CRC-32C of all three (4 bytes little-endian). The first record is
// the header with the key, the second the extent map; after them come landed
// units, checkpoints and sync marks. A record that is cut short or damaged ends
// the journal: what follows was never acknowledged.
//
// A record is written as soon as its unit has landed, so it survives the death
// of the process. The mark is written after the data and the records before it
// were flushed to stable storage; when the machine was restarted since (another
// boot identifier), only what a mark covers is believed.
package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"ascend/internal/disk"
	"ascend/internal/transfer/digest"
)

// ErrNone: there is no journal, or not one of this key; start from the beginning.
var ErrNone = errors.New("no journal of this transfer")

// ErrBusy: another process is at work on this transfer.
var ErrBusy = errors.New("another process is at work on this transfer")

const (
	recHeader     = 'H'
	recMap        = 'M'
	recUnit       = 'U'
	recCheckpoint = 'C'
	recSynced     = 'S'
	maxRecord     = 256 << 20
)

var table = crc32.MakeTable(crc32.Castagnoli)

type header struct {
	Version int    `json:"version"`
	Key     string `json:"key"`
	Boot    string `json:"boot"`
}

// Block is the digest of one block of the disk.
type Block struct {
	Number int64
	Sum    digest.Sum
}

// Journal is open for appending. Landed, Checkpoint and Synced may be called
// concurrently.
type Journal struct {
	path string
	m    *disk.Map

	mu     sync.Mutex
	f      *os.File
	end    int64
	buf    []byte
	err    error
	landed bitmap
	root   *digest.Root
	sums   FileSums
	last   []byte // the newest checkpoint

	restarted bool
}

// Create starts a new journal at path, replacing what is there. The map is
// stored in it. The folder must exist.
func Create(path, key string, m *disk.Map) (*Journal, error) {
	f, err := lock(path)
	if err != nil {
		return nil, err
	}
	j := newJournal(f, path, m)
	if err := f.Truncate(0); err != nil {
		return nil, j.fail(err)
	}
	head, err := json.Marshal(header{Version: 1, Key: key, Boot: bootID()})
	if err != nil {
		return nil, j.fail(err)
	}
	mp, err := m.AppendBinary(nil)
	if err != nil {
		return nil, j.fail(err)
	}
	if err := errors.Join(j.append(recHeader, head), j.append(recMap, mp)); err != nil {
		return nil, j.fail(err)
	}
	if err := errors.Join(f.Sync(), syncDir(filepath.Dir(path))); err != nil {
		return nil, j.fail(err)
	}
	return j, nil
}

// Load opens the journal at path to continue. It is ErrNone when there is none
// or its key differs.
func Load(path, key string) (*Journal, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, ErrNone
	}
	f, err := lock(path)
	if err != nil {
		return nil, err
	}
	j, err := replay(f, path, key)
	if err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open journal: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, ErrBusy)
	}
	return f, nil
}

func newJournal(f *os.File, path string, m *disk.Map) *Journal {
	j := &Journal{f: f, path: path, m: m}
	coarse := m.Coarse(digest.BlockSize)
	j.root = digest.NewRoot(m.Size(), func(b int64) bool { return !coarse.Has(b) })
	return j
}

func (j *Journal) fail(err error) error {
	j.f.Close()
	return fmt.Errorf("cannot write journal: %w", err)
}

// Restarted tells whether the machine was started anew since the journal was
// last written: data that was not flushed may be lost then.
func (j *Journal) Restarted() bool { return j.restarted }

// Map is the extent map that the transfer was begun with.
func (j *Journal) Map() *disk.Map { return j.m }

// Has tells whether the unit with this number has landed.
func (j *Journal) Has(unit int64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.landed.has(unit)
}

// Landed records that a unit has landed, with the digests of the blocks in it.
func (j *Journal) Landed(unit int64, blocks []Block) error { return j.LandedSums(unit, blocks, nil) }

// Checkpoint records the state of an ordered stream together with the digests
// of the blocks since the one before.
func (j *Journal) Checkpoint(state []byte, blocks []Block) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.buf = appendBlocks(j.buf[:0], blocks)
	j.buf = append(j.buf, state...)
	j.last = bytes.Clone(state)
	j.put(blocks)
	return j.append(recCheckpoint, j.buf)
}

// LastCheckpoint is the newest checkpoint's state, or nil.
func (j *Journal) LastCheckpoint() []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// Position marks what has been recorded so far, for Synced.
func (j *Journal) Position() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.end
}

// Tail reads what was recorded from byte from of the file on, whole records when
// from is the end of one: for a copy that is kept elsewhere.
func (j *Journal) Tail(from int64) ([]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	b := make([]byte, max(j.end-from, 0))
	if _, err := j.f.ReadAt(b, from); err != nil {
		return nil, fmt.Errorf("cannot read journal: %w", err)
	}
	return b, nil
}

// Synced records that the data of all records before pos is on stable storage,
// and flushes the journal itself.
func (j *Journal) Synced(pos int64) error {
	j.mu.Lock()
	err := j.append(recSynced, binary.AppendUvarint(nil, uint64(pos)))
	j.mu.Unlock()
	if err != nil {
		return err
	}
	return j.f.Sync()
}

// Sum is the disk's digest when every block has been recorded.
func (j *Journal) Sum() (digest.Sum, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.root.Sum()
}

// Close closes the file and keeps it.
func (j *Journal) Close() error { return j.f.Close() }

// Remove deletes the journal: the transfer is complete or given up.
func (j *Journal) Remove() error {
	return errors.Join(os.Remove(j.path), j.f.Close())
}

func (j *Journal) put(blocks []Block) {
	for _, b := range blocks {
		j.root.Put(b.Number, b.Sum)
	}
}

// append writes one record with one write, so that a killed process leaves it
// whole or leaves it out. The caller holds mu, but for Create.
func (j *Journal) append(kind byte, payload []byte) error {
	if j.err != nil {
		return j.err
	}
	rec := make([]byte, 0, len(payload)+16)
	rec = append(rec, kind)
	rec = binary.AppendUvarint(rec, uint64(len(payload)))
	rec = append(rec, payload...)
	rec = binary.LittleEndian.AppendUint32(rec, crc32.Checksum(rec, table))
	if _, err := j.f.WriteAt(rec, j.end); err != nil {
		j.err = fmt.Errorf("cannot write journal: %w", err)
		return j.err
	}
	j.end += int64(len(rec))
	return nil
}

func appendBlocks(b []byte, blocks []Block) []byte {
	b = binary.AppendUvarint(b, uint64(len(blocks)))
	for _, bl := range blocks {
		b = binary.AppendUvarint(b, uint64(bl.Number))
		b = append(b, bl.Sum[:]...)
	}
	return b
}

func parseBlocks(b []byte) (blocks []Block, rest []byte, ok bool) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)) {
		return nil, nil, false
	}
	b = b[k:]
	for range n {
		num, k := binary.Uvarint(b)
		if k <= 0 || len(b) < k+32 {
			return nil, nil, false
		}
		bl := Block{Number: int64(num)}
		copy(bl.Sum[:], b[k:])
		b = b[k+32:]
		blocks = append(blocks, bl)
	}
	return blocks, b, true
}

// bitmap is a set of unit numbers.
type bitmap struct{ words []uint64 }

func (b *bitmap) has(n int64) bool {
	return n>>6 < int64(len(b.words)) && b.words[n>>6]&(1<<(n&63)) != 0
}

func (b *bitmap) set(n int64) {
	for n>>6 >= int64(len(b.words)) {
		b.words = append(b.words, 0)
	}
	b.words[n>>6] |= 1 << (n & 63)
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // never equal to another: only synced records count
	}
	return strings.TrimSpace(string(b))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// reader reads records and knows how far the journal is whole.
type reader struct {
	r   io.ReaderAt
	end int64 // of the file
	off int64
}

// next is the next whole record; ok is false at the journal's end.
func (r *reader) next() (kind byte, payload []byte, ok bool) {
	var head [11]byte
	n, err := r.r.ReadAt(head[:min(int64(len(head)), r.end-r.off)], r.off)
	if n < 2 || err != nil && err != io.EOF {
		return 0, nil, false
	}
	length, k := binary.Uvarint(head[1:n])
	if k <= 0 || length > maxRecord || int64(length) > r.end-r.off {
		return 0, nil, false
	}
	rec := make([]byte, 1+k+int(length)+4)
	if _, err := r.r.ReadAt(rec, r.off); err != nil {
		return 0, nil, false
	}
	body := rec[:len(rec)-4]
	if crc32.Checksum(body, table) != binary.LittleEndian.Uint32(rec[len(body):]) {
		return 0, nil, false
	}
	r.off += int64(len(rec))
	return rec[0], body[1+k:], true
}

// replay reads the journal, forgets what a reboot may have lost, cuts off what
// is not whole and leaves it open for appending.
func replay(f *os.File, path, key string) (*Journal, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read journal: %w", err)
	}
	r := &reader{r: f, end: st.Size()}
	kind, payload, ok := r.next()
	var h header
	if !ok || kind != recHeader || json.Unmarshal(payload, &h) != nil || h.Version != 1 || h.Key != key {
		return nil, ErrNone
	}
	kind, payload, ok = r.next()
	if !ok || kind != recMap {
		return nil, ErrNone
	}
	m, err := disk.ParseMap(payload)
	if err != nil {
		return nil, ErrNone
	}
	believe := r.end
	boot := bootID()
	if h.Boot == "" || h.Boot != boot {
		believe = lastSynced(*r)
	}
	j := newJournal(f, path, m)
	for r.off < believe {
		kind, payload, ok := r.next()
		if !ok || !j.apply(kind, payload) {
			break
		}
	}
	j.end = r.off
	if err := f.Truncate(j.end); err != nil {
		return nil, fmt.Errorf("cannot write journal: %w", err)
	}
	if h.Boot == boot && boot != "" {
		return j, nil
	}
	// Everything that is left is on stable storage: believe it under this boot.
	j.restarted = true
	return j, j.rewrite(path, key)
}

func lastSynced(r reader) int64 {
	pos := r.off
	for {
		kind, payload, ok := r.next()
		if !ok {
			return pos
		}
		if v, k := binary.Uvarint(payload); kind == recSynced && k > 0 && int64(v) <= r.off {
			pos = max(pos, int64(v))
		}
	}
}

func (j *Journal) apply(kind byte, payload []byte) bool {
	switch kind {
	case recUnit:
		unit, k := binary.Uvarint(payload)
		if k <= 0 || unit > disk.MaxSize/disk.LeafSize {
			return false
		}
		blocks, rest, ok := parseBlocks(payload[k:])
		if !ok {
			return false
		}
		sums, ok := parseFileSums(rest)
		if !ok {
			return false
		}
		j.landed.set(int64(unit))
		j.put(blocks)
		j.sums.Put(sums)
	case recCheckpoint:
		blocks, state, ok := parseBlocks(payload)
		if !ok {
			return false
		}
		j.last = bytes.Clone(state)
		j.put(blocks)
	case recSynced:
	default:
		return false
	}
	return true
}

// rewrite makes a copy of the journal whose header carries this boot's
// identifier, and takes its place.
func (j *Journal) rewrite(path, key string) error {
	tmp := path + ".new"
	n, err := Create(tmp, key, j.m)
	if err != nil {
		return err
	}
	r := &reader{r: j.f, end: j.end}
	for skip := 2; ; {
		kind, payload, ok := r.next()
		if !ok {
			break
		}
		if skip > 0 {
			skip--
			continue
		}
		if err := n.append(kind, payload); err != nil {
			return n.fail(err)
		}
	}
	if err := errors.Join(n.f.Sync(), os.Rename(tmp, path), syncDir(filepath.Dir(path))); err != nil {
		return n.fail(err)
	}
	j.f.Close()
	j.f, j.end = n.f, n.end
	return nil
}

package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"

	"ascend/internal/disk"
	"ascend/internal/image/deflate"
)

const (
	// MaxEncoded is the most bytes that Stream.Encode appends for one block. A
	// buffer with that much room is never grown.
	MaxEncoded = streamBlock + streamBlock/16

	streamBlock = 1 << 20                   // disk bytes of an Encode
	streamPiece = 64 << 10                  // disk bytes that are compressed together: a grain, a cluster
	blockPieces = streamBlock / streamPiece // pieces of a block
)

// ErrCheckpoint is the error of a checkpoint that is damaged, or was made by a
// stream of another disk size, format or options, or by a version of this
// program that compresses to other bytes.
var ErrCheckpoint = errors.New("checkpoint is damaged or of another stream")

// NewStream prepares the stream of an ordered format (Format.Ordered). It reads
// nothing of the disk. A disk that the format cannot hold is a *SizeError; that
// the file of a VMDK grows beyond 2 TiB shows only in Append and Finish, as the
// same error. A disk that is not whole sectors is filled up with zeros.
//
// Append and Finish are cheap: they copy and count. After any error but Encode's
// the stream is of no more use; UnmarshalBinary brings it back to a checkpoint.
//
// A checkpoint is bound to the disk's size, the format, the options and what the
// compressor makes of a sample. It holds the positions of the tables written so
// far and the tables not yet written. For streamOptimized VMDK it is at most 3 KiB
// and 10 bytes for every 32 MiB of the disk, for qcow2 at most 200 KiB and 20
// bytes for every 512 MiB.
func NewStream(src Source, f Format, o Options) (Stream, error) {
	info, err := f.Info()
	if err != nil {
		return nil, err
	}
	if f = info.Format; !f.Ordered() {
		return nil, fmt.Errorf("cannot make %s in order: it is computed at random", f)
	}
	if o, err = info.options(o); err != nil {
		return nil, err
	}
	if err := src.check(info); err != nil {
		return nil, err
	}
	s := &stream{format: f, options: o, size: src.Size()}
	virtual := info.VirtualSize(s.size)
	window := deflate.MaxWindow
	if f.Name == "vmdk" {
		s.blank = func() layout { return newVMDKStream(f, virtual, o) }
	} else {
		window = qcow2Window
		s.blank = func() layout { return newQCOW2Stream(virtual, f.Compression == "zstd") }
	}
	s.newCodec = func() (codec, error) { return deflate.New(window, o.Level), nil }
	if f.Compression == "zstd" {
		s.newCodec = func() (codec, error) { return newZstd(o.Level) }
	}
	s.layout = s.blank()
	s.binding = sync.OnceValues(s.bind)
	return s, nil
}

// codec compresses single pieces; what it makes of one does not depend on those
// before. Not for concurrent use.
type codec interface {
	// Append appends src, compressed, to dst.
	Append(dst, src []byte) []byte
}

// layout is what differs between formats: where pieces and tables go.
type layout interface {
	// encode appends the encoded form of a piece of streamPiece bytes, of the
	// number piece on the disk, to dst. It changes nothing and may be called
	// concurrently.
	encode(dst []byte, c codec, piece int64, data []byte) []byte
	start(w *fileEnd)
	// put places the encoded pieces of a block of which first is the first
	// piece's number and n the number of pieces.
	put(w *fileEnd, first, n int64, enc []byte) error
	finish(w *fileEnd) error
	// patch is what finish left to be written at the start of the file.
	patch() []byte
	needsPatch() bool
	// appendState appends what later calls need to know; readState takes it, off
	// being the number of file bytes there are.
	appendState(p []byte) []byte
	readState(r *stateReader, off int64)
}

// fileEnd is the growing end of the file.
type fileEnd struct {
	p     []byte
	start int64 // file offset of p[0]
}

func (w *fileEnd) off() int64 { return w.start + int64(len(w.p)) }

func (w *fileEnd) write(p []byte) { w.p = append(w.p, p...) }

// align writes zeros up to a multiple of unit, at most streamPiece.
func (w *fileEnd) align(unit int64) {
	off := w.off()
	w.write(zeroPiece[:roundUp(off, unit)-off])
}

var zeroPiece [streamPiece]byte

// stream is what ordered formats have in common.
type stream struct {
	format   Format
	options  Options
	size     int64 // of the disk, bytes
	newCodec func() (codec, error)
	codecs   sync.Pool // of codec
	blank    func() layout
	binding  func() ([bindingSize]byte, error)

	layout layout
	phase  phase
	off    int64 // bytes of the file appended
	next   int64 // the first block that Append still takes
}

type phase uint8

const (
	fresh    phase = iota // before Start
	open                  // between Start and Finish
	finished              // after Finish
	broken                // after an error
)

func (s *stream) BlockSize() int64 { return streamBlock }
func (s *stream) Offset() int64    { return s.off }
func (s *stream) Format() Format   { return s.format }
func (s *stream) NeedsPatch() bool { return s.layout.needsPatch() }

// Patch is nil until Finish.
func (s *stream) Patch() []byte {
	if s.phase != finished {
		return nil
	}
	return s.layout.patch()
}

func (s *stream) blocks() int64 { return ceilDiv(s.size, streamBlock) }

func (s *stream) Encode(dst []byte, b int64, data []byte) ([]byte, error) {
	if b < 0 || b >= s.blocks() || int64(len(data)) != min(streamBlock, s.size-b*streamBlock) {
		return nil, fmt.Errorf("cannot encode block %d of %d bytes: the disk has %d bytes in blocks of %d", b, len(data), s.size, streamBlock)
	}
	c, _ := s.codecs.Get().(codec)
	if c == nil {
		var err error
		if c, err = s.newCodec(); err != nil {
			return nil, fmt.Errorf("cannot compress %s: %w", s.format, err)
		}
	}
	defer s.codecs.Put(c)
	for piece := b * blockPieces; len(data) > 0; piece++ {
		p := data[:min(len(data), streamPiece)]
		data = data[len(p):]
		if bytes.Equal(p, zeroPiece[:len(p)]) {
			continue
		}
		if len(p) < streamPiece { // the disk's last one
			p = append(p[:len(p):len(p)], zeroPiece[len(p):]...)
		}
		dst = s.layout.encode(dst, c, piece, p)
	}
	return dst, nil
}

func (s *stream) Start(dst []byte) ([]byte, error) {
	return s.append(dst, fresh, open, "start", func(w *fileEnd) error {
		s.layout.start(w)
		return nil
	})
}

func (s *stream) Append(dst []byte, b int64, enc []byte) ([]byte, error) {
	return s.append(dst, open, open, "append to", func(w *fileEnd) error {
		if b < s.next || b >= s.blocks() {
			return fmt.Errorf("block %d of %d after block %d", b, s.blocks(), s.next-1)
		}
		s.next = b + 1
		return s.layout.put(w, b*blockPieces, min(blockPieces, ceilDiv(s.size, streamPiece)-b*blockPieces), enc)
	})
}

func (s *stream) Finish(dst []byte) ([]byte, error) {
	return s.append(dst, open, finished, "finish", s.layout.finish)
}

// append does one step that adds to the file.
func (s *stream) append(dst []byte, from, to phase, verb string, do func(w *fileEnd) error) ([]byte, error) {
	if s.phase != from {
		return nil, fmt.Errorf("cannot %s %s: the stream %s", verb, s.format, [...]string{
			fresh: "is not started", open: "is started already", finished: "is finished", broken: "has failed",
		}[s.phase])
	}
	w := fileEnd{p: dst, start: s.off - int64(len(dst))}
	if err := do(&w); err != nil {
		s.phase = broken
		return nil, fmt.Errorf("cannot %s %s: %w", verb, s.format, err)
	}
	s.phase, s.off = to, w.off()
	return w.p, nil
}

// errEncoded is the error of Append for what no Encode made.
var errEncoded = errors.New("not an encoded block of this stream")

// A checkpoint, integers as uvarints:
//
//	1   checkpointVersion
//	16  binding
//	    next block, file offset, the layout's state
//	4   CRC-32C of all before, little-endian
const (
	checkpointVersion = 1
	bindingSize       = 16
)

// bind is the digest of everything but the disk's content that the bytes of the
// stream depend on.
func (s *stream) bind() (b [bindingSize]byte, err error) {
	c, err := s.newCodec()
	if err != nil {
		return b, err
	}
	// A sample with matches near and far, skewed literals and noise.
	sample := make([]byte, streamPiece)
	x := uint32(1)
	for i := range sample {
		x = x*1664525 + 1013904223
		switch d := int(x>>8) % 40000; {
		case i%5000 > 4000:
			sample[i] = byte(x >> 24)
		case i%7 > 0 && d < i:
			sample[i] = sample[i-1-(i/97*131)%i]
		default:
			sample[i] = byte(x>>24) & byte(x>>16)
		}
	}
	what, err := json.Marshal(struct {
		Format  Format
		Size    int64
		Options Options
	}{s.format, s.size, s.options})
	if err != nil {
		return b, err
	}
	sum := sha256.Sum256(c.Append(what, sample))
	copy(b[:], sum[:])
	return b, nil
}

func (s *stream) MarshalBinary() ([]byte, error) {
	if s.phase != open {
		return nil, fmt.Errorf("cannot make a checkpoint of %s: not between Start and Finish", s.format)
	}
	binding, err := s.binding()
	if err != nil {
		return nil, fmt.Errorf("cannot make a checkpoint of %s: %w", s.format, err)
	}
	p := append([]byte{checkpointVersion}, binding[:]...)
	p = binary.AppendUvarint(p, uint64(s.next))
	p = binary.AppendUvarint(p, uint64(s.off))
	p = s.layout.appendState(p)
	return binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli)), nil
}

// UnmarshalBinary leaves the stream as it is when p is no checkpoint of it.
func (s *stream) UnmarshalBinary(p []byte) error {
	fail := func(err error) error { return fmt.Errorf("cannot continue %s: %w", s.format, err) }
	binding, err := s.binding()
	if err != nil {
		return fail(err)
	}
	n := len(p) - 4
	if n < 1+bindingSize || p[0] != checkpointVersion || !bytes.Equal(p[1:1+bindingSize], binding[:]) ||
		binary.LittleEndian.Uint32(p[n:]) != crc32.Checksum(p[:n], castagnoli) {
		return fail(ErrCheckpoint)
	}
	r := &stateReader{p: p[1+bindingSize : n]}
	next := r.int(s.blocks())
	off := r.int(2 * disk.MaxSize) // more than any file has
	l := s.blank()
	l.readState(r, off)
	if r.bad || len(r.p) > 0 {
		return fail(ErrCheckpoint)
	}
	s.layout, s.phase, s.next, s.off = l, open, next, off
	return nil
}

// stateReader reads what appendState wrote. Its first fault is kept; every
// value read after it is 0.
type stateReader struct {
	p   []byte
	bad bool
}

// check keeps a fault when ok is false.
func (r *stateReader) check(ok bool) bool {
	if !ok {
		r.bad = true
	}
	return !r.bad
}

// int reads a number from 0 to limit.
func (r *stateReader) int(limit int64) int64 {
	v, n := binary.Uvarint(r.p)
	if !r.check(n > 0 && limit >= 0 && v <= uint64(limit)) {
		return 0
	}
	r.p = r.p[n:]
	return int64(v)
}

// signed reads a number from -limit to limit.
func (r *stateReader) signed(limit int64) int64 {
	v, n := binary.Varint(r.p)
	if !r.check(n > 0 && v >= -limit && v <= limit) {
		return 0
	}
	r.p = r.p[n:]
	return v
}

// appendAscending appends a table whose entries that are not 0 ascend: how many
// they are, then for each how many zeros stand before it and by how much it is
// greater than the one before.
func appendAscending(p []byte, table []uint32) []byte {
	count := 0
	for _, v := range table {
		if v != 0 {
			count++
		}
	}
	p = binary.AppendUvarint(p, uint64(count))
	gap, last := uint64(0), uint32(0)
	for _, v := range table {
		if v == 0 {
			gap++
			continue
		}
		p = binary.AppendUvarint(p, gap)
		p = binary.AppendUvarint(p, uint64(v-last))
		gap, last = 0, v
	}
	return p
}

// ascending reads into table, which is zeroed, what appendAscending wrote of
// one as long, with entries from least to limit - 1. It gives the last entry, or 0.
func (r *stateReader) ascending(table []uint32, least, limit int64) (last int64) {
	i := int64(-1)
	for n := r.int(int64(len(table))); n > 0 && !r.bad; n-- {
		i += 1 + r.int(int64(len(table)))
		v := last + r.int(limit)
		if !r.check(i < int64(len(table)) && v > last && v >= least && v < limit) {
			return 0
		}
		table[i], last = uint32(v), v
	}
	return last
}

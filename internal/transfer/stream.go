package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/transfer/digest"
	"ascend/internal/transfer/journal"
)

// Stream makes the ordered file of s from src and sends it to sink: blocks are
// read, hashed and encoded in parallel and sent in order. With a journal it
// continues where an earlier process stopped, given that the sink does. The
// bytes are those of an undisturbed transfer.
func Stream(ctx context.Context, src image.Source, s image.Stream, sink StreamSink, j *journal.Journal, o Options) (*Result, error) {
	o = o.withDefaults()
	if s.BlockSize() != digest.BlockSize {
		return nil, fmt.Errorf("stream blocks of %d bytes are not the digest's %d", s.BlockSize(), digest.BlockSize)
	}
	o.Meter.SetTotal(src.Map.Bytes())
	p := &streamProducer{src: src, s: s, coarse: src.Map.Coarse(digest.BlockSize), noDigest: o.NoDigest}
	p.raw.New = func() any { b := make([]byte, digest.BlockSize); return &b }
	res, err := ordered(ctx, p, sink, j, newRoot(src), o)
	if err != nil {
		return nil, err
	}
	if patch := s.Patch(); patch != nil {
		if err := errors.Join(sink.Patch(ctx, patch), sink.Sync(ctx)); err != nil {
			return nil, err
		}
	}
	return res, nil
}

type streamProducer struct {
	src      image.Source
	s        image.Stream
	coarse   *disk.Map
	noDigest bool
	raw      sync.Pool // *[]byte of a block
}

func (p *streamProducer) pieces(first int64, yield func(*piece) error) error {
	for b := first; b < p.coarse.Len(); {
		n, data := p.coarse.Run(b, p.coarse.Len()-b)
		for i := b; data && i < b+n; i++ {
			off := i * digest.BlockSize
			if err := yield(&piece{number: i, data: mapBytes(p.src.Map, off, min(digest.BlockSize, p.src.Size()-off))}); err != nil {
				return err
			}
		}
		b += n
	}
	return nil
}

// mapBytes counts the allocated bytes in [off, off+n), off a multiple of a leaf.
func mapBytes(m *disk.Map, off, n int64) int64 {
	first, last := off/disk.LeafSize, (off+n+disk.LeafSize-1)/disk.LeafSize
	bytes := (m.Rank(last) - m.Rank(first)) * disk.LeafSize
	if end := last * disk.LeafSize; end > m.Size() && m.Has(last-1) {
		bytes -= end - m.Size()
	}
	return bytes
}

func (p *streamProducer) prepare(pc *piece) error {
	rawp := p.raw.Get().(*[]byte)
	defer p.raw.Put(rawp)
	off := pc.number * digest.BlockSize
	n := min(digest.BlockSize, p.src.Size()-off)
	raw := (*rawp)[:n]
	h := hasher{size: p.src.Size(), off: p.noDigest}
	for at := int64(0); at < n; {
		leaf := (off + at) / disk.LeafSize
		count, data := p.src.Map.Run(leaf, (n-at+disk.LeafSize-1)/disk.LeafSize)
		run := raw[at:min(at+count*disk.LeafSize, n)]
		if !data {
			clear(run)
		} else if err := readFull(p.src.Disk, run, off+at); err != nil {
			return err
		} else {
			for i := 0; i < len(run); i += disk.LeafSize {
				h.leaf(off+at+int64(i), run[i:min(i+disk.LeafSize, len(run))], &pc.blocks)
			}
		}
		at += int64(len(run))
	}
	pc.blocks = h.end(pc.blocks)
	var err error
	pc.out, err = p.s.Encode(pc.buf.get(digest.BlockSize+digest.BlockSize/8), pc.number, raw)
	return err
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("cannot read disk at offset %d: %w", off+int64(n), err)
}

func (p *streamProducer) begin(dst []byte) ([]byte, error) { return p.s.Start(dst) }
func (p *streamProducer) emit(dst []byte, pc *piece) ([]byte, error) {
	return p.s.Append(dst, pc.number, pc.out)
}
func (p *streamProducer) end(dst []byte) ([]byte, error) { return p.s.Finish(dst) }
func (p *streamProducer) state() ([]byte, error)         { return p.s.MarshalBinary() }
func (p *streamProducer) restore(state []byte) error     { return p.s.UnmarshalBinary(state) }

// Sequential sends a computed file from its first byte to its last, for sinks
// that take bytes in order only: one request of exact length. Reading and
// hashing is done by many workers ahead of the sending.
func Sequential(ctx context.Context, f *image.File, sink StreamSink, j *journal.Journal, o Options) (*Result, error) {
	o = o.withDefaults()
	o.Meter.SetTotal(f.Source().Map.Bytes())
	return ordered(ctx, &fileProducer{f: f, noDigest: o.NoDigest}, sink, j, newRoot(f.Source()), o)
}

type fileProducer struct {
	f        *image.File
	noDigest bool
}

func (p *fileProducer) pieces(first int64, yield func(*piece) error) error {
	return cutUnits(p.f, true, func(u unit) error {
		if u.number < first {
			return nil
		}
		return yield(&piece{number: u.number, unit: u, data: u.dataBytes()})
	})
}

func (p *fileProducer) prepare(pc *piece) error {
	out := pc.buf.get(int(pc.unit.len))[:pc.unit.len]
	h := hasher{size: p.f.Source().Size(), off: p.noDigest}
	for _, s := range pc.unit.segs {
		q := out[s.Off-pc.unit.off:][:s.Len]
		if err := p.f.Fill(q, s); err != nil {
			return err
		}
		if s.Kind != image.Data {
			continue
		}
		for i := 0; i < len(q); i += digest.LeafSize {
			h.leaf(s.DiskOff+int64(i), q[i:min(i+digest.LeafSize, len(q))], &pc.blocks)
		}
	}
	pc.blocks = h.end(pc.blocks)
	pc.out, pc.final = out, true
	return nil
}

func (p *fileProducer) begin(dst []byte) ([]byte, error) { return dst, nil }
func (p *fileProducer) emit(dst []byte, pc *piece) ([]byte, error) {
	return append(dst, pc.out...), nil // not asked: pieces are final
}
func (p *fileProducer) end(dst []byte) ([]byte, error) { return dst, nil }
func (p *fileProducer) state() ([]byte, error)         { return nil, nil }
func (p *fileProducer) restore([]byte) error           { return nil }

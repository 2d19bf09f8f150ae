package proto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A stream on a data port is frames: a 32-bit little-endian length and that many
// bytes. Length 0 ends the stream; a length with the top bit set ends it as
// failed, its lower bits the length of a message.

const (
	maxFrame  = 256 << 10
	frameFail = 1 << 31
)

// ErrFrame means that the other side does not speak the protocol.
var ErrFrame = errors.New("malformed frame")

// FrameWriter frames what is written. Close ends the stream; Fail ends it as
// failed.
type FrameWriter struct {
	W   io.Writer
	buf []byte
	n   int64
}

// Write buffers and sends whole frames.
func (w *FrameWriter) Write(p []byte) (int, error) {
	if w.buf == nil {
		w.buf = make([]byte, 4, 4+maxFrame)
	}
	total := len(p)
	for len(p) > 0 {
		k := min(len(p), cap(w.buf)-len(w.buf))
		w.buf = append(w.buf, p[:k]...)
		p = p[k:]
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	w.n += int64(total)
	return total, nil
}

// Bytes counts what was written.
func (w *FrameWriter) Bytes() int64 { return w.n }

func (w *FrameWriter) flush() error {
	if len(w.buf) <= 4 {
		return nil
	}
	binary.LittleEndian.PutUint32(w.buf, uint32(len(w.buf)-4))
	_, err := w.W.Write(w.buf)
	w.buf = w.buf[:4]
	return err
}

// Close ends the stream.
func (w *FrameWriter) Close() error {
	if err := w.flush(); err != nil {
		return err
	}
	_, err := w.W.Write(make([]byte, 4))
	return err
}

// Fail ends the stream with a message, so that the reader does not take what it
// has for the whole.
func (w *FrameWriter) Fail(cause error) error {
	if err := w.flush(); err != nil {
		return err
	}
	text := cause.Error()
	text = text[:min(len(text), 4096)]
	_, err := w.W.Write(append(binary.LittleEndian.AppendUint32(nil, frameFail|uint32(len(text))), text...))
	return err
}

// FrameReader reads one stream: io.EOF only at its proper end.
type FrameReader struct {
	R    io.Reader
	left uint32
	err  error
}

// Read follows io.Reader.
func (r *FrameReader) Read(p []byte) (int, error) {
	for r.left == 0 {
		if r.err != nil {
			return 0, r.err
		}
		var b [4]byte
		if _, err := io.ReadFull(r.R, b[:]); err != nil {
			r.err = io.ErrUnexpectedEOF
			continue
		}
		n := binary.LittleEndian.Uint32(b[:])
		switch {
		case n == 0:
			r.err = io.EOF
		case n&frameFail != 0 && n&^frameFail <= 4096:
			text := make([]byte, n&^frameFail)
			_, _ = io.ReadFull(r.R, text)
			r.err = fmt.Errorf("the other side failed: %s", text)
		case n > maxFrame:
			r.err = ErrFrame
		default:
			r.left = n
		}
	}
	n, err := r.R.Read(p[:min(len(p), int(r.left))])
	r.left -= uint32(n)
	if err != nil && r.left > 0 {
		r.err, r.left = io.ErrUnexpectedEOF, 0
		return n, r.err
	}
	return n, nil
}

// Drain reads on to the end of the stream, so that the port can be used again.
func (r *FrameReader) Drain() { _, _ = io.Copy(io.Discard, r) }

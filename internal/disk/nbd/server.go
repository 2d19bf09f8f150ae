package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"ascend/internal/disk"
)

// More numbers of the protocol, which only the server needs.
const (
	optExportName = 1
	optAbort      = 2
	optList       = 3
	optInfo       = 6
	optListMeta   = 9

	repServer     = 2
	repErrUnsup   = 1<<31 | 1
	repErrInvalid = 1<<31 | 3
	repErrUnknown = 1<<31 | 6

	infoBlockSize = 3

	cmdWrite       = 1
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6

	cmdFlagFUA    = 1 << 0
	cmdFlagReqOne = 1 << 3

	chunkData = 1
	chunkHole = 2
	chunkErr  = chunkError | 1
	chunkDone = 1 // flag

	sendFlags    = 1 << 0
	sendReadOnly = 1 << 1
	sendFlush    = 1 << 2
	sendFUA      = 1 << 3
	sendTrim     = 1 << 5
	sendZeroes   = 1 << 6
	sendMulti    = 1 << 8

	allocation = "base:allocation"

	maxRequest  = 32 << 20 // bytes of one request's data
	maxOption   = 64 << 10
	maxExtents  = 4096 // in one status reply
	maxInFlight = 16   // requests of one connection
)

// Writable is a disk that takes writes: the overlay. Calls may be concurrent.
type Writable interface {
	disk.Disk
	io.WriterAt
	// Zero makes a range read as zeros and, in whole blocks, count as a hole.
	Zero(off, n int64) error
	Sync() error
}

// Exports are served disks by name. One that is no Writable is read-only. The
// disks stay the caller's.
type Exports map[string]disk.Disk

// Listener serves exports on a unix socket until Close.
type Listener struct {
	Socket string // path, in a folder only this user may enter

	exports Exports
	l       net.Listener
	wg      sync.WaitGroup
	cancel  context.CancelFunc

	served atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]bool
	err   error
}

// Served counts requests answered so far: a sign of life of whoever reads.
func (s *Listener) Served() int64 { return s.served.Load() }

// Serve listens at dir/name. The protocol's document is named at the package;
// it is newstyle negotiation, simple and structured replies, base:allocation.
// A client is not trusted: it is a QEMU that runs a hostile guest.
func Serve(dir, name string, exports Exports) (*Listener, error) {
	path := filepath.Join(dir, name)
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot serve disks: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Listener{Socket: path, exports: exports, l: l, cancel: cancel, conns: map[net.Conn]bool{}}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			if ctx.Err() != nil {
				s.mu.Unlock()
				c.Close()
				return
			}
			s.conns[c] = true
			s.mu.Unlock()
			s.wg.Go(func() {
				p := &peer{s: s, c: c, r: bufio.NewReaderSize(c, 256<<10)}
				p.serve(ctx)
				c.Close()
				s.mu.Lock()
				delete(s.conns, c)
				s.mu.Unlock()
			})
		}
	})
	return s, nil
}

// Err is the first failure of a served disk. A guest sees such failures as its
// disk's and may go on; a caller that must not looks here.
func (s *Listener) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *Listener) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// Close ends all connections, waits for the requests under way and removes the
// socket. It does not flush the disks.
func (s *Listener) Close() error {
	s.cancel()
	err := s.l.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

// peer is one connection.
type peer struct {
	s          *Listener
	c          net.Conn
	r          *bufio.Reader
	noZeroes   bool
	structured bool
	meta       bool

	d disk.Disk
	w Writable // nil: read-only

	send sync.Mutex
}

var errBye = errors.New("connection ended")

func (p *peer) serve(ctx context.Context) {
	if p.negotiate() != nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxInFlight)
	for {
		var q request
		if err := q.read(p.r); err != nil {
			return
		}
		if q.Cmd == cmdDisc {
			return
		}
		if q.Cmd == cmdWrite {
			if q.Len > maxRequest {
				return // its data cannot be skipped safely
			}
			q.data = make([]byte, q.Len)
			if _, err := io.ReadFull(p.r, q.data); err != nil {
				return
			}
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if p.handle(ctx, &q) != nil {
				p.c.Close()
			}
		})
	}
}

func (p *peer) negotiate() error {
	b := binary.BigEndian.AppendUint64(nil, magicServer)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint16(b, flagFixed|flagNoZeroes)
	if _, err := p.c.Write(b); err != nil {
		return err
	}
	var flags uint32
	if err := binary.Read(p.r, binary.BigEndian, &flags); err != nil {
		return err
	}
	p.noZeroes = flags&flagNoZeroes != 0
	for {
		var head struct {
			Magic    uint64
			Opt, Len uint32
		}
		if err := binary.Read(p.r, binary.BigEndian, &head); err != nil {
			return err
		}
		if head.Magic != magicOption || head.Len > maxOption {
			return errBye
		}
		data := make([]byte, head.Len)
		if _, err := io.ReadFull(p.r, data); err != nil {
			return err
		}
		done, err := p.option(head.Opt, data)
		if done || err != nil {
			return err
		}
	}
}

// option answers one; done when transmission begins.
func (p *peer) option(opt uint32, data []byte) (done bool, err error) {
	reply := func(kind uint32, body []byte) error {
		b := binary.BigEndian.AppendUint64(nil, magicReply)
		b = binary.BigEndian.AppendUint32(b, opt)
		b = binary.BigEndian.AppendUint32(b, kind)
		b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
		_, err := p.c.Write(append(b, body...))
		return err
	}
	switch opt {
	case optAbort:
		_ = reply(repAck, nil)
		return false, errBye
	case optExportName:
		if !p.choose(string(data)) {
			return false, errBye
		}
		b := binary.BigEndian.AppendUint64(nil, uint64(p.d.Size()))
		b = binary.BigEndian.AppendUint16(b, p.flags())
		if !p.noZeroes {
			b = append(b, make([]byte, 124)...)
		}
		_, err := p.c.Write(b)
		return true, err
	case optList:
		for name := range p.s.exports {
			if err := reply(repServer, append(binary.BigEndian.AppendUint32(nil, uint32(len(name))), name...)); err != nil {
				return false, err
			}
		}
		return false, reply(repAck, nil)
	case optStructured:
		p.structured = true
		return false, reply(repAck, nil)
	case optInfo, optGo:
		name, _, ok := cutString(data)
		if !ok {
			return false, reply(repErrInvalid, nil)
		}
		if !p.choose(name) {
			return false, reply(repErrUnknown, nil)
		}
		b := binary.BigEndian.AppendUint16(nil, infoExport)
		b = binary.BigEndian.AppendUint64(b, uint64(p.d.Size()))
		b = binary.BigEndian.AppendUint16(b, p.flags())
		if err := reply(repInfo, b); err != nil {
			return false, err
		}
		b = binary.BigEndian.AppendUint16(nil, infoBlockSize) // any byte; best 4 KiB
		for _, n := range []uint32{1, 4096, maxRequest} {
			b = binary.BigEndian.AppendUint32(b, n)
		}
		if err := reply(repInfo, b); err != nil {
			return false, err
		}
		return opt == optGo, reply(repAck, nil)
	case optListMeta, optSetMeta:
		if !p.structured {
			return false, reply(repErrInvalid, nil)
		}
		_, rest, ok := cutString(data)
		if !ok || len(rest) < 4 {
			return false, reply(repErrInvalid, nil)
		}
		n := binary.BigEndian.Uint32(rest)
		rest = rest[4:]
		found := n == 0 && opt == optListMeta
		for range n {
			var q string
			if q, rest, ok = cutString(rest); !ok {
				return false, reply(repErrInvalid, nil)
			}
			found = found || q == allocation || opt == optListMeta && q == "base:"
		}
		if opt == optSetMeta {
			p.meta = found
		}
		if found {
			if err := reply(repMeta, append(binary.BigEndian.AppendUint32(nil, 0), allocation...)); err != nil {
				return false, err
			}
		}
		return false, reply(repAck, nil)
	}
	return false, reply(repErrUnsup, nil)
}

// cutString takes a string with its 32-bit length.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+n:], true
}

func (p *peer) choose(name string) bool {
	d, ok := p.s.exports[name]
	if ok {
		p.d = d
		p.w, _ = d.(Writable)
	}
	return ok
}

func (p *peer) flags() uint16 {
	if p.w == nil {
		return sendFlags | sendReadOnly | sendMulti
	}
	return sendFlags | sendFlush | sendFUA | sendTrim | sendZeroes | sendMulti
}

type request struct {
	Flags, Cmd uint16
	Handle     uint64
	Off        uint64
	Len        uint32
	data       []byte
}

func (q *request) read(r io.Reader) error {
	var b [28]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(b[:]) != magicRequest {
		return errBye
	}
	q.Flags, q.Cmd = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	q.Handle, q.Off, q.Len = binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint32(b[24:])
	return nil
}

// handle carries a request out; the error is one of the connection.
func (p *peer) handle(ctx context.Context, q *request) error {
	p.s.served.Add(1)
	size := uint64(p.d.Size())
	if q.Cmd != cmdFlush && (q.Off > size || uint64(q.Len) > size-q.Off) {
		if q.Cmd == cmdWrite || q.Cmd == cmdWriteZeroes {
			return p.fail(q, unix.ENOSPC)
		}
		return p.fail(q, unix.EINVAL)
	}
	off := int64(q.Off)
	var err error
	switch q.Cmd {
	case cmdRead:
		return p.read(ctx, q)
	case cmdBlockStatus:
		return p.status(ctx, q)
	case cmdWrite, cmdTrim, cmdWriteZeroes, cmdFlush:
		if p.w == nil {
			if q.Cmd == cmdFlush {
				break
			}
			return p.fail(q, unix.EPERM)
		}
		switch q.Cmd {
		case cmdWrite:
			_, err = p.w.WriteAt(q.data, off)
		case cmdTrim, cmdWriteZeroes:
			err = p.w.Zero(off, int64(q.Len))
		}
		if err == nil && (q.Cmd == cmdFlush || q.Flags&cmdFlagFUA != 0) {
			err = p.w.Sync()
		}
	default:
		return p.fail(q, unix.EINVAL)
	}
	if err != nil {
		p.s.failed(err)
		if errors.Is(err, unix.ENOSPC) {
			return p.fail(q, unix.ENOSPC)
		}
		return p.fail(q, unix.EIO)
	}
	return p.ok(q, chunkNone, nil)
}

func (p *peer) read(ctx context.Context, q *request) error {
	if q.Len > maxRequest {
		return p.fail(q, unix.EINVAL)
	}
	off, n := int64(q.Off), int64(q.Len)
	if p.structured && n > 0 {
		hole := true
		err := p.d.Extents(ctx, off, n, func(e disk.Extent) error {
			if e.Data {
				hole = false
				return errBye // enough is known
			}
			return nil
		})
		if err == nil && hole {
			return p.ok(q, chunkHole, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, q.Off), q.Len))
		}
	}
	head := 16 // of a simple reply
	if p.structured {
		head = 28
	}
	b := make([]byte, head+int(n))
	if k, err := p.d.ReadAt(b[head:], off); k < int(n) {
		p.s.failed(fmt.Errorf("cannot read the guest's disk at %d: %w", off, err))
		return p.fail(q, unix.EIO)
	}
	if p.structured {
		kind, length := uint16(chunkData), uint32(8+n)
		if n == 0 {
			kind, length, b = chunkNone, 0, b[:20]
		} else {
			binary.BigEndian.PutUint64(b[20:], q.Off)
		}
		chunkHead(b, q.Handle, kind, length)
	} else {
		binary.BigEndian.PutUint32(b, magicSimple)
		binary.BigEndian.PutUint64(b[8:], q.Handle)
	}
	return p.write(b)
}

func chunkHead(b []byte, handle uint64, kind uint16, length uint32) {
	binary.BigEndian.PutUint32(b, magicChunk)
	binary.BigEndian.PutUint16(b[4:], chunkDone)
	binary.BigEndian.PutUint16(b[6:], kind)
	binary.BigEndian.PutUint64(b[8:], handle)
	binary.BigEndian.PutUint32(b[16:], length)
}

func (p *peer) status(ctx context.Context, q *request) error {
	if !p.meta || q.Len == 0 {
		return p.fail(q, unix.EINVAL)
	}
	type run struct {
		n     int64
		flags uint32
	}
	var runs []run
	err := p.d.Extents(ctx, int64(q.Off), int64(q.Len), func(e disk.Extent) error {
		flags := uint32(0)
		if !e.Data {
			flags = stateHole | stateZero
		}
		if k := len(runs); k > 0 && runs[k-1].flags == flags {
			runs[k-1].n += e.Len
			return nil
		}
		if len(runs) == maxExtents || len(runs) == 1 && q.Flags&cmdFlagReqOne != 0 {
			return errBye // an answer for less than was asked is allowed
		}
		runs = append(runs, run{e.Len, flags})
		return nil
	})
	if err != nil && !errors.Is(err, errBye) || len(runs) == 0 {
		p.s.failed(fmt.Errorf("cannot map the guest's disk at %d: %w", q.Off, err))
		return p.fail(q, unix.EIO)
	}
	b := binary.BigEndian.AppendUint32(nil, 0)
	for _, r := range runs {
		b = binary.BigEndian.AppendUint32(b, uint32(r.n))
		b = binary.BigEndian.AppendUint32(b, r.flags)
	}
	return p.ok(q, chunkStatus, b)
}

// ok sends the reply of a request that succeeded.
func (p *peer) ok(q *request, kind uint16, body []byte) error {
	if !p.structured {
		return p.simple(q, 0)
	}
	b := make([]byte, 20, 20+len(body))
	chunkHead(b, q.Handle, kind, uint32(len(body)))
	return p.write(append(b, body...))
}

func (p *peer) simple(q *request, errno uint32) error {
	b := binary.BigEndian.AppendUint32(nil, magicSimple)
	b = binary.BigEndian.AppendUint32(b, errno)
	return p.write(binary.BigEndian.AppendUint64(b, q.Handle))
}

// fail answers with an error; its numbers are Linux's ("Error values").
func (p *peer) fail(q *request, errno unix.Errno) error {
	if !p.structured {
		return p.simple(q, uint32(errno))
	}
	b := make([]byte, 20, 26)
	chunkHead(b, q.Handle, chunkErr, 6)
	b = binary.BigEndian.AppendUint32(b, uint32(errno))
	return p.write(binary.BigEndian.AppendUint16(b, 0))
}

func (p *peer) write(b []byte) error {
	p.send.Lock()
	defer p.send.Unlock()
	_, err := p.c.Write(b)
	return err
}

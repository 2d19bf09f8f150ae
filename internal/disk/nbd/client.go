// Package nbd reads images through a confined qemu-nbd: the formats that this
// project has no reader of its own for (VDI, Parallels). Everything else is
// read directly, which is several times as fast.
//
// The protocol is https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Numbers of the protocol ("Values" in the document).
const (
	magicServer  = 0x4e42444d41474943 // NBDMAGIC
	magicOption  = 0x49484156454F5054 // IHAVEOPT
	magicReply   = 0x3e889045565a9
	magicRequest = 0x25609513
	magicSimple  = 0x67446698
	magicChunk   = 0x668e33ef

	flagFixed    = 1 << 0 // handshake
	flagNoZeroes = 1 << 1

	optGo         = 7
	optStructured = 8
	optSetMeta    = 10

	repAck  = 1
	repInfo = 3
	repMeta = 4

	infoExport = 0

	cmdRead        = 0
	cmdDisc        = 2
	cmdBlockStatus = 7

	chunkNone   = 0
	chunkStatus = 5
	chunkError  = 1 << 15

	stateHole = 1 << 0
	stateZero = 1 << 1

	maxReply = 1 << 20 // bytes of an option reply or a status chunk
)

// conn is one connection; one request is under way on it at a time.
type conn struct {
	c    net.Conn
	r    *bufio.Reader
	size int64
	meta uint32 // id of the base:allocation context
	next uint64 // handle of the next request
}

// dial connects and negotiates: with status, for block status only (which needs
// structured replies), otherwise for reads with simple replies, which cost less.
func dial(ctx context.Context, socket string, status bool) (*conn, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	c := &conn{c: nc, r: bufio.NewReaderSize(nc, 64<<10)}
	if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err == nil {
		err = c.handshake(status)
		if err != nil {
			nc.Close()
			return nil, fmt.Errorf("cannot negotiate with qemu-nbd: %w", err)
		}
	}
	return c, nc.SetDeadline(time.Time{})
}

func (c *conn) handshake(status bool) error {
	var head struct {
		Magic, Option uint64
		Flags         uint16
	}
	if err := binary.Read(c.r, binary.BigEndian, &head); err != nil {
		return err
	}
	if head.Magic != magicServer || head.Option != magicOption || head.Flags&flagFixed == 0 {
		return errors.New("not a newstyle NBD server")
	}
	flags := uint32(head.Flags & (flagFixed | flagNoZeroes))
	if _, err := c.c.Write(binary.BigEndian.AppendUint32(nil, flags)); err != nil {
		return err
	}
	if status {
		if err := c.option(optStructured, nil, nil); err != nil {
			return err
		}
		q := binary.BigEndian.AppendUint32(nil, 0) // the default export
		q = binary.BigEndian.AppendUint32(q, 1)
		const context = "base:allocation"
		q = binary.BigEndian.AppendUint32(q, uint32(len(context)))
		q = append(q, context...)
		found := false
		err := c.option(optSetMeta, q, func(kind uint32, b []byte) error {
			if kind == repMeta && len(b) >= 4 && string(b[4:]) == context {
				c.meta, found = binary.BigEndian.Uint32(b), true
			}
			return nil
		})
		if err != nil {
			return err
		}
		if !found {
			return errors.New("the server tells no allocation")
		}
	}
	q := binary.BigEndian.AppendUint32(nil, 0)
	q = binary.BigEndian.AppendUint16(q, 0)
	return c.option(optGo, q, func(kind uint32, b []byte) error {
		if kind == repInfo && len(b) >= 12 && binary.BigEndian.Uint16(b) == infoExport {
			c.size = int64(binary.BigEndian.Uint64(b[2:]))
		}
		return nil
	})
}

// option sends one option and reads its replies up to the acknowledgement.
func (c *conn) option(opt uint32, data []byte, reply func(kind uint32, b []byte) error) error {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if _, err := c.c.Write(append(b, data...)); err != nil {
		return err
	}
	for {
		var head struct {
			Magic             uint64
			Option, Kind, Len uint32
		}
		if err := binary.Read(c.r, binary.BigEndian, &head); err != nil {
			return err
		}
		if head.Magic != magicReply || head.Option != opt || head.Len > maxReply {
			return errors.New("malformed reply to an option")
		}
		body := make([]byte, head.Len)
		if _, err := io.ReadFull(c.r, body); err != nil {
			return err
		}
		switch {
		case head.Kind == repAck:
			return nil
		case head.Kind&(1<<31) != 0:
			return fmt.Errorf("option %d is refused: %.200s", opt, body)
		case reply != nil:
			if err := reply(head.Kind, body); err != nil {
				return err
			}
		}
	}
}

func (c *conn) request(cmd uint16, off int64, n uint32) error {
	c.next++
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, cmd)
	b = binary.BigEndian.AppendUint64(b, c.next)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	b = binary.BigEndian.AppendUint32(b, n)
	_, err := c.c.Write(b)
	return err
}

// read fills p from off.
func (c *conn) read(p []byte, off int64) error {
	if err := c.request(cmdRead, off, uint32(len(p))); err != nil {
		return err
	}
	var head struct {
		Magic, Error uint32
		Handle       uint64
	}
	if err := binary.Read(c.r, binary.BigEndian, &head); err != nil {
		return err
	}
	if head.Magic != magicSimple || head.Handle != c.next {
		return errors.New("malformed reply to a read")
	}
	if head.Error != 0 {
		return fmt.Errorf("qemu-nbd cannot read: error %d", head.Error)
	}
	_, err := io.ReadFull(c.r, p)
	return err
}

// status yields what is allocated in [off, off+n), at least one extent; the
// server may answer for less than was asked.
func (c *conn) status(off int64, n uint32, yield func(n int64, data bool)) error {
	if err := c.request(cmdBlockStatus, off, n); err != nil {
		return err
	}
	for {
		var head struct {
			Magic       uint32
			Flags, Kind uint16
			Handle      uint64
			Len         uint32
		}
		if err := binary.Read(c.r, binary.BigEndian, &head); err != nil {
			return err
		}
		if head.Magic != magicChunk || head.Handle != c.next || head.Len > maxReply {
			return errors.New("malformed reply to a block status request")
		}
		body := make([]byte, head.Len)
		if _, err := io.ReadFull(c.r, body); err != nil {
			return err
		}
		switch {
		case head.Kind&chunkError != 0:
			return fmt.Errorf("qemu-nbd cannot tell the block status: %.200q", body)
		case head.Kind == chunkStatus && len(body) >= 4 && binary.BigEndian.Uint32(body) == c.meta:
			for b := body[4:]; len(b) >= 8; b = b[8:] {
				yield(int64(binary.BigEndian.Uint32(b)), binary.BigEndian.Uint32(b[4:])&stateZero == 0)
			}
		case head.Kind != chunkNone && head.Kind != chunkStatus:
			return fmt.Errorf("unexpected chunk %d", head.Kind)
		}
		if head.Flags&1 != 0 { // the last chunk
			return nil
		}
	}
}

func (c *conn) close() {
	_ = c.request(cmdDisc, 0, 0) // a server that is gone needs no farewell
	c.c.Close()
}

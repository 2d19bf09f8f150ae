package hyperv

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"time"

	"ascend/internal/target"
	"ascend/internal/target/hyperv/hostscript"
)

var _ target.StreamUpload = (*pull)(nil)

// pull serves one disk's file to the host, once: at an address with a
// certificate made for it, to who shows a token made for it.
type pull struct {
	s    *session
	i    int
	size int64
	life context.Context
	stop context.CancelCauseFunc
	srv  *http.Server
	in   *io.PipeReader
	out  *io.PipeWriter
	done chan struct{} // closed when the host has ended, with err
	err  error

	mu     sync.Mutex
	off    int64 // bytes appended
	landed *target.Landed
	closed error
}

func (u *pull) what() string { return fmt.Sprintf("disk %d", u.i) }

// openPull has the host fetch disk i's file from where it stops.
func (s *session) openPull(ctx context.Context, i int) (*pull, error) {
	u := &pull{s: s, i: i, size: s.order.Disks[i].FileSize, done: make(chan struct{})}
	u.life, u.stop = context.WithCancelCause(s.life)
	name := s.place.files[i]
	s.mu.Lock()
	u.landed = s.landed[i]
	s.mu.Unlock()
	if u.landed != nil {
		u.off, u.closed = u.size, errComplete
		close(u.done)
		return u, nil
	}
	r := s.resource(kindFile, name)
	if !r.Done || r.Gone {
		r = target.Resource{Kind: kindFile, Name: name}
		if err := s.record(ctx, r); err != nil {
			return nil, err
		}
	}
	var d hostscript.Disk
	if err := s.t.run(ctx, hostscript.Request{Op: hostscript.OpDisk, File: name}, &d); err != nil {
		return nil, err
	}
	if d.Length > u.size {
		return nil, target.Permanent(fmt.Sprintf("its file has %d bytes and not %d: somebody changed it", d.Length, u.size), "undo the job and restore again")
	}
	r.ID, r.Done = name, true
	if err := s.record(ctx, r); err != nil {
		return nil, err
	}
	u.off = d.Length
	if u.off == u.size {
		close(u.done)
		return u, nil
	}
	release, err := u.port(ctx)
	if err != nil {
		return nil, err
	}
	q, err := u.serve()
	if err != nil {
		release()
		return nil, err
	}
	q.Op, q.File, q.Offset = hostscript.OpPull, name, d.Length
	go func() {
		defer close(u.done)
		var got hostscript.Pulled
		err := s.t.run(u.life, q, &got)
		if err == nil && got.Length != u.size {
			err = fmt.Errorf("the host has fetched %d bytes of %d", got.Length, u.size)
		}
		u.err = err
		if err == nil {
			err = io.ErrClosedPipe
		}
		_ = u.in.CloseWithError(err) // never fails; who appends sees it
		_ = u.srv.Close()            // nobody else is to come
		release()
	}()
	return u, nil
}

// ports are the addresses with a port of their own: one disk at a time is served there.
var ports sync.Map // to chan struct{}, which who serves has filled

// port waits until nobody of this process serves at the address.
func (u *pull) port(ctx context.Context) (release func(), err error) {
	addr := u.s.t.cfg.pull
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "0" {
		return func() {}, err
	}
	c, _ := ports.LoadOrStore(addr, make(chan struct{}, 1))
	slot := c.(chan struct{})
	select {
	case slot <- struct{}{}:
		return func() { <-slot }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-u.life.Done():
		return nil, context.Cause(u.life)
	}
}

// serve listens, and returns what the host must be told to be let in.
func (u *pull) serve() (hostscript.Request, error) {
	var q hostscript.Request
	addr := u.s.t.cfg.pull
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return q, err
	}
	conf, pin, err := oneTime(host)
	if err != nil {
		return q, err
	}
	l, err := (&net.ListenConfig{}).Listen(u.life, "tcp", addr)
	if err != nil {
		return q, &target.Problem{Msg: fmt.Sprintf("cannot serve disks at %s: %v", addr, err), Hint: "set pull_listen to an address of this machine and a free port; port 0 takes any", Cause: err}
	}
	q.Token, q.Pin = rand.Text(), pin
	q.URL = fmt.Sprintf("https://%s/disk", net.JoinHostPort(host, fmt.Sprint(l.Addr().(*net.TCPAddr).Port)))
	u.in, u.out = io.Pipe()
	var once sync.Once
	want := fmt.Sprintf("bytes=%d-", u.off)
	first := u.off
	u.srv = &http.Server{
		ReadHeaderTimeout: 30 * time.Second, ErrorLog: log.New(io.Discard, "", 0), // who has no token is told nothing, and nobody else either
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+q.Token)) != 1 || r.URL.Path != "/disk" || r.Method != http.MethodGet || r.Header.Get("Range") != want {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			mine := false
			once.Do(func() { mine = true })
			if !mine {
				w.WriteHeader(http.StatusGone)
				return
			}
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, u.size-1, u.size))
			w.Header().Set("Content-Length", fmt.Sprint(u.size-first))
			w.WriteHeader(http.StatusPartialContent)
			_ = http.NewResponseController(w).Flush() // the host waits for an answer, not yet for bytes
			if _, err := io.CopyBuffer(struct{ io.Writer }{w}, u.in, make([]byte, 256<<10)); err != nil {
				panic(http.ErrAbortHandler) // breaks the connection: the host sees that it is not all
			}
		}),
	}
	go func() { _ = u.srv.Serve(tls.NewListener(l, conf)) }() // ends with Close
	context.AfterFunc(u.life, func() {
		_ = u.out.CloseWithError(context.Cause(u.life)) // never fails
		_ = u.srv.Close()
	})
	return q, nil
}

// oneTime makes a key that is used once, and the SHA-256 of its certificate.
func oneTime(host string) (*tls.Config, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 30),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(der)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}, hex.EncodeToString(sum[:]), nil
}

// Offset is the number of bytes appended; after a break those in the host's file.
func (u *pull) Offset(context.Context) (int64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.off, nil
}

// Append hands the next bytes to the host; it returns when they are on their way.
func (u *pull) Append(ctx context.Context, p []byte) error {
	wrap := func(err error) error { return fmt.Errorf("cannot send %s: %w", u.what(), translate(err)) }
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		u.stop(ctx.Err())
		return wrap(ctx.Err())
	case u.closed != nil:
		return wrap(u.closed)
	case u.off+int64(len(p)) > u.size:
		return wrap(target.Permanent(fmt.Sprintf("it is longer than the %d bytes that were announced", u.size), ""))
	case u.out == nil:
		return wrap(errComplete)
	}
	unwatch := context.AfterFunc(ctx, func() { u.stop(ctx.Err()) })
	defer unwatch()
	n, err := u.out.Write(p)
	u.off += int64(n)
	if err != nil {
		u.closed = errAborted
		u.stop(err)
		<-u.done
		return wrap(u.why(ctx, err))
	}
	if u.off == u.size {
		_ = u.out.Close() // never fails
	}
	return nil
}

// why is what broke the transfer: the host's reason comes before the pipe's.
func (u *pull) why(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case u.err != nil && !errors.Is(u.err, context.Canceled):
		return u.err
	}
	return err
}

// Sync does nothing: what may be lost is the Delivery's Lag.
func (u *pull) Sync(ctx context.Context) error { return ctx.Err() }

// Patch is not offered.
func (u *pull) Patch(context.Context, []byte) error {
	return target.Permanent("the start of a stream cannot be overwritten", "")
}

// Complete waits until the host has all, and has it compute the SHA-256 of its
// file. Idempotent.
func (u *pull) Complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	l, err := u.complete(ctx, sum)
	if err != nil {
		return nil, fmt.Errorf("cannot complete %s: %w", u.what(), translate(err))
	}
	out := *l
	return &out, nil
}

func (u *pull) complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.landed != nil:
		return u.landed, nil
	case u.closed != nil:
		return nil, u.closed
	case sum.Bytes != u.off || u.off != u.size:
		return nil, target.Permanent(fmt.Sprintf("%d bytes were sent, %d were announced and %d counted", u.off, u.size, sum.Bytes), "")
	case len(sum.SHA256) == 0:
		return nil, target.Permanent("the SHA-256 of the file was not computed", "")
	}
	select {
	case <-u.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if u.err != nil {
		u.closed = errAborted
		return nil, u.err
	}
	l, err := u.s.settle(ctx, u.i, hex.EncodeToString(sum.SHA256))
	if err != nil {
		return nil, err
	}
	u.landed, u.closed = l, errComplete
	return l, nil
}

// Abort breaks the transfer off; what the host has stays.
func (u *pull) Abort() error {
	u.stop(errAborted)
	<-u.done
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed == nil {
		u.closed = errAborted
	}
	return nil
}

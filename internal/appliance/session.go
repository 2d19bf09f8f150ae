package appliance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ascend/internal/appliance/proto"
	"ascend/internal/cpio"
	"ascend/internal/disk"
	"ascend/internal/disk/nbd"
	"ascend/internal/qemu"
)

// Options say what an appliance works on and how much it may use.
type Options struct {
	Image *Image
	// Disks are the guest's, in order: disk N is /dev/disk/N. One that is an
	// nbd.Writable (an overlay) can be written; any other is read-only. They stay
	// the caller's; nobody else may write them meanwhile.
	Disks  []disk.Disk
	Memory int64            // bytes; 0: 512 MiB
	Accel  qemu.Accelerator // Auto by default
	// Inactivity ends an appliance that, with calls to do, gives no sign of life (no
	// event, no console output, no request to a disk) for so long; 0: 3 minutes.
	Inactivity time.Duration
	CPU        time.Duration // processor time at most; 0: 1 hour
	// Progress receives the progress events of calls; it must not block.
	Progress func(proto.Event)
}

// Errors callers tell apart.
var (
	// ErrDied: the appliance ended before its work; the error tells the console's last lines.
	ErrDied = errors.New("the appliance ended before its work was done")
	// ErrInactive: it was ended, having given no sign of life.
	ErrInactive = errors.New("the appliance gave no sign of life")
)

// Session is a running appliance. Any number of goroutines may call it; calls run
// side by side. It ends with Finish or Close, with its context, and with this
// process.
type Session struct {
	o    Options
	dir  string
	sys  *qemu.System
	srv  *nbd.Listener
	stop context.CancelCauseFunc
	ctx  context.Context
	wg   sync.WaitGroup

	control net.Conn
	ports   [proto.DataPorts]net.Conn
	free    chan int
	life    atomic.Int64

	mu     sync.Mutex
	next   int
	wait   map[int]chan proto.Event
	log    []byte // of the console, the last 64 KiB
	end    *proto.Event
	ended  chan struct{} // closed with end, or when results are cut
	cpu    time.Duration
	closed bool
}

const maxLog = 64 << 10

// Start brings an appliance up that waits for calls.
func Start(ctx context.Context, o Options) (*Session, error) {
	return start(ctx, o, proto.Job{Session: true})
}

// Run does calls in order in an appliance of their own, powers it off and returns
// one event for each call that was begun. Its error is the first failure of a call
// without Continue, or the appliance's.
func Run(ctx context.Context, o Options, calls ...proto.Call) ([]proto.Event, Usage, error) {
	job := proto.Job{Calls: calls}
	for i := range job.Calls {
		job.Calls[i].ID = i + 1
	}
	s, err := start(ctx, o, job)
	if err != nil {
		return nil, Usage{}, err
	}
	defer s.Close()
	var out []proto.Event
	for i, c := range job.Calls {
		e, err := s.result(c.ID)
		if err != nil {
			return out, s.Usage(), err
		}
		out = append(out, e)
		if e.Error != nil && !c.Continue {
			_ = s.Finish(ctx)
			return out, s.Usage(), fmt.Errorf("operation %d: %w", i+1, e.Error)
		}
	}
	err = s.Finish(ctx)
	return out, s.Usage(), err
}

// Usage is what an appliance took.
type Usage struct {
	Wall time.Duration `json:"wall"`
	CPU  time.Duration `json:"cpu"`
}

// Usage is what the appliance took so far; after Finish, in all.
func (s *Session) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cpu == 0 {
		s.cpu = s.sys.CPU()
	}
	return Usage{Wall: s.sys.Age(), CPU: s.cpu}
}

func start(ctx context.Context, o Options, job proto.Job) (_ *Session, err error) {
	if o.Memory == 0 {
		o.Memory = 512 << 20
	}
	if o.Inactivity == 0 {
		o.Inactivity = 3 * time.Minute
	}
	if o.CPU == 0 {
		o.CPU = time.Hour
	}
	dir, err := os.MkdirTemp("", "ascend-appliance-")
	if err != nil {
		return nil, fmt.Errorf("cannot start the appliance: %w", err)
	}
	s := &Session{o: o, dir: dir, wait: map[int]chan proto.Event{}, ended: make(chan struct{}), free: make(chan int, proto.DataPorts)}
	s.ctx, s.stop = context.WithCancelCause(ctx)
	for i := range proto.DataPorts {
		s.free <- i
	}
	for _, c := range job.Calls {
		s.wait[c.ID] = make(chan proto.Event, 1)
	}
	s.next = len(job.Calls)
	defer func() {
		if err != nil {
			s.Close()
			err = fmt.Errorf("cannot start the appliance: %w", err)
		}
	}()
	if err := s.initrd(job); err != nil {
		return nil, err
	}
	exports := nbd.Exports{}
	for i, d := range o.Disks {
		exports[fmt.Sprintf("d%d", i)] = d
	}
	if s.srv, err = nbd.Serve(dir, "nbd", exports); err != nil {
		return nil, err
	}
	return s, s.boot(ctx)
}

// initrd joins the image's initramfs with a segment of the agent and the job.
func (s *Session) initrd(job proto.Job) error {
	out, err := os.OpenFile(filepath.Join(s.dir, "initrd"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	base, err := os.Open(s.o.Image.Initrd)
	if err != nil {
		return err
	}
	defer base.Close()
	if _, err := io.Copy(out, base); err != nil {
		return err
	}
	agent, err := os.ReadFile(s.o.Image.Agent)
	if err != nil {
		return fmt.Errorf("cannot read the agent: %w", err)
	}
	b, err := json.Marshal(job)
	if err != nil {
		return err
	}
	c := cpio.NewWriter(out)
	c.File("init", 0o755, agent)
	c.File(proto.JobFile, 0o600, b)
	if err := c.Close(); err != nil {
		return err
	}
	return out.Close()
}

// boot starts QEMU and connects everything.
func (s *Session) boot(ctx context.Context) error {
	args := []string{
		"-machine", "pc,usb=off,smbus=off,vmport=off,i8042=off", "-kernel", s.o.Image.Kernel, "-initrd", filepath.Join(s.dir, "initrd"),
		"-append", "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic mitigations=off nokaslr random.trust_cpu=on tsc=reliable no_timer_check cryptomgr.notests rcupdate.rcu_expedited=1 raid=noautodetect rdinit=/init",
		"-device", "virtio-serial-pci,max_ports=16",
	}
	socket := func(name string) (net.Listener, error) {
		l, err := (&net.ListenConfig{}).Listen(ctx, "unix", filepath.Join(s.dir, name))
		args = append(args, "-chardev", "socket,id="+name+",path="+filepath.Join(s.dir, name))
		return l, err
	}
	names := []string{"console", "results", "control"}
	for i := range proto.DataPorts {
		names = append(names, fmt.Sprint("data", i))
	}
	listeners := map[string]net.Listener{}
	for _, n := range names {
		l, err := socket(n)
		if err != nil {
			return err
		}
		defer l.Close()
		listeners[n] = l
	}
	args = append(args, "-serial", "chardev:console")
	for n, port := range map[string]string{"results": proto.PortResults, "control": proto.PortControl} {
		args = append(args, "-device", "virtserialport,chardev="+n+",name="+port)
	}
	for i := range proto.DataPorts {
		args = append(args, "-device", fmt.Sprintf("virtserialport,chardev=data%d,name=%s%d", i, proto.PortData, i))
	}
	if len(s.o.Disks) > 27*8 {
		return fmt.Errorf("%d disks are more than the %d that the appliance takes", len(s.o.Disks), 27*8)
	}
	for i, d := range s.o.Disks {
		ro := "on"
		if _, ok := d.(nbd.Writable); ok {
			ro = "off"
		}
		args = append(args, "-blockdev", fmt.Sprintf("driver=nbd,node-name=d%d,server.type=unix,server.path=%s,export=d%d,read-only=%s,discard=unmap,detect-zeroes=unmap,cache.no-flush=on", i, filepath.Join(s.dir, "nbd"), i, ro),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=d%d,serial=d%d,addr=%x.%x,multifunction=on,discard=on,write-zeroes=on", i, i, 4+i/8, i%8))
	}
	sys, err := qemu.StartSystem(ctx, s.dir, qemu.SystemOptions{
		Accel: s.o.Accel, Memory: s.o.Memory, Args: args,
		Limits: qemu.Limits{ReadOnly: []string{s.o.Image.Kernel}, CPU: uint64(s.o.CPU / time.Second), FileSize: uint64(s.o.Memory) + 64<<20},
	})
	if err != nil {
		return err
	}
	s.sys = sys
	conns := map[string]net.Conn{}
	for _, n := range names {
		c, err := sys.Accept(ctx, listeners[n])
		if err != nil {
			return err
		}
		conns[n] = c
		context.AfterFunc(s.ctx, func() { c.Close() })
	}
	// QEMU holds it in memory now, and it may hold keys.
	if err := os.Remove(filepath.Join(s.dir, "initrd")); err != nil {
		return err
	}
	s.control = conns["control"]
	for i := range s.ports {
		s.ports[i] = conns[fmt.Sprint("data", i)]
	}
	s.wg.Go(func() { s.console(conns["console"]) })
	s.wg.Go(func() { s.results(conns["results"]) })
	s.wg.Go(s.watch)
	return nil
}

// console keeps the last of what the kernel says.
func (s *Session) console(c net.Conn) {
	b := make([]byte, 4096)
	for {
		n, err := c.Read(b)
		s.life.Add(int64(n))
		s.mu.Lock()
		if s.log = append(s.log, b[:n]...); len(s.log) > 2*maxLog {
			s.log = append(s.log[:0], s.log[len(s.log)-maxLog:]...)
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Log is the last of the console, for people.
func (s *Session) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.ToValidUTF8(string(s.log), "?")
}

// maxEvent bounds a line of the agent's: it reads hostile file systems.
const maxEvent = 64 << 20

func (s *Session) results(c net.Conn) {
	sc := bufio.NewScanner(c)
	sc.Buffer(make([]byte, 64<<10), maxEvent)
	for sc.Scan() {
		s.life.Add(1)
		var e proto.Event
		if json.Unmarshal(sc.Bytes(), &e) != nil {
			s.stop(errors.New("the appliance's answer is malformed"))
			break
		}
		switch e.Kind {
		case "progress":
			if s.o.Progress != nil {
				s.o.Progress(e)
			}
		case "done", "failed":
			s.mu.Lock()
			ch := s.wait[e.ID]
			s.mu.Unlock()
			if ch != nil {
				select {
				case ch <- e:
				default:
				}
			}
		case "end":
			s.mu.Lock()
			s.end = &e
			s.mu.Unlock()
			close(s.ended)
			return
		}
	}
	close(s.ended)
}

// watch ends an appliance that gives no sign of life.
func (s *Session) watch() {
	tick := time.NewTicker(max(s.o.Inactivity/20, 10*time.Millisecond))
	defer tick.Stop()
	last, since := int64(-1), time.Now()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.sys.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		idle := len(s.wait) == 0
		s.mu.Unlock()
		if now := s.life.Load() + s.srv.Served(); now != last || idle {
			last, since = now, time.Now()
		} else if time.Since(since) > s.o.Inactivity {
			s.stop(fmt.Errorf("%w for %v", ErrInactive, s.o.Inactivity))
			return
		}
	}
}

// result waits for a call's event.
func (s *Session) result(id int) (proto.Event, error) {
	s.mu.Lock()
	ch := s.wait[id]
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.wait, id)
		s.mu.Unlock()
	}()
	select {
	case e := <-ch:
		return e, nil
	case <-s.ctx.Done():
		return proto.Event{}, s.fault(context.Cause(s.ctx))
	case <-s.ended:
	}
	select {
	case e := <-ch: // it came before the end
		return e, nil
	default:
	}
	if s.ctx.Err() != nil {
		return proto.Event{}, s.fault(context.Cause(s.ctx))
	}
	return proto.Event{}, s.fault(ErrDied)
}

// fault adds what the disks and the console say.
func (s *Session) fault(err error) error {
	if s.srv != nil && s.srv.Err() != nil {
		err = fmt.Errorf("%w; a disk of the guest failed: %w", err, s.srv.Err())
	}
	if errors.Is(err, ErrDied) || errors.Is(err, ErrInactive) {
		lines := strings.Split(strings.TrimSpace(s.Log()), "\n")
		err = fmt.Errorf("%w; its console's last lines:\n%s", err, strings.Join(lines[max(0, len(lines)-8):], "\n"))
	}
	return err
}

// Do carries out one call and decodes its result into result, which may be nil. A
// failed operation is a *proto.Error.
func (s *Session) Do(ctx context.Context, c proto.Call, result any) error {
	s.mu.Lock()
	s.next++
	c.ID = s.next
	s.wait[c.ID] = make(chan proto.Event, 1)
	b, err := json.Marshal(c)
	if err == nil {
		_, err = s.control.Write(append(b, '\n')) // under the lock: lines stay whole
	}
	s.mu.Unlock()
	if err != nil {
		return s.fault(errors.Join(ErrDied, err))
	}
	// An operation cannot be taken back: one whose caller leaves ends the session.
	stop := context.AfterFunc(ctx, func() { s.stop(context.Cause(ctx)) })
	defer stop()
	e, err := s.result(c.ID)
	if err != nil {
		return err
	}
	if e.Error != nil {
		return e.Error
	}
	if result == nil || e.Result == nil {
		return nil
	}
	if err := json.Unmarshal(e.Result, result); err != nil {
		return fmt.Errorf("the appliance's answer is malformed: %w", err)
	}
	return nil
}

// Receive carries out a call that streams to a data port, which set names, into w.
// When w fails, the rest is read and dropped.
func (s *Session) Receive(ctx context.Context, set func(port int) proto.Call, w io.Writer, result any) error {
	return s.stream(ctx, set, result, func(c net.Conn) error {
		r := &proto.FrameReader{R: alive{c, s}}
		_, err := io.CopyBuffer(w, struct{ io.Reader }{r}, make([]byte, 256<<10))
		if err != nil {
			r.Drain()
		}
		return err
	})
}

// Send carries out a call that reads a data port, which set names, from r.
func (s *Session) Send(ctx context.Context, set func(port int) proto.Call, r io.Reader, result any) error {
	return s.stream(ctx, set, result, func(c net.Conn) error {
		w := &proto.FrameWriter{W: alive{c, s}}
		if _, err := io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, 256<<10)); err != nil {
			return errors.Join(err, w.Fail(err))
		}
		return w.Close()
	})
}

func (s *Session) stream(ctx context.Context, set func(int) proto.Call, result any, move func(net.Conn) error) error {
	var n int
	select {
	case n = <-s.free:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return s.fault(context.Cause(s.ctx))
	}
	defer func() { s.free <- n }()
	moved := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		err := move(s.ports[n])
		close(stop)
		moved <- err
	}()
	err := s.Do(ctx, set(n), result)
	var failed *proto.Error
	if errors.As(err, &failed) {
		// The agent may have failed before it touched the port: its stream is then
		// neither begun nor ended, and the port is lost to this session.
		select {
		case <-stop:
		case <-time.After(2 * time.Second):
			s.stop(fmt.Errorf("the stream of a failed operation did not end: %w", err))
		}
	}
	if m := <-moved; err == nil || m != nil && !errors.As(err, &failed) {
		err = errors.Join(err, m)
	}
	return err
}

// alive counts a port's bytes as a sign of life.
type alive struct {
	net.Conn
	s *Session
}

func (a alive) Read(p []byte) (int, error) {
	n, err := a.Conn.Read(p)
	a.s.life.Add(int64(n))
	return n, err
}

func (a alive) Write(p []byte) (int, error) {
	n, err := a.Conn.Write(p)
	a.s.life.Add(int64(n))
	return n, err
}

// Finish has the agent unmount everything, flush and power off; only after it
// returned nil do the disks hold all that was written.
func (s *Session) Finish(ctx context.Context) error {
	s.mu.Lock()
	_, _ = s.control.Write([]byte("{\"id\":0,\"end\":true}\n")) // one that ended by itself has nothing to read it
	s.mu.Unlock()
	select {
	case <-s.ended:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return s.fault(context.Cause(s.ctx))
	}
	s.mu.Lock()
	end := s.end
	s.mu.Unlock()
	if end == nil {
		if s.ctx.Err() != nil {
			return s.fault(context.Cause(s.ctx))
		}
		return s.fault(ErrDied)
	}
	if end.Error != nil {
		return fmt.Errorf("cannot leave the guest's file systems: %w", end.Error)
	}
	select {
	case <-s.sys.Done():
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return s.fault(context.Cause(s.ctx))
	}
	if err := s.srv.Err(); err != nil {
		return fmt.Errorf("a disk of the guest failed: %w", err)
	}
	return nil
}

// Close ends the appliance at once, whatever it does, and removes what it had. After
// Finish it loses nothing.
func (s *Session) Close() error {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	if was {
		return nil
	}
	s.stop(context.Canceled)
	var err error
	if s.sys != nil {
		s.Usage()
		err = s.sys.Close()
	}
	s.wg.Wait()
	if s.srv != nil {
		err = errors.Join(err, s.srv.Close())
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

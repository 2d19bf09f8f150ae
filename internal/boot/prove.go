// Package boot proves that a guest comes up on a target's virtual hardware: a QEMU
// boots a throw-away layer over the guest's disks, cut off from every network, and
// is watched. The disks themselves are never written. docs/boot-proof.md describes
// result, grades and limits.
package boot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"ascend/internal/appliance"
	"ascend/internal/disk"
	"ascend/internal/disk/nbd"
	"ascend/internal/disk/overlay"
	"ascend/internal/qemu"
	"ascend/internal/vm"
)

// Grade is how much was proven.
type Grade string

// Grades. D, a static verdict alone, is given by inspection, never here.
const (
	A Grade = "A" // up to a login or the marker, on the target's storage and network models
	B Grade = "B" // the root file system mounted on the target's storage model
	C Grade = "C" // the system starts on neutral hardware, or part of the target's
	D Grade = "D"
	F Grade = "F" // it does not come up
)

// Request says what to prove.
type Request struct {
	Disks      []disk.Disk // the boot disk first; they stay the caller's
	Platform   vm.Platform
	Firmware   vm.Firmware
	SecureBoot bool
	Storage    vm.Bus      // "": the platform's
	NIC        vm.NICModel // "": the platform's
	MAC        string      // of the first adapter; "": a fixed one
	Memory     int64       // bytes; 0: 1 GiB
	Accel      qemu.Accelerator
	// Until ends the proof early, as proven, at a milestone; "": login or marker.
	Until Milestone
	// Appliance, when given, puts a marker unit into the throw-away layer, which
	// reports from within a Linux guest and powers it off.
	Appliance *appliance.Image
	// Keys open LUKS containers for it: each is tried.
	Keys [][]byte
	// Direct boots this kernel instead of the disk's boot loader: the second half
	// where the firmware has no driver for the target's controller (UEFI, pvscsi).
	Direct     *Direct
	Inactivity time.Duration // without any change; 0: 2 minutes
	Limit      time.Duration // in all; 0: 15 minutes
	Evidence   string        // folder for console, screenshot, capture, result; "": none is kept
	Progress   func(Milestone)
}

// Direct is a kernel to start.
type Direct struct {
	Kernel  string // path
	Initrd  string // path
	Cmdline string
}

// Result is the proof, in JSON as docs/boot-proof.md describes.
type Result struct {
	Grade     Grade            `json:"grade"`
	Milestone Milestone        `json:"milestone"`
	Failure   string           `json:"failure,omitempty"` // why it does not come up
	Limit     string           `json:"limit,omitempty"`   // what could not be proven here
	Platform  vm.Platform      `json:"platform"`
	Hardware  Hardware         `json:"hardware"`
	Accel     qemu.Accelerator `json:"accelerator"`
	Reads     int64            `json:"reads"`  // operations on the target's controller
	Writes    int64            `json:"writes"` // and these
	Network   Network          `json:"network"`
	Marker    *Marker          `json:"marker,omitempty"`
	// Loader is the first half where the firmware here has no driver for the target's
	// controller: its boot loader started the kernel from SATA.
	Loader  *Result  `json:"loader,omitempty"`
	Seconds float64  `json:"seconds"`
	CPU     float64  `json:"cpu_seconds"`
	Files   []string `json:"files,omitempty"` // evidence, below Request.Evidence
}

// defaultMAC is locally administered.
const defaultMAC = "52:54:00:a5:ce:0d"

// Prove boots and watches. Its error says that nothing could be proven either way;
// a guest that does not come up is a Result with grade F. Cancelling ctx ends QEMU.
func Prove(ctx context.Context, q Request) (*Result, error) {
	if len(q.Disks) == 0 {
		return nil, errors.New("cannot prove a boot without a disk")
	}
	if q.Memory == 0 {
		q.Memory = 1 << 30
	}
	if q.Inactivity == 0 {
		q.Inactivity = 2 * time.Minute
	}
	if q.Limit == 0 {
		q.Limit = 15 * time.Minute
	}
	if q.MAC == "" {
		q.MAC = defaultMAC
	}
	hw, err := HardwareFor(q.Platform, q.Firmware, q.Storage, q.NIC)
	if err != nil {
		return nil, fmt.Errorf("cannot prove the boot: %w", err)
	}
	hw.SecureBoot = q.SecureBoot && q.Firmware == vm.UEFI
	// OVMF as distributions build it has no driver for these.
	halves := q.Firmware == vm.UEFI && (hw.Storage == vm.BusPVSCSI || hw.Storage == vm.BusLSISAS || hw.Storage == vm.BusLSILogic)
	var loader *Result
	if halves && q.Direct != nil {
		first := q
		first.Direct, first.Appliance, first.Until = nil, nil, Kernel
		if q.Evidence != "" {
			first.Evidence = filepath.Join(q.Evidence, "loader")
		}
		if loader, err = Prove(ctx, first); err != nil || loader.Grade == F {
			return loader, err
		}
	} else if halves {
		hw.Limit = fmt.Sprintf("the UEFI firmware here has no driver for %s: the boot loader is shown on SATA, and the kernel on %s only by a direct boot", hw.Storage, hw.Storage)
		hw.Storage, hw.Best = vm.BusSATA, C
	}
	for range tries {
		res, again, err := once(ctx, q, hw, loader)
		if err != nil {
			return nil, fmt.Errorf("cannot prove the boot: %w", err)
		}
		if !again {
			return res, nil
		}
	}
	return nil, fmt.Errorf("cannot prove the boot: this machine is too busy to keep a guest's clock going, %d times; try again when it is calmer", tries)
}

// tries is how often a boot is begun that the machine here, not the guest, made fail.
const tries = 3

// once is one boot; again tells that nothing is proven by it.
func once(ctx context.Context, q Request, hw Hardware, loader *Result) (_ *Result, again bool, err error) {
	dir, err := os.MkdirTemp("", "ascend-boot-")
	if err != nil {
		return nil, false, err
	}
	defer os.RemoveAll(dir)
	p := &proof{q: q, hw: hw, dir: dir}
	defer p.close()
	if err := p.prepare(ctx); err != nil {
		return nil, false, err
	}
	res, err := p.run(ctx)
	if err != nil {
		return nil, false, err
	}
	if res.Failure != "" && hostsFault(string(p.console)) {
		return nil, true, nil
	}
	res.Loader = loader
	if err := p.keep(res); err != nil {
		return nil, false, err
	}
	return res, false, nil
}

// proof is one boot under way.
type proof struct {
	q      Request
	hw     Hardware
	dir    string
	layers []*overlay.Overlay
	srv    *nbd.Listener
	sys    *qemu.System
	wg     sync.WaitGroup
	conns  []net.Conn
	marked bool

	mu      sync.Mutex
	console []byte
	marker  []byte
	screen  []byte // the last screenshot, PNG
	vga     string
}

const maxConsole = 4 << 20

// borrowed is a disk that the layer above must not close.
type borrowed struct{ disk.Disk }

func (borrowed) Close() error { return nil }

func (p *proof) prepare(ctx context.Context) error {
	exports := nbd.Exports{}
	for i, d := range p.q.Disks {
		o, err := overlay.Create(filepath.Join(p.dir, fmt.Sprintf("layer%d", i)), borrowed{d})
		if err != nil {
			return err
		}
		p.layers = append(p.layers, o)
		exports[fmt.Sprintf("d%d", i)] = o
	}
	if p.q.Appliance != nil {
		var disks []disk.Disk
		for _, l := range p.layers {
			disks = append(disks, l)
		}
		var err error
		if p.marked, err = plant(ctx, appliance.Options{Image: p.q.Appliance, Disks: disks, Accel: p.q.Accel}, p.q.Keys); err != nil {
			return err
		}
	}
	var err error
	p.srv, err = nbd.Serve(p.dir, "nbd", exports)
	return err
}

func (p *proof) run(ctx context.Context) (*Result, error) {
	args := []string{"-machine", p.hw.Machine + ",usb=off,vmport=off", "-device", "VGA"}
	limits := qemu.Limits{FileSize: 256 << 20}
	if p.hw.Firmware == vm.UEFI {
		code, vars, err := firmwareFiles(p.hw.SecureBoot)
		if err != nil {
			return nil, err
		}
		b, err := os.ReadFile(vars)
		if err == nil {
			err = os.WriteFile(filepath.Join(p.dir, "vars"), b, 0o600)
		}
		if err != nil {
			return nil, err
		}
		limits.ReadOnly = append(limits.ReadOnly, code)
		args[1] += ",smm=" + map[bool]string{true: "on", false: "off"}[p.hw.SecureBoot]
		args = append(args, "-global", "ICH9-LPC.disable_s3=1", "-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+code,
			"-drive", "if=pflash,unit=1,format=raw,file="+filepath.Join(p.dir, "vars"))
		if p.hw.SecureBoot {
			args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on")
		}
	}
	if d := p.q.Direct; d != nil {
		limits.ReadOnly = append(limits.ReadOnly, d.Kernel, d.Initrd)
		args = append(args, "-kernel", d.Kernel, "-initrd", d.Initrd, "-append", d.Cmdline)
	}
	for i := range p.layers {
		args = append(args, "-blockdev", fmt.Sprintf("driver=nbd,node-name=d%d,server.type=unix,server.path=%s,export=d%d,discard=unmap,cache.no-flush=on", i, filepath.Join(p.dir, "nbd"), i))
	}
	slot := ""
	if p.hw.Machine == "pc" {
		// KVM's platforms have the first adapter in slot 3. Elsewhere it is in none that the
		// source had, so that a name which depends on it is seen to fail.
		slot = ",addr=0x3"
		if !slices.Contains([]vm.Platform{vm.CloudStack, vm.Nutanix, vm.Local}, p.q.Platform) {
			slot = ",addr=0x1d"
		}
	}
	args = append(args, "-netdev", "user,id=n0,restrict=on", "-device", fmt.Sprintf("%s,netdev=n0,mac=%s,romfile=%s", nicDevice(p.hw.NIC), p.q.MAC, slot),
		"-object", "filter-dump,id=f0,netdev=n0,file="+filepath.Join(p.dir, "net.pcap"))
	args = append(args, p.hw.devices(len(p.layers), p.q.Direct == nil)...)
	listeners := map[string]net.Listener{}
	for _, n := range []string{"com1", "com2"} {
		l, err := (&net.ListenConfig{}).Listen(ctx, "unix", filepath.Join(p.dir, n))
		if err != nil {
			return nil, err
		}
		defer l.Close()
		listeners[n] = l
		args = append(args, "-chardev", "socket,id="+n+",path="+filepath.Join(p.dir, n), "-serial", "chardev:"+n)
	}
	var err error
	if p.sys, err = qemu.StartSystem(ctx, p.dir, qemu.SystemOptions{Limits: limits, Accel: p.q.Accel, Memory: p.q.Memory, Args: args}); err != nil {
		return nil, err
	}
	for n, into := range map[string]*[]byte{"com1": &p.console, "com2": &p.marker} {
		c, err := p.sys.Accept(ctx, listeners[n])
		if err != nil {
			return nil, err
		}
		p.conns = append(p.conns, c)
		p.wg.Go(func() { p.gather(c, into) })
	}
	return p.watch(ctx)
}

// gather keeps the first of what a port says, up to a bound.
func (p *proof) gather(r io.Reader, into *[]byte) {
	b := make([]byte, 4096)
	for {
		n, err := r.Read(b)
		p.mu.Lock()
		*into = append(*into, b[:min(n, maxConsole-len(*into))]...)
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// watch looks once a second until the guest is up, has failed, or does nothing.
func (p *proof) watch(ctx context.Context) (*Result, error) {
	res := &Result{Platform: p.q.Platform, Hardware: p.hw, Accel: p.sys.Accel}
	until := p.q.Until
	if until == "" {
		until = Login
		if p.marked {
			until = Marked
		}
	}
	var last [32]byte
	changed, up := time.Now(), time.Time{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ended := false; ; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-p.sys.Done():
			ended = true
		case <-tick.C:
			p.look(ctx, res)
		}
		p.mu.Lock()
		text := string(p.console) + "\n" + p.vga
		state := sha256.Sum256(fmt.Appendf(nil, "%d %d %d %d %x", len(p.console), len(p.marker), res.Reads, res.Writes, sha256.Sum256(p.screen)))
		marker := string(p.marker)
		p.mu.Unlock()
		m, failure := judge(text)
		if mk := parseMarker(marker); mk != nil {
			res.Marker, m, failure = mk, Marked, ""
		}
		if m.rank() > res.Milestone.rank() {
			res.Milestone = m
			if p.q.Progress != nil {
				p.q.Progress(m)
			}
		}
		if state != last {
			last, changed = state, time.Now()
		}
		switch {
		case failure != "" && !res.Milestone.Reached(until):
			res.Failure = failure
		case res.Milestone.Reached(until):
			if up.IsZero() {
				up = time.Now()
			}
			// One that is at its login may still be asking for an address.
			if !ended && until.Reached(Login) && p.network().DHCP == 0 && time.Since(up) < 10*time.Second {
				continue
			}
		case ended:
			res.Failure = "the machine ended before it came up"
			if err := p.sys.Err(); err != nil {
				return nil, err
			}
		case time.Since(changed) > p.q.Inactivity:
			res.Failure = fmt.Sprintf("nothing changed for %v", p.q.Inactivity)
		case p.sys.Age() > p.q.Limit:
			res.Failure = fmt.Sprintf("not up after %v", p.q.Limit)
		default:
			continue
		}
		break
	}
	if err := p.srv.Err(); err != nil {
		return nil, fmt.Errorf("a disk failed: %w", err)
	}
	res.Seconds, res.CPU = p.sys.Age().Seconds(), p.sys.CPU().Seconds()
	err := p.sys.Close()
	p.wg.Wait()
	res.Network = p.network()
	grade(res, p.q)
	return res, err
}

// look asks QEMU; one that just ended answers nothing, and the console tells.
func (p *proof) look(ctx context.Context, res *Result) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var stats []struct {
		Stats struct {
			Rd int64 `json:"rd_operations"`
			Wr int64 `json:"wr_operations"`
		} `json:"stats"`
		Qdev string `json:"qdev"`
	}
	if p.sys.Do(ctx, "query-blockstats", nil, &stats) == nil {
		reads, writes := int64(0), int64(0)
		for _, s := range stats {
			if strings.Contains(s.Qdev, "disk") {
				reads, writes = reads+s.Stats.Rd, writes+s.Stats.Wr
			}
		}
		res.Reads, res.Writes = reads, writes
	}
	shot := filepath.Join(p.dir, "screen.png")
	if p.sys.Do(ctx, "screendump", map[string]string{"filename": shot, "format": "png"}, nil) == nil {
		if b, err := os.ReadFile(shot); err == nil {
			p.mu.Lock()
			p.screen = b
			p.mu.Unlock()
		}
	}
	text := filepath.Join(p.dir, "vga")
	if p.sys.Do(ctx, "pmemsave", map[string]any{"val": 0xb8000, "size": 4000, "filename": text}, nil) == nil {
		if b, err := os.ReadFile(text); err == nil {
			p.mu.Lock()
			p.vga = vgaText(b)
			p.mu.Unlock()
		}
	}
	if regs, err := p.sys.Human(ctx, "info registers"); err == nil && res.Milestone.rank() < Kernel.rank() {
		// The upper half belongs to a Linux kernel: no firmware or loader runs there.
		if _, rip, ok := strings.Cut(regs, "RIP="); ok && strings.HasPrefix(rip, "ffffffff") {
			res.Milestone = Kernel
		}
	}
}

func (p *proof) network() Network {
	b, err := os.ReadFile(filepath.Join(p.dir, "net.pcap"))
	if err != nil {
		return Network{}
	}
	return readPcap(b, p.q.MAC)
}

// grade gives the grade that what was seen deserves, and says what was not shown.
func grade(res *Result, q Request) {
	h := res.Hardware
	res.Limit = h.Limit
	switch {
	case res.Failure != "":
		res.Grade = F
		return
	case res.Milestone.Reached(Login) && (res.Network.Packets > 0 || res.Marker != nil && len(res.Marker.NICs) > 0):
		res.Grade = A
	case res.Milestone.Reached(Login), res.Milestone.Reached(Root):
		res.Grade = B
		if res.Milestone.Reached(Login) {
			res.Limit = strings.TrimPrefix(res.Limit+"; the network adapter was not heard", "; ")
		}
	default:
		res.Grade = C
	}
	if q.Direct != nil {
		if res.Grade == A {
			res.Grade = B
		}
		res.Limit = strings.TrimPrefix(res.Limit+"; the kernel was started directly: the boot loader was not shown on this controller", "; ")
	}
	if res.Grade < h.Best { // the letters' order
		res.Grade = h.Best
	}
}

func (p *proof) close() {
	if p.sys != nil {
		p.sys.Close()
	}
	for _, c := range p.conns {
		c.Close()
	}
	p.wg.Wait()
	if p.srv != nil {
		p.srv.Close()
	}
	for _, l := range p.layers {
		_ = l.Remove() // in a folder that goes
	}
}

// Package hyperv restores machines to a Microsoft Hyper-V host.
//
// The host is controlled by WinRM over HTTPS: one constant script (package
// hostscript) is run, and told what to do by a document. Disks are
// written as VHDX or VHD files, by ranges and in parallel, over SMB 3 straight to
// where they stay on the host (package hostshare); where there is no SMB, the host
// fetches them from here over HTTPS.
//
// An upload continues in the same file after the process was killed. A machine's
// disks and configuration are in a folder whose name ends in a digest of the job's
// id, and the machine bears the job's id in its notes. Until a machine is made whole it
// has the folder's name. Undo removes what is recorded and bears the job's id, and
// nothing else.
package hyperv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/target/hyperv/hostscript"
	"ascend/internal/target/hyperv/hostshare"
	"ascend/internal/target/hyperv/wsman"
	"ascend/internal/vm"
)

var (
	_ target.Target     = (*host)(nil)
	_ target.Reader     = (*host)(nil)
	_ target.Session    = (*session)(nil)
	_ target.ReadBacker = (*session)(nil)
)

// Names of the ways, as in Delivery.Path.
const (
	pathSMB  = "smb"  // written to the host's share
	pathPull = "pull" // fetched by the host
)

const fieldPath = "path" // placement field: the host's folder

// Options of an order.
const (
	optMAC         = "mac"
	optVLAN        = "vlan"
	optMemory      = "memory"
	optMinimum     = "memory_minimum"
	optMaximum     = "memory_maximum"
	optTemplate    = "secure_boot_template"
	optCheckpoints = "checkpoints"
	optCluster     = "cluster_role"
	optHeartbeat   = "heartbeat"
)

// Templates of Secure Boot (Set-VMFirmware, -SecureBootTemplate), and kinds of
// checkpoints (Set-VM, -CheckpointType) by what the option calls them.
var (
	templates   = []string{"MicrosoftWindows", "MicrosoftUEFICertificateAuthority", "OpenSourceShieldedVM"}
	checkpoints = map[string]string{"disabled": "Disabled", "production": "Production", "production-only": "ProductionOnly", "standard": "Standard"}
)

// host is a configured Hyper-V host.
type host struct {
	cfg *config
	ws  *wsman.Client

	mu     sync.Mutex
	open   map[*session]bool
	closed bool
}

func connect(s target.Settings) (*host, error) {
	cfg, err := newConfig(s)
	if err != nil {
		return nil, err
	}
	return &host{cfg: cfg, ws: &wsman.Client{Endpoint: cfg.url, Connect: cfg.connection}, open: map[*session]bool{}}, nil
}

// Close stops the restores that are under way. Nothing is deleted.
func (t *host) Close() error {
	t.mu.Lock()
	t.closed = true
	sessions := slices.Collect(maps.Keys(t.open))
	t.mu.Unlock()
	for _, s := range sessions {
		s.end(errClosed)
	}
	return nil
}

// attempts is how often a run of the script is tried that the network or the
// service broke. All operations but fetching may be repeated.
const attempts = 5

// run has the script do something and reads its answer into result.
func (t *host) run(ctx context.Context, q hostscript.Request, result any) error {
	pause := t.cfg.pause
	for n := 1; ; n++ {
		err := t.once(ctx, q, result)
		if n == attempts || q.Op == hostscript.OpPull || !transient(err) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, t.cfg.maxPause)
	}
}

func (t *host) once(ctx context.Context, q hostscript.Request, result any) error {
	input, err := hostscript.Input(q)
	if err != nil {
		return err
	}
	r, err := t.ws.Run(ctx, hostscript.Program, hostscript.Arguments(), input)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	if r.ExitCode != 0 || len(r.Stdout) == 0 {
		return &target.Problem{
			Msg:  fmt.Sprintf("Windows PowerShell ended with code %d: %s", r.ExitCode, firstLine(r.Stderr)),
			Hint: "sign in to the host and see whether powershell.exe runs there for this user; Constrained Language mode and application control keep it from running scripts",
			Kind: target.ErrPermanent,
		}
	}
	return hostscript.Answer(r.Stdout, result)
}

// look asks for all there is.
func (t *host) look(ctx context.Context) (*hostscript.Look, error) {
	var l hostscript.Look
	if err := t.run(ctx, hostscript.Request{Op: hostscript.OpLook}, &l); err != nil {
		return nil, err
	}
	return &l, nil
}

// share opens a share of the host.
func (t *host) share(ctx context.Context, name string) (*hostshare.Share, error) {
	s, err := hostshare.Open(ctx, t.cfg.cargo(name))
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return s, err
}

// lag is how much of a fetched stream may be on its way: the sockets' buffers.
const lag = 64 << 20

func (t *host) deliveries() []target.Delivery {
	vhdx := target.Delivery{
		Format: image.Format{Name: "vhdx", Subformat: "dynamic"}, Mode: target.Ranges, Clean: true, Resumable: true, Align: 512,
		MaxRange: hostshare.MaxWrite, Workers: 8, Path: pathSMB,
	}
	vhd := vhdx
	vhd.Format = image.Format{Name: "vpc", Subformat: "dynamic"}
	all := []target.Delivery{vhdx, vhd}
	if t.cfg.pull != "" {
		pull := target.Delivery{
			Format: vhdx.Format, Mode: target.Ordered, Clean: true, Resumable: true, Lag: lag, NeedSize: true, Digests: []string{"sha256"}, Align: 512, Path: pathPull,
		}
		all = append(all, pull)
	}
	return all
}

// Capabilities is what Hyper-V takes.
func (t *host) Capabilities() target.Capabilities {
	c := caps.For(vm.HyperV)
	c.Deliveries = t.deliveries()
	c.Fields = []target.Field{{Name: fieldPath, Help: `folder of the host for the machine and its disks, for instance D:\VMs`, Default: t.cfg.path}}
	c.Options = []target.Field{
		{Name: optMAC, Help: "keep the adapters' MAC addresses, or let the host choose", Default: "keep", Values: []string{"keep", "new"}},
		{Name: optVLAN, Help: "VLAN of the adapters: one number for all, or one for each with commas between; 0 is untagged"},
		{Name: optMemory, Help: "static, or dynamic between memory_minimum and memory_maximum", Default: "static", Values: []string{"static", "dynamic"}},
		{Name: optMinimum, Help: "least memory in MiB with memory=dynamic; without it half of the machine's"},
		{Name: optMaximum, Help: "most memory in MiB with memory=dynamic; without it the machine's"},
		{Name: optTemplate, Help: "whose signatures Secure Boot accepts; without it by the guest's system", Values: templates},
		{Name: optCheckpoints, Help: "kind of checkpoints that the machine takes", Default: "production", Values: []string{"disabled", "production", "production-only", "standard"}},
		{Name: optCluster, Help: "make the machine a role of the failover cluster; auto does on a Cluster Shared Volume", Default: "auto", Values: []string{"auto", "yes", "no"}},
		{Name: optHeartbeat, Help: "seconds in which a machine that is started must answer by its integration services; 0 does not wait", Default: "0"},
	}
	return c
}

// Begin starts or continues a restore.
func (t *host) Begin(ctx context.Context, o *target.Order, rec target.Recorder) (target.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot begin: %w", err)
	}
	if err := t.checkOrder(o); err != nil {
		return nil, fmt.Errorf("cannot begin: %w", err)
	}
	recorded, err := rec.Recorded(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the job's resources: %w", err)
	}
	s, err := t.newSession(ctx, o, rec, recorded)
	if err != nil {
		return nil, fmt.Errorf("cannot begin restoring %q: %w", o.Machine.Name, translate(err))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		s.stop(errClosed)
		return nil, errors.New("cannot begin: the target is closed")
	}
	t.open[s] = true
	return s, nil
}

// checkOrder checks what can be checked without asking.
func (t *host) checkOrder(o *target.Order) error {
	bad := func(format string, args ...any) error { return target.Permanent(fmt.Sprintf(format, args...), "") }
	if err := t.Capabilities().Check(o); err != nil {
		return err
	}
	if len(o.Disks) == 0 {
		return bad("the machine has no disks")
	}
	for i, d := range o.Disks {
		switch {
		case d.FileSize <= 0:
			return bad("disk %d: the length of the file must be known before it is sent", i)
		case d.Delivery.Format.Name == "vpc" && o.Machine.Firmware == vm.UEFI:
			return target.Permanent(fmt.Sprintf("disk %d: generation 2 machines take VHDX files and no VHD", i), "deliver it as VHDX (--format vhdx)")
		}
	}
	_, err := displayName(o.Machine.Name)
	return err
}

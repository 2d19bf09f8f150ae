package wsmansim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"ascend/internal/target/hyperv/hostscript"
)

// do carries out a document as the script does. One run at a time: the cmdlets
// of one machine are, and more is not needed here.
func (s *Sim) do(ctx context.Context, q hostscript.Request) (any, error) {
	if q.Op == hostscript.OpPull {
		return s.pull(ctx, q)
	}
	if q.Op == hostscript.OpDisk {
		return s.disk(ctx, q)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch q.Op {
	case hostscript.OpLook:
		return s.look()
	case hostscript.OpFolder:
		dir := s.local(q.Folder)
		if dir == "" {
			return nil, failed("New-Item", "ObjectNotFound", "Could not find a part of the path '%s'.", q.Folder)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, failed("New-Item", "WriteError", "%v", err)
		}
		return hostscript.Folder{Compressed: strings.Contains(filepath.Base(dir), "compressed")}, nil
	case hostscript.OpCreate:
		return s.make(ctx, q)
	case hostscript.OpStart, hostscript.OpState:
		return s.state(q)
	case hostscript.OpRemove:
		return s.remove(q)
	case hostscript.OpDelete:
		return struct{}{}, s.erase(q)
	}
	return nil, failed("", "OperationStopped", "this script knows no operation '%s'", q.Op)
}

var markLine = regexp.MustCompile(`(?m)^ascend\.job=(\S+)\s*$`)

func (m *Machine) job() string {
	if f := markLine.FindStringSubmatch(m.Notes); f != nil {
		return f[1]
	}
	return ""
}

func (s *Sim) look() (any, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(s.o.Dir, &fs); err != nil {
		return nil, err
	}
	l := hostscript.Look{
		Name: HostName, System: "Microsoft Windows Server 2022 Datacenter", Build: s.o.Build, Processors: 32, Memory: 256 << 30, Free: 200 << 30,
		Path: s.o.Root, Cluster: s.o.Cluster,
		Switches: []hostscript.Switch{{Name: Switch, Kind: "External"}, {Name: Internal, Kind: "Internal"}},
		Shares: []hostscript.Share{
			{Name: "C$", Path: `C:\`, Special: true}, {Name: Share, Path: Shared}, {Name: "ADMIN$", Path: `C:\Windows`, Special: true},
		},
		Volumes: []hostscript.Volume{
			{Path: `C:\`, Free: 20 << 30, Size: 100 << 30, System: "NTFS"}, {Path: `D:\`, Free: int64(fs.Bavail) * fs.Bsize, Size: int64(fs.Blocks) * fs.Bsize, System: "ReFS"}, //nolint:unconvert // differs by platform
		},
		Machines: []hostscript.Machine{},
	}
	for _, m := range s.machines {
		l.Machines = append(l.Machines, hostscript.Machine{ID: m.ID, Name: m.Name, Job: m.job(), State: m.State})
	}
	return l, nil
}

func (s *Sim) disk(ctx context.Context, q hostscript.Request) (any, error) {
	file := s.local(q.File)
	st, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) || file == "" {
		return hostscript.Disk{}, nil
	}
	if err != nil {
		return nil, err
	}
	d := hostscript.Disk{Found: true, Length: st.Size()}
	if !q.Read {
		return d, nil
	}
	i, err := s.inspect(ctx, file)
	if err != nil {
		return nil, err
	}
	d.Size, d.Format, d.Kind = i.Size, i.Format, "Dynamic"
	if q.Digest {
		d.SHA256, err = hashFile(file)
	}
	return d, err
}

// make is New-VM and what follows.
func (s *Sim) make(ctx context.Context, q hostscript.Request) (any, error) {
	for _, m := range slices.Clone(s.machines) {
		if m.Name == q.Temporary {
			s.drop(m)
		}
	}
	var m *Machine
	for _, o := range s.machines {
		if o.job() == q.Job {
			m = o
		}
	}
	if m == nil {
		var err error
		if m, err = s.newMachine(ctx, q); err != nil {
			return nil, err
		}
	}
	if q.Cluster {
		if s.o.Cluster == "" {
			return nil, failed("Add-ClusterVirtualMachineRole", "NotSpecified", "The cluster service is not running.")
		}
		m.Clustered = true
	}
	return hostscript.Made{ID: m.ID, Name: m.Name}, nil
}

func (s *Sim) newMachine(ctx context.Context, q hostscript.Request) (*Machine, error) {
	dir := s.local(q.Path)
	if dir == "" || badPart(q.Temporary) {
		return nil, failed("New-VM", "InvalidArgument", "The path '%s' is not valid.", q.Path)
	}
	if q.Memory == nil || q.Memory.Startup < 32<<20 || q.Memory.Startup%(2<<20) != 0 {
		return nil, failed("New-VM", "InvalidArgument", "Invalid startup memory amount assigned. The minimum amount of memory is 32 MB and the value must be aligned to 2 MB.")
	}
	if q.Generation != 1 && q.Generation != 2 {
		return nil, failed("New-VM", "InvalidArgument", "Cannot validate argument on parameter 'Generation'.")
	}
	m := &Machine{ID: strings.ToLower(newID()), Name: q.Temporary, Generation: q.Generation, Memory: *q.Memory, State: "Off", Processors: 1}
	m.conf = filepath.Join(dir, q.Temporary, "Virtual Machines", m.ID+".vmcx")
	if err := os.MkdirAll(filepath.Dir(m.conf), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(m.conf, []byte(m.ID), 0o600); err != nil {
		return nil, err
	}
	s.machines = append(s.machines, m)
	if err := s.equip(ctx, m, q); err != nil {
		s.drop(m)
		return nil, err
	}
	m.Notes, m.Name = q.Notes, q.Name
	return m, nil
}

// limits of a generation ("Plan for Hyper-V scalability in Windows Server").
var maxProcessors = map[int]int{1: 64, 2: 1024}

func (s *Sim) equip(ctx context.Context, m *Machine, q hostscript.Request) error {
	bad := func(command, format string, args ...any) error {
		return failed(command, "InvalidArgument", format, args...)
	}
	if q.Processors < 1 || q.Processors > maxProcessors[m.Generation] {
		return bad("Set-VMProcessor", "Invalid number of processors: %d.", q.Processors)
	}
	m.Processors = q.Processors
	if d := q.Memory; d.Dynamic && (d.Minimum < 32<<20 || d.Minimum > d.Startup || d.Maximum < d.Startup || (d.Minimum|d.Maximum)%(2<<20) != 0) {
		return bad("Set-VMMemory", "Invalid dynamic memory: %v.", *d)
	}
	if !slices.Contains([]string{"Disabled", "Production", "ProductionOnly", "Standard"}, q.Checkpoints) {
		return bad("Set-VM", "Cannot bind parameter 'CheckpointType'.")
	}
	m.Checkpoints = q.Checkpoints
	if q.TPM && m.Generation != 2 {
		return bad("Enable-VMTPM", "The operation is not supported on a generation 1 virtual machine.")
	}
	m.TPM = q.TPM
	for _, d := range q.Disks {
		if err := s.attach(ctx, m, d); err != nil {
			return err
		}
	}
	for _, n := range q.NICs {
		if !slices.Contains([]string{"", Switch, Internal}, n.Switch) {
			return failed("", "OperationStopped", "SWITCH: the virtual switch '%s' is not on this host any more", n.Switch)
		}
		if n.MAC != "" && !regexp.MustCompile(`^[0-9A-F][02468ACE][0-9A-F]{10}$`).MatchString(n.MAC) {
			return bad("Set-VMNetworkAdapter", "The MAC address '%s' is not valid.", n.MAC)
		}
		if n.VLAN < 0 || n.VLAN > 4094 {
			return bad("Set-VMNetworkAdapterVlan", "The VLAN identifier is out of range.")
		}
		m.NICs = append(m.NICs, n)
	}
	if m.Generation == 1 {
		return nil
	}
	if q.Boot < 0 || q.Boot >= len(q.Disks) || q.Disks[q.Boot].Controller != "SCSI" {
		return bad("Set-VMFirmware", "Cannot validate argument on parameter 'FirstBootDevice'. The argument is null.")
	}
	m.Boot = q.Disks[q.Boot]
	if q.Secure && !slices.Contains([]string{"MicrosoftWindows", "MicrosoftUEFICertificateAuthority", "OpenSourceShieldedVM"}, q.Template) {
		return bad("Set-VMFirmware", "The Secure Boot template '%s' was not found.", q.Template)
	}
	m.SecureBoot = q.Secure
	if q.Secure {
		m.Template = q.Template
	}
	return nil
}

// attach is Add-VMHardDiskDrive.
func (s *Sim) attach(ctx context.Context, m *Machine, d hostscript.Drive) error {
	bad := func(format string, args ...any) error {
		return failed("Add-VMHardDiskDrive", "InvalidArgument", format, args...)
	}
	switch {
	case d.Controller == "IDE" && m.Generation == 2:
		return bad("Generation 2 virtual machines have no IDE controllers.")
	case d.Controller == "IDE" && (d.Number < 0 || d.Number > 1 || d.Location < 0 || d.Location > 1),
		d.Controller == "SCSI" && (d.Number < 0 || d.Number > 3 || d.Location < 0 || d.Location > 63),
		d.Controller != "IDE" && d.Controller != "SCSI":
		return bad("There is no %s controller %d with location %d.", d.Controller, d.Number, d.Location)
	}
	for _, o := range m.Disks {
		if o.Controller == d.Controller && o.Number == d.Number && o.Location == d.Location {
			return bad("The location is in use.")
		}
	}
	for _, o := range s.machines {
		if slices.ContainsFunc(o.Disks, func(u hostscript.Drive) bool { return strings.EqualFold(u.File, d.File) }) {
			return bad("The disk '%s' is attached to '%s'.", d.File, o.Name)
		}
	}
	file := s.local(d.File)
	if st, err := os.Stat(file); file == "" || err != nil || !st.Mode().IsRegular() {
		return bad("The path '%s' is not valid: the file was not found (0x80070002).", d.File)
	}
	i, err := s.inspect(ctx, file)
	if err != nil {
		return err
	}
	if i.Format == "VHD" && m.Generation == 2 {
		return bad("Generation 2 virtual machines take VHDX files only: '%s'.", d.File)
	}
	if i.Backing != "" {
		return bad("The chain of virtual hard disks is broken.")
	}
	m.Disks = append(m.Disks, d)
	return nil
}

func (s *Sim) byID(id string) *Machine {
	for _, m := range s.machines {
		if strings.EqualFold(m.ID, id) {
			return m
		}
	}
	return nil
}

func (s *Sim) state(q hostscript.Request) (any, error) {
	m := s.byID(q.ID)
	if m == nil {
		return nil, failed("", "OperationStopped", "GONE: the machine %s is not on this host any more", q.ID)
	}
	if q.Op == hostscript.OpStart && m.State != "Running" {
		if m.Generation == 1 && !slices.ContainsFunc(m.Disks, func(d hostscript.Drive) bool { return d.Controller == "IDE" && d.Number == 0 && d.Location == 0 }) {
			return nil, failed("Start-VM", "NotSpecified", "Boot failure: generation 1 starts from IDE 0:0.")
		}
		m.State, m.beats = "Running", 0
		m.Started++
	}
	r := hostscript.State{State: m.State, Heartbeat: "NoContact"}
	if m.State != "Running" {
		r.Heartbeat = "Disabled"
	} else if m.beats++; s.o.Beats >= 0 && m.beats > s.o.Beats {
		r.Heartbeat = "OkApplicationsUnknown"
	}
	return r, nil
}

func (s *Sim) remove(q hostscript.Request) (any, error) {
	var r hostscript.Removed
	for _, m := range slices.Clone(s.machines) {
		half, named, marked := m.Name == q.Temporary, q.ID != "" && strings.EqualFold(m.ID, q.ID), m.job() == q.Job
		if named && !half && !marked {
			return nil, failed("", "OperationStopped", "MARK: the notes of the machine no longer have the line ascend.job=%s", q.Job)
		}
		if half || marked {
			s.drop(m)
			r.Removed++
		}
	}
	return r, nil
}

// drop is Remove-VM: the configuration goes, its folder and the disks stay.
func (s *Sim) drop(m *Machine) {
	_ = os.Remove(m.conf) // a machine that was added has none
	s.machines = slices.DeleteFunc(s.machines, func(o *Machine) bool { return o == m })
}

func (s *Sim) erase(q hostscript.Request) error {
	for _, f := range q.Files {
		file := s.local(f)
		if slices.ContainsFunc(s.machines, func(m *Machine) bool {
			return m.State == "Running" && slices.ContainsFunc(m.Disks, func(d hostscript.Drive) bool { return strings.EqualFold(d.File, f) })
		}) {
			return failed("Remove-Item", "WriteError", "Cannot remove item %s: The process cannot access the file because it is being used by another process.", f)
		}
		if file == "" {
			continue // Test-Path says no
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return failed("Remove-Item", "WriteError", "%v", err)
		}
	}
	for _, f := range q.Folders {
		dir := s.local(f)
		if st, err := os.Stat(dir); dir == "" || err != nil || !st.IsDir() {
			continue
		}
		holds := false
		if err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			holds = holds || err == nil && !d.IsDir()
			return err
		}); err != nil {
			return fmt.Errorf("cannot look into %s: %w", f, err)
		}
		if holds {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return failed("Remove-Item", "WriteError", "%v", err)
		}
	}
	return nil
}

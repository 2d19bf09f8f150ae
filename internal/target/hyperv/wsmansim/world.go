package wsmansim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"ascend/internal/target/hyperv/hostscript"
)

// Machine is a machine of the host.
type Machine struct {
	ID, Name, Notes string
	Generation      int
	Processors      int
	Memory          hostscript.Memory
	State           string
	Disks           []hostscript.Drive
	NICs            []hostscript.Adapter
	SecureBoot      bool
	Template        string
	TPM             bool
	Boot            hostscript.Drive // the first in the order
	Checkpoints     string
	Clustered       bool
	Started         int // how often

	beats int // times that the state was asked since the start
	conf  string
}

// world is what a host has.
type world struct {
	machines []*Machine
}

// local is a Windows path in the real folder; empty when the host has no such place.
func (s *Sim) local(path string) string {
	root := s.o.Root
	if strings.EqualFold(path, root) {
		return s.o.Dir
	}
	if len(path) > len(root) && strings.EqualFold(path[:len(root)], root) && path[len(root)] == '\\' {
		rest := strings.Split(path[len(root)+1:], `\`)
		if !slices.ContainsFunc(rest, badPart) {
			return filepath.Join(append([]string{s.o.Dir}, rest...)...)
		}
	}
	return ""
}

// badPart tells whether Windows takes no such name of a file.
func badPart(p string) bool {
	return p == "" || p == "." || p == ".." || strings.ContainsAny(p, "/:*?\"<>|") || strings.HasSuffix(p, ".") || strings.HasSuffix(p, " ") ||
		strings.ContainsFunc(p, func(r rune) bool { return r < ' ' }) || len(p) > 255
}

// Machines lists copies of the machines.
func (s *Sim) Machines() []Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Machine
	for _, m := range s.machines {
		out = append(out, *m)
	}
	return out
}

// AddMachine makes a machine that is nobody's.
func (s *Sim) AddMachine(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machines = append(s.machines, &Machine{ID: strings.ToLower(newID()), Name: name, Generation: 2, State: "Off"})
}

// SetNotes changes the notes of machines of a name.
func (s *Sim) SetNotes(name, notes string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.machines {
		if m.Name == name {
			m.Notes = notes
		}
	}
}

// Path is a disk's file in the real file system.
func (s *Sim) Path(windows string) string { return s.local(windows) }

// Inventory lists machines, files with their digests, and folders.
func (s *Sim) Inventory() ([]string, error) {
	var out []string
	for _, m := range s.Machines() {
		out = append(out, fmt.Sprintf("machine %s %q %s generation %d, %d processors, %v, disks %v, adapters %v, clustered %v", m.ID, m.Name, m.State, m.Generation, m.Processors, m.Memory, m.Disks, m.NICs, m.Clustered))
	}
	err := filepath.WalkDir(s.o.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(s.o.Dir, path) // below it
		if d.IsDir() {
			if rel != "." {
				out = append(out, "folder "+rel)
			}
			return nil
		}
		b, err := os.ReadFile(path)
		sum := sha256.Sum256(b)
		out = append(out, fmt.Sprintf("file %s %d %x", rel, len(b), sum[:8]))
		return err
	})
	return out, err
}

// imageInfo is what qemu-img reads in a disk's file.
type imageInfo struct {
	Format  string `json:"format"`
	Size    int64  `json:"virtual-size"`
	Backing string `json:"backing-filename"`
}

func (s *Sim) inspect(ctx context.Context, file string) (imageInfo, error) {
	format, kind := "vhdx", "VHDX"
	if strings.HasSuffix(strings.ToLower(file), ".vhd") {
		format, kind = "vpc", "VHD"
	}
	out, err := exec.CommandContext(ctx, "qemu-img", "info", "-f", format, "--output=json", file).Output() //nolint:gosec // a simulator's own program
	if err != nil {
		return imageInfo{}, failed("Get-VHD", "InvalidArgument", "Failed to get disk information. The file or directory is corrupted and unreadable: not a %s (0xC03A0005).", kind)
	}
	var i imageInfo
	err = json.Unmarshal(out, &i)
	i.Format = kind
	return i, err
}

func hashFile(file string) (string, error) {
	b, err := os.ReadFile(file)
	sum := sha256.Sum256(b)
	return strings.ToUpper(hex.EncodeToString(sum[:])), err
}

// Package hostscript is the one script that Ascend runs on a Hyper-V host, and
// the documents that go into it and come out of it.
//
// The script's text is constant. It is sent on the standard input of
// powershell.exe, with the document that says what to do on the next line: no
// value is ever part of a command.
package hostscript

import (
	_ "embed" // the script
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"unicode/utf16"
)

// Script is the text, UTF-8.
//
//go:embed host.ps1
var Script string

// Bootstrap is what powershell.exe is started with. A command line is at most
// 8191 characters long (cmd.exe), so the script itself comes on standard input: the first
// line is its text, the second the document, both UTF-8 as Base64.
const Bootstrap = `$ErrorActionPreference='Stop';` +
	`$l=@($input | Where-Object { $_ });` +
	`$d={param($t) [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($t))};` +
	`& ([ScriptBlock]::Create((& $d $l[0]))) (& $d $l[1])`

// Program and Arguments are the command that is run on the host.
const Program = "powershell.exe"

// Arguments of Program; -EncodedCommand takes UTF-16LE as Base64.
func Arguments() []string {
	units := utf16.Encode([]rune(Bootstrap))
	b := make([]byte, 0, 2*len(units))
	for _, u := range units {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return []string{"-NoLogo", "-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-EncodedCommand", base64.StdEncoding.EncodeToString(b)}
}

// Input is the standard input that has the script do what q says.
func Input(q Request) ([]byte, error) {
	doc, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	line := func(p []byte) string { return base64.StdEncoding.EncodeToString(p) + "\n" }
	return []byte(line([]byte(Script)) + line(doc)), nil
}

// Answer reads standard output into result, a pointer; the script's own error is
// an *Error.
func Answer(output []byte, result any) error {
	b, err := base64.StdEncoding.DecodeString(string(output))
	if err != nil {
		return fmt.Errorf("the host answered with something else than Base64: %w", err)
	}
	var a struct {
		Result json.RawMessage `json:"result"`
		Error  *Error          `json:"error"`
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return fmt.Errorf("the host's answer is no JSON: %w", err)
	}
	if a.Error != nil {
		return a.Error
	}
	if err := json.Unmarshal(a.Result, result); err != nil {
		return fmt.Errorf("the host's answer is not what was asked for: %w", err)
	}
	return nil
}

// Error is what PowerShell says went wrong (ErrorRecord).
type Error struct {
	Message  string `json:"message"`
	ID       string `json:"id"`       // FullyQualifiedErrorId
	Category string `json:"category"` // ErrorCategory
	Command  string `json:"command"`  // that failed
}

func (e *Error) Error() string {
	if e.Command == "" {
		return e.Message
	}
	return fmt.Sprintf("%s (%s)", e.Message, e.Command)
}

// Operations of the script.
const (
	OpLook   = "look"   // Look: what there is
	OpFolder = "folder" // Folder: make it
	OpDisk   = "disk"   // Disk: look at a file
	OpCreate = "create" // Made: make a machine
	OpStart  = "start"  // State
	OpState  = "state"  // State
	OpRemove = "remove" // Removed: a machine
	OpDelete = "delete" // nothing: files, then folders that are empty
	OpPull   = "pull"   // Pulled: fetch a disk's file
)

// Request is a document for the script; each operation looks at its own fields.
// Every field is there in every document: the script runs in strict mode.
type Request struct {
	Op        string   `json:"op"`
	ID        string   `json:"id"`        // of a machine
	Job       string   `json:"job"`       // its mark
	Temporary string   `json:"temporary"` // a machine's name until it is made whole
	Folder    string   `json:"folder"`    // of a machine
	File      string   `json:"file"`
	Read      bool     `json:"read"`   // disk: as Hyper-V reads it, not only how long it is
	Digest    bool     `json:"digest"` // disk: with its SHA-256
	Files     []string `json:"files"`
	Folders   []string `json:"folders"`

	Name        string    `json:"name"`
	Path        string    `json:"path"` // where the folder of the machine's configuration is made
	Notes       string    `json:"notes"`
	Generation  int       `json:"generation"`
	Processors  int       `json:"processors"`
	Memory      *Memory   `json:"memory"`
	Checkpoints string    `json:"checkpoints"` // CheckpointType
	TPM         bool      `json:"tpm"`
	Secure      bool      `json:"secure"`
	Template    string    `json:"template"` // of Secure Boot
	Disks       []Drive   `json:"disks"`
	Boot        int       `json:"boot"` // position in Disks
	NICs        []Adapter `json:"nics"`
	Cluster     bool      `json:"cluster"` // make it a role of the cluster

	URL    string `json:"url"`
	Token  string `json:"token"`
	Pin    string `json:"pin"` // SHA-256 of the certificate, in hex
	Offset int64  `json:"offset"`
}

// Memory in bytes.
type Memory struct {
	Startup int64 `json:"startup"`
	Dynamic bool  `json:"dynamic"`
	Minimum int64 `json:"minimum"`
	Maximum int64 `json:"maximum"`
}

// Drive is a disk's place.
type Drive struct {
	Controller string `json:"controller"` // IDE or SCSI
	Number     int    `json:"number"`
	Location   int    `json:"location"`
	File       string `json:"file"`
}

// Adapter is a network adapter.
type Adapter struct {
	Name   string `json:"name"`
	Switch string `json:"switch"` // empty: not connected
	MAC    string `json:"mac"`    // twelve digits; empty: the host's choice
	VLAN   int    `json:"vlan"`   // 0: untagged
}

// Look is what there is.
type Look struct {
	Name       string    `json:"name"`
	System     string    `json:"system"`
	Build      string    `json:"build"` // 10.0.17763
	Processors int64     `json:"processors"`
	Memory     int64     `json:"memory"`
	Free       int64     `json:"free"` // memory
	Path       string    `json:"path"` // of disks, by default
	Cluster    string    `json:"cluster"`
	Switches   []Switch  `json:"switches"`
	Shares     []Share   `json:"shares"`
	Volumes    []Volume  `json:"volumes"`
	Machines   []Machine `json:"machines"`
}

// Switch is a virtual switch.
type Switch struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // External, Internal, Private
}

// Share is a folder that SMB serves.
type Share struct {
	Name    string `json:"name"`
	Path    string `json:"path"`
	Special bool   `json:"special"` // administrators' alone, such as D$
}

// Volume is a file system.
type Volume struct {
	Path   string `json:"path"` // with the separator at its end
	Free   int64  `json:"free"`
	Size   int64  `json:"size"`
	System string `json:"system"` // NTFS, ReFS, CSVFS
}

// Machine is one that exists.
type Machine struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Job   string `json:"job"` // whose mark it bears
	State string `json:"state"`
}

// Folder tells what NTFS does to a folder's files.
type Folder struct {
	Compressed bool `json:"compressed"`
	Encrypted  bool `json:"encrypted"`
}

// Disk is a disk's file.
type Disk struct {
	Found  bool   `json:"found"`
	Length int64  `json:"length"` // of the file
	Size   int64  `json:"size"`   // of the disk
	Format string `json:"format"` // VHD, VHDX
	Kind   string `json:"kind"`   // Dynamic, Fixed, Differencing
	SHA256 string `json:"sha256"`
}

// Made is a machine that was made or had been.
type Made struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// State of a machine.
type State struct {
	State     string `json:"state"`     // VMState
	Heartbeat string `json:"heartbeat"` // VMHeartbeatStatus
}

// Removed counts.
type Removed struct {
	Removed int `json:"removed"`
}

// Pulled is the length of the file now.
type Pulled struct {
	Length int64 `json:"length"`
}

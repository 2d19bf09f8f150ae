package vmdk

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"ascend/internal/disk"
)

const (
	// maxDescriptor bounds a descriptor in bytes. VMware's own are a few
	// hundred bytes, plus one line for each 2 GB of a split disk.
	maxDescriptor = 1 << 20
	// maxExtents bounds the extents of one disk: 8 TiB in pieces of 2 GB.
	maxExtents = 4096
	// noParent is the parentCID of a disk without a parent (Virtual Disk
	// Format 5.0, "The Descriptor File").
	noParent = 0xffffffff
)

// signature is the first line of every descriptor, compared without case.
const signature = "# Disk DescriptorFile"

// descriptor is the text that says what a disk is made of (Virtual Disk Format
// 5.0, "The Descriptor File"), either a file of its own or embedded in a
// sparse file.
type descriptor struct {
	createType string // canonical, one of createTypes; "" when not stated
	encoding   string // of the names, in lower case; "" is UTF-8
	cid        uint32
	hasCID     bool
	parentCID  uint32 // noParent when there is none
	parentHint string // the parent's name as stated
	extents    []extentLine
}

// extentLine is one line of the extent description:
//
//	access sectors type ["name" [offset]]
type extentLine struct {
	access  string // RW, RDONLY, NOACCESS
	sectors int64
	kind    string // SPARSE, FLAT, ZERO, VMFS, VMFSSPARSE, …, in upper case
	name    string // "" for ZERO alone
	offset  int64  // in sectors of the file; flat extents only
}

// createTypes are the values of createType whose disks lie in files that are
// read here, by their names in lower case. The 2Gb… names are those of
// VMware's older products (Virtual Disk Format 1.1).
var createTypes = map[string]string{
	"monolithicsparse":     "monolithicSparse",
	"monolithicflat":       "monolithicFlat",
	"twogbmaxextentsparse": "twoGbMaxExtentSparse",
	"twogbmaxextentflat":   "twoGbMaxExtentFlat",
	"2gbmaxextentsparse":   "twoGbMaxExtentSparse",
	"2gbmaxextentflat":     "twoGbMaxExtentFlat",
	"streamoptimized":      "streamOptimized",
	"vmfs":                 "vmfs",
	"vmfsthin":             "vmfsThin",
	"vmfspreallocated":     "vmfsPreallocated",
	"vmfseagerzeroedthick": "vmfsEagerZeroedThick",
	"vmfssparse":           "vmfsSparse",
	"custom":               "custom",
}

// unread are the values of createType that are known and not read, with why.
var unread = map[string]string{
	"sesparse":                    "an ESXi snapshot of type seSparse; consolidate the snapshots, or export the disk as streamOptimized",
	"fulldevice":                  "a physical disk, which is not in the backup",
	"partitioneddevice":           "partitions of a physical disk, which are not in the backup",
	"vmfsraw":                     "a raw device of an ESXi host, which is not in the backup",
	"vmfsrdm":                     "a raw device mapping, whose data is not in the backup",
	"vmfsrdmp":                    "a raw device mapping, whose data is not in the backup",
	"vmfsrawdevicemap":            "a raw device mapping, whose data is not in the backup",
	"vmfspassthroughrawdevicemap": "a raw device mapping, whose data is not in the backup",
}

// isDescriptor tells whether a file that starts with head is a text descriptor.
func isDescriptor(head []byte) bool {
	head = bytes.TrimPrefix(head, []byte("\xef\xbb\xbf"))
	line, _, _ := bytes.Cut(bytes.TrimLeft(head, " \t\r\n"), []byte("\n"))
	return strings.EqualFold(strings.TrimSpace(string(line)), signature)
}

// parseDescriptor reads a descriptor. What follows the first zero byte is the
// padding of embedded ones. Every line must be a comment, a key = value pair or
// an extent; keys that are not known are passed over, lines of another form are
// ErrCorrupt. Words other than names are compared without case, as VMware does.
func parseDescriptor(text []byte) (*descriptor, error) {
	if len(text) > maxDescriptor {
		return nil, fmt.Errorf("descriptor of %d bytes is above the limit of %d: %w", len(text), maxDescriptor, disk.ErrCorrupt)
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	if !isDescriptor(text) {
		return nil, fmt.Errorf("descriptor does not start with %q: %w", signature, disk.ErrCorrupt)
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	d := &descriptor{parentCID: noParent}
	seen := map[string]string{}
	for number := 1; len(text) > 0; number++ {
		var raw []byte
		raw, text, _ = bytes.Cut(text, []byte("\n"))
		line := strings.Trim(string(raw), " \t\r\v\f")
		if line == "" || line[0] == '#' {
			continue
		}
		if err := d.line(line, seen); err != nil {
			return nil, fmt.Errorf("descriptor line %d: %w", number, err)
		}
	}
	return d, nil
}

func (d *descriptor) line(line string, seen map[string]string) error {
	word, rest := nextWord(line)
	switch access := strings.ToUpper(word); access {
	case "RW", "RDONLY", "NOACCESS":
		e, err := parseExtent(access, rest)
		if err != nil {
			return err
		}
		if len(d.extents) == maxExtents {
			return fmt.Errorf("more than %d extents: %w", maxExtents, disk.ErrUnsupported)
		}
		d.extents = append(d.extents, e)
		return nil
	}
	key, value, ok := strings.Cut(line, "=")
	key = strings.ToLower(strings.TrimSpace(key))
	value = strings.TrimSpace(value)
	if !ok || key == "" || strings.ContainsAny(key, " \t\"") {
		return fmt.Errorf("%.80q is neither a setting nor an extent: %w", line, disk.ErrCorrupt)
	}
	if strings.HasPrefix(value, `"`) {
		if len(value) < 2 || !strings.HasSuffix(value, `"`) {
			return fmt.Errorf("%.80q has an open quotation: %w", line, disk.ErrCorrupt)
		}
		value = value[1 : len(value)-1]
	}
	return d.set(key, value, seen)
}

// set takes the setting key, in lower case. A key that decides what is read may
// be repeated only with the same value.
func (d *descriptor) set(key, value string, seen map[string]string) (err error) {
	switch key {
	case "version", "encoding", "cid", "parentcid", "createtype", "parentfilenamehint":
		if was, ok := seen[key]; ok && was != value {
			return fmt.Errorf("%s is stated twice, as %.80q and %.80q: %w", key, was, value, disk.ErrCorrupt)
		}
		seen[key] = value
	}
	switch key {
	case "version":
		// 1 is the first, 2 came with encryption in hosted products, 3 with
		// changed block tracking; the text is the same in all of them.
		if v, err := strconv.ParseUint(value, 10, 16); err != nil || v < 1 || v > 3 {
			return fmt.Errorf("descriptor version %.20q: %w", value, disk.ErrUnsupported)
		}
	case "encoding":
		d.encoding = strings.ToLower(value)
	case "cid":
		d.hasCID = true
		d.cid, err = contentID(value)
	case "parentcid":
		d.parentCID, err = contentID(value)
	case "parentfilenamehint":
		d.parentHint = value
	case "createtype":
		low := strings.ToLower(value)
		if d.createType = createTypes[low]; d.createType != "" {
			break
		}
		if why := unread[low]; why != "" {
			return fmt.Errorf("disk of type %s is %s: %w", value, why, disk.ErrUnsupported)
		}
		return fmt.Errorf("disk of type %.80q: %w", value, disk.ErrUnsupported)
	case "ddb.iofilters":
		if strings.Contains(strings.ToLower(value), "crypt") {
			return errEncrypted
		}
	default:
		// encryption.keySafe, encryptionKeys, …: the extents hold ciphertext.
		if strings.HasPrefix(key, "encrypt") || key == "datafilekey" {
			return errEncrypted
		}
	}
	return err
}

var errEncrypted = fmt.Errorf("disk is encrypted by VMware; decrypt the virtual machine before the backup: %w", disk.ErrUnsupported)

func contentID(value string) (uint32, error) {
	id, err := strconv.ParseUint(value, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("content ID %.40q is not a number of 32 bits: %w", value, disk.ErrCorrupt)
	}
	return uint32(id), nil
}

// parseExtent reads what follows the access word of an extent line.
func parseExtent(access, rest string) (extentLine, error) {
	e := extentLine{access: access}
	bad := func(what string) (extentLine, error) {
		return e, fmt.Errorf("extent %q %.120q %s: %w", access, rest, what, disk.ErrCorrupt)
	}
	count, tail := nextWord(rest)
	sectors, err := strconv.ParseUint(count, 10, 63)
	switch {
	case err != nil:
		return bad("has no valid size")
	case sectors == 0:
		return bad("is empty")
	case sectors > disk.MaxSize/sector:
		return e, fmt.Errorf("extent of %d sectors is above the limit of %d bytes: %w", sectors, int64(disk.MaxSize), disk.ErrUnsupported)
	}
	e.sectors = int64(sectors)
	e.kind, tail = nextWord(tail)
	e.kind = strings.ToUpper(e.kind)
	if tail == "" {
		if e.kind != "ZERO" {
			return bad("names no file")
		}
		return e, nil
	}
	if tail[0] != '"' {
		return bad("has a name without quotation marks")
	}
	name, tail, closed := strings.Cut(tail[1:], `"`)
	switch {
	case !closed:
		return bad("has an open quotation")
	case name == "":
		return bad("has an empty name")
	}
	e.name = name
	offset, tail := nextWord(strings.TrimLeft(tail, " \t"))
	if offset != "" {
		sectors, err := strconv.ParseUint(offset, 10, 63)
		if err != nil {
			return bad("has no valid offset")
		}
		if sectors > (1<<62)/sector {
			return bad("has an offset beyond any file")
		}
		e.offset = int64(sectors)
	}
	if tail != "" {
		return e, fmt.Errorf("extent %q %.120q has the parameters of a device: %w", access, rest, disk.ErrUnsupported)
	}
	return e, nil
}

// nextWord cuts the first word off; the rest has no leading blanks.
func nextWord(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}

// names are the spellings under which a file that the descriptor calls name is
// looked for, the likeliest first. Names are in the descriptor's encoding; of
// the code pages only the Western one is translated, names in others are tried
// byte for byte, as are those that were written as UTF-8 after all.
func (d *descriptor) names(name string) []string {
	western := d.encoding == "windows-1252" || d.encoding == "cp1252" || d.encoding == "iso-8859-1"
	if !western || isASCII(name) {
		return []string{name}
	}
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if c >= 0x80 && c < 0xa0 {
			b.WriteRune(windows1252[c-0x80])
		} else {
			b.WriteRune(rune(c))
		}
	}
	return []string{b.String(), name}
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// windows1252 is what bytes 0x80 to 0x9f mean in code page 1252; elsewhere it
// is ISO 8859-1, whose bytes are code points. Five are undefined.
var windows1252 = [32]rune{
	'€', '\ufffd', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\ufffd', 'Ž', '\ufffd',
	'\ufffd', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\ufffd', 'ž', 'Ÿ',
}

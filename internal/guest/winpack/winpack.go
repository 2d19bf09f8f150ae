// Package winpack reads packs of Windows drivers: a folder or an ISO image in the
// layout of virtio-win, of Nutanix VirtIO or of AWS's archives, or any other
// with INF files. A driver is found by what its INF says: the Windows versions
// and architecture it is for, its service, hardware and files. A pack is hostile
// input; it is only read.
package winpack

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"ascend/internal/guest/iso"
	"ascend/internal/vm"
)

// Bounds of a pack.
const (
	maxPackFiles = 50_000
	maxInfs      = 2_000
	maxFile      = 64 << 20
	maxDriver    = 64 // files of one driver
)

// System is the Windows that drivers are for.
type System struct {
	Major, Minor, Build int
	Server              bool
	Arch                vm.Arch
}

func (s System) arch() string {
	switch s.Arch {
	case vm.I386:
		return "x86"
	case vm.ARM64:
		return "arm64"
	}
	return "amd64"
}

// Driver is one driver of a pack, for one system.
type Driver struct {
	Source    string   `json:"source"` // the pack's folder or image
	Folder    string   `json:"folder"` // within it
	INF       string   `json:"inf"`    // the name of its file
	Provider  string   `json:"provider,omitempty"`
	Version   string   `json:"version,omitempty"` // month/day/year,a.b.c.d
	Class     string   `json:"class,omitempty"`
	ClassGUID string   `json:"class_guid,omitempty"`
	Hardware  []string `json:"hardware,omitempty"` // its device's hardware IDs
	Service   string   `json:"service"`
	Image     string   `json:"image"` // the .sys of its service
	Group     string   `json:"group,omitempty"`
	// Registry is what the INF puts below the service's key.
	Registry []Value `json:"registry,omitempty"`
	Files    []File  `json:"files"`
}

// Value is one value below a service's key.
type Value struct {
	Key    string `json:"key,omitempty"`
	Name   string `json:"name"`
	Number bool   `json:"number,omitempty"` // a DWORD, else a text
	Data   string `json:"data"`
}

// File is one file of a driver.
type File struct {
	Name   string `json:"name"` // within the folder, with slashes
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Size is the bytes of all files.
func (d *Driver) Size() (n int64) {
	for _, f := range d.Files {
		n += f.Size
	}
	return n
}

// Pack is an opened pack. It may be used by several goroutines.
type Pack struct {
	Source string
	infs   []candidate
	files  map[string]file // by path in small letters
	close  func() error
	// Notes name the INF files that could not be read.
	Notes []string
}

type file struct {
	name string // as it is written
	read func(limit int64) ([]byte, error)
}

type candidate struct {
	path string
	inf  *inf
}

// Open reads a pack's INF files. A pack without one is an error. The caller
// closes it.
func Open(source string) (p *Pack, err error) {
	st, err := os.Stat(source)
	if err != nil {
		return nil, fmt.Errorf("cannot open driver pack: %w", err)
	}
	p = &Pack{Source: source, files: map[string]file{}, close: func() error { return nil }}
	if st.IsDir() {
		err = p.folder(source)
	} else {
		err = p.image(source)
	}
	if err == nil {
		err = p.scan()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read driver pack %s: %w", source, errors.Join(err, p.Close()))
	}
	return p, nil
}

// Close ends the use of the pack.
func (p *Pack) Close() error { return p.close() }

func (p *Pack) folder(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	p.close = root.Close
	n := 0
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if n++; n > maxPackFiles {
			return fmt.Errorf("more than %d files: name the drivers' own folder", maxPackFiles)
		}
		p.files[strings.ToLower(name)] = file{name, func(limit int64) ([]byte, error) {
			f, err := root.Open(name)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			b, err := io.ReadAll(io.LimitReader(f, limit+1))
			if err == nil && int64(len(b)) > limit {
				err = fmt.Errorf("%s has more than %d bytes", name, limit)
			}
			return b, err
		}}
		return nil
	})
}

func (p *Pack) image(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	p.close = f.Close
	st, err := f.Stat()
	if err != nil {
		return err
	}
	im, err := iso.Open(f, st.Size())
	if errors.Is(err, iso.ErrFormat) {
		return fmt.Errorf("%w, nor a folder (unpack archives and floppy images first)", err)
	}
	if err != nil {
		return err
	}
	for _, f := range im.Files {
		p.files[strings.ToLower(f.Path)] = file{f.Path, func(limit int64) ([]byte, error) { return im.Read(f, limit) }}
	}
	return nil
}

func (p *Pack) scan() error {
	for name, f := range p.files {
		if !strings.HasSuffix(name, ".inf") || path.Base(name) == "autorun.inf" {
			continue
		}
		if len(p.infs) >= maxInfs {
			return fmt.Errorf("more than %d INF files", maxInfs)
		}
		b, err := f.read(maxINF)
		var i *inf
		if err == nil {
			i, err = parseINF(b)
		}
		if err != nil {
			p.Notes = append(p.Notes, f.name+": "+err.Error())
			continue
		}
		p.infs = append(p.infs, candidate{name, i})
	}
	slices.SortFunc(p.infs, func(a, b candidate) int { return cmp.Compare(a.path, b.path) })
	slices.Sort(p.Notes)
	if len(p.infs) == 0 {
		return errors.New("it holds no INF file of a driver")
	}
	return nil
}

// For finds the best driver of each service for a system, by the services' names.
// Drivers whose files are not all there are left out; why says so, by service.
func (p *Pack) For(s System) (drivers []*Driver, why map[string]string) {
	type ranked struct {
		d    *Driver
		rank []int
	}
	best := map[string]ranked{}
	why = map[string]string{}
	for _, c := range p.infs {
		for _, m := range c.inf.models(s) {
			folder := folderRank(c.path, s)
			if folder < 0 {
				continue
			}
			v := DriverVersion(c.inf.version())
			rank := slices.Concat([]int{folder}, m.target.rank(), v[:])
			k := strings.ToLower(m.service)
			if b, ok := best[k]; ok && compare(rank, b.rank) <= 0 {
				continue
			}
			d, err := p.driver(c, m, s)
			if err != nil {
				why[k] = fmt.Sprintf("%s: %v", p.files[c.path].name, err)
				continue
			}
			best[k] = ranked{d, rank}
		}
	}
	for k, b := range best {
		delete(why, k)
		drivers = append(drivers, b.d)
	}
	slices.SortFunc(drivers, func(a, b *Driver) int { return cmp.Compare(strings.ToLower(a.Service), strings.ToLower(b.Service)) })
	return drivers, why
}

// Read reads a driver's file and holds it to its digest.
func (p *Pack) Read(d *Driver, f File) ([]byte, error) {
	at := path.Join(d.Folder, f.Name)
	src, ok := p.files[strings.ToLower(at)]
	if !ok {
		return nil, fmt.Errorf("%s is not in %s any more", at, p.Source)
	}
	b, err := src.read(maxFile)
	if err != nil {
		return nil, err
	}
	if sum := digest(b); sum != f.SHA256 {
		return nil, fmt.Errorf("%s in %s is not the file that was chosen: make the plan again", at, p.Source)
	}
	return b, nil
}

func digest(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// model is an installation of an INF that drives something on a system.
type model struct {
	target       target
	service, svc string // the service's name, and its section
	hardware     []string
}

// models are the installations with a service that an INF has for a system: of
// each manufacturer those of the decoration nearest to the system.
func (f *inf) models(s System) (out []model) {
	for _, m := range f.sections["manufacturer"] {
		if len(m.args) == 0 {
			continue
		}
		section, found := m.args[0], false
		var best target
		for _, d := range m.args[1:] {
			if t, ok := parseTarget(d); ok && t.takes(s) && (!found || compare(t.rank(), best.rank()) > 0) {
				best, found = t, true
				section = m.args[0] + "." + d
			}
		}
		if !found && (s.arch() != "x86" || len(m.args) > 1) {
			continue // an undecorated section is for x86
		}
		by := map[string]int{}
		for _, l := range f.sections[strings.ToLower(section)] {
			if len(l.args) < 2 {
				continue
			}
			in := f.install(l.args[0], "nt"+s.arch())
			if in == "" {
				continue
			}
			for _, a := range f.sections[in+".services"] {
				// AddService = name, flags, section: 2 is the one that drives the device.
				if !strings.EqualFold(a.key, "AddService") || len(a.args) < 3 || a.args[0] == "" {
					continue
				}
				if flags, _ := number(a.args[1]); flags&2 == 0 {
					continue
				}
				k := strings.ToLower(a.args[0])
				i, ok := by[k]
				if !ok {
					i = len(out)
					by[k] = i
					out = append(out, model{target: best, service: a.args[0], svc: strings.ToLower(a.args[2])})
				}
				for _, h := range l.args[1:] {
					if h != "" && len(out[i].hardware) < 256 && !slices.Contains(out[i].hardware, h) {
						out[i].hardware = append(out[i].hardware, h)
					}
				}
			}
		}
	}
	return out
}

// version is DriverVer, "month/day/year,a.b.c.d".
func (f *inf) version() string { return strings.Join(f.get("version", "DriverVer"), ",") }

// DriverVersion reads "month/day/year,a.b.c.d" as year, month, day, a, b, c, d.
func DriverVersion(s string) (v [7]int) {
	date, number, _ := strings.Cut(s, ",")
	_, _ = fmt.Sscanf(strings.TrimSpace(date), "%d/%d/%d", &v[1], &v[2], &v[0])
	_, _ = fmt.Sscanf(strings.TrimSpace(number), "%d.%d.%d.%d", &v[3], &v[4], &v[5], &v[6])
	return v
}

// serviceName tells whether a name may stand in a registry's and a file's path.
func serviceName(s string) bool {
	return s != "" && len(s) < 100 && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x21 || r > 0x7e || strings.ContainsRune(`\/:*?"<>|`, r) })
}

// driver collects what a model is made of.
func (p *Pack) driver(c candidate, m model, s System) (*Driver, error) {
	if !serviceName(m.service) {
		return nil, fmt.Errorf("%q is no name of a service", m.service)
	}
	f := c.inf
	binary := strings.ReplaceAll(first(f.get(m.svc, "ServiceBinary")), `\`, "/")
	d := &Driver{
		Source: p.Source, Folder: path.Dir(p.files[c.path].name), INF: path.Base(p.files[c.path].name), Provider: first(f.get("version", "Provider")), Version: f.version(),
		Class: first(f.get("version", "Class")), ClassGUID: strings.ToLower(first(f.get("version", "ClassGUID"))),
		Hardware: m.hardware, Service: m.service, Image: path.Base(binary), Group: first(f.get(m.svc, "LoadOrderGroup")),
	}
	if !serviceName(d.Image) || !strings.HasSuffix(strings.ToLower(d.Image), ".sys") {
		return nil, fmt.Errorf("the service %s has no driver file", m.service)
	}
	for _, a := range f.get(m.svc, "AddReg") {
		d.Registry = append(d.Registry, f.addReg(a)...)
	}
	names := []string{d.INF}
	for _, key := range []string{"CatalogFile", "CatalogFile.nt", "CatalogFile.nt" + s.arch()} {
		if n := first(f.get("version", key)); n != "" {
			names = append(names, n)
		}
	}
	for _, section := range []string{"sourcedisksfiles", "sourcedisksfiles." + s.arch()} {
		for _, l := range f.sections[section] {
			dir := ""
			if len(l.args) > 1 {
				dir = strings.ReplaceAll(l.args[1], `\`, "/")
			}
			names = append(names, path.Join(dir, l.key))
		}
	}
	seen := map[string]bool{}
	for _, n := range names {
		k := strings.ToLower(path.Join(d.Folder, n))
		if seen[k] {
			continue
		}
		seen[k] = true
		src, ok := p.files[k]
		if !ok || strings.HasPrefix(path.Clean("/"+n), "/..") || strings.HasPrefix(n, "..") {
			return nil, fmt.Errorf("its file %s is missing", n)
		}
		if len(d.Files) >= maxDriver {
			return nil, fmt.Errorf("it has more than %d files", maxDriver)
		}
		b, err := src.read(maxFile)
		if err != nil {
			return nil, err
		}
		d.Files = append(d.Files, File{strings.TrimPrefix(strings.TrimPrefix(src.name, d.Folder), "/"), int64(len(b)), digest(b)})
		if strings.EqualFold(path.Base(n), d.Image) && !bytes.HasPrefix(b, []byte("MZ")) {
			return nil, fmt.Errorf("%s is no driver", n)
		}
	}
	if d.ImageFile() == nil {
		return nil, fmt.Errorf("its file %s is missing", d.Image)
	}
	return d, nil
}

// ImageFile is the file of the driver itself.
func (d *Driver) ImageFile() *File {
	for i := range d.Files {
		if strings.EqualFold(path.Base(d.Files[i].Name), d.Image) {
			return &d.Files[i]
		}
	}
	return nil
}

// addReg reads texts and numbers that a section puts below the service's key
// ("INF AddReg Directive"); other types are left to the real installation.
func (f *inf) addReg(section string) (out []Value) {
	for _, l := range f.sections[strings.ToLower(section)] {
		a := l.args
		if len(a) < 5 || !strings.EqualFold(a[0], "HKR") || len(out) >= 64 {
			continue
		}
		flags, ok := number(a[3])
		switch {
		case a[3] == "" || ok && flags&0xffff0001 == 0:
			out = append(out, Value{Key: a[1], Name: a[2], Data: a[4]})
		case ok && flags&0xffff0001 == 0x10001:
			if _, ok := number(a[4]); ok {
				out = append(out, Value{Key: a[1], Name: a[2], Number: true, Data: a[4]})
			}
		}
	}
	return out
}

// compare compares lists of numbers from the left.
func compare(a, b []int) int { return slices.Compare(a, b) }

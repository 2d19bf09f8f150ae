package image

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"ascend/internal/vm"
)

// formatKeys are the -o keys that each format name takes.
var formatKeys = map[string][]string{
	"raw":   {},
	"qcow2": {"cluster_size", "compression_type", "level"},
	"vmdk":  {"subformat", "compression", "level"},
	"vhdx":  {"subformat", "block_size"},
	"vpc":   {"subformat", "force_size"},
}

// FormatNames lists what ParseFormat takes as a name, without aliases.
func FormatNames() []string {
	var names []string
	for _, i := range formats {
		if !slices.Contains(names, i.Format.Name) {
			names = append(names, i.Format.Name)
		}
	}
	return names
}

// FormatKeys lists the option keys that ParseFormat takes for a format name.
func FormatKeys(name string) []string { return slices.Clone(formatKeys[name]) }

// ParseFormat reads a format as qemu-img's convert takes it: the name after -O,
// the keys and values after -o, and whether there is a -c. Names are raw,
// qcow2, vmdk, vhdx and vpc, also called vhd. Keys:
//
//	subformat         vmdk: monolithicSparse (default), streamOptimized;
//	                  vpc: dynamic (default), fixed; vhdx: dynamic
//	compression       vmdk with streamOptimized: deflate (default), stored
//	compression_type  qcow2 with -c: zlib (default), zstd
//	level             of the compression
//	cluster_size      qcow2: 64k (default) to 2M
//	block_size        vhdx: 1M (default) to 256M
//	force_size        vpc: on, off; the size is exact in either case
//
// The options returned have neither seed nor name.
func ParseFormat(name string, opts map[string]string, compress bool) (Format, Options, error) {
	p := formatParser{name: name, opts: opts}
	if name == "vhd" {
		p.name = "vpc"
	}
	f, o, err := p.parse(compress)
	if err != nil {
		return Format{}, Options{}, fmt.Errorf("invalid format %s: %w", name, err)
	}
	return f, o, nil
}

type formatParser struct {
	name string
	opts map[string]string
}

func (p formatParser) parse(compress bool) (f Format, o Options, err error) {
	keys, ok := formatKeys[p.name]
	if !ok {
		return f, o, fmt.Errorf("not one of %s", list(FormatNames()))
	}
	for _, k := range slices.Sorted(maps.Keys(p.opts)) {
		switch {
		case slices.Contains(keys, k):
		case len(keys) == 0:
			return f, o, fmt.Errorf("option %q: there are no options", k)
		default:
			return f, o, fmt.Errorf("option %q is not one of %s", k, list(keys))
		}
	}
	f.Name = p.name
	if f.Subformat, err = p.choice("subformat", p.subformats()...); err != nil {
		return f, o, err
	}
	if f.Compression, err = p.compression(f, compress); err != nil {
		return f, o, err
	}
	if _, err = p.choice("force_size", "on", "off"); err != nil {
		return f, o, err
	}
	for _, k := range []string{"cluster_size", "block_size"} {
		if v, ok := p.opts[k]; ok {
			if o.BlockSize, err = vm.ParseSize(v); err != nil {
				return f, o, fmt.Errorf("%s: %w", k, err)
			}
			if o.BlockSize == 0 {
				return f, o, fmt.Errorf("%s: %q is not a size", k, v)
			}
		}
	}
	if v, ok := p.opts["level"]; ok {
		if o.Level, err = strconv.Atoi(v); err != nil || o.Level == 0 {
			return f, o, fmt.Errorf("level: %q is not a compression level", v)
		}
	}
	info, err := f.Info()
	if err != nil {
		return f, o, err
	}
	_, err = info.options(o)
	return info.Format, o, err
}

// compression is what Format.Compression says.
func (p formatParser) compression(f Format, compress bool) (string, error) {
	switch f.Name {
	case "qcow2":
		c, err := p.choice("compression_type", "zlib", "zstd")
		if err != nil || !compress {
			if err == nil && p.has("compression_type") {
				err = fmt.Errorf("compression_type needs -c")
			}
			return "", err
		}
		return c, nil
	case "vmdk":
		c, err := p.choice("compression", "deflate", "stored")
		switch {
		case err != nil:
			return "", err
		case f.Subformat == "streamOptimized" && compress && c == "stored":
			return "", fmt.Errorf("-c and compression=stored exclude each other")
		case f.Subformat == "streamOptimized":
			return c, nil
		case compress:
			return "", fmt.Errorf("-c needs -o subformat=streamOptimized")
		case p.has("compression"):
			return "", fmt.Errorf("compression needs subformat=streamOptimized")
		}
		return "", nil
	}
	if compress {
		return "", fmt.Errorf("it cannot be compressed; qcow2 and vmdk can")
	}
	return "", nil
}

func (p formatParser) has(key string) bool {
	_, ok := p.opts[key]
	return ok
}

// subformats lists the subformats of the name, the default first.
func (p formatParser) subformats() (s []string) {
	for _, i := range formats {
		if i.Format.Name == p.name && !slices.Contains(s, i.Format.Subformat) {
			s = append(s, i.Format.Subformat)
		}
	}
	return s
}

// choice is the value of key, which must be one of values; the first is the default.
func (p formatParser) choice(key string, values ...string) (string, error) {
	v, ok := p.opts[key]
	if !ok {
		return values[0], nil
	}
	if !slices.Contains(values, v) {
		return "", fmt.Errorf("%s=%s: use %s", key, v, list(values))
	}
	return v, nil
}

// list is "a", "a or b", "a, b or c".
func list(s []string) string {
	if n := len(s) - 1; n > 0 {
		return strings.Join(s[:n], ", ") + " or " + s[n]
	}
	return strings.Join(s, "")
}

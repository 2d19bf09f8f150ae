package disk

// Image is an opened image file with its parents; the top of a chain.
type Image interface {
	Disk
	// Info describes the image; Allocated is -1 until counted by the caller.
	Info() Info
}

// Env is what a format's reader may ask for while it opens a file. The reader
// itself never opens anything by name.
type Env struct {
	Root *Root
	// Parent opens the image that the layer named from refers to as ref, an
	// attacker-controlled string. format is "" when the reference does not say,
	// which is then told from the signature, never from the extension; a raw
	// parent is only taken when it is said. Loops, chains beyond MaxChain and
	// references that leave the root are refused. The caller closes the image.
	Parent func(from, ref, format string) (Image, error)
	// Part opens a plain data file that the layer from refers to (a flat
	// extent), by the same rules.
	Part func(from, ref string) (*File, error)
}

// Driver opens f as an image of one format. It owns f from the call on and
// closes it on failure. It answers ErrFormat when the signature is another's,
// before anything else is looked at.
type Driver func(env *Env, f *File) (Image, error)

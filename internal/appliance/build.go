// Package appliance runs a one-shot micro-VM that alone touches the file systems of
// a guest: the host's kernel never mounts them. It is QEMU, confined, with a
// distribution's kernel and an initramfs that holds our agent and the file systems'
// programs; it has no network. What it is asked to do is package proto's; what for
// is the caller's. docs/appliance.md describes it.
package appliance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// Image is a built appliance.
type Image struct {
	Kernel  string   `json:"kernel"` // path
	Initrd  string   `json:"initrd"` // path
	Agent   string   `json:"agent"`  // path of the agent's program
	Key     string   `json:"key"`    // of the content
	Version string   `json:"kernel_version"`
	Parts   []string `json:"packages,omitempty"` // packages with versions
	Built   string   `json:"built"`
}

// ErrNoImage means that no appliance was built yet.
var ErrNoImage = errors.New("there is no appliance: build it with \"ascend appliance build\"")

// packages are Debian's; what they depend on comes with them.
var packages = []string{"linux-image-cloud-amd64", "lvm2", "dmsetup", "cryptsetup-bin", "ntfs-3g", "e2fsprogs", "xfsprogs", "btrfs-progs", "dosfstools", "thin-provisioning-tools"}

// CacheDir is where images are kept by default: ASCEND_CACHE_DIR, else the user's
// cache folder.
func CacheDir() (string, error) {
	if d := os.Getenv("ASCEND_CACHE_DIR"); d != "" {
		return d, nil
	}
	d, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find a folder for caches: %w (set ASCEND_CACHE_DIR)", err)
	}
	return filepath.Join(d, "ascend"), nil
}

// FindAgent looks for ascend-agent: ASCEND_AGENT, beside this program, in
// ../libexec/ascend, in PATH.
func FindAgent() (string, error) {
	if f := os.Getenv("ASCEND_AGENT"); f != "" {
		return f, nil
	}
	if self, err := os.Executable(); err == nil {
		for _, f := range []string{"ascend-agent", "../libexec/ascend/ascend-agent"} {
			f = filepath.Join(filepath.Dir(self), f)
			if st, err := os.Stat(f); err == nil && st.Mode().IsRegular() {
				return f, nil
			}
		}
	}
	if f, err := exec.LookPath("ascend-agent"); err == nil {
		return f, nil
	}
	return "", errors.New("cannot find ascend-agent beside this program or in PATH (set ASCEND_AGENT)")
}

// Open finds the appliance built last in a cache folder ("" for CacheDir).
func Open(cache string) (*Image, error) {
	dir, err := imageDir(cache)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(dir, "current"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoImage
	}
	if err != nil {
		return nil, err
	}
	return load(dir, strings.TrimSpace(string(key)))
}

func imageDir(cache string) (string, error) {
	if cache == "" {
		var err error
		if cache, err = CacheDir(); err != nil {
			return "", err
		}
	}
	return filepath.Join(cache, "appliance"), nil
}

func load(dir, key string) (*Image, error) {
	im := &Image{}
	b, err := os.ReadFile(filepath.Join(dir, key, "manifest.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoImage
	}
	if err == nil {
		err = json.Unmarshal(b, im)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the appliance's manifest: %w", err)
	}
	im.Kernel, im.Initrd = filepath.Join(dir, key, "kernel"), filepath.Join(dir, key, "initrd")
	for _, f := range []string{im.Kernel, im.Initrd} {
		if _, err := os.Stat(f); err != nil {
			return nil, ErrNoImage
		}
	}
	im.Agent, err = FindAgent()
	return im, err
}

// BuildOptions say how. The zero value builds from Debian's packages.
type BuildOptions struct {
	Cache string // folder; "" for CacheDir
	// Root is a folder that holds a kernel, its modules and the programs: "/" takes
	// those of this machine. "" downloads Debian's packages.
	Root string
	Log  func(format string, args ...any) // may be nil
}

// Build makes the appliance, or finds that the one there is of the same content. It
// needs no privilege. It is safe to run twice at once.
func Build(ctx context.Context, o BuildOptions) (*Image, error) {
	dir, err := imageDir(o.Cache)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot build the appliance: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	if ok, err := lock.TryLockContext(ctx, 200*time.Millisecond); !ok {
		return nil, fmt.Errorf("cannot build the appliance: %w", err)
	}
	defer func() { _ = lock.Unlock() }()
	work, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return nil, fmt.Errorf("cannot build the appliance: %w", err)
	}
	defer os.RemoveAll(work)
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	im := &Image{Built: time.Now().UTC().Format(time.RFC3339)}
	root := o.Root
	if root == "" {
		root = filepath.Join(work, "root")
		if im.Parts, err = unpack(ctx, work, root, o.Log); err != nil {
			return nil, fmt.Errorf("cannot build the appliance: %w", err)
		}
	}
	if err := im.assemble(root, work); err != nil {
		return nil, fmt.Errorf("cannot build the appliance: %w", err)
	}
	out := filepath.Join(dir, im.Key)
	if _, err := load(dir, im.Key); errors.Is(err, ErrNoImage) {
		made := filepath.Join(work, "image")
		b, err := json.MarshalIndent(im, "", "  ")
		if err == nil {
			err = os.WriteFile(filepath.Join(made, "manifest.json"), b, 0o644)
		}
		if err == nil {
			err = errors.Join(os.RemoveAll(out), os.Rename(made, out))
		}
		if err != nil {
			return nil, fmt.Errorf("cannot build the appliance: %w", err)
		}
	}
	current := filepath.Join(work, "current")
	if err := os.WriteFile(current, []byte(im.Key+"\n"), 0o644); err != nil {
		return nil, err
	}
	if err := os.Rename(current, filepath.Join(dir, "current")); err != nil {
		return nil, err
	}
	return load(dir, im.Key)
}

// assemble puts kernel and initramfs into work/image and names the content.
func (im *Image) assemble(root, work string) error {
	made := filepath.Join(work, "image")
	if err := os.Mkdir(made, 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(made, "initrd"))
	if err != nil {
		return err
	}
	sum := sha256.New()
	kernel, version, err := pick(root, io.MultiWriter(f, sum))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	b, err := os.ReadFile(kernel)
	if err != nil {
		return err
	}
	sum.Write(b)
	im.Version, im.Key = version, hex.EncodeToString(sum.Sum(nil))[:24]
	if v := unpackKernel(b); v != nil {
		b = v
	}
	return os.WriteFile(filepath.Join(made, "kernel"), b, 0o644)
}

// unpack downloads and unpacks the packages; none of their scripts is run.
func unpack(ctx context.Context, work, root string, log func(string, ...any)) ([]string, error) {
	for _, p := range []string{"apt-cache", "apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(p); err != nil {
			return nil, fmt.Errorf("%w: on a distribution that is not Debian's, install the programs of docs/appliance.md and use --root /", err)
		}
	}
	out, err := output(exec.CommandContext(ctx, "apt-cache", append([]string{"depends", "--recurse", "--no-recommends", "--no-suggests",
		"--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"}, packages...)...))
	if err != nil {
		return nil, fmt.Errorf("%w (apt-get update may help)", err)
	}
	names := slices.Clone(packages)
	names = slices.DeleteFunc(names, func(n string) bool { return n == "linux-image-cloud-amd64" }) // only names another
	for _, l := range strings.Split(out, "\n") {
		if l == "" || strings.ContainsAny(l, " <|:") || slices.Contains(names, l) {
			continue
		}
		// Of what they depend on, libraries and the kernel proper.
		if l == "zlib1g" || strings.HasPrefix(l, "lib") && !strings.HasPrefix(l, "libperl") && !strings.HasPrefix(l, "libdebconf") || strings.HasPrefix(l, "linux-image-") && l != "linux-image-cloud-amd64" {
			names = append(names, l)
		}
	}
	kernels := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasPrefix(n, "linux-image-") })
	if len(kernels) > 1 { // alternatives: the signed one is the one without a suffix
		names = slices.DeleteFunc(names, func(n string) bool { return strings.HasSuffix(n, "-unsigned") })
	}
	debs := filepath.Join(work, "debs")
	if err := errors.Join(os.Mkdir(debs, 0o755), os.Mkdir(root, 0o755)); err != nil {
		return nil, err
	}
	// Names without a package of their own (virtual ones) are left out.
	have, err := output(exec.CommandContext(ctx, "apt-cache", append([]string{"show", "--no-all-versions"}, names...)...))
	if err != nil && have == "" {
		return nil, err
	}
	var real []string
	for _, l := range strings.Split(have, "\n") {
		if n, ok := strings.CutPrefix(l, "Package: "); ok && !slices.Contains(real, n) {
			real = append(real, n)
		}
	}
	slices.Sort(real)
	log("downloading %d packages", len(real))
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"download", "-q"}, real...)...)
	cmd.Dir = debs
	if _, err := output(cmd); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return nil, err
	}
	log("unpacking")
	var parts []string
	for _, f := range files {
		if _, err := output(exec.CommandContext(ctx, "dpkg-deb", "-x", f, root)); err != nil {
			return nil, err
		}
		parts = append(parts, strings.TrimSuffix(filepath.Base(f), ".deb"))
	}
	return parts, nil
}

func output(cmd *exec.Cmd) (string, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(errs.String())
		return out.String(), fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Args[0]), err, text[max(0, len(text)-500):])
	}
	return out.String(), nil
}

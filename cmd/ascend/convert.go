package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"ascend/internal/convert"
	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/transfer"
	"ascend/internal/vm"
)

func (a *app) convertCommand() *cobra.Command {
	var o convert.Options
	var outFormat, limit string
	var opts []string
	var compress, showProgress, keep, unused bool
	c := &cobra.Command{
		Use:   "convert [-f FMT] -O FMT [-c] [-o KEY=VALUE,…] SRC DST",
		Short: "make one image file from another, without staging",
		Long: `Make an image file of one format from an image of any other, with its chain.

The flags are those of qemu-img convert. DST is replaced when it exists. A
killed conversion goes on where it stopped when the same command is run again;
Ctrl-C removes what was written, unless --keep is given. The digest printed is
that of the disk as the guest sees it: the same whatever the format
("ascend inspect --digest").

` + formatHelp(),
		Example: `  ascend convert -O vhdx disk.qcow2 disk.vhdx
  ascend convert -O vmdk -o subformat=streamOptimized disk.vhdx disk.vmdk
  ascend convert -c -O qcow2 -o compression_type=zstd disk.vmdk disk.qcow2`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			values, err := imageOptions(opts)
			if err != nil {
				return usageError{err}
			}
			if o.Format, o.Image, err = image.ParseFormat(outFormat, values, compress); err != nil {
				return usageError{err}
			}
			if o.Limit, err = parseLimit(limit); err != nil {
				return usageError{err}
			}
			o.Source, o.Dest = args[0], args[1]
			o.Image.Name = strings.TrimSuffix(filepath.Base(o.Dest), filepath.Ext(o.Dest))
			return a.convert(c, o, showProgress, keep)
		},
	}
	f := c.Flags()
	f.StringVarP(&o.SourceFormat, "source-format", "f", "", "format of SRC: qcow2, vmdk, vhd, vhdx, raw (default: told from its signature)")
	f.StringVarP(&outFormat, "target-format", "O", "raw", "format of DST: "+strings.Join(image.FormatNames(), ", "))
	f.StringArrayVarP(&opts, "option", "o", nil, "options of the format, `KEY=VALUE,…`")
	f.BoolVarP(&compress, "compress", "c", false, "compress (qcow2)")
	f.BoolVarP(&showProgress, "progress", "p", false, "show progress although stderr is no terminal")
	f.IntVarP(&o.Workers, "workers", "m", 0, "ranges at once (default: by processors)")
	f.BoolVarP(&unused, "out-of-order", "W", false, "accepted and always so: ranges are written out of order")
	f.StringVar(&limit, "limit", "", "bandwidth cap, `BYTES` a second, as 100M")
	f.StringVar(&o.Root, "root", "", "`folder` that SRC's references may not leave (default: SRC's own)")
	f.BoolVar(&o.RawBacking, "raw-backing", false, "read a backing file without a signature as raw")
	f.StringVar(&o.ZeroScan, "zero-scan", "auto", "look for zeros before writing: auto (when the source claims every byte), always, never")
	f.BoolVar(&o.Verify, "verify", false, "read the result back and compare digests")
	f.BoolVar(&o.NoOverwrite, "no-overwrite", false, "fail when DST exists")
	f.BoolVar(&o.NoDigest, "no-digest", false, "do not compute the disk's digest")
	f.BoolVar(&keep, "keep", false, "keep what was written on Ctrl-C, to go on later")
	complete(c, "target-format", image.FormatNames()...)
	complete(c, "zero-scan", "auto", "always", "never")
	return c
}

func (a *app) convert(c *cobra.Command, o convert.Options, force, keep bool) error {
	switch o.ZeroScan {
	case "auto", "always", "never":
	default:
		return usageError{fmt.Errorf("--zero-scan is auto, always or never, not %q", o.ZeroScan)}
	}
	p := a.startProgress(force, true)
	o.Observe = func(phase string, m *transfer.Meter) { p.add(phase, m) }
	res, err := convert.Run(c.Context(), o)
	p.done()
	if err != nil {
		return a.unfinished(err, o.Dest, keep)
	}
	if a.json {
		a.event(struct {
			Event string `json:"event"`
			*convert.Result
		}{"completed", res})
		return nil
	}
	if !o.NoDigest {
		a.note("%s  %s of data, %s file, %s", res.Digest, vm.FormatSize(res.Data), vm.FormatSize(res.Bytes), res.Format)
	}
	return nil
}

// unfinished says what is left of a conversion that ended with err: nothing when
// it was cancelled, unless it is to be kept; else what the next run goes on with.
func (a *app) unfinished(err error, dest string, keep bool) error {
	cancelled := errors.Is(err, context.Canceled)
	if cancelled {
		err = fmt.Errorf("conversion cancelled: %w", err)
	}
	if _, none := os.Stat(convert.JournalPath(dest)); none != nil {
		return err
	}
	// A source that changed is another one: there is nothing to go on with.
	if cancelled && !keep || errors.Is(err, disk.ErrChanged) {
		if derr := convert.Discard(dest); derr != nil {
			return errors.Join(err, fmt.Errorf("cannot remove what was written: %w", derr))
		}
		a.note("what was written was removed")
		return err
	}
	return withHint(err, "what was written is kept: run the same command again to go on, or remove %s and %s", dest, convert.JournalPath(dest))
}

// imageOptions reads -o KEY=VALUE,KEY=VALUE.
func imageOptions(list []string) (map[string]string, error) {
	var all []string
	for _, s := range list {
		for _, kv := range strings.Split(s, ",") {
			if kv != "" {
				all = append(all, kv)
			}
		}
	}
	return keyValues(all)
}

func parseLimit(s string) (*rate.Limiter, error) {
	if s == "" {
		return nil, nil
	}
	n, err := vm.ParseSize(strings.TrimSuffix(s, "/s"))
	if err != nil {
		return nil, err
	}
	if n <= 0 {
		return nil, errors.New("the bandwidth cap must be above 0")
	}
	return rate.NewLimiter(rate.Limit(n), int(max(n/4, vm.MiB))), nil
}

func formatHelp() string {
	var b strings.Builder
	b.WriteString("Formats:\n")
	for _, i := range image.Formats() {
		fmt.Fprintf(&b, "  %-34s %s\n", i.Format, i.Summary)
	}
	for _, n := range image.FormatNames() {
		if keys := image.FormatKeys(n); len(keys) > 0 {
			fmt.Fprintf(&b, "  -o of %s: %s\n", n, strings.Join(keys, ", "))
		}
	}
	return strings.TrimRight(b.String(), "\n")
}

// complete gives a flag's values to shell completion.
func complete(c *cobra.Command, flag string, values ...string) {
	_ = c.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	})
}

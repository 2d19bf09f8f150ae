package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"ascend/internal/convert"
	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/image"
	"ascend/internal/transfer"
	"ascend/internal/transfer/digest"
	"ascend/internal/vm"
)

func (a *app) inspectCommand() *cobra.Command {
	var o open.Options
	var root string
	var withDigest, showMap, withGuest bool
	var g guestFlags
	c := &cobra.Command{
		Use:   "inspect IMAGE | inspect BACKUP|IMAGE... --guest",
		Short: "say what an image file is, or with --guest what system is on the disks",
		Long: `Say what an image file is: format, size, allocated bytes, the files of its chain.
With --guest all disks of a backup (or the image files named) are looked into
together: which disk boots, the file systems, the operating system, its kernels
and drivers, its network, and with --for what a platform would need changed.
Nothing is written and nothing outside the image's folder (or --root) is read.`,
		Example: `  ascend inspect disk.qcow2 --map
  ascend inspect disk0.qcow2 disk1.qcow2 --guest
  ascend inspect web01 --repo /backups --guest --for vmware`,
		Args: func(c *cobra.Command, args []string) error {
			if withGuest {
				return cobra.MinimumNArgs(1)(c, args)
			}
			return cobra.ExactArgs(1)(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if withGuest {
				return a.inspectGuest(c, g, o.Format, args)
			}
			img, err := convert.OpenSource(args[0], root, o)
			if err != nil {
				return err
			}
			defer img.Close()
			info, m, err := open.Measure(c.Context(), img)
			if err != nil {
				return err
			}
			out := struct {
				disk.Info
				Digest *digest.Sum   `json:"digest,omitempty"`
				Map    []disk.Extent `json:"map,omitempty"`
			}{Info: info}
			if withDigest {
				p := a.startProgress(false, false)
				meter := transfer.NewMeter()
				p.add("reading", meter)
				sum, err := transfer.Scan(c.Context(), image.Source{Disk: img, Map: m}, transfer.Options{Meter: meter})
				p.done()
				if err != nil {
					return err
				}
				if err := img.Unchanged(); err != nil {
					return err
				}
				out.Digest = &sum
			}
			if showMap {
				if out.Map, err = extents(c, img); err != nil {
					return err
				}
			}
			if a.json {
				return printJSON(c, out)
			}
			rows := [][]string{{"format", join(info.Format, info.Subformat)}, {"size", bytesText(info.Size)}, {"allocated", bytesText(info.Allocated)}, {"files", bytesText(info.FileBytes)}}
			if info.Cluster > 0 {
				rows = append(rows, []string{"block size", vm.FormatSize(info.Cluster)})
			}
			if info.Compressed {
				rows = append(rows, []string{"compressed", "yes"})
			}
			for i, l := range info.Chain {
				label := "file"
				if i > 0 {
					label = "backing file"
				}
				rows = append(rows, []string{label, clean(l.Path) + " (" + l.Format + ", " + vm.FormatSize(l.Size) + ")"})
			}
			if out.Digest != nil {
				rows = append(rows, []string{"digest", out.Digest.String()})
			}
			for _, n := range info.Notes {
				rows = append(rows, []string{"note", n})
			}
			for _, e := range out.Map {
				kind := "zero"
				if e.Data {
					kind = "data"
				}
				rows = append(rows, []string{kind, strconv.FormatInt(e.Off, 10) + " + " + strconv.FormatInt(e.Len, 10)})
			}
			table(c.OutOrStdout(), rows)
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&o.Format, "source-format", "f", "", "the image's format (default: told from its signature)")
	f.BoolVar(&o.RawBacking, "raw-backing", false, "read a backing file without a signature as raw")
	f.StringVar(&root, "root", "", "`folder` that references may not leave (default: the image's own)")
	f.BoolVar(&withDigest, "digest", false, "read the whole disk and print its digest")
	f.BoolVar(&showMap, "map", false, "list the extents")
	f.BoolVar(&withGuest, "guest", false, "look at the operating system on the disks")
	f.StringVar(&g.repo, "repo", "", "with --guest: the repository's `folder`; without it, name image files")
	f.StringVar(&g.platform, "for", "", "with --guest: also decide what this `platform` needs changed")
	f.StringArrayVar(&g.keys, "guest-key", nil, "with --guest: `file` with a passphrase or key of an encrypted (LUKS) volume")
	f.StringVar(&g.firmware, "firmware", "", "with --guest: what the machine starts with, bios or uefi (default: what the backup or the disks say)")
	f.StringVar(&g.drivers, "drivers", "", "with --for: pack of Windows drivers, a `folder or ISO image`")
	complete(c, "source-format", open.Formats()...)
	return c
}

// extents merges an image's extents for display.
func extents(c *cobra.Command, img disk.Image) ([]disk.Extent, error) {
	var out []disk.Extent
	err := img.Extents(c.Context(), 0, img.Size(), func(e disk.Extent) error {
		if n := len(out); n > 0 && out[n-1].Data == e.Data {
			out[n-1].Len += e.Len
			return nil
		}
		out = append(out, e)
		return nil
	})
	return out, err
}

func join(a, b string) string {
	if b == "" {
		return a
	}
	return a + " (" + b + ")"
}

func bytesText(n int64) string {
	return vm.FormatSize(n) + " (" + strconv.FormatInt(n, 10) + " bytes)"
}

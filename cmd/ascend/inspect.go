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
	var withDigest, showMap bool
	c := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "say what an image file is: format, sizes, chain",
		Long: `Say what an image file is: format, size, allocated bytes, the files of its chain.
Nothing is written and nothing outside the image's folder (or --root) is read.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
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

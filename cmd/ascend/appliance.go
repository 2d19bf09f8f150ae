package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"ascend/internal/appliance"
	"ascend/internal/appliance/proto"
)

func (a *app) applianceCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "appliance",
		Short: "the micro-VM that reads and changes guests' file systems",
		Long: `The appliance is a one-shot micro-VM: the only place where the file systems of a
backup are mounted. It is built once from Debian packages, or from the programs of
this machine with --root /, and kept in the cache folder.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.applianceBuildCommand(), a.applianceCheckCommand())
	return c
}

func (a *app) applianceBuildCommand() *cobra.Command {
	var o appliance.BuildOptions
	c := &cobra.Command{
		Use:   "build",
		Short: "build the appliance",
		Long: `Build the appliance from Debian packages, which are downloaded and unpacked, never
installed; it needs no privilege. On other distributions install the programs that
docs/appliance.md lists and say --root /.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !a.json {
				o.Log = a.note
			}
			im, err := appliance.Build(c.Context(), o)
			if err != nil {
				return err
			}
			return a.showAppliance(c, im)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Cache, "cache", "", "`folder` to keep it in (default $ASCEND_CACHE_DIR or ~/.cache/ascend)")
	f.StringVar(&o.Root, "root", "", "take kernel and programs from this `folder` instead of Debian packages")
	return c
}

func (a *app) applianceCheckCommand() *cobra.Command {
	var cache string
	c := &cobra.Command{
		Use:   "check",
		Short: "start the appliance and say what that took",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			im, err := appliance.Open(cache)
			if err != nil {
				return err
			}
			_, used, err := appliance.Run(c.Context(), appliance.Options{Image: im}, proto.Call{Probe: &proto.Probe{}})
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(c, used)
			}
			table(c.OutOrStdout(), [][]string{{"started and ended in", used.Wall.Round(1e7).String()}, {"processor time", strconv.FormatFloat(used.CPU.Seconds(), 'f', 2, 64) + " s"}})
			return nil
		},
	}
	c.Flags().StringVar(&cache, "cache", "", "`folder` it is kept in (default $ASCEND_CACHE_DIR or ~/.cache/ascend)")
	return c
}

func (a *app) showAppliance(c *cobra.Command, im *appliance.Image) error {
	if a.json {
		return printJSON(c, im)
	}
	table(c.OutOrStdout(), [][]string{{"kernel", im.Version}, {"image", im.Initrd}, {"agent", im.Agent}, {"content", im.Key}})
	return nil
}

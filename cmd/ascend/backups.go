package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"ascend/internal/backup"
	"ascend/internal/vm"
)

func (a *app) backupsCommand() *cobra.Command {
	c := &cobra.Command{Use: "backups", Short: "list, show and check the backups of a repository", Args: cobra.NoArgs}
	c.AddCommand(a.backupsLs(), a.backupsShow(), a.backupsCheck())
	return c
}

func (a *app) backupsLs() *cobra.Command {
	var repo string
	var brokenOnly bool
	c := &cobra.Command{
		Use: "ls --repo DIR", Short: "list the backups of a repository; what is broken is listed with its fault", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := backup.Open(repo)
			if err != nil {
				return err
			}
			defer r.Close()
			list, err := r.List(c.Context())
			if err != nil {
				return err
			}
			shown := []backup.Backup{}
			for _, b := range list {
				if !brokenOnly || b.Fault != "" {
					shown = append(shown, b)
				}
			}
			if a.json {
				return printJSON(c, shown)
			}
			rows := [][]string{{"BACKUP", "VM", "CREATED", "TYPE", "DISKS", "SIZE", "ON DISK", "ORIGIN", ""}}
			for _, b := range shown {
				var size, bytes int64
				for _, d := range b.Disks {
					size += d.Size
					bytes += d.Bytes
				}
				fault := ""
				if b.Fault != "" {
					fault = "BROKEN: " + clean(b.Fault)
				}
				rows = append(rows, []string{clean(b.ID), clean(b.VM), when(b.Created), string(b.Type), strconv.Itoa(len(b.Disks)), vm.FormatSize(size), vm.FormatSize(bytes), string(b.Origin), fault})
			}
			table(c.OutOrStdout(), rows)
			return nil
		},
	}
	c.Flags().StringVar(&repo, "repo", "", "the repository's `folder`, or ebs:REGION for the snapshots of an AWS account")
	c.Flags().BoolVar(&brokenOnly, "broken", false, "list only what is broken")
	_ = c.MarkFlagRequired("repo")
	_ = c.MarkFlagDirname("repo")
	return c
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func (a *app) backupsShow() *cobra.Command {
	var repo string
	c := &cobra.Command{
		Use: "show BACKUP --repo DIR", Short: "show one backup: machine, disks, chain, notes", Args: cobra.ExactArgs(1),
		Long: `Show one backup. BACKUP is an id, a VM's name (its newest backup), VM@TIME, or a
path in the repository.`,
		RunE: func(c *cobra.Command, args []string) error {
			r, err := backup.Open(repo)
			if err != nil {
				return err
			}
			defer r.Close()
			b, err := r.Find(c.Context(), args[0])
			if err != nil {
				return err
			}
			changes, err := r.Changes(c.Context(), b)
			if err != nil { // the backup can be restored all the same
				b.Notes = append(b.Notes, err.Error())
			}
			if a.json {
				return printJSON(c, struct {
					backup.Backup
					Changes []backup.Change `json:"changes,omitempty"`
				}{b, changes})
			}
			rows := [][]string{{"backup", clean(b.ID)}, {"vm", clean(b.VM)}, {"created", when(b.Created)}, {"type", string(b.Type)}, {"origin", string(b.Origin)}}
			if b.Fault != "" {
				rows = append(rows, []string{"BROKEN", clean(b.Fault)})
			}
			if m := b.Machine; m != nil {
				rows = append(rows, machineRows(m)...)
			}
			for i, d := range b.Disks {
				rows = append(rows, []string{fmt.Sprintf("disk %d", d.Index), fmt.Sprintf("%s  %s, %s on disk  %s", d.Format, vm.FormatSize(d.Size), vm.FormatSize(d.Bytes), clean(d.Path))})
				if b.Fault != "" {
					continue
				}
				if d.Parent != "" {
					rows = append(rows, []string{"", changed(d, changes)})
				}
				img, err := r.OpenDisk(c.Context(), b, i)
				if err != nil {
					rows = append(rows, []string{"", "cannot be read: " + clean(err.Error())})
					continue
				}
				for j, l := range img.Info().Chain {
					if j > 0 {
						rows = append(rows, []string{"", "on " + clean(l.Path)})
					}
				}
				img.Close()
			}
			for _, n := range b.Notes {
				rows = append(rows, []string{"note", clean(n)})
			}
			table(c.OutOrStdout(), rows)
			return nil
		},
	}
	c.Flags().StringVar(&repo, "repo", "", "the repository's `folder`, or ebs:REGION for the snapshots of an AWS account")
	_ = c.MarkFlagRequired("repo")
	_ = c.MarkFlagDirname("repo")
	return c
}

// changed says what a disk changed since the point in time before it.
func changed(d backup.Disk, all []backup.Change) string {
	for _, x := range all {
		if x.Disk == d.Index {
			return vm.FormatSize(x.Bytes) + " changed since " + clean(d.Parent) + "; it is restored without that one"
		}
	}
	return "after " + clean(d.Parent)
}

// machineRows describes a machine, a field a row.
func machineRows(m *vm.Machine) [][]string {
	known := func(ok bool, s string) string {
		if !ok {
			return "not known"
		}
		return s
	}
	rows := [][]string{
		{"cpus", known(m.CPU.Total() > 0, fmt.Sprintf("%d (%d × %d)", m.CPU.Total(), m.CPU.Sockets, max(m.CPU.CoresPerSocket, 1)))},
		{"memory", known(m.Memory > 0, vm.FormatSize(m.Memory))},
		{"firmware", known(m.Firmware != "", string(m.Firmware))},
		{"guest", known(m.Guest.Family != "", fmt.Sprintf("%s %s %s %s", m.Guest.Family, m.Guest.Distribution, m.Guest.Version, m.Guest.Arch))},
	}
	for i, n := range m.NICs {
		rows = append(rows, []string{fmt.Sprintf("nic %d", i), fmt.Sprintf("%s  %s  network %q", n.Model, n.MAC, clean(n.Network))})
	}
	return rows
}

// chosen is the backup that a command works on.
type chosen struct {
	repo *backup.Repository
	b    backup.Backup
	name string // of the repository, for the plan
	// files and format are what was named in place of a repository.
	files  []string
	format string
}

// choose finds a backup: in the repository, or made of the image files named.
func choose(c *cobra.Command, repo, format string, args []string) (*chosen, error) {
	if repo == "" {
		r, b, err := backup.FromFilesAs(c.Context(), args, format)
		if err != nil {
			return nil, withHint(err, "give the repository with --repo DIR, or the paths of image files")
		}
		ch := &chosen{repo: r, b: b, name: r.Name(), format: format}
		for _, f := range args {
			if f, err = filepath.Abs(f); err == nil {
				f, err = filepath.Rel(ch.name, f)
			}
			if err != nil {
				r.Close()
				return nil, fmt.Errorf("cannot find the folder of %s: %w", f, err)
			}
			ch.files = append(ch.files, f)
		}
		return ch, nil
	}
	if format != "" {
		return nil, usageError{errors.New("--source-format is for image files; a repository says its formats itself")}
	}
	if len(args) != 1 {
		return nil, usageError{errors.New("with --repo, name one backup")}
	}
	r, err := backup.Open(repo)
	if err != nil {
		return nil, err
	}
	b, err := r.Find(c.Context(), args[0])
	if err != nil {
		r.Close()
		return nil, withHint(err, "see: ascend backups ls --repo %s", repo)
	}
	return &chosen{repo: r, b: b, name: r.Name()}, nil
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"ascend/internal/backup"
	"ascend/internal/disk"
	"ascend/internal/files"
	"ascend/internal/restore"
	"ascend/internal/transfer"
	"ascend/internal/vm"
)

// filesFlags say where files are looked for.
type filesFlags struct {
	repo, format, volume string
	more, keys           []string
}

func (a *app) filesCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "files", Short: "look into a backup's file systems and fetch files out of them", Args: cobra.NoArgs,
		Long: `Look into the file systems of a backup and fetch files out of them. Nothing is
restored, copied or written meanwhile: what is asked for is read straight from the
backup. ext2/3/4, XFS, btrfs, FAT and NTFS are read, on partitions, LVM volumes and, with a
key, in LUKS containers.

BACKUP is as for "ascend plan": a backup of --repo, or an image file. A volume is
named behind a colon (web01:disk0p2, web01:vg0/var) or by --volume; without one, it
is the one that holds the path. PATH is absolute in its volume.`,
	}
	c.AddCommand(a.filesLs(), a.filesCat(), a.filesFind(), a.filesGet())
	return c
}

func (f *filesFlags) register(a *app, c *cobra.Command) {
	s := c.Flags()
	s.StringVar(&f.repo, "repo", "", "the repository's `folder`; without it, BACKUP is an image file")
	s.StringVarP(&f.format, "source-format", "f", "", "the image's format (default: told from its signature)")
	s.StringVar(&f.volume, "volume", "", "the `volume`, as \"ascend files ls BACKUP\" names it")
	s.StringArrayVar(&f.more, "disk", nil, "a further image `file` of the same machine (repeatable)")
	s.StringArrayVar(&f.keys, "key", nil, "`file` with a passphrase or key of an encrypted (LUKS) volume (repeatable)")
	_ = c.MarkFlagDirname("repo")
	_ = c.MarkFlagFilename("key")
	c.ValidArgsFunction = func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		return f.complete(c, args, typed)
	}
}

var volumeSuffix = regexp.MustCompile(`^(.+):(disk[0-9]+(?:p[0-9]+)?|luks-[0-9A-Fa-f-]+|[A-Za-z0-9+_.-]+/[A-Za-z0-9+_.-]+)$`)

// open looks into a backup; done closes it, and tells of a backup that changed
// meanwhile.
func (f *filesFlags) open(c *cobra.Command, name string) (set *files.Set, done func() error, err error) {
	if m := volumeSuffix.FindStringSubmatch(name); m != nil {
		if f.volume != "" && f.volume != m[2] {
			return nil, nil, usageError{fmt.Errorf("two volumes are named: %s and %s", m[2], f.volume)}
		}
		name, f.volume = m[1], m[2]
	}
	keys, err := restore.ReadKeys(f.keys)
	if err != nil {
		return nil, nil, usageError{err}
	}
	ch, err := choose(c, f.repo, f.format, append([]string{name}, f.more...))
	if err != nil {
		return nil, nil, err
	}
	if ch.b.Fault != "" {
		ch.repo.Close()
		return nil, nil, withHint(fmt.Errorf("backup %s is broken: %s", ch.b.ID, ch.b.Fault), "choose another point in time")
	}
	var disks []disk.Disk
	done = func() error {
		var err error
		for _, d := range disks {
			err = errors.Join(err, d.Unchanged(), d.Close())
		}
		return errors.Join(err, ch.repo.Close())
	}
	for i := range ch.b.Disks {
		img, err := ch.repo.OpenDisk(c.Context(), ch.b, i)
		if err != nil {
			return nil, nil, errors.Join(err, done())
		}
		disks = append(disks, img)
	}
	if set, err = files.Open(c.Context(), disks, keys...); err != nil {
		return nil, nil, errors.Join(err, done())
	}
	return set, done, nil
}

// with runs fn on the volume that holds a path.
func (f *filesFlags) with(c *cobra.Command, backup, name string, fn func(*files.Volume) error) (err error) {
	set, done, err := f.open(c, backup)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	v, err := set.Volume(f.volume, name)
	if err != nil {
		if errors.Is(err, files.ErrVolume) || errors.Is(err, fs.ErrNotExist) {
			err = withHint(err, "see the volumes: ascend files ls %s", backup)
		}
		return err
	}
	return fn(v)
}

func (f *filesFlags) complete(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		if f.repo == "" {
			return nil, cobra.ShellCompDirectiveDefault
		}
		r, err := backup.Open(f.repo)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		defer r.Close()
		list, err := r.List(c.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var out []string
		for _, b := range list {
			out = append(out, b.ID)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	dir, _ := path.Split("/" + strings.TrimPrefix(typed, "/"))
	err := f.with(c, args[0], dir, func(v *files.Volume) error {
		list, err := v.List(c.Context(), dir)
		for _, e := range list {
			p := path.Join(dir, e.Name())
			if e.Type == "directory" {
				p += "/"
			}
			if strings.HasPrefix(p, typed) && p == clean(p) {
				out = append(out, p)
			}
		}
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return out, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
}

func (a *app) filesLs() *cobra.Command {
	var f filesFlags
	c := &cobra.Command{
		Use: "ls BACKUP[:VOLUME] [PATH]", Short: "list a folder, or without PATH the volumes", Args: cobra.RangeArgs(1, 2),
		Example: "  ascend files ls web01 --repo /backups\n  ascend files ls web01 /etc --repo /backups\n  ascend files ls disk.qcow2:disk0p1 /",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				return a.filesVolumes(c, &f, args[0])
			}
			return f.with(c, args[0], args[1], func(v *files.Volume) error {
				e, err := v.Stat(args[1], true)
				if err != nil {
					return err
				}
				list := []files.Entry{e}
				if e.Type == "directory" {
					if list, err = v.List(c.Context(), args[1]); err != nil {
						return err
					}
				}
				if a.json {
					return printJSON(c, list)
				}
				var rows [][]string
				for _, e := range list {
					rows = append(rows, entryRow(e, e.Name()))
				}
				table(c.OutOrStdout(), rows)
				return nil
			})
		},
	}
	f.register(a, c)
	return c
}

func (a *app) filesVolumes(c *cobra.Command, f *filesFlags, name string) (err error) {
	set, done, err := f.open(c, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	if a.json {
		return printJSON(c, set.Volumes())
	}
	rows := [][]string{{"VOLUME", "TYPE", "SIZE", "FREE", "LABEL", ""}}
	for _, v := range set.Volumes() {
		free, note := "-", strings.Join(v.Notes, "; ")
		if v.Free >= 0 {
			free = vm.FormatSize(v.Free)
		}
		if !v.Readable {
			note = v.Reason
		}
		rows = append(rows, []string{clean(v.ID), v.Type, vm.FormatSize(v.Size), free, clean(v.Label), clean(note)})
	}
	table(c.OutOrStdout(), rows)
	return nil
}

func entryRow(e files.Entry, name string) []string {
	name = clean(strings.ToValidUTF8(name, "\uFFFD"))
	if e.Type == "symlink" {
		name += " -> " + clean(strings.ToValidUTF8(e.Target, "\uFFFD"))
	}
	return []string{e.Mode.String(), strconv.Itoa(int(e.UID)), strconv.Itoa(int(e.GID)), strconv.FormatInt(e.Size, 10), when(e.Time), name}
}

func (a *app) filesCat() *cobra.Command {
	var f filesFlags
	var offset, length int64
	c := &cobra.Command{
		Use: "cat BACKUP[:VOLUME] PATH", Short: "write a file's bytes to standard output", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if offset < 0 {
				return usageError{errors.New("--offset is not negative")}
			}
			return f.with(c, args[0], args[1], func(v *files.Volume) error {
				r, err := v.Open(args[1])
				if err != nil {
					return err
				}
				n := max(r.Size-offset, 0)
				if length >= 0 {
					n = min(n, length)
				}
				_, err = io.CopyBuffer(struct{ io.Writer }{c.OutOrStdout()}, struct{ io.Reader }{io.NewSectionReader(r, offset, n)}, make([]byte, 256<<10))
				return err
			})
		},
	}
	f.register(a, c)
	c.Flags().Int64Var(&offset, "offset", 0, "begin at this `byte`")
	c.Flags().Int64Var(&length, "length", -1, "so many `bytes` at most")
	return c
}

func (a *app) filesFind() *cobra.Command {
	var f filesFlags
	c := &cobra.Command{
		Use: "find BACKUP[:VOLUME] PATTERN", Short: "find files by name: * and ? within a name, ** across folders", Args: cobra.ExactArgs(2),
		Long: `Find files by name: * and ? stand for what is within a name, [a-z] for a character
of several, ** for any number of folders. A pattern without a slash is looked for
everywhere. All volumes that can be read are searched unless one is named. With
--json one line is printed for each file.`,
		Example: `  ascend files find web01 '*.pem' --repo /backups
  ascend files find web01:disk0p2 '/home/**/.ssh/*' --repo /backups`,
		RunE: func(c *cobra.Command, args []string) (err error) {
			set, done, err := f.open(c, args[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			if f.volume != "" {
				if _, err := set.Volume(f.volume, "/"); err != nil {
					return err
				}
			}
			var skipped files.Skips
			for _, v := range set.Volumes() {
				if !v.Readable || f.volume != "" && f.volume != v.ID {
					continue
				}
				s, err := v.Find(c.Context(), args[1], func(e files.Entry) error { return a.found(c, v.ID, e) })
				if err != nil {
					return err
				}
				skipped.Count += s.Count
				skipped.First = append(skipped.First, s.First...)
			}
			return a.skipped(skipped)
		},
	}
	f.register(a, c)
	return c
}

func (a *app) found(c *cobra.Command, volume string, e files.Entry) error {
	if a.json {
		return json.NewEncoder(c.OutOrStdout()).Encode(struct {
			Volume string `json:"volume"`
			files.Record
		}{volume, e.Record()})
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "%s  %s\n", clean(volume), clean(strings.ToValidUTF8(e.Path, "\uFFFD")))
	return err
}

// skipped makes what could not be read the command's failure.
func (a *app) skipped(s files.Skips) error {
	if s.Count == 0 {
		return nil
	}
	for _, t := range s.First {
		a.note("not read: %s", clean(t))
	}
	return fmt.Errorf("%d files or folders could not be read; everything else was", s.Count)
}

func (a *app) filesGet() *cobra.Command {
	var f filesFlags
	var out, as string
	c := &cobra.Command{
		Use: "get BACKUP[:VOLUME] PATH", Short: "fetch a file or a folder: as it is, or as a tar or zip archive", Args: cobra.ExactArgs(2),
		Long: `Fetch a file or a folder. tar keeps everything: owners, permissions, times, access
control lists and other extended attributes, hard links, sparse files. zip is for
Windows: names it would refuse are changed. As it is (--as tree), content, holes,
permissions, times and links are kept, and owners when run as root.
Without -o, the name is that of PATH; "-o -" writes an archive or a file to standard
output. Nothing that exists is replaced.`,
		Example: `  ascend files get web01 /etc/nginx --repo /backups -o nginx.tar
  ascend files get db01 /var/lib/pgsql --repo /backups --as tar -o - | ssh db01 tar -xf - --xattrs --sparse
  ascend files get win01:disk0p2 /Users/anna/Documents --repo /backups -o anna.zip`,
		RunE: func(c *cobra.Command, args []string) error {
			if as == "" {
				as = "tree"
				if ext := strings.ToLower(filepath.Ext(out)); ext == ".tar" || ext == ".zip" {
					as = ext[1:]
				}
			}
			if as != "tree" && as != "tar" && as != "zip" {
				return usageError{fmt.Errorf("--as is tree, tar or zip, not %q", as)}
			}
			return f.with(c, args[0], args[1], func(v *files.Volume) error { return a.fetch(c, v, args[1], as, out) })
		},
	}
	f.register(a, c)
	c.Flags().StringVarP(&out, "output", "o", "", "`file` or folder to write, - for standard output")
	c.Flags().StringVar(&as, "as", "", "tree, tar or zip (default: told from the name of -o)")
	complete(c, "as", "tree", "tar", "zip")
	return c
}

// fetch writes what is at name; an archive that failed is removed.
func (a *app) fetch(c *cobra.Command, v *files.Volume, name, as, out string) error {
	e, err := v.Stat(name, as == "tree")
	if err != nil {
		return err
	}
	if out == "" {
		if out = files.Portable(e.Name()); e.Path == "/" {
			out = files.Portable(v.ID)
		}
		if as != "tree" {
			out += "." + as
		}
	}
	if out == "-" && as == "tree" && e.Type != "file" {
		return usageError{errors.New("a folder goes to standard output as an archive only: give --as tar or --as zip")}
	}
	p := a.startProgress(false, false)
	meter := transfer.NewMeter()
	if e.Type == "file" {
		meter.SetTotal(e.Size)
	}
	p.add(e.Name(), meter)
	res, err := writeOut(c, v, e.Path, as, out, meter)
	p.done()
	if err != nil {
		return err
	}
	if a.json && out != "-" {
		err = printJSON(c, struct {
			Output string `json:"output"`
			files.Result
		}{out, res})
	} else if out != "-" {
		a.note("%s: %d files, %s", out, res.Files, bytesText(res.Bytes))
	}
	return errors.Join(err, a.skipped(res.Skipped))
}

func writeOut(c *cobra.Command, v *files.Volume, name, as, out string, m *transfer.Meter) (res files.Result, err error) {
	if as == "tree" && out != "-" {
		return v.Extract(c.Context(), name, out, m.Add)
	}
	w := c.OutOrStdout()
	if out != "-" {
		f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return res, err
		}
		defer func() {
			if err = errors.Join(err, f.Close()); err != nil {
				err = errors.Join(err, os.Remove(out))
			}
		}()
		w = f
	}
	w = &metered{w, m}
	switch as {
	case "tar":
		return v.Tar(c.Context(), name, w)
	case "zip":
		return v.Zip(c.Context(), name, w)
	}
	f, err := v.Open(name)
	if err != nil {
		return res, err
	}
	n, err := io.CopyBuffer(w, &untilDone{c.Context(), io.NewSectionReader(f, 0, f.Size)}, make([]byte, 256<<10))
	return files.Result{Files: 1, Bytes: n}, err
}

type metered struct {
	io.Writer
	m *transfer.Meter
}

func (w *metered) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.m.Add(int64(n))
	return n, err
}

// untilDone ends with its context.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ascend/internal/backup"
	"ascend/internal/boot"
	"ascend/internal/disk"
	"ascend/internal/restore"
	"ascend/internal/target"
	"ascend/internal/transfer"
)

func (a *app) verifyCommand() *cobra.Command {
	var repo, key string
	var signatureOnly bool
	c := &cobra.Command{
		Use:   "verify RECEIPT",
		Short: "check a receipt: its signature, the backup, and the target where it can be read",
		Long: `Check a receipt: that its signature is valid and by a trusted key (this
installation's own, or --key); that the backup still reads as it did; and that
what landed reads the same, where the target's disks can be read. What could not
be checked is said. The exit code is 4 when something does not match.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			trusted, err := a.trustedKey(key)
			if err != nil {
				return err
			}
			rc, err := restore.ReadReceipt(args[0], trusted)
			if err != nil {
				if errors.Is(err, restore.ErrSignature) || errors.Is(err, restore.ErrUntrusted) {
					return mismatchError{err}
				}
				return err
			}
			v := &verification{a: a, rc: rc, bars: a.startProgress(false, false)}
			v.say("signature", true, "ed25519 "+rc.Sign.Key)
			v.guest()
			if !signatureOnly {
				if repo == "" {
					repo = rc.Backup.Repository
				}
				v.backup(c.Context(), repo)
				v.target(c.Context())
			}
			v.bars.done()
			return v.result(c)
		},
	}
	c.Flags().StringVar(&repo, "repo", "", "the repository's `folder` (default: as the receipt says)")
	c.Flags().StringVar(&key, "key", "", "trusted public `key`, base64 (default: this installation's)")
	c.Flags().BoolVar(&signatureOnly, "signature-only", false, "check the signature and read no disks")
	return c
}

func (a *app) trustedKey(key string) (ed25519.PublicKey, error) {
	if key != "" {
		k, err := restore.ParsePublicKey(key)
		if err != nil {
			return nil, usageError{fmt.Errorf("--key: %w", err)}
		}
		return k, nil
	}
	own, err := restore.SigningKey(filepath.Join(a.state(), "receipt.key"))
	if err != nil {
		return nil, err
	}
	return own.Public().(ed25519.PublicKey), nil
}

// verification gathers the checks of one receipt.
type verification struct {
	a      *app
	rc     *restore.Receipt
	bars   *progress
	checks []verified
	failed int
}

type verified struct {
	What   string `json:"what"`
	Result string `json:"result"` // ok, failed, not checked
	Detail string `json:"detail,omitempty"`
}

func (v *verification) say(what string, ok bool, detail string) {
	res := "ok"
	if !ok {
		res = "failed"
		v.failed++
	}
	v.checks = append(v.checks, verified{what, res, detail})
}

func (v *verification) unchecked(what, why string) {
	v.checks = append(v.checks, verified{what, "not checked", why})
}

// guest tells what was changed of the system on the disks, and how it came up.
func (v *verification) guest() {
	g := v.rc.Guest
	if g == nil {
		return
	}
	if g.Result != nil {
		var kinds []string
		for _, c := range g.Changes {
			if k := string(c.Kind); !slices.Contains(kinds, k) {
				kinds = append(kinds, k)
			}
		}
		v.say("guest", true, fmt.Sprintf("adapted: %s", strings.Join(kinds, ", ")))
	}
	if p := g.Proof; p != nil {
		detail := fmt.Sprintf("grade %s, came to %s on %s and %s", p.Grade, p.Milestone, p.Hardware.Storage, p.Hardware.NIC)
		if m := p.Marker; m != nil {
			for _, n := range m.NICs {
				detail += fmt.Sprintf("; %s (%s) %s", clean(n.Name), clean(n.Driver), clean(strings.Join(n.Addresses, " ")))
			}
		}
		v.say("boot proof", p.Grade != boot.F, detail)
	}
}

// backup reads the backup again.
func (v *verification) backup(ctx context.Context, dir string) {
	r, b, err := v.findBackup(ctx, dir)
	if err != nil {
		v.unchecked("backup", err.Error())
		return
	}
	defer r.Close()
	for i, d := range v.rc.Disks {
		what := fmt.Sprintf("backup disk %d", d.Index)
		if len(d.Patches) > 0 || i >= len(b.Disks) {
			v.unchecked(what, "the disk was changed on its way, as the receipt's patches say")
			continue
		}
		if v.rc.Guest.Changed(i) {
			v.unchecked(what, "the guest was adapted, as the receipt says: the digest is that of the adapted disk")
			continue
		}
		v.disk(ctx, what, d, func() (disk.Disk, error) { return r.OpenDisk(ctx, b, i) }, restore.CheckBackup)
	}
}

// findBackup looks in a repository, or for the image files that were named.
func (v *verification) findBackup(ctx context.Context, dir string) (*backup.Repository, backup.Backup, error) {
	r, err := backup.Open(dir)
	if err != nil {
		return nil, backup.Backup{}, err
	}
	b, err := r.Find(ctx, v.rc.Backup.ID)
	if err == nil {
		return r, b, nil
	}
	r.Close()
	var files []string
	format := ""
	for i, d := range v.rc.Disks {
		if len(d.Chain) == 0 {
			return nil, b, err
		}
		if i == 0 {
			format = d.Chain[0].Format
		}
		if d.Chain[0].Format != format {
			format = ""
		}
		files = append(files, filepath.Join(dir, d.Chain[0].Path))
	}
	r, b, ferr := backup.FromFilesAs(ctx, files, format)
	if ferr != nil {
		return nil, b, errors.Join(err, ferr)
	}
	return r, b, nil
}

// target reads what landed.
func (v *verification) target(ctx context.Context) {
	t, _, err := v.a.openTarget(ctx, v.rc.Target.Name)
	if err != nil {
		v.unchecked("target", err.Error())
		return
	}
	defer t.Close()
	rl, ok := target.As[target.Reader](t)
	for _, d := range v.rc.Disks {
		what := fmt.Sprintf("target disk %d", d.Index)
		if !ok {
			v.unchecked(what, "this platform's disks cannot be read back")
			continue
		}
		v.disk(ctx, what, d, func() (disk.Disk, error) { return rl.ReadLanded(ctx, d.Object, d.Format) }, landed)
	}
}

// checkDisk compares a disk's digest with the receipt's.
type checkDisk func(ctx context.Context, img disk.Disk, d *restore.DiskReceipt, meter *transfer.Meter) error

func landed(ctx context.Context, img disk.Disk, d *restore.DiskReceipt, meter *transfer.Meter) error {
	return restore.CheckDigest(ctx, img, d.Virtual, d, meter)
}

func (v *verification) disk(ctx context.Context, what string, d *restore.DiskReceipt, open func() (disk.Disk, error), check checkDisk) {
	img, err := open()
	if err != nil {
		v.say(what, false, err.Error())
		return
	}
	defer img.Close()
	meter := transfer.NewMeter()
	v.bars.add(what, meter)
	if err := check(ctx, img, d, meter); err != nil {
		v.say(what, false, err.Error())
		return
	}
	v.say(what, true, d.Digest.String())
}

func (v *verification) result(c *cobra.Command) error {
	if v.a.json {
		if err := printJSON(c, v.checks); err != nil {
			return err
		}
	} else {
		rows := [][]string{}
		for _, k := range v.checks {
			rows = append(rows, []string{k.Result, k.What, clean(k.Detail)})
		}
		table(c.OutOrStdout(), rows)
	}
	if err := c.Context().Err(); err != nil {
		return err
	}
	if v.failed > 0 {
		return mismatchError{fmt.Errorf("%d of %d checks failed", v.failed, len(v.checks))}
	}
	return nil
}

package hyperv

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"ascend/internal/target"
	"ascend/internal/target/hyperv/hostscript"
)

// place is where the parts of an order go.
type place struct {
	path    string   // where the machine's folder is made
	folder  string   // the machine's folder
	folders []string // all that are made, the machine's first
	files   []string // by disk
	shares  []spot   // by disk, for those that are written over SMB
	cluster bool
}

// spot is where a file is in a share.
type spot struct{ share, name string } // name is relative, with slashes

// locate finds where the parts of an order go.
func (t *host) locate(l *hostscript.Look, o *target.Order) (*place, error) {
	path, err := t.folder(l, o.Placement.Fields[fieldPath])
	if err != nil {
		return nil, err
	}
	own := folderName(o.Machine.Name, o.Job)
	p := &place{path: path, folder: join(path, own)}
	p.folders = []string{p.folder}
	for i, d := range o.Disks {
		root := path
		if i < len(o.Placement.Storage) && o.Placement.Storage[i] != "" {
			if root, err = t.folder(l, o.Placement.Storage[i]); err != nil {
				return nil, fmt.Errorf("disk %d: %w", i, err)
			}
		}
		folder := join(root, own)
		if !slices.ContainsFunc(p.folders, func(f string) bool { return strings.EqualFold(f, folder) }) {
			p.folders = append(p.folders, folder)
		}
		file := join(folder, fmt.Sprintf("%s-disk%d.%s", baseName(o.Machine.Name), i+1, extension(d.Delivery)))
		p.files = append(p.files, file)
		var at spot
		if d.Delivery.Path == pathSMB {
			if at, err = t.spot(l, file); err != nil {
				return nil, fmt.Errorf("disk %d: %w", i, err)
			}
		}
		p.shares = append(p.shares, at)
	}
	switch o.Options[optCluster] {
	case "yes":
		if l.Cluster == "" {
			return nil, target.Permanent("the host is a node of no failover cluster", "restore with cluster_role=no")
		}
		p.cluster = true
	case "", "auto":
		p.cluster = l.Cluster != "" && onCluster(path)
	}
	return p, nil
}

// extension is what Hyper-V tells the formats apart by.
func extension(d target.Delivery) string {
	if d.Format.Name == "vpc" {
		return "vhd"
	}
	return "vhdx"
}

// onCluster tells whether a folder is on a Cluster Shared Volume.
func onCluster(path string) bool {
	parts := strings.Split(path, `\`)
	return len(parts) > 2 && strings.EqualFold(parts[1], "ClusterStorage")
}

// folder is the folder that is meant, on a volume that the host has.
func (t *host) folder(l *hostscript.Look, want string) (string, error) {
	p, err := cleanPath(cmp.Or(want, t.cfg.path, l.Path))
	if err != nil {
		return "", target.Permanent(err.Error(), "")
	}
	if len(p) > 120 {
		return "", target.Permanent(fmt.Sprintf("the folder's path has %d characters: disks' would be longer than Windows' 260", len(p)), "choose another folder")
	}
	if _, ok := volume(l, p); !ok {
		var has []string
		for _, v := range l.Volumes {
			has = append(has, v.Path)
		}
		return "", target.Permanent(fmt.Sprintf("the host has no volume for the folder %s", p), "there are: "+strings.Join(has, ", "))
	}
	return p, nil
}

// volume is the volume that a folder is on: the one that lies deepest.
func volume(l *hostscript.Look, path string) (best hostscript.Volume, ok bool) {
	for _, v := range l.Volumes {
		if _, in := below(path, v.Path); in && len(v.Path) > len(best.Path) {
			best, ok = v, true
		}
	}
	return best, ok
}

// spot finds the share that a file is reached by: the deepest, and rather one that
// was made than one of the administrators'.
func (t *host) spot(l *hostscript.Look, file string) (spot, error) {
	var best *hostscript.Share
	for i := range l.Shares {
		s := &l.Shares[i]
		if t.cfg.share != "" && !strings.EqualFold(s.Name, t.cfg.share) {
			continue
		}
		if _, in := below(file, s.Path); !in {
			continue
		}
		if best == nil || best.Special && !s.Special || best.Special == s.Special && len(s.Path) > len(best.Path) {
			best = s
		}
	}
	if best == nil {
		folder := file[:strings.LastIndexByte(file, '\\')]
		if t.cfg.share != "" {
			return spot{}, target.Permanent(fmt.Sprintf("the share %s of the host does not hold %s", t.cfg.share, folder), "choose a folder in it, or leave the setting share out")
		}
		return spot{}, target.Permanent("no share of the host holds "+folder, "share the folder on the host (New-SmbShare), choose another, or set pull_listen to have the host fetch disks")
	}
	rest, _ := below(file, best.Path)
	return spot{best.Name, strings.ReplaceAll(rest, `\`, "/")}, nil
}

package awssim

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// importTask is a task of ImportImage.
type importTask struct {
	id, status, message, platform, arch, boot, license, desc, image, role string

	from, made []string
	polls      int
	tags       []tag
}

// FailImports gives every import up from now on with a message; "" ends that.
func (s *Sim) FailImports(message string) { s.mu.Lock(); s.failing = message; s.mu.Unlock() }

// Imports is the state of each import task.
func (s *Sim) Imports() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.imports {
		out = append(out, k.status)
	}
	return out
}

// importImage enforces VM Import/Export's requirements for images from snapshots.
func (s *Sim) importImage(p *params) ([]el, *apiError) {
	k := &importTask{
		status: "active", platform: p.get("Platform"), arch: cmp.Or(p.get("Architecture"), "x86_64"), boot: p.get("BootMode"), license: p.get("LicenseType"),
		desc: p.get("Description"), role: cmp.Or(p.get("RoleName"), "vmimport"), polls: s.o.Polls,
	}
	p.get("Hypervisor")
	enc, kms := p.get("Encrypted"), p.get("KmsKeyId")
	token, what := p.get("ClientToken"), p.v.Encode()
	var aerr *apiError
	if k.tags, aerr = p.tags("import-image-task"); aerr != nil {
		return nil, aerr
	}
	for _, g := range p.groups("DiskContainer") {
		k.from = append(k.from, p.get(g+"SnapshotId"))
	}
	if id, err := s.once("import", token, what); err != nil {
		return nil, err
	} else if id != "" {
		return s.imports[id].xml(), nil
	}
	switch {
	case len(k.from) == 0 || len(k.from) > 21:
		return nil, bad("InvalidParameter", "1 to 21 disk containers")
	case k.arch == "arm64" || !slices.Contains([]string{"x86_64", "i386"}, k.arch):
		return nil, bad("InvalidParameter", "architecture %s is not supported", k.arch)
	case !slices.Contains([]string{"Windows", "Linux"}, k.platform) && (k.platform != "" || k.boot == "uefi"):
		return nil, bad("InvalidParameter", "platform %q must be Windows or Linux", k.platform)
	case !slices.Contains([]string{"", "legacy-bios", "uefi"}, k.boot):
		return nil, bad("InvalidParameter", "boot mode %s is not supported", k.boot)
	case !slices.Contains([]string{"", "AWS", "BYOL"}, k.license), k.license == "AWS" && k.platform == "Linux":
		return nil, bad("InvalidParameter", "license type %s", k.license)
	case kms != "" && enc != "true":
		return nil, bad("InvalidParameter", "KmsKeyId needs Encrypted")
	case k.role != "vmimport":
		return nil, bad("InvalidParameter", "The service role %s provided does not exist or does not have sufficient permissions", k.role)
	}
	for _, id := range k.from {
		if sn := s.snaps[id]; sn == nil || sn.state != "completed" {
			return nil, bad("InvalidParameter", "snapshot %s does not exist or is not completed", id)
		}
	}
	k.id = s.newID("import-ami")
	s.imports[k.id] = k
	s.used("import", token, what, k.id)
	return k.xml(), nil
}

func (k *importTask) xml() []el {
	var snaps [][]el
	for i, id := range k.made {
		snaps = append(snaps, []el{e("deviceName", device(i)), e("diskImageSize", "0.0"), e("format", "RAW"), e("snapshotId", id), e("status", "completed")})
	}
	x := []el{e("importTaskId", k.id), e("architecture", k.arch), e("description", k.desc), e("platform", k.platform), e("status", k.status), items("snapshotDetailSet", snaps), tagSet(k.tags)}
	for name, v := range map[string]string{"statusMessage": k.message, "imageId": k.image, "licenseType": k.license} {
		if v != "" {
			x = append(x, e(name, v))
		}
	}
	return x
}

func device(i int) string {
	if i == 0 {
		return "/dev/sda1"
	}
	return "/dev/xvd" + string(rune('e'+i))
}

// step carries a task one description further.
func (s *Sim) step(k *importTask) {
	switch {
	case k.status == "deleting":
		k.status = "deleted"
	case k.status != "active" || passing(&k.polls):
	case s.failing != "":
		k.status, k.message = "deleted", s.failing
	default:
		im := &image{
			id: s.newID("ami"), name: k.id, desc: "AWS-VMImport service: " + k.desc, arch: k.arch, virt: "hvm", root: device(0), boot: k.boot, ena: true,
			created: time.Now().UTC(), platform: k.platform,
		}
		for i, from := range k.from {
			src := s.snaps[from]
			if src == nil {
				k.status, k.message = "deleted", "ClientError: Unable to read the disk"
				return
			}
			sn := &snapshot{id: s.newID("snap"), desc: "Created by AWS-VMImport service for " + k.id, gib: src.gib, state: "completed", sealed: true, started: s.now(), blocks: maps.Clone(src.blocks)}
			sn.lineage = sn.id
			s.snaps[sn.id] = sn
			k.made = append(k.made, sn.id)
			im.maps = append(im.maps, mapping{device: device(i), snapshot: sn.id, kind: "gp2", gib: sn.gib})
		}
		s.images[im.id] = im
		k.status, k.image = "completed", im.id
	}
}

func (s *Sim) importTasks(p *params) ([]el, *apiError) {
	ids := p.list("ImportTaskId")
	for _, id := range ids {
		if s.imports[id] == nil {
			return nil, bad("InvalidConversionTaskId.Malformed", "The task ID %s is not valid", id)
		}
	}
	var out [][]el
	for _, id := range slices.Sorted(maps.Keys(s.imports)) {
		if k := s.imports[id]; len(ids) == 0 || slices.Contains(ids, id) {
			s.step(k)
			out = append(out, k.xml())
		}
	}
	return []el{items("importImageTaskSet", out)}, nil
}

func (s *Sim) cancelImport(p *params) ([]el, *apiError) {
	id := p.get("ImportTaskId")
	p.get("CancelReason")
	if k := s.diskImports[id]; k != nil {
		if k.status != "active" {
			return nil, bad("IncorrectState", "the task is %s", k.status)
		}
		k.status = "deleting"
		return []el{e("importTaskId", id), e("previousState", "active"), e("state", "deleting")}, nil
	}
	k := s.imports[id]
	switch {
	case k == nil:
		return nil, bad("InvalidConversionTaskId.Malformed", "The task ID %s is not valid", id)
	case k.status != "active":
		return nil, bad("IncorrectState", "the task is %s", k.status)
	}
	k.status = "deleting"
	return []el{e("importTaskId", id), e("previousState", "active"), e("state", "deleting")}, nil
}

package aws

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ascend/internal/awsapi"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// kindImport is a task of ImportImage, and what it made until that is recorded.
const kindImport = "import"

// maxImport is the number of disks that ImportImage takes (VM Import/Export
// requirements, "Limitations for your VMs").
const maxImport = 21

// imports tells whether an order's image is made by ImportImage, which converts
// the guest and sees to its licence. An image registered of snapshots is one of
// Linux: Windows in it would run, and neither be licensed nor activated (RegisterImage).
func imports(o *target.Order) bool {
	switch o.Options[optImport] {
	case "yes":
		return true
	case "no":
		return false
	}
	return o.Machine.Guest.Family == vm.Windows
}

func checkImport(o *target.Order) error {
	switch {
	case !imports(o) || o.Options[optAttach] != "":
		return nil
	case len(o.Disks) > maxImport:
		return target.Permanent(fmt.Sprintf("ImportImage takes %d disks, and there are %d", maxImport, len(o.Disks)), "set import=no for a guest that needs no conversion")
	case o.Machine.Guest.Arch == vm.ARM64:
		return target.Permanent("ImportImage takes no ARM64 guests", "set import=no: the image is registered as it is")
	}
	return nil
}

// importParams is what ImportImage is asked.
func (s *session) importParams(snaps []string, token string, tags []awsapi.Tag) awsapi.Params {
	m, o := s.order.Machine, s.order.Options
	p := awsapi.Params{
		"ClientToken": token, "Architecture": arch(m.Guest.Arch), "Hypervisor": "xen", "Platform": "Linux", "BootMode": "legacy-bios",
		"Description": tagText("restored by ascend, job " + s.order.Job),
	}
	if m.Guest.Family == vm.Windows {
		p["Platform"] = "Windows"
	}
	if m.Firmware == vm.UEFI {
		p["BootMode"] = "uefi"
	}
	if v := o[optLicense]; v != "" && v != "auto" {
		p["LicenseType"] = v
	}
	if v := o[optRole]; v != "" {
		p["RoleName"] = v
	}
	if o[optEncrypt] == "yes" || o[optKMS] != "" {
		p["Encrypted"] = "true"
		if v := o[optKMS]; v != "" {
			p["KmsKeyId"] = v
		}
	}
	boot := m.BootDisk()
	order := append([]string{snaps[boot]}, slices.Delete(slices.Clone(snaps), boot, boot+1)...)
	for i, id := range order { // the first is the boot disk
		p["DiskContainer."+strconv.Itoa(i+1)+".SnapshotId"] = id
	}
	return p.Tags("import-image-task", tags)
}

// importImage makes the image by ImportImage and records what that made.
func (s *session) importImage(ctx context.Context, snaps []string) (target.Resource, error) {
	name := s.order.Machine.Name
	if r := s.resource(kindImage, name); r.ID != "" && !r.Gone {
		if im, err := s.t.image(ctx, r.ID); err != nil || im != nil {
			return r, err
		}
	}
	r, err := s.make(ctx, kindImport, name, func(id string) (bool, error) {
		k, err := s.t.importTask(ctx, id)
		return k != nil && k.Status != "deleted", err
	}, func(token string, tags []awsapi.Tag) (string, error) {
		k, err := s.t.c.ImportImage(ctx, s.importParams(snaps, token, tags))
		return k.ID, err
	})
	if err != nil {
		return r, err
	}
	var task *awsapi.ImportTask
	err = await(ctx, 48*time.Hour, "importing the image by "+r.ID, func() (_ bool, err error) {
		switch task, err = s.t.importTask(ctx, r.ID); {
		case err != nil:
			return false, err
		case task == nil:
			return false, target.Permanent("the import task "+r.ID+" is gone", "retry the job")
		case task.Status == "deleted" || task.Status == "deleting":
			return false, importFailed(task.Message)
		}
		return task.Status == "completed" && task.Image != "", nil
	})
	if err != nil {
		return r, err
	}
	for i, sn := range task.Snapshots {
		if sn.ID == "" {
			continue
		}
		if err := s.record(ctx, target.Resource{Job: s.order.Job, Kind: kindSnapshot, Name: fmt.Sprintf("imported disk %d", i), ID: sn.ID, Done: true}); err != nil {
			return r, err
		}
	}
	image := target.Resource{Job: s.order.Job, Kind: kindImage, Name: name, ID: task.Image, Done: true}
	return image, s.record(ctx, image)
}

// importHints say what to do about failures that people meet (VM Import/Export
// user guide, "Troubleshooting").
var importHints = []struct{ text, hint string }{
	{"No valid partitions", "the boot disk must be the one with the operating system: mark it as boot disk"},
	{"Unsupported kernel version", "set import=no: the image is registered as it is, and the guest needs the ena and nvme drivers"},
	{"initrd", "set import=no when the guest has been adapted, or rebuild its initramfs"},
	{"root directory", "the file systems cannot be read: check the backup, or set import=no"},
	{"Unknown OS", "set import=no for a Linux guest; Windows must be of a release that is supported"},
	{"Unsupported", "see the operating systems that VM Import supports, or set import=no"},
	{"Multi-boot", "mark one operating system's disk as boot disk and leave the other out"},
	{"activation", "set license=BYOL"},
}

// importFailed is a task that was given up, with AWS's reason.
func importFailed(message string) error {
	if message == "" {
		message = "no reason was given"
	}
	hint := "docs/aws.md tells what ImportImage needs; import=no does without it"
	for _, h := range importHints {
		if strings.Contains(strings.ToLower(message), strings.ToLower(h.text)) {
			hint = h.hint
			break
		}
	}
	return target.Permanent("AWS gave the import up: "+message, hint)
}

// importTask describes one; nil when it is not there.
func (t *cloud) importTask(ctx context.Context, id string) (*awsapi.ImportTask, error) {
	list, err := t.c.ImportTasks(ctx, awsapi.Params{"ImportTaskId.1": id})
	if strings.HasPrefix(awsapi.Code(err), "InvalidConversionTaskId") || awsapi.Missing(err) || err == nil && len(list) == 0 {
		return nil, nil //nolint:nilnil // absence is an answer
	}
	if err != nil {
		return nil, err
	}
	return &list[0], nil
}

// findImport is the task that an intent began; tasks cannot be asked for by tag.
func (t *cloud) findImport(ctx context.Context, r target.Resource) (string, error) {
	all, err := t.c.ImportTasks(ctx, awsapi.Params{})
	if err != nil {
		return "", err
	}
	for _, k := range all {
		if awsapi.TagValue(k.Tags, tagJob) == tagText(r.Job) && awsapi.TagValue(k.Tags, tagPart) == tagText(r.Name) && k.Status != "deleted" {
			return k.ID, nil
		}
	}
	return "", nil
}

// endTask cancels an import task that is not over, and waits until it is. It tells
// whether there is one.
func (t *cloud) endTask(ctx context.Context, id string, look func() (there, over bool, err error)) (there bool, err error) {
	there, over, err := look()
	if err != nil || !there || over {
		return there, err
	}
	err = t.c.EC2(ctx, "CancelImportTask", awsapi.Params{"ImportTaskId": id}, nil)
	if err != nil && awsapi.Code(err) != "IncorrectState" { // it was over in the meantime
		return there, err
	}
	err = await(ctx, time.Hour, "cancelling the import "+id, func() (bool, error) {
		there, over, err = look()
		return !there || over, err
	})
	return there, err
}

// undoImport ends a task and removes what it made.
func (t *cloud) undoImport(ctx context.Context, id string) error {
	var task *awsapi.ImportTask
	there, err := t.endTask(ctx, id, func() (there, over bool, err error) {
		task, err = t.importTask(ctx, id)
		return task != nil, task != nil && task.Over(), err
	})
	if err != nil || !there {
		return err
	}
	if task.Image != "" {
		if err := t.undo(ctx, target.Resource{Kind: kindImage, ID: task.Image}); err != nil {
			return err
		}
	}
	for _, sn := range task.Snapshots {
		if sn.ID != "" {
			if err := t.undo(ctx, target.Resource{Kind: kindSnapshot, ID: sn.ID}); err != nil {
				return err
			}
		}
	}
	return nil
}

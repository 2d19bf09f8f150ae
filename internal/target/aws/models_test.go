package aws

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"ascend/internal/target"
	"ascend/internal/target/aws/awssim"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// TestModels holds every request of the connector, and every answer of the
// simulated account, to the service models that AWS publishes, as botocore carries
// them.
func TestModels(t *testing.T) {
	var (
		mu  sync.Mutex
		all bytes.Buffer
	)
	p := &peer{sim: awssim.Start(awssim.Options{Log: func(x awssim.Exchange) {
		mu.Lock()
		defer mu.Unlock()
		if err := json.NewEncoder(&all).Encode(x); err != nil {
			t.Error(err)
		}
	}})}
	t.Cleanup(p.sim.Close)
	tgt := p.Open(t)
	for _, c := range tgt.Validate(t.Context()) {
		if !c.OK {
			t.Errorf("%+v", c)
		}
	}
	if _, err := tgt.Inventory(t.Context()); err != nil {
		t.Fatal(err)
	}
	const size = 3 << 20
	o := &target.Order{
		Job: "models", Machine: &vm.Machine{
			Name: "modèle \"1\"", CPU: vm.CPU{Sockets: 1}, Memory: vm.GiB, Firmware: vm.UEFI, TPM: true, Disks: []vm.Disk{{Size: size}, {Size: size}},
			NICs: []vm.NIC{{Addresses: []string{"10.0.0.9"}}}, Tags: map[string]string{"team": "ops"},
		},
		Disks: make([]target.DiskOrder, 2),
		Placement: target.Placement{
			Networks: []string{awssim.Subnet}, Storage: []string{"gp3", "io2"}, Volumes: []target.Volume{{IOPS: 4000, Throughput: 200}, {IOPS: 500}},
			Adapters: []target.Adapter{{Address: target.AddressKeep, SecurityGroups: []string{awssim.Group}}},
			Fields:   map[string]string{fieldKey: awssim.KeyName, fieldZone: "eu-central-1a"},
		},
		Options: map[string]string{optProfile: "backup", optUserData: "#!/bin/sh", optEncrypt: "yes", optKMS: "arn:aws:kms:eu-central-1:111122223333:key/1"},
	}
	for i := range o.Disks {
		o.Disks[i] = target.DiskOrder{Delivery: tgt.Capabilities().Deliveries[0], Virtual: size, FileSize: size}
	}
	rec := new(targettest.MemRecorder)
	v := restoreEmpty(t, tgt, o, rec)
	// The same disks onto the instance that is there, read back, and all undone.
	b := *o
	b.Job, b.Options = "models attached", map[string]string{optAttach: v.ID}
	attached := new(targettest.MemRecorder)
	restoreEmpty(t, tgt, &b, attached)
	imported := new(targettest.MemRecorder)
	restoreEmpty(t, tgt, windows(tgt, "models imported"), imported)
	if err := targettest.UndoAll(t.Context(), tgt, imported); err != nil {
		t.Fatal(err)
	}
	sendOne(t, tgt)
	for _, r := range []*targettest.MemRecorder{attached, rec} {
		if err := targettest.UndoAll(t.Context(), tgt, r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.role(t).Inventory(t.Context()); err == nil {
		t.Error("a role of nobody was assumed")
	}
	cmd := exec.CommandContext(t.Context(), "python3", "testdata/models.py")
	cmd.Stdin = &all
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v (PyPI package moto, or Debian's python3-boto3)\n%s", err, out)
	}
	for _, action := range []string{
		"StartSnapshot", "PutSnapshotBlock", "CompleteSnapshot", "ListSnapshotBlocks", "GetSnapshotBlock", "RegisterImage", "RunInstances", "CreateVolume", "AttachVolume",
		"DetachVolume", "DeleteVolume", "TerminateInstances", "DeregisterImage", "DeleteSnapshot", "GetServiceQuota", "AssumeRole", "DescribeInstanceStatus",
		"ImportImage", "DescribeImportImageTasks",
	} {
		if !strings.Contains(string(out), " "+action+"=") {
			t.Errorf("%s was not checked: %s", action, out)
		}
	}
}

// sendOne sends one block into a snapshot, reads it back and deletes it.
func sendOne(t *testing.T, tgt target.Target) {
	t.Helper()
	const size = 1 << 20
	o := &target.Order{
		Job: "one", Machine: &vm.Machine{Name: "one", Disks: []vm.Disk{{Size: size}}},
		Disks: []target.DiskOrder{{Delivery: tgt.Capabilities().Deliveries[0], Virtual: size, FileSize: size}},
	}
	rec := new(targettest.MemRecorder)
	s, err := tgt.Begin(t.Context(), o, rec)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	u, err := s.Upload(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	block := bytes.Repeat([]byte("block"), 512<<10)[:512<<10]
	sum := sha256.Sum256(block)
	if err := u.(target.BlockUpload).WriteBlock(t.Context(), 512<<10, block, sum); err != nil {
		t.Fatal(err)
	}
	sums := func(yield func(int64, [32]byte) bool) { yield(1, sum) }
	if _, err := u.Complete(t.Context(), target.Sum{Bytes: size, Blocks: sums}); err != nil {
		t.Fatal(err)
	}
	d, err := s.(target.ReadBacker).ReadBack(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got := make([]byte, len(block))
	if _, err := d.ReadAt(got, 512<<10); err != nil || !bytes.Equal(got, block) {
		t.Errorf("read back: %v", err)
	}
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Fatal(err)
	}
}

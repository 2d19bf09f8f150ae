package kmod

import (
	"slices"
	"testing"
)

func TestClosure(t *testing.T) {
	x := Parse("kernel/b/virtio-blk.ko.xz: kernel/v/virtio.ko.xz kernel/v/virtio_ring.ko.xz\nkernel/v/virtio_ring.ko.xz:\nkernel/v/virtio.ko.xz: kernel/v/virtio_ring.ko.xz\nkernel/a.ko: kernel/b.ko\nkernel/b.ko: kernel/a.ko\n", "kernel/nvme/nvme-core.ko\n")
	order, missing := x.Closure("virtio-blk", "nvme_core", "mptsas")
	if !slices.Equal(order, []string{"virtio_ring", "virtio", "virtio_blk"}) || !slices.Equal(missing, []string{"mptsas"}) {
		t.Errorf("closure %v, missing %v", order, missing)
	}
	if order, _ := x.Closure("a"); len(order) != 2 {
		t.Errorf("a circle gives %v", order)
	}
	got := Aliases("alias pci:v00001AF4d00001001sv*sd*bc*sc*i* virtio_pci\nalias pci:v0000[0-9]* x\n", "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00")
	if !slices.Equal(got, []string{"virtio_pci", "x"}) {
		t.Errorf("aliases %v", got)
	}
}

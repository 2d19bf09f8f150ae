package aws

import (
	"bytes"
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"ascend/internal/awsapi"
	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// moto starts moto, which others made after AWS, and connects to it. It checks
// less than AWS does; what it has is AWS's: instance types with their real data,
// networks, images, instances, EBS direct.
func moto(t *testing.T) (_ *cloud, url string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	l.Close()
	cmd := exec.CommandContext(t.Context(), "moto_server", "-H", "127.0.0.1", "-p", port)
	cmd.Env = append(os.Environ(), "MOTO_ENABLE_AMI_VALIDATION=true", "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION=true", "MOTO_ENABLE_KEYPAIR_VALIDATION=true")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatalf("moto_server is needed (build/deps installs PyPI's moto[server]): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		res, err := http.Get("http://" + addr + "/moto-api/")
		if err == nil {
			res.Body.Close()
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatalf("moto does not answer: %v\n%s", err, &out)
		}
	}
	c, err := open(t.Context(), target.Settings{
		Name: "moto", Platform: vm.AWS, Values: map[string]string{setRegion: "eu-central-1", setEndpoint: "http://" + addr, setKey: "AKIAMOTO"},
		Secrets: map[string]secret.String{setSecret: secret.New("moto")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, "http://" + addr
}

func TestMoto(t *testing.T) {
	tgt, url := moto(t)
	// Without quotas and rights: moto answers 500 for blocks of no snapshot.
	inv := &target.Inventory{Places: map[string][]target.Place{}}
	for _, add := range []func(context.Context, *target.Inventory) error{tgt.networks, tgt.sizes, tgt.taken} {
		if err := add(t.Context(), inv); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("objects", func(t *testing.T) { motoObjects(t, tgt.c, url) })
	t.Run("instance types", func(t *testing.T) {
		if len(inv.Sizes) < 1000 {
			t.Fatalf("%d instance types", len(inv.Sizes))
		}
		// Amazon EC2 instance types, as published.
		for name, want := range map[string]target.Size{
			"m5.large":     {CPUs: 2, Memory: 8 * vm.GiB, Arch: []vm.Arch{vm.AMD64}, Firmware: []vm.Firmware{vm.BIOS, vm.UEFI}, NVMe: true, ENA: true, Old: true},
			"m7i.large":    {CPUs: 2, Memory: 8 * vm.GiB, Arch: []vm.Arch{vm.AMD64}, Firmware: []vm.Firmware{vm.BIOS, vm.UEFI}, NVMe: true, ENA: true},
			"m6g.xlarge":   {CPUs: 4, Memory: 16 * vm.GiB, Arch: []vm.Arch{vm.ARM64}, Firmware: []vm.Firmware{vm.UEFI}, NVMe: true, ENA: true},
			"t2.micro":     {CPUs: 1, Memory: vm.GiB, Arch: []vm.Arch{vm.I386, vm.AMD64}, Firmware: []vm.Firmware{vm.BIOS}, Burst: true},
			"t3.medium":    {CPUs: 2, Memory: 4 * vm.GiB, Arch: []vm.Arch{vm.AMD64}, Firmware: []vm.Firmware{vm.BIOS, vm.UEFI}, NVMe: true, ENA: true, Burst: true},
			"m1.small":     {CPUs: 1, Memory: 1740 << 20, Arch: []vm.Arch{vm.I386, vm.AMD64}, Firmware: []vm.Firmware{vm.BIOS}, Old: true},
			"m5.metal":     {CPUs: 96, Memory: 384 * vm.GiB, Arch: []vm.Arch{vm.AMD64}, Firmware: []vm.Firmware{vm.BIOS}, NVMe: true, ENA: true, Special: true, Old: true},
			"g4dn.xlarge":  {CPUs: 4, Memory: 16 * vm.GiB, Arch: []vm.Arch{vm.AMD64}, Firmware: []vm.Firmware{vm.BIOS, vm.UEFI}, NVMe: true, ENA: true, Special: true},
			"c5.24xlarge":  {CPUs: 96, Memory: 192 * vm.GiB, Arch: []vm.Arch{vm.AMD64}, Firmware: []vm.Firmware{vm.BIOS, vm.UEFI}, NVMe: true, ENA: true, Old: true},
			"x1e.32xlarge": {CPUs: 128, Memory: 3904 * vm.GiB, Arch: []vm.Arch{vm.AMD64}, Firmware: []vm.Firmware{vm.BIOS}},
		} {
			i := slices.IndexFunc(inv.Sizes, func(s target.Size) bool { return s.Name == name })
			if i < 0 {
				t.Errorf("there is no %s", name)
				continue
			}
			s := inv.Sizes[i]
			slices.Sort(want.Arch)
			if s.CPUs != want.CPUs || s.Memory != want.Memory || !slices.Equal(s.Arch, want.Arch) || !slices.Equal(s.Firmware, want.Firmware) ||
				s.NVMe != want.NVMe || s.ENA != want.ENA || s.Old != want.Old || s.Special != want.Special || s.Burst != want.Burst || s.MaxNICs == 0 {
				t.Errorf("%s is %+v, not %+v", name, s, want)
			}
		}
		if len(inv.Networks) == 0 || len(inv.SecurityGroups) == 0 {
			t.Errorf("networks: %+v, groups: %+v", inv.Networks, inv.SecurityGroups)
		}
	})
	const size = 1 << 30
	blocks := map[int64][]byte{}
	r := rand.NewChaCha8([32]byte{1})
	for _, n := range []int64{0, 5, 2047} {
		blocks[n] = make([]byte, awsapi.BlockSize)
		_, _ = r.Read(blocks[n]) // never fails
	}
	o := &target.Order{
		Job: "moto", Machine: &vm.Machine{
			Name: "web", CPU: vm.CPU{Sockets: 2}, Memory: 4 * vm.GiB, Firmware: vm.BIOS, Guest: vm.GuestOS{Arch: vm.AMD64},
			Disks: []vm.Disk{{Size: size}}, NICs: []vm.NIC{{}},
		},
		Disks: []target.DiskOrder{{Delivery: tgt.Capabilities().Deliveries[0], Virtual: size, FileSize: size}},
		Placement: target.Placement{
			Networks: []string{inv.Networks[0].Name}, Adapters: []target.Adapter{{SecurityGroups: []string{inv.SecurityGroups[0].Name}}},
			Fields: map[string]string{caps.InstanceType: "m5.large"},
		},
	}
	before, err := tgt.c.Images(t.Context(), awsapi.Params{"Owner.1": "self"})
	if err != nil {
		t.Fatal(err)
	}
	rec := new(targettest.MemRecorder)
	s, err := tgt.Begin(t.Context(), o, rec)
	if err != nil {
		t.Fatal(err)
	}
	u, err := s.Upload(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for n, b := range blocks {
		if err := u.(target.BlockUpload).WriteBlock(t.Context(), n*awsapi.BlockSize, b, sha256.Sum256(b)); err != nil {
			t.Fatal(err)
		}
	}
	landed, err := u.Complete(t.Context(), target.Sum{Bytes: size, Blocks: func(yield func(int64, [32]byte) bool) {
		for _, n := range []int64{0, 5, 2047} {
			if !yield(n, sha256.Sum256(blocks[n])) {
				return
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range blocks {
		if got, err := tgt.c.GetBlock(t.Context(), landed.Object, awsapi.Block{Index: n, Token: "moto takes any"}); err != nil || !bytes.Equal(got, want) {
			t.Errorf("block %d: %v", n, err)
		}
	}
	v, err := s.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PowerOn(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	in, err := tgt.instance(t.Context(), v.ID)
	if err != nil || in == nil || in.State != "running" || in.Type != "m5.large" || in.Subnet != inv.Networks[0].Name || awsapi.TagValue(in.Tags, tagJob) != "moto" {
		t.Errorf("the instance is %+v: %v", in, err)
	}
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Fatal(err)
	}
	after, err := tgt.c.Images(t.Context(), awsapi.Params{"Owner.1": "self"})
	if err != nil {
		t.Fatal(err)
	}
	for _, im := range after { // moto goes on to list what was deregistered
		if im.State == "available" && !slices.ContainsFunc(before, func(b awsapi.ImageInfo) bool { return b.ID == im.ID }) {
			t.Errorf("an image is left: %+v", im)
		}
	}
	if left, err := tgt.snapshot(t.Context(), landed.Object); err != nil || left != nil {
		t.Errorf("the snapshot is left: %+v, %v", left, err)
	}
	if in, err := tgt.instance(t.Context(), v.ID); err != nil || in != nil {
		t.Errorf("the instance is left: %+v, %v", in, err)
	}
}

// motoObjects has moto's S3 take a multipart upload, tell of it, and drop another.
func motoObjects(t *testing.T, c *awsapi.Client, url string) {
	const bucket, key = "uploads", "a b/\u00fc+disk.vmdk"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url+"/"+bucket, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("the bucket: %v, %v", res, err)
	}
	res.Body.Close()
	if err := c.Bucket(t.Context(), bucket); err != nil {
		t.Error(err)
	}
	if err := c.Bucket(t.Context(), "nobodys"); err == nil {
		t.Error("a bucket that is not there")
	}
	upload := func() string {
		t.Helper()
		id, err := c.CreateUpload(t.Context(), bucket, key)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	id := upload()
	part := make([]byte, awsapi.MinPart)
	_, _ = rand.NewChaCha8([32]byte{5}).Read(part) // never fails
	for n, p := range [][]byte{part, part[:99]} {
		if _, err := c.PutPart(t.Context(), bucket, key, id, n+1, p); err != nil {
			t.Fatal(err)
		}
	}
	parts, err := c.Parts(t.Context(), bucket, key, id)
	if err != nil || len(parts) != 2 || parts[0].Size != awsapi.MinPart || parts[1].Number != 2 || parts[1].ETag == "" {
		t.Fatalf("%+v, %v", parts, err)
	}
	if ids, err := c.Uploads(t.Context(), bucket, key); err != nil || !slices.Equal(ids, []string{id}) {
		t.Errorf("%q, %v", ids, err)
	}
	slices.Reverse(parts)
	if err := c.CompleteUpload(t.Context(), bucket, key, id, parts); err != nil {
		t.Fatal(err)
	}
	if n, err := c.ObjectSize(t.Context(), bucket, key); n != awsapi.MinPart+99 || err != nil {
		t.Errorf("%d bytes: %v", n, err)
	}
	if _, err := c.Parts(t.Context(), bucket, key, id); !awsapi.Missing(err) {
		t.Errorf("parts of a whole object: %v", err)
	}
	for range 2 {
		if err := c.DeleteObject(t.Context(), bucket, key); err != nil {
			t.Error(err)
		}
	}
	if n, err := c.ObjectSize(t.Context(), bucket, key); n != -1 || err != nil {
		t.Errorf("%d bytes after it was deleted: %v", n, err)
	}
	id = upload()
	for range 2 {
		if err := c.AbortUpload(t.Context(), bucket, key, id); err != nil {
			t.Error(err)
		}
	}
	if ids, err := c.Uploads(t.Context(), bucket, key); err != nil || len(ids) != 0 {
		t.Errorf("%q, %v", ids, err)
	}
}

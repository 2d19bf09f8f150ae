package sizing

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"ascend/internal/prices"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// ec2Type is what EC2 itself says of an instance type.
type ec2Type struct {
	InstanceType       string
	CurrentGeneration  bool
	BareMetal          bool
	VCpuInfo           struct{ DefaultVCpus int }
	MemoryInfo         struct{ SizeInMiB int64 }
	ProcessorInfo      struct{ SupportedArchitectures []string }
	SupportedBootModes []string
	NitroTpmSupport    string
	EbsInfo            struct {
		NvmeSupport, AttachmentLimitType string
		MaximumEbsAttachments            int
	}
	NetworkInfo struct {
		EnaSupport               string
		MaximumNetworkInterfaces int
	}
}

// ec2Types are the types of moto's DescribeInstanceTypes, which are EC2's.
func ec2Types(t *testing.T) map[string]ec2Type {
	t.Helper()
	out, err := exec.Command("python3", "-c", "import moto,os,sys;sys.stdout.buffer.write(open(os.path.join(os.path.dirname(moto.__file__),'ec2/resources/instance_types.json.gz'),'rb').read())").Output()
	if err != nil {
		t.Fatalf("moto is missing (%v): install it with build/deps, or pip install moto==5.2.1", err)
	}
	z, err := gzip.NewReader(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]ec2Type{}
	if err := json.NewDecoder(z).Decode(&m); err != nil {
		t.Fatal(err)
	}
	if len(m) < 1000 {
		t.Fatalf("%d types", len(m))
	}
	return m
}

func random(r *rand.Rand) Need {
	n := Need{
		CPUs: 1 << r.IntN(7), Memory: int64(1+r.IntN(512)) * vm.GiB / 2, Arch: vm.AMD64, Firmware: vm.BIOS, Disks: 1 + r.IntN(30), NICs: r.IntN(6),
		NoNVMe: r.IntN(8) == 0, NoENA: r.IntN(8) == 0, Premium: r.IntN(3) == 0,
	}
	switch r.IntN(6) {
	case 0:
		n.Arch, n.Firmware = vm.ARM64, vm.UEFI
	case 1:
		n.Arch = vm.I386
	case 2:
		n.Firmware, n.TPM, n.SecureBoot = vm.UEFI, true, true
	case 3:
		n.Firmware = vm.UEFI
	}
	return n
}

// TestAWS: for random machines the chosen type fits by EC2's own data, and no
// cheaper type of the table does. The check knows nothing of the function's.
func TestAWS(t *testing.T) {
	types, table := ec2Types(t), prices.Builtin().AWS
	arch := map[vm.Arch]string{vm.AMD64: "x86_64", vm.I386: "i386", vm.ARM64: "arm64"}
	mode := map[vm.Firmware]string{vm.BIOS: "legacy-bios", vm.UEFI: "uefi"}
	fits := func(n Need, k ec2Type) bool {
		lost := 0
		if k.EbsInfo.AttachmentLimitType == "shared" {
			lost = max(n.NICs-1, 0)
		}
		return k.VCpuInfo.DefaultVCpus >= n.CPUs && k.MemoryInfo.SizeInMiB >= n.Memory/vm.MiB && slices.Contains(k.ProcessorInfo.SupportedArchitectures, arch[n.Arch]) &&
			slices.Contains(k.SupportedBootModes, mode[n.Firmware]) && k.NetworkInfo.MaximumNetworkInterfaces >= n.NICs && k.EbsInfo.MaximumEbsAttachments-lost >= n.Disks &&
			(!n.NoNVMe || k.EbsInfo.NvmeSupport != "required") && (!n.NoENA || k.NetworkInfo.EnaSupport != "required") && (!n.TPM || k.NitroTpmSupport == "supported")
	}
	r := rand.New(rand.NewPCG(1, 2))
	found := 0
	for i := range 200 {
		n := random(r)
		region, os := table.Regions[r.IntN(len(table.Regions))], []prices.OS{prices.Linux, prices.Windows}[r.IntN(2)]
		list := Choose(n, table.Sizes, func(s string) (prices.Micro, bool) { return table.Hourly(s, region, os) })
		best := prices.Micro(-1)
		if len(list) > 0 {
			found++
			best = list[0].Hourly
			k := types[list[0].Name]
			if !fits(n, k) || !k.CurrentGeneration {
				t.Errorf("%d: %+v: %s does not fit: %+v", i, n, list[0].Name, k)
			}
			if p, ok := table.Hourly(list[0].Name, region, os); !ok || p != best {
				t.Errorf("%d: the price of %s is %s and not %s", i, list[0].Name, p, best)
			}
		}
		for _, s := range table.Sizes {
			k := types[s.Name]
			p, ok := table.Hourly(s.Name, region, os)
			if ok && fits(n, k) && k.CurrentGeneration && !s.Special && (best < 0 || p < best) {
				t.Errorf("%d: %+v in %s: %s for %s fits and is cheaper than %v", i, n, region, s.Name, p, list[:min(len(list), 1)])
			}
		}
	}
	if found < 100 {
		t.Errorf("only %d of 200 machines fit anything", found)
	}
}

// TestAzure: the same with the distilled table, checked field by field.
func TestAzure(t *testing.T) {
	table := prices.Builtin().Azure
	fits := func(n Need, s target.Size) bool {
		return s.CPUs >= n.CPUs && s.Memory >= n.Memory && slices.Contains(s.Arch, n.Arch) && slices.Contains(s.Firmware, n.Firmware) && s.MaxNICs >= n.NICs && s.MaxDisks >= n.Disks &&
			(!n.NoNVMe || !s.NVMe) && (!n.NoENA || !s.ENA) && (!n.Premium || s.Premium) && (!n.TPM || s.TPM) && (!n.SecureBoot || s.SecureBoot)
	}
	r := rand.New(rand.NewPCG(3, 4))
	found := 0
	for i := range 200 {
		n := random(r)
		region, os := table.Regions[r.IntN(len(table.Regions))], []prices.OS{prices.Linux, prices.Windows}[r.IntN(2)]
		list := Choose(n, table.Sizes, func(s string) (prices.Micro, bool) { return table.Hourly(s, region, os) })
		best := prices.Micro(-1)
		if len(list) > 0 {
			found++
			best = list[0].Hourly
			if s, ok := table.Size(list[0].Name); !ok || !fits(n, s) {
				t.Errorf("%d: %+v: %+v does not fit", i, n, s)
			}
		}
		for _, s := range table.Sizes {
			if p, ok := table.Hourly(s.Name, region, os); ok && fits(n, s) && !s.Old && !s.Special && (best < 0 || p < best) {
				t.Errorf("%d: %+v in %s: %s for %s fits and is cheaper", i, n, region, s.Name, p)
			}
		}
	}
	if found < 100 {
		t.Errorf("only %d of 200 machines fit anything", found)
	}
}

func TestWhy(t *testing.T) {
	s := target.Size{Name: "s", CPUs: 2, Memory: 4 * vm.GiB, Arch: []vm.Arch{vm.AMD64}, Firmware: []vm.Firmware{vm.UEFI}, MaxDisks: 5, MaxNICs: 3, Shared: true, NVMe: true, ENA: true}
	good := Need{CPUs: 2, Memory: 4 * vm.GiB, Arch: vm.AMD64, Firmware: vm.UEFI, Disks: 4, NICs: 2}
	if why := good.Why(s); why != "" {
		t.Error(why)
	}
	for want, change := range map[string]func(n *Need){
		"2 processors": func(n *Need) { n.CPUs = 3 }, "4.00 GiB": func(n *Need) { n.Memory++ }, "amd64": func(n *Need) { n.Arch = vm.ARM64 }, "start by bios": func(n *Need) { n.Firmware = vm.BIOS },
		"3 network adapters": func(n *Need) { n.NICs = 4 }, "takes 4 disks": func(n *Need) { n.Disks = 5 }, "NVMe": func(n *Need) { n.NoNVMe = true }, "ENA": func(n *Need) { n.NoENA = true },
		"premium": func(n *Need) { n.Premium = true }, "TPM": func(n *Need) { n.TPM = true }, "Secure Boot": func(n *Need) { n.SecureBoot = true },
	} {
		n := good
		change(&n)
		if why := n.Why(s); !strings.Contains(why, want) {
			t.Errorf("want %q, got %q", want, why)
		}
	}
	if why := good.Why(target.Size{Name: "any", Custom: true}); why != "" {
		t.Errorf("a size of which nothing is known: %s", why)
	}
}

func TestAlternatives(t *testing.T) {
	for name, want := range map[string]string{"m7i.large": "m7i", "Standard_D4s_v5": "Standard_Ds_v5", "Standard_D16s_v5": "Standard_Ds_v5", "Standard_E8-2s_v3": "Standard_E-2s_v3", "Standard_B1s": "Standard_Bs", "Medium": "Medium"} {
		if got := Family(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	c := func(n string, p int, burst bool) Choice {
		return Choice{target.Size{Name: n, Burst: burst}, prices.Micro(p)}
	}
	got := Alternatives([]Choice{c("t3a.large", 1, true), c("t3a.xlarge", 2, true), c("t3.large", 3, true), c("t2.large", 4, true), c("t4.large", 5, true), c("m5.large", 6, false)}, 3)
	var names []string
	for _, g := range got {
		names = append(names, g.Name)
	}
	if strings.Join(names, " ") != "t3.large t2.large m5.large" {
		t.Errorf("%v: the cheapest with steady processors must be among them", names)
	}
}

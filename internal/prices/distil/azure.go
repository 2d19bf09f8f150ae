package main

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"ascend/internal/prices"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// azurePriced is what is used of an entry of azure-instances.json. Half of the
// entries lack everything from Arch on.
type azurePriced struct {
	Name         string   `json:"pretty_name_azure"`
	Family       string   `json:"family"`
	Category     string   `json:"category"`
	VCPU         int      `json:"vcpu"`
	Memory       float64  `json:"memory"` // GiB
	GPU          string   `json:"GPU"`
	Arch         []string `json:"arch"`
	Available    int      `json:"vcpus_available"`
	Generations  string   `json:"hyperv_generations"`
	Premium      any      `json:"premium_io"`
	Confidential any      `json:"confidential"`
	Pricing      map[string]struct {
		Linux, Windows struct {
			OnDemand float64 `json:"ondemand"`
		}
	} `json:"pricing"`
}

func azureTable(name, date string) (*prices.Table, error) {
	var list []azurePriced
	if err := load(name, &list); err != nil {
		return nil, err
	}
	var regions []string
	for _, p := range list {
		for r := range p.Pricing {
			if n := azureRegion(r); !slices.Contains(regions, n) {
				regions = append(regions, n)
			}
		}
	}
	slices.Sort(regions)
	t := prices.NewTable(vm.Azure, date, source, regions)
	for _, p := range list {
		s, ok := azureSize(p)
		if !ok {
			continue
		}
		linux, windows := map[string]prices.Micro{}, map[string]prices.Micro{}
		for r, by := range p.Pricing {
			linux[azureRegion(r)], windows[azureRegion(r)] = prices.Micro(by.Linux.OnDemand*1e6+0.5), prices.Micro(by.Windows.OnDemand*1e6+0.5)
		}
		t.Add(s, linux, windows)
	}
	return t, nil
}

// reSize is the naming convention of sizes: family, processors, constrained
// processors, features, accelerator, version (Azure documentation, "Azure
// virtual machine sizes naming conventions").
var reSize = regexp.MustCompile(`^([A-Z]+)([0-9]+)(?:-([0-9]+))?([a-z]*)(?:_[A-Z0-9]+)?(?:_v([0-9]+))?$`)

func azureSize(p azurePriced) (target.Size, bool) {
	name := strings.ReplaceAll(strings.TrimSpace(p.Name), " ", "_")
	basic := strings.HasPrefix(name, "Basic_")
	name = strings.TrimPrefix(strings.TrimPrefix(name, "Basic_"), "Standard_")
	m := reSize.FindStringSubmatch(name)
	if m == nil || basic || p.Family == "saphana" || p.Memory <= 0 || p.VCPU <= 0 {
		return target.Size{}, false
	}
	version, _ := strconv.Atoi(m[5])
	features := m[4]
	confidential := p.Confidential != nil && p.Confidential != false // a text or a boolean
	s := target.Size{Name: "Standard_" + name, CPUs: p.VCPU, Memory: int64(p.Memory*1024) * vm.MiB, Premium: p.Premium == true || strings.Contains(features, "s") || strings.HasPrefix(m[1], "DS") || strings.HasPrefix(m[1], "GS"),
		Burst: m[1] == "B", NVMe: version >= 6}
	if n, err := strconv.Atoi(m[3]); err == nil {
		s.CPUs = n
	} else if p.Available > 0 {
		s.CPUs = p.Available
	}
	s.Arch = []vm.Arch{vm.AMD64}
	if slices.Contains(p.Arch, "Arm64") || strings.Contains(features, "p") {
		s.Arch = []vm.Arch{vm.ARM64}
	}
	// What the source does not say of a generation is not promised: sizes without
	// the field, all of them recent, count as generation 2 only.
	if strings.Contains(p.Generations, "V1") {
		s.Firmware = append(s.Firmware, vm.BIOS)
	}
	if strings.Contains(p.Generations, "V2") || p.Generations == "" {
		s.Firmware = append(s.Firmware, vm.UEFI)
	}
	if s.Arch[0] == vm.AMD64 && slices.Contains(s.Firmware, vm.BIOS) {
		s.Arch = append(s.Arch, vm.I386) // 32-bit guests start in generation 1 only
	}
	// Trusted launch comes with generation 2, Arm64 and a few families aside
	// (Azure documentation, "Trusted launch for Azure virtual machines").
	trusted := slices.Contains(s.Firmware, vm.UEFI) && s.Arch[0] == vm.AMD64 && !strings.HasPrefix(m[1], "M") && !strings.HasPrefix(m[1], "N") && !confidential
	s.TPM, s.SecureBoot = trusted, trusted
	s.Special = confidential || strings.HasPrefix(m[1], "DC") || strings.HasPrefix(m[1], "EC") || strings.HasPrefix(m[1], "N") || strings.HasPrefix(m[1], "H") || p.GPU != "" && p.GPU != "0"
	s.Old = version == 0 && m[1] != "B" && m[1] != "M" || m[1] == "A" || m[1] == "D" && version == 2 || m[1] == "DS" || m[1] == "F" && version < 2
	// The source has neither limit. These are what every size of so many
	// processors has at least (Azure documentation, the pages of the series).
	s.MaxDisks = 1 + min(2*s.CPUs, 32)
	if s.Burst && s.CPUs == 12 { // B12ms is the exception
		s.MaxDisks = 17
	}
	switch {
	case s.CPUs >= 16:
		s.MaxNICs = 8
	case s.CPUs >= 8:
		s.MaxNICs = 4
	default:
		s.MaxNICs = 2
	}
	return s, true
}

var azureRegions = map[string]string{
	"us-east": "eastus", "us-east-2": "eastus2", "us-west": "westus", "us-west-2": "westus2", "us-west-3": "westus3", "us-central": "centralus",
	"us-north-central": "northcentralus", "us-south-central": "southcentralus", "us-west-central": "westcentralus",
	"europe-west": "westeurope", "europe-north": "northeurope", "asia-pacific-east": "eastasia", "asia-pacific-southeast": "southeastasia",
	"united-kingdom-south": "uksouth", "united-kingdom-west": "ukwest",
}

// azureRegion is the name that the API has for a region of the pricing pages.
func azureRegion(slug string) string {
	if n, ok := azureRegions[slug]; ok {
		return n
	}
	return strings.ReplaceAll(slug, "-", "")
}

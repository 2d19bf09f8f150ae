package azure

import (
	"context"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// machineSize is a size and what placing needs besides.
type machineSize struct {
	target.Size
	data        int // data disks
	generations []string
	arch        string // x64, Arm64
	zones       []string
	trusted     bool
	controllers []string // SCSI, NVMe; empty: not told, which is SCSI
	refused     string   // why the subscription cannot have it
}

// machineSizes are the sizes of a region, by lower-case name; asked for once.
func (t *azure) machineSizes(ctx context.Context, location string) (map[string]machineSize, error) {
	t.mu.Lock()
	known := t.sizes[location]
	t.mu.Unlock()
	if known != nil {
		return known, nil
	}
	path := t.c.path("providers/Microsoft.Compute/skus") + "?" + url.Values{"$filter": {"location eq '" + location + "'"}}.Encode()
	all, err := list[sku](ctx, t.c, path, apiSKUs)
	if err != nil {
		return nil, err
	}
	out := map[string]machineSize{}
	for _, k := range all {
		if k.Type == "virtualMachines" {
			out[strings.ToLower(k.Name)] = k.size(location)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sizes[location] = out
	return out, nil
}

// size reads a SKU's capabilities ("Resource SKUs - List").
func (k *sku) size(location string) machineSize {
	has := map[string]string{}
	for _, c := range k.Capabilities {
		has[c.Name] = c.Value
	}
	number := func(name string) int { n, _ := strconv.Atoi(has[name]); return n } // 0: not told
	gb, _ := strconv.ParseFloat(has["MemoryGB"], 64)
	s := machineSize{data: number("MaxDataDiskCount"), arch: has["CpuArchitectureType"]}
	s.Size = target.Size{
		Name: k.Name, CPUs: number("vCPUs"), Memory: int64(gb * float64(vm.GiB)), MaxDisks: s.data + 1, MaxNICs: number("MaxNetworkInterfaces"),
		Premium: has["PremiumIO"] == "True", Old: oldSize(k.Name), Burst: strings.HasPrefix(k.Name, "Standard_B"),
	}
	if n, err := strconv.Atoi(has["vCPUsAvailable"]); err == nil && n > 0 {
		s.CPUs = n
	}
	s.generations = strings.Split(has["HyperVGenerations"], ",")
	for _, g := range s.generations {
		switch g {
		case "V1":
			s.Firmware = append(s.Firmware, vm.BIOS)
		case "V2":
			s.Firmware = append(s.Firmware, vm.UEFI)
		}
	}
	s.Arch = []vm.Arch{vm.AMD64, vm.I386}
	if s.arch == "Arm64" {
		s.Arch = []vm.Arch{vm.ARM64}
	}
	confidential := has["ConfidentialComputingType"] != ""
	s.Special = has["GPUs"] != "" && has["GPUs"] != "0" || confidential
	s.trusted = has["TrustedLaunchDisabled"] != "True" && slices.Contains(s.generations, "V2") && !confidential
	s.TPM, s.SecureBoot = s.trusted, s.trusted
	if c := strings.ReplaceAll(has["DiskControllerTypes"], " ", ""); c != "" {
		s.controllers = strings.Split(c, ",")
		s.NVMe = !slices.Contains(s.controllers, "SCSI")
	}
	for _, i := range k.Info {
		if strings.EqualFold(i.Location, location) {
			s.zones = slices.Sorted(slices.Values(i.Zones))
		}
	}
	for _, r := range k.Restrictions {
		if r.Type == "Zone" {
			s.zones = slices.DeleteFunc(s.zones, func(z string) bool { return slices.Contains(r.Info.Zones, z) })
			continue
		}
		s.refused = r.Reason
	}
	return s
}

var sizeVersion = regexp.MustCompile(`_v(\d+)$`)

// oldSize tells sizes of which later versions are common: those without a
// version and before version 4, but for B, M and N, which have others.
func oldSize(name string) bool {
	if strings.HasPrefix(name, "Standard_B") || strings.HasPrefix(name, "Standard_M") || strings.HasPrefix(name, "Standard_N") {
		return false
	}
	m := sizeVersion.FindStringSubmatch(name)
	if m == nil {
		return true
	}
	n, err := strconv.Atoi(m[1])
	return err != nil || n < 4
}

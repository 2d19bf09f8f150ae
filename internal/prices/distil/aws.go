package main

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"

	"ascend/internal/prices"
	"ascend/internal/target"
	"ascend/internal/vm"
)

const source = "github.com/cristim/ec2-instances-info v0.0.0-20250528091325-32acf84f42eb (MIT, Copyright 2013 Garret Heaton)"

// awsPriced is what is used of an entry of instances.json.
type awsPriced struct {
	Name string  `json:"instance_type"`
	GPU  float64 `json:"GPU"`
	FPGA int     `json:"FPGA"`
	// Pricing is by region and system; a few other entries are plain strings.
	Pricing map[string]map[string]json.RawMessage `json:"pricing"`
}

func (p awsPriced) onDemand(region, os string) prices.Micro {
	var by struct {
		OnDemand string `json:"ondemand"`
	}
	if json.Unmarshal(p.Pricing[region][os], &by) != nil {
		return 0
	}
	return micro(by.OnDemand)
}

// awsType is what is used of EC2's InstanceTypeInfo (EC2 API reference).
type awsType struct {
	InstanceType                  string
	BareMetal                     bool
	CurrentGeneration             bool
	BurstablePerformanceSupported bool
	NitroTpmSupport               string
	VCpuInfo                      struct{ DefaultVCpus int }
	MemoryInfo                    struct{ SizeInMiB int64 }
	ProcessorInfo                 struct{ SupportedArchitectures []string }
	SupportedBootModes            []string
	SupportedUsageClasses         []string
	SupportedVirtualizationTypes  []string
	GpuInfo                       json.RawMessage
	FpgaInfo                      json.RawMessage
	InferenceAcceleratorInfo      json.RawMessage
	NeuronInfo                    json.RawMessage
	MediaAcceleratorInfo          json.RawMessage
	EbsInfo                       struct {
		NvmeSupport           string
		AttachmentLimitType   string
		MaximumEbsAttachments int
	}
	NetworkInfo struct {
		EnaSupport               string
		MaximumNetworkInterfaces int
	}
}

var reRegion = regexp.MustCompile(`^[a-z]{2}(-gov)?-[a-z]+-[0-9]$`)

func awsTable(priced, types, date string) (*prices.Table, error) {
	var list []awsPriced
	if err := load(priced, &list); err != nil {
		return nil, err
	}
	known, err := awsTypes(types)
	if err != nil {
		return nil, err
	}
	var regions []string
	for _, p := range list {
		for r := range p.Pricing {
			if reRegion.MatchString(r) && !slices.Contains(regions, r) { // no local and no wavelength zones
				regions = append(regions, r)
			}
		}
	}
	slices.Sort(regions)
	t := prices.NewTable(vm.AWS, date, source+"; limits: EC2 DescribeInstanceTypes, as shipped with moto 5.2.1 (Apache-2.0)", regions)
	for _, p := range list {
		k, ok := known[p.Name]
		if !ok || !slices.Contains(k.SupportedUsageClasses, "on-demand") || !slices.Contains(k.SupportedVirtualizationTypes, "hvm") {
			continue
		}
		linux, windows := map[string]prices.Micro{}, map[string]prices.Micro{}
		for r := range p.Pricing {
			linux[r], windows[r] = p.onDemand(r, "linux"), p.onDemand(r, "mswin")
		}
		s := awsSize(k)
		if len(s.Arch) == 0 {
			continue // Macs
		}
		s.Special = s.Special || p.GPU > 0 || p.FPGA > 0
		t.Add(s, linux, windows)
	}
	return t, nil
}

func awsTypes(name string) (map[string]awsType, error) {
	var raw json.RawMessage
	if err := load(name, &raw); err != nil {
		return nil, err
	}
	var answer struct{ InstanceTypes []awsType }
	if err := json.Unmarshal(raw, &answer); err == nil && len(answer.InstanceTypes) > 0 {
		out := map[string]awsType{}
		for _, t := range answer.InstanceTypes {
			out[t.InstanceType] = t
		}
		return out, nil
	}
	out := map[string]awsType{}
	return out, json.Unmarshal(raw, &out)
}

var reSpecial = regexp.MustCompile(`^(hpc|mac|u-|p[0-9]|g[0-9]|f[0-9]|inf|trn|dl|vt)`)

func awsSize(k awsType) target.Size {
	s := target.Size{
		Name: k.InstanceType, CPUs: k.VCpuInfo.DefaultVCpus, Memory: k.MemoryInfo.SizeInMiB * vm.MiB,
		MaxNICs: k.NetworkInfo.MaximumNetworkInterfaces, NVMe: k.EbsInfo.NvmeSupport == "required", ENA: k.NetworkInfo.EnaSupport == "required",
		Premium: true, TPM: k.NitroTpmSupport == "supported", SecureBoot: slices.Contains(k.SupportedBootModes, "uefi"),
		Old: !k.CurrentGeneration, Burst: k.BurstablePerformanceSupported,
	}
	present := func(m json.RawMessage) bool { return len(m) > 0 && string(m) != "null" }
	s.Special = k.BareMetal || reSpecial.MatchString(k.InstanceType) || present(k.GpuInfo) || present(k.FpgaInfo) ||
		present(k.InferenceAcceleratorInfo) || present(k.NeuronInfo) || present(k.MediaAcceleratorInfo)
	for _, a := range k.ProcessorInfo.SupportedArchitectures {
		switch a {
		case "x86_64":
			s.Arch = append(s.Arch, vm.AMD64)
		case "i386":
			s.Arch = append(s.Arch, vm.I386)
		case "arm64":
			s.Arch = append(s.Arch, vm.ARM64)
		}
	}
	slices.Sort(s.Arch)
	for _, m := range k.SupportedBootModes {
		switch m {
		case "legacy-bios":
			s.Firmware = append(s.Firmware, vm.BIOS)
		case "uefi":
			s.Firmware = append(s.Firmware, vm.UEFI)
		}
	}
	// Where attachments are shared, every network adapter takes one of them; the
	// first is counted already (EC2 user guide, "Amazon EBS volume limits").
	s.MaxDisks, s.Shared = k.EbsInfo.MaximumEbsAttachments, k.EbsInfo.AttachmentLimitType == "shared"
	return s
}

func micro(s string) prices.Micro {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f <= 0 {
		return 0
	}
	return prices.Micro(f*1e6 + 0.5)
}

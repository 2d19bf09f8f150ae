package prices

import (
	"fmt"
	"math"

	"github.com/goccy/go-yaml"

	"ascend/internal/vm"
)

// RateCard is what an operator charges for its own machines, a month. It is a
// YAML file:
//
//	currency: EUR
//	date: 2026-01-01
//	cpu: 6.50            # each virtual processor
//	memory: 1.80         # each GiB
//	windows: 12.00       # each machine with Windows
//	machine: 0           # each machine
//	storage:             # each GiB, by datastore, container, offering or path
//	  default: 0.05
//	  fast-nvme: 0.12
type RateCard struct {
	Currency string             `yaml:"currency"`
	Date     string             `yaml:"date"`
	CPU      float64            `yaml:"cpu"`
	Memory   float64            `yaml:"memory"`
	Windows  float64            `yaml:"windows"`
	Machine  float64            `yaml:"machine"`
	Storage  map[string]float64 `yaml:"storage"`
}

// ParseRateCard reads a rate card. An error names the line.
func ParseRateCard(b []byte) (*RateCard, error) {
	var c RateCard
	if err := yaml.UnmarshalWithOptions(b, &c, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("cannot read rate card: %w", err)
	}
	for name, v := range map[string]float64{"cpu": c.CPU, "memory": c.Memory, "windows": c.Windows, "machine": c.Machine} {
		if v < 0 || v > 1e9 || math.IsNaN(v) {
			return nil, fmt.Errorf("cannot read rate card: %s is %v", name, v)
		}
	}
	for name, v := range c.Storage {
		if v < 0 || v > 1e9 || math.IsNaN(v) {
			return nil, fmt.Errorf("cannot read rate card: storage %s is %v", name, v)
		}
	}
	if c.Currency == "" {
		return nil, fmt.Errorf("cannot read rate card: it names no currency")
	}
	return &c, nil
}

// Compute is the price of a machine without its disks, a month.
func (c *RateCard) Compute(m *vm.Machine) Micro {
	total := c.Machine + c.CPU*float64(m.CPU.Total()) + c.Memory*float64(m.Memory)/float64(vm.GiB)
	if m.Guest.Family == vm.Windows {
		total += c.Windows
	}
	return Micro(math.Round(total * 1e6))
}

// Disk is the price of size bytes on a storage, a month; false when the card has
// neither it nor a default.
func (c *RateCard) Disk(storage string, size int64) (Micro, bool) {
	per, ok := c.Storage[storage]
	if !ok {
		if per, ok = c.Storage["default"]; !ok {
			return 0, false
		}
	}
	return Micro(math.Round(per * 1e6 * float64(size) / float64(vm.GiB))), true
}

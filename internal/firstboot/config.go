// Package firstboot is what a restored Windows does once, at its first start on
// the target: it installs the drivers that were put beside it, gives the network
// adapters their addresses again, brings disks online, writes a log and removes
// itself. Windows 10, Server 2016 and later run it as a service of ours
// (cmd/ascend-firstboot); the versions before run Script.
package firstboot

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Names within Folder, which is below the system's root (C:\Windows).
const (
	Folder     = "Ascend"
	ConfigFile = "firstboot.json"
	Program    = "ascend-firstboot.exe"
	ScriptFile = "firstboot.cmd"
	LogFile    = "firstboot.log"
	Drivers    = "drivers" // a folder for each driver
	Service    = "AscendFirstBoot"
)

// Config is what is to be done.
type Config struct {
	Version  int       `json:"version"` // 1
	Drivers  []string  `json:"drivers,omitempty"`
	Adapters []Adapter `json:"adapters,omitempty"`
	// Disks is how many disks the machine has; those beyond the first are brought
	// online. 0 leaves them.
	Disks int `json:"disks,omitempty"`
}

// Adapter is one network adapter's addresses.
type Adapter struct {
	// MAC is the adapter's; "" is for a machine with one adapter alone.
	MAC       string   `json:"mac,omitempty"`
	Addresses []string `json:"addresses"` // of IPv4, as 192.0.2.1/24
	Gateways  []string `json:"gateways,omitempty"`
	DNS       []string `json:"dns,omitempty"`
}

// Empty tells that nothing is to be done.
func (c *Config) Empty() bool { return len(c.Drivers) == 0 && len(c.Adapters) == 0 && c.Disks < 2 }

var (
	macPattern = regexp.MustCompile(`^([0-9a-f]{2}:){5}[0-9a-f]{2}$`)
	infPattern = regexp.MustCompile(`^drivers/[A-Za-z0-9._-]+/[A-Za-z0-9 ._()-]+\.[Ii][Nn][Ff]$`)
)

// Check refuses what must not reach a command line.
func (c *Config) Check() error {
	if c.Version != 1 || c.Disks < 0 || c.Disks > 1024 {
		return errors.New("not a task of a first start that is known here")
	}
	for _, d := range c.Drivers {
		if !infPattern.MatchString(d) || path.Clean(d) != d {
			return fmt.Errorf("%q is no path of a driver", d)
		}
	}
	for _, a := range c.Adapters {
		if a.MAC != "" && !macPattern.MatchString(a.MAC) || a.MAC == "" && len(c.Adapters) > 1 {
			return fmt.Errorf("%q is no MAC address that tells adapters apart", a.MAC)
		}
		if len(a.Addresses) == 0 {
			return fmt.Errorf("adapter %s has no address", a.MAC)
		}
		for _, s := range a.Addresses {
			if p, err := netip.ParsePrefix(s); err != nil || !p.Addr().Is4() {
				return fmt.Errorf("%q is no address of IPv4 with its length", s)
			}
		}
		for _, s := range slices.Concat(a.Gateways, a.DNS) {
			if p, err := netip.ParseAddr(s); err != nil || !p.Is4() {
				return fmt.Errorf("%q is no address of IPv4", s)
			}
		}
	}
	return nil
}

// Parse reads a configuration and checks it.
func Parse(b []byte) (*Config, error) {
	c := &Config{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("cannot read the task: %w", err)
	}
	return c, c.Check()
}

// mask is a prefix's length as Windows' programs want it.
func mask(bits int) string {
	m := ^uint32(0) << (32 - bits)
	return fmt.Sprintf("%d.%d.%d.%d", m>>24, m>>16&255, m>>8&255, m&255)
}

// addressing is the commands that give an interface, named by its index or name,
// its addresses.
func (a *Adapter) addressing(name string) [][]string {
	var out [][]string
	for i, s := range a.Addresses {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			continue // Check has refused it
		}
		c := []string{"netsh", "interface", "ipv4", "add", "address", "name=" + name, "address=" + p.Addr().String(), "mask=" + mask(p.Bits())}
		if i == 0 {
			c = []string{"netsh", "interface", "ipv4", "set", "address", "name=" + name, "source=static", "address=" + p.Addr().String(), "mask=" + mask(p.Bits())}
			if len(a.Gateways) > 0 {
				c = append(c, "gateway="+a.Gateways[0], "gwmetric=1")
			}
		}
		out = append(out, c)
	}
	for _, g := range a.Gateways[min(1, len(a.Gateways)):] {
		out = append(out, []string{"netsh", "interface", "ipv4", "add", "address", "name=" + name, "gateway=" + g, "gwmetric=2"})
	}
	for i, d := range a.DNS {
		c := []string{"netsh", "interface", "ipv4", "add", "dnsservers", "name=" + name, "address=" + d, fmt.Sprintf("index=%d", i+1), "validate=no"}
		if i == 0 {
			c = []string{"netsh", "interface", "ipv4", "set", "dnsservers", "name=" + name, "source=static", "address=" + d, "validate=no"}
		}
		out = append(out, c)
	}
	return out
}

// diskScript is what diskpart reads: every disk but the first is made writable and
// online. "noerr" goes on where a disk is so already.
func diskScript(disks int) string {
	var b strings.Builder
	b.WriteString("san policy=onlineall noerr\r\nrescan noerr\r\n")
	for i := 1; i < disks; i++ {
		fmt.Fprintf(&b, "select disk %d noerr\r\nonline disk noerr\r\nattributes disk clear readonly noerr\r\n", i)
	}
	return b.String()
}

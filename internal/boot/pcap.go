package boot

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
)

// Network is what the guest's adapter was heard to say.
type Network struct {
	Packets int      `json:"packets"`           // from the guest's MAC
	DHCP    int      `json:"dhcp"`              // requests
	ARP     int      `json:"arp"`               // from the guest
	Address []string `json:"address,omitempty"` // that it claimed
}

// readPcap sums a capture of filter-dump's up (libpcap's classic format, little-
// endian, Ethernet). A capture that is cut is read as far as it goes.
func readPcap(b []byte, mac string) Network {
	var n Network
	hw, err := net.ParseMAC(mac)
	if err != nil || len(b) < 24 || binary.LittleEndian.Uint32(b) != 0xa1b2c3d4 {
		return n
	}
	seen := map[string]bool{}
	claim := func(a []byte) {
		if ip, ok := netip.AddrFromSlice(a); ok && !ip.IsUnspecified() && !seen[ip.String()] && len(n.Address) < 16 {
			seen[ip.String()] = true
			n.Address = append(n.Address, ip.String())
		}
	}
	for b = b[24:]; len(b) >= 16; {
		size := int64(binary.LittleEndian.Uint32(b[8:]))
		if size > int64(len(b)-16) {
			break
		}
		p := b[16 : 16+size]
		b = b[16+size:]
		if len(p) < 14 || string(p[6:12]) != string(hw) {
			continue
		}
		n.Packets++
		kind, p := binary.BigEndian.Uint16(p[12:]), p[14:]
		switch {
		case kind == 0x0806 && len(p) >= 28: // RFC 826
			n.ARP++
			claim(p[14:18])
		case kind == 0x0800 && len(p) >= 20: // RFC 791
			head := int(p[0]&15) * 4
			claim(p[12:16])
			if p[9] == 17 && len(p) >= head+8 && binary.BigEndian.Uint16(p[head+2:]) == 67 { // RFC 2131
				n.DHCP++
			}
		}
	}
	return n
}

// vgaText is the text screen: characters and attributes alternate.
func vgaText(b []byte) string {
	var out strings.Builder
	for i := 0; i+1 < len(b); i += 2 {
		if i > 0 && i%160 == 0 {
			out.WriteByte('\n')
		}
		if c := b[i]; c >= 32 && c < 127 {
			out.WriteByte(c)
		} else {
			out.WriteByte(' ')
		}
	}
	return out.String()
}

package notify

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// Guard keeps what an admin may type from reaching what only this machine can:
// its own services, the networks behind it, a cloud's metadata. Addresses are
// judged after names are resolved, for every connection.
type Guard struct{ Allow []netip.Prefix }

// Networks that are not told of anything unless they are allowed, besides the
// loopback, private, link-local, multicast and unspecified ones that netip knows:
// shared addresses (RFC 6598), IETF protocols (RFC 6890), benchmarks (RFC 2544),
// reserved (RFC 1112), NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo (RFC 4380) and
// addresses that embed others.
var closed = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("::/96"),
}

// ParseAllow reads the networks that are allowed.
func ParseAllow(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return nil, fmt.Errorf("%q is no network, as 10.1.0.0/16", s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// Check judges an address.
func (g Guard) Check(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	for _, p := range g.Allow {
		if p.Contains(a) {
			return nil
		}
	}
	bad := !a.IsValid() || a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() || a.IsInterfaceLocalMulticast()
	for _, p := range closed {
		bad = bad || p.Contains(a)
	}
	if bad {
		return fmt.Errorf("%w: %s is an address of this machine or a network behind it; an admin can allow it in the settings", ErrRefused, a)
	}
	return nil
}

// Host judges every address of a name.
func (g Guard) Host(ctx context.Context, host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		return g.Check(a)
	}
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return fmt.Errorf("cannot find the host: %w", err)
	}
	for _, a := range all {
		if err := g.Check(a); err != nil {
			return err
		}
	}
	return nil
}

// client makes HTTP requests through the guard: no proxy, no redirect, each
// connection to an address that was judged.
func (g Guard) client() *http.Client {
	d := &net.Dialer{Timeout: 10 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%w: %s", ErrRefused, address)
		}
		return g.Check(ap.Addr())
	}}
	return &http.Client{
		Timeout:       20 * time.Second,
		Transport:     &http.Transport{DialContext: d.DialContext, TLSHandshakeTimeout: 10 * time.Second, DisableKeepAlives: true, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

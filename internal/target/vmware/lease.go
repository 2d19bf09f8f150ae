package vmware

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
)

// lease is an import lease: the permission to send a machine's disks.
type lease struct {
	c     *conn
	ref   types.ManagedObjectReference
	info  types.HttpNfcLeaseInfo
	disks []leaseDisk               // by the order's disks
	alive atomic.Pointer[time.Time] // of the last sign of life that was answered
}

// leaseDisk is where one disk is sent to. The address holds the lease's token
// and is never shown.
type leaseDisk struct {
	key string
	url *url.URL
}

func (l *lease) seen() {
	now := time.Now()
	l.alive.Store(&now)
}

func (l *lease) timeout() time.Duration {
	return time.Duration(max(l.info.LeaseTimeout, 60)) * time.Second
}

// await waits until the platform has made the machine.
func (l *lease) await(ctx context.Context) error {
	pause := 20 * time.Millisecond
	for {
		var m mo.HttpNfcLease
		if err := l.c.get(ctx, l.ref, &m, "state", "info", "error"); err != nil {
			return err
		}
		switch {
		case m.Error != nil:
			return &taskError{m.Error}
		case m.State == types.HttpNfcLeaseStateReady && m.Info != nil:
			l.info = *m.Info
			l.seen()
			return nil
		case m.State != types.HttpNfcLeaseStateInitializing && m.State != types.HttpNfcLeaseStateReady:
			return fmt.Errorf("the import lease is in state %s", m.State)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(pause*3/2, time.Second)
	}
}

// Keys of a lease's devices end in controller, bus number and unit, as in
// /vm-12/ParaVirtualSCSIController0:1; vcsim counts the disks, /vm-12/disk:1.
var (
	deviceKey  = regexp.MustCompile(`/([A-Za-z]+?)(\d+):(\d+)$`)
	countedKey = regexp.MustCompile(`/disk:(\d+)$`)
)

// match finds each of our disks among the lease's devices: by the slot in the
// device's key, or by its position among the machine's disks.
func (l *lease) match(slots []slot, devices []types.BaseVirtualDevice) error {
	at := map[slotKey]int{}
	for i, s := range slots {
		at[s.key()] = i
	}
	placed := slotsOf(devices)
	var counted []int // our index of the machine's n-th disk, -1 when not ours
	for _, d := range devices {
		disk, ok := d.(*types.VirtualDisk)
		if !ok {
			continue
		}
		mine := -1
		for k, p := range placed {
			if i, ours := at[k]; ours && p == disk {
				mine = i
			}
		}
		counted = append(counted, mine)
	}
	l.disks = make([]leaseDisk, len(slots))
	for _, d := range l.info.DeviceUrl {
		if d.Disk != nil && !*d.Disk {
			continue
		}
		i, ok := find(d.Key, at, counted)
		if !ok || l.disks[i].url != nil {
			return target.Permanent(fmt.Sprintf("the import lease has a disk %q that was not ordered", d.Key), "")
		}
		u, err := l.address(d)
		if err != nil {
			return err
		}
		l.disks[i] = leaseDisk{key: d.Key, url: u}
	}
	for i, d := range l.disks {
		if d.url == nil {
			return target.Permanent(fmt.Sprintf("the import lease has no address for disk %d at %s", i, slots[i]), "")
		}
	}
	return nil
}

// find reads a device's key: at are our disks by slot, counted by position.
func find(key string, at map[slotKey]int, counted []int) (i int, ok bool) {
	if m := deviceKey.FindStringSubmatch(key); m != nil {
		number, err1 := strconv.ParseInt(m[2], 10, 32)
		unit, err2 := strconv.ParseInt(m[3], 10, 32)
		if err1 != nil || err2 != nil {
			return 0, false
		}
		i, ok = at[slotKey{m[1], int32(number), int32(unit)}]
		return i, ok
	}
	if m := countedKey.FindStringSubmatch(key); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil || n >= len(counted) || counted[n] < 0 {
			return 0, false
		}
		return counted[n], true
	}
	return 0, false
}

// address is where a device is sent to; "*" stands for the server's own name.
func (l *lease) address(d types.HttpNfcLeaseDeviceUrl) (*url.URL, error) {
	u, err := url.Parse(d.Url)
	if err != nil || u.Host == "" {
		return nil, target.Permanent("the import lease has an address that cannot be read", "")
	}
	if u.Scheme != "https" {
		return nil, target.Permanent("the import lease wants the disks without encryption", "enable TLS for NFC on the host")
	}
	if u.Hostname() == "*" {
		u.Host = l.c.cfg.sdk.Host
	}
	if u.Port() == "" {
		u.Host += ":443"
	}
	if d.SslThumbprint != "" {
		// vCenter, whose certificate was checked, vouches for the host.
		l.c.cfg.trust.Vouch(u.Host, d.SslThumbprint)
	}
	return u, nil
}

// askSHA1 asks for SHA-1 digests in the manifest, where the server lets the
// client choose (vSphere API 6.7). Others give SHA-1 anyway.
func (l *lease) askSHA1(ctx context.Context) {
	req := types.HttpNfcLeaseSetManifestChecksumType{This: l.ref}
	for _, d := range l.disks {
		req.DeviceUrlsToChecksumTypes = append(req.DeviceUrlsToChecksumTypes,
			types.KeyValue{Key: d.key, Value: string(types.HttpNfcLeaseManifestEntryChecksumTypeSha1)})
	}
	_, _ = methods.HttpNfcLeaseSetManifestChecksumType(ctx, l.c.vim, &req)
}

var errLease = errors.New("the import lease is lost")

// lost is the error of everything that needs a lease that is no more.
func lost(err error) error {
	detail, _ := target.SplitHint(translate(err))
	return &target.Problem{
		Msg:  fmt.Sprintf("%v: %s", errLease, detail),
		Hint: "begin the restore again; the disks are sent from the start", Kind: target.ErrExpired, Cause: err,
	}
}

// beat tells the platform that the client is alive. Its error means that the
// lease is lost; a network that is away for less than the lease's timeout is
// none. It is safe for concurrent use.
func (l *lease) beat(ctx context.Context, percent int32) error {
	_, err := methods.HttpNfcLeaseProgress(ctx, l.c.vim, &types.HttpNfcLeaseProgress{This: l.ref, Percent: percent})
	switch {
	case err == nil:
		l.seen()
		return nil
	case isFault[*types.ManagedObjectNotFound](err), isFault[*types.InvalidState](err), isFault[*types.Timedout](err):
		return lost(err)
	case time.Since(*l.alive.Load()) > l.timeout():
		return lost(err)
	}
	return nil
}

// errMissing is a disk that the platform answered for and knows nothing of.
var errMissing = errors.New("the platform has digests of other disks and none of this one: it must be sent again")

// verify compares the platform's digest of disk i with sum. The verdict is
// empty when the platform gives none, or one of a kind that was not computed.
func (l *lease) verify(ctx context.Context, i int, sum target.Sum) (verdict string, err error) {
	res, err := methods.HttpNfcLeaseGetManifest(ctx, l.c.vim, &types.HttpNfcLeaseGetManifest{This: l.ref})
	switch {
	case isFault[*types.ManagedObjectNotFound](err):
		return "", lost(err)
	case isFault[*types.MethodNotFound](err), isFault[*types.NotSupported](err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("cannot read the digests of what landed: %w", translate(err))
	}
	seen := false
	for _, e := range res.Returnval {
		if e.Key != l.disks[i].key {
			continue
		}
		seen = true
		for _, d := range []struct {
			name string
			got  string
			sent []byte
		}{
			{"sha1", e.Sha1, sum.SHA1},
			{e.ChecksumType, e.Checksum, map[string][]byte{"sha1": sum.SHA1, "sha256": sum.SHA256}[e.ChecksumType]},
		} {
			got, err := hex.DecodeString(strings.TrimSpace(d.got))
			if err != nil || len(got) == 0 || len(got) != len(d.sent) {
				continue
			}
			if !bytes.Equal(got, d.sent) {
				return "", fmt.Errorf("%w: %s %x, sent %x", target.ErrDigest, d.name, got, d.sent)
			}
			verdict = d.name
		}
	}
	if !seen && len(res.Returnval) > 0 {
		return "", errMissing
	}
	return verdict, nil
}

// complete ends the lease; the machine is then the platform's.
func (l *lease) complete(ctx context.Context) error {
	_, err := methods.HttpNfcLeaseComplete(ctx, l.c.vim, &types.HttpNfcLeaseComplete{This: l.ref})
	if isFault[*types.ManagedObjectNotFound](err) {
		return lost(err)
	}
	if err != nil {
		return fmt.Errorf("cannot complete the import: %w", translate(err))
	}
	return nil
}

// abort gives the lease up. That it is gone already is no error.
func (l *lease) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	_ = l.c.abortLease(ctx, l.ref)
}

func (c *conn) abortLease(ctx context.Context, ref types.ManagedObjectReference) error {
	_, err := methods.HttpNfcLeaseAbort(ctx, c.vim, &types.HttpNfcLeaseAbort{This: ref})
	if errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Package hostshare writes and reads files of a Hyper-V host's share by SMB 3
// ([MS-SMB2]): how disks reach a host, straight to where they stay.
//
// Every message is signed; a share or server that requires encryption gets it.
// SMB 1 is never spoken. A server that does neither sign nor know the user is
// refused, for guests and anonymous sessions cannot sign.
package hostshare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"strings"
	"time"

	smb2 "github.com/cloudsoda/go-smb2"
	krbclient "github.com/jcmturner/gokrb5/v8/client"
	krbconfig "github.com/jcmturner/gokrb5/v8/config"

	"ascend/internal/secret"
	"ascend/internal/target"
)

// MaxWrite is the most bytes of one WriteAt that are sent without being divided
// up: the largest write that every SMB 3 server takes.
const MaxWrite = 1 << 20

// dialTimeout bounds connecting, where ctx bounds it no closer.
const dialTimeout = 30 * time.Second

// Config names a share. User and Domain are as Windows has them; Domain may be
// empty for a local account.
type Config struct {
	Address  string // host, or host:port; the port is 445
	Share    string // its name: "VMs", or an administrative one: "D$"
	User     string
	Domain   string
	Password secret.String
	Kerberos *Kerberos // nil: NTLMv2
}

// Kerberos is how a ticket for the share's server (cifs/HOST) is had. The user is
// then that of the realm, what stands after an @ left out.
type Kerberos struct {
	Realm  string
	Config string // path of krb5.conf
}

// Share is one connection to a share. Its methods may be called concurrently.
// Names are relative to the share, with slashes.
type Share struct {
	name    string // for messages
	conn    net.Conn
	session *smb2.Session
	share   *smb2.Share
}

// initiator is who signs in.
func (c *Config) initiator() (smb2.Initiator, error) {
	if c.Kerberos == nil {
		return &smb2.NTLMInitiator{User: c.User, Domain: c.Domain, Password: c.Password.Reveal()}, nil
	}
	conf, err := krbconfig.Load(c.Kerberos.Config)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w: %w", c.Kerberos.Config, err, target.ErrPermanent)
	}
	user, _, _ := strings.Cut(c.User, "@")
	host := c.Address
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	// Windows' domain controllers do not offer FAST to clients without it (PA-FX-FAST).
	client := krbclient.NewWithPassword(user, c.Kerberos.Realm, c.Password.Reveal(), conf, krbclient.DisablePAFXFAST(true))
	return &smb2.Krb5Initiator{Client: client, TargetSPN: "cifs/" + host}, nil
}

// Open connects and signs in. A refused sign-in and a share that is not
// there are target.ErrPermanent.
func Open(ctx context.Context, c Config) (*Share, error) {
	address := c.Address
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), "445")
	}
	s := &Share{name: `\\` + c.Address + `\` + c.Share}
	if strings.ContainsAny(c.Share, `\/`) || c.Share == "" {
		return nil, fmt.Errorf("cannot open share %s: the name of a share has no separators: %w", s.name, target.ErrPermanent)
	}
	who, err := c.initiator()
	if err != nil {
		return nil, fmt.Errorf("cannot open share %s: %w", s.name, err)
	}
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot open share %s: %w; is TCP port 445 open towards the host?", s.name, err)
	}
	// Until the share is mounted the library does not watch ctx in every step.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	s.conn = conn
	d := &smb2.Dialer{Negotiator: smb2.Negotiator{RequireMessageSigning: true}, Initiator: who}
	if s.session, err = d.DialConn(ctx, conn, address); err != nil {
		_ = conn.Close()
		return nil, s.explain("open share", "", err)
	}
	if s.share, err = s.session.Mount(c.Share); err != nil {
		_ = s.Close()
		return nil, s.explain("open share", "", err)
	}
	return s, nil
}

// Break ends the connection at once, as the death of the process does: whatever
// waits for the host fails. Close is still due.
func (s *Share) Break() { _ = s.conn.Close() }

// closeTimeout bounds Close: a host that says nothing does not hold anybody.
const closeTimeout = 5 * time.Second

// Close ends the session. Open files are closed by the host.
func (s *Share) Close() error {
	_ = s.conn.SetDeadline(time.Now().Add(closeTimeout)) // a broken connection needs none
	if s.share != nil {
		_ = s.share.Umount() // the session's end unmounts it too
	}
	err := s.session.Logoff()
	_ = s.conn.Close() // Logoff closes it where it succeeds
	if err != nil {
		return fmt.Errorf("cannot close share %s: %w", s.name, err)
	}
	return nil
}

// Create makes a file of so many bytes that read as zeros until they are written.
// The folders above it must be there. What exists is never touched: the error is
// then target.ErrExists. The file's operations end with ctx.
func (s *Share) Create(ctx context.Context, name string, size int64) (*File, error) {
	f, err := s.open(ctx, "create", name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	if err := f.f.Truncate(size); err != nil {
		err = s.explain("make room for", name, err)
		return nil, errors.Join(err, f.Close(), s.Remove(ctx, name))
	}
	return f, nil
}

// Continue opens a file that Create made, for writing, whoever was killed since.
func (s *Share) Continue(ctx context.Context, name string) (*File, error) {
	return s.open(ctx, "continue", name, os.O_RDWR)
}

// Read opens a file for reading.
func (s *Share) Read(ctx context.Context, name string) (*File, error) {
	return s.open(ctx, "read", name, os.O_RDONLY)
}

func (s *Share) open(ctx context.Context, what, name string, flag int) (*File, error) {
	p, err := s.path(what, name)
	if err != nil {
		return nil, err
	}
	f, err := s.share.WithContext(ctx).OpenFile(p, flag, 0o600)
	if err != nil {
		return nil, s.explain(what, name, err)
	}
	return &File{share: s, name: name, f: f}, nil
}

// MakeFolder makes one folder; it is no error when it is there.
func (s *Share) MakeFolder(ctx context.Context, name string) error {
	p, err := s.path("make folder", name)
	if err != nil {
		return err
	}
	if err := s.share.WithContext(ctx).Mkdir(p, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return s.explain("make folder", name, err)
	}
	return nil
}

// Remove removes a file or an empty folder; nil when it is not there.
func (s *Share) Remove(ctx context.Context, name string) error {
	p, err := s.path("remove", name)
	if err != nil {
		return err
	}
	if err := s.share.WithContext(ctx).Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.explain("remove", name, err)
	}
	return nil
}

// Free is the number of bytes that the user may still write.
func (s *Share) Free(ctx context.Context) (int64, error) {
	st, err := s.share.WithContext(ctx).Statfs("")
	if err != nil {
		return 0, s.explain("ask for the free space of", "", err)
	}
	return int64(min(st.AvailableBlockCount()*st.BlockSize(), 1<<62)), nil
}

// path is a name as the share has it. Windows forbids these characters in names,
// and NTFS gives the colon a meaning of its own: a stream inside a file.
func (s *Share) path(what, name string) (string, error) {
	clean := path.Clean(name)
	if clean != name || name == "." || path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") || strings.ContainsAny(name, "\\:*?\"<>|") ||
		strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }) {
		return "", fmt.Errorf("cannot %s %q on share %s: Windows takes no such name: %w", what, name, s.name, target.ErrPermanent)
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasSuffix(part, ".") || strings.HasSuffix(part, " ") {
			return "", fmt.Errorf("cannot %s %q on share %s: Windows drops dots and spaces at a name's end: %w", what, name, s.name, target.ErrPermanent)
		}
	}
	return strings.ReplaceAll(name, "/", `\`), nil
}

// File is an open file. WriteAt and ReadAt may be called concurrently.
type File struct {
	share *Share
	name  string
	f     *smb2.File
}

var (
	_ io.WriterAt = (*File)(nil)
	_ io.ReaderAt = (*File)(nil)
)

// WriteAt writes all of p; the host has it when it returns.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.f.WriteAt(p, off)
	if err != nil {
		return n, f.share.explain("write", f.name, err)
	}
	return n, nil
}

// ReadAt is as io.ReaderAt has it.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, f.share.explain("read", f.name, err)
	}
	return n, err
}

// Sync returns when what was written survives the host's power loss.
func (f *File) Sync() error {
	if err := f.f.Sync(); err != nil {
		return f.share.explain("flush", f.name, err)
	}
	return nil
}

// Resize makes the file n bytes long; what is new reads as zeros.
func (f *File) Resize(n int64) error {
	if err := f.f.Truncate(n); err != nil {
		return f.share.explain("resize", f.name, err)
	}
	return nil
}

// Size asks the host for the file's length in bytes.
func (f *File) Size() (int64, error) {
	st, err := f.f.Stat()
	if err != nil {
		return 0, f.share.explain("look at", f.name, err)
	}
	return st.Size(), nil
}

// Close closes the file on the host.
func (f *File) Close() error {
	if err := f.f.Close(); err != nil {
		return f.share.explain("close", f.name, err)
	}
	return nil
}

// refusals are the statuses ([MS-ERREF] 2.3.1) that trying again does not change,
// with what to do about them.
var refusals = map[uint32]string{
	0xc000006d: "the host does not know this user and password", // STATUS_LOGON_FAILURE
	0xc000006e: "the account is restricted: an empty password, hours or workstations",
	0xc0000072: "the account is disabled",
	0xc0000071: "the password has expired: sign in once and change it",
	0xc0000193: "the account has expired",
	0xc0000234: "the account is locked: wait, or have it unlocked",
	0xc00000cc: "the host has no such share",                                         // STATUS_BAD_NETWORK_NAME
	0xc0000022: "the user lacks the right: give it full control of share and folder", // STATUS_ACCESS_DENIED
	0xc000007f: "the disk of the share is full",                                      // STATUS_DISK_FULL
	0xc0000044: "the user's quota is used up",                                        // STATUS_QUOTA_EXCEEDED
}

// explain tells what went wrong, and whether for good.
func (s *Share) explain(what, name string, err error) error {
	where := "share " + s.name
	if name != "" {
		where = fmt.Sprintf("%s on share %s", name, s.name)
	}
	if what == "open share" {
		where, what = s.name, "open share"
	}
	var re *smb2.ResponseError
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("cannot %s %s: %w", what, where, target.ErrExists)
	case errors.As(err, &re) && refusals[re.Code] != "":
		return fmt.Errorf("cannot %s %s: %s: %w: %w", what, where, refusals[re.Code], err, target.ErrPermanent)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot %s %s: %s: %w: %w", what, where, refusals[0xc0000022], err, target.ErrPermanent)
	}
	return fmt.Errorf("cannot %s %s: %w", what, where, err)
}

package wsmansim

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // NTLM is made of it
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"io"
	"log"
	"net/http"
	"strings"
	"sync"
	"unicode/utf16"

	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/service"
	"github.com/jcmturner/gokrb5/v8/spnego"
	"golang.org/x/crypto/md4" //nolint:staticcheck // the hash of NT passwords
)

var quiet = log.New(io.Discard, "", 0) // broken handshakes are what tests are about

type connKey struct{}

// signIn is the state of one connection: NTLM and Kerberos sign connections in.
type signIn struct {
	mu        sync.Mutex
	challenge []byte
	done      bool
}

// allowed tells whether the request may go on; else it was answered.
func (s *Sim) allowed(w http.ResponseWriter, r *http.Request) bool {
	c := r.Context().Value(connKey{}).(*signIn)
	c.mu.Lock()
	defer c.mu.Unlock()
	refuse := func(token string) bool {
		h := w.Header()
		if token != "" {
			h.Set("WWW-Authenticate", "Negotiate "+token)
		} else {
			h.Add("WWW-Authenticate", "Negotiate")
			if s.o.Keytab != "" {
				h.Add("WWW-Authenticate", "Kerberos")
			}
			h.Add("WWW-Authenticate", `Basic realm="WSMAN"`)
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20))
		w.WriteHeader(http.StatusUnauthorized)
		return false
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case scheme == "":
		return c.done || refuse("")
	case strings.EqualFold(scheme, "Basic"):
		user, password, ok := r.BasicAuth()
		return ok && s.isUser(user) && password == s.o.Password || refuse("")
	case !strings.EqualFold(scheme, "Negotiate") && !strings.EqualFold(scheme, "Kerberos"):
		return refuse("")
	}
	msg, err := base64.StdEncoding.DecodeString(token)
	if err != nil {
		return refuse("")
	}
	switch {
	case bytes.HasPrefix(msg, []byte("NTLMSSP\x00\x01")):
		c.challenge, c.done = make([]byte, 8), false
		_, _ = rand.Read(c.challenge) // documented to never fail
		return refuse(base64.StdEncoding.EncodeToString(challengeMessage(msg, c.challenge)))
	case bytes.HasPrefix(msg, []byte("NTLMSSP\x00\x03")):
		c.done = c.challenge != nil && s.ntlm(msg, c.challenge)
		c.challenge = nil
		return c.done || refuse("")
	case s.o.Keytab != "":
		c.done = s.kerberos(r)
		return c.done || refuse("")
	}
	return refuse("")
}

// isUser compares a user's name, with or without the domain.
func (s *Sim) isUser(name string) bool {
	if _, after, ok := strings.Cut(name, `\`); ok {
		name = after
	}
	name, _, _ = strings.Cut(name, "@")
	return strings.EqualFold(name, s.o.User)
}

// kerberos checks the ticket in the request with the service's key.
func (s *Sim) kerberos(r *http.Request) bool {
	kt, err := keytab.Load(s.o.Keytab)
	if err != nil {
		return false
	}
	ok := false
	h := spnego.SPNEGOKRB5Authenticate(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { ok = true }), kt, service.Logger(quiet), service.DecodePAC(false))
	h.ServeHTTP(discard{http.Header{}}, r)
	return ok
}

// discard is a ResponseWriter that nobody reads.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// Flags of [MS-NLMP] 2.2.2.5: Unicode, request target, NTLM, always sign, target is
// a server, extended session security, target information, 128 bits, key exchange, 56 bits.
const ntlmFlags = 0x00000001 | 0x00000004 | 0x00000200 | 0x00008000 | 0x00020000 | 0x00080000 | 0x00800000 | 0x20000000 | 0x40000000 | 0x80000000

func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// challengeMessage is [MS-NLMP] 2.2.1.2, the answer to hello: what the client did not
// ask for is not offered.
func challengeMessage(hello, challenge []byte) []byte {
	const server = 0x00020000 | 0x00800000 // what is said of the server itself
	flags := uint32(ntlmFlags)
	if len(hello) >= 16 {
		flags &= binary.LittleEndian.Uint32(hello[12:]) | server
	}
	name := utf16le(HostName)
	var info []byte
	for _, id := range []uint16{2, 1} { // MsvAvNbDomainName, MsvAvNbComputerName
		info = binary.LittleEndian.AppendUint16(info, id)
		info = binary.LittleEndian.AppendUint16(info, uint16(len(name)))
		info = append(info, name...)
	}
	info = append(info, 0, 0, 0, 0)
	const head = 48
	b := append([]byte("NTLMSSP\x00"), 2, 0, 0, 0)
	field := func(n, at int) {
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
		b = binary.LittleEndian.AppendUint32(b, uint32(at))
	}
	field(len(name), head)
	b = binary.LittleEndian.AppendUint32(b, flags)
	b = append(b, challenge...)
	b = append(b, make([]byte, 8)...)
	field(len(info), head+len(name))
	return append(append(b, name...), info...)
}

// ntlm checks an AUTHENTICATE_MESSAGE ([MS-NLMP] 2.2.1.3) with an NTLMv2 response
// (3.3.2). LM and NTLMv1 responses are refused.
func (s *Sim) ntlm(msg, challenge []byte) bool {
	field := func(at int) ([]byte, bool) {
		if len(msg) < at+8 {
			return nil, false
		}
		n, off := int(binary.LittleEndian.Uint16(msg[at:])), int(binary.LittleEndian.Uint32(msg[at+4:]))
		if off < 0 || off+n > len(msg) {
			return nil, false
		}
		return msg[off : off+n], true
	}
	response, ok1 := field(20)
	domain, ok2 := field(28)
	user, ok3 := field(36)
	if !ok1 || !ok2 || !ok3 || len(msg) < 64 || len(response) < 16+28 {
		return false
	}
	name := fromUTF16(user)
	if msg[60]&1 == 0 { // NTLMSSP_NEGOTIATE_UNICODE: else the names have a byte a character
		name, domain = string(user), utf16le(string(domain))
	}
	if !s.isUser(name) {
		return false
	}
	h := md4.New()
	_, _ = h.Write(utf16le(s.o.Password))
	mac := func(key []byte, parts ...[]byte) []byte {
		m := hmac.New(md5.New, key)
		for _, p := range parts {
			_, _ = m.Write(p)
		}
		return m.Sum(nil)
	}
	key := mac(h.Sum(nil), utf16le(strings.ToUpper(name)), domain) // NTOWFv2
	return hmac.Equal(response[:16], mac(key, challenge, response[16:]))
}

func fromUTF16(b []byte) string {
	var u []uint16
	for i := 0; i+1 < len(b); i += 2 {
		u = append(u, binary.LittleEndian.Uint16(b[i:]))
	}
	return string(utf16.Decode(u))
}

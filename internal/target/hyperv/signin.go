package hyperv

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"

	ntlmssp "github.com/Azure/go-ntlmssp"
	krbclient "github.com/jcmturner/gokrb5/v8/client"
	krbconfig "github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/spnego"

	"ascend/internal/target"
	"ascend/internal/target/hyperv/wsman"
)

// connection makes the transport of one program's messages: one connection, that
// signs in as the settings say.
func (c *config) connection() (wsman.Connection, error) {
	tr := c.trust.Transport()
	tr.MaxConnsPerHost, tr.MaxIdleConnsPerHost = 1, 1
	switch c.auth {
	case authBasic:
		return &basic{tr, c}, nil
	case authKerberos:
		conf, err := krbconfig.Load(c.krb5)
		if err != nil {
			return nil, target.Permanent(fmt.Sprintf("cannot read %s: %v", c.krb5, err), "set krb5_conf to the Kerberos configuration of the domain")
		}
		name, _, _ := strings.Cut(c.user, "@")
		// Windows' domain controllers do not offer FAST to clients without it (PA-FX-FAST).
		return &kerberos{tr, krbclient.NewWithPassword(name, c.realm, c.password.Reveal(), conf, krbclient.DisablePAFXFAST(true)), "HTTP/" + c.url.Hostname()}, nil
	}
	return &ntlm{Transport: tr, c: c}, nil
}

type basic struct {
	*http.Transport
	c *config
}

func (b *basic) RoundTrip(q *http.Request) (*http.Response, error) {
	q = q.Clone(q.Context())
	user := b.c.user
	if b.c.domain != "" {
		user = b.c.domain + `\` + user
	}
	q.SetBasicAuth(user, b.c.password.Reveal())
	return b.Transport.RoundTrip(q)
}

// kerberos signs every message in by a ticket for the service (RFC 4559).
type kerberos struct {
	*http.Transport
	client  *krbclient.Client
	service string
}

func (k *kerberos) RoundTrip(q *http.Request) (*http.Response, error) {
	q = q.Clone(q.Context())
	if err := spnego.SetSPNEGOHeader(k.client, q, k.service); err != nil {
		p := &target.Problem{Msg: "Kerberos gives no ticket for " + k.service + ": " + lastLine(err), Hint: "check user, password, realm and krb5_conf, and that this machine's clock is right and url has the host's full name", Cause: err}
		if s := err.Error(); strings.Contains(s, "KDC_ERR_") || strings.Contains(s, "Decrypting_Error") { // the controller said no, or what it gave is for another password
			p.Kind = target.ErrPermanent
		}
		return nil, p
	}
	return k.Transport.RoundTrip(q)
}

func (k *kerberos) CloseIdleConnections() {
	k.client.Destroy()
	k.Transport.CloseIdleConnections()
}

// lastLine is the root of an error of gokrb5, which is many lines long.
func lastLine(err error) string {
	s := err.Error()
	if i := strings.LastIndex(s, "< "); i >= 0 {
		s = s[i+2:]
	}
	return strings.Join(strings.Fields(s), " ")
}

// ntlm signs its connection in by NTLMv2 ([MS-NTHT], [MS-NLMP]): the messages of
// the exchange must all go over the same one, of which there is only one.
type ntlm struct {
	*http.Transport
	c      *config
	signed bool
}

// errMoved: the connection was closed in the middle of signing in.
var errMoved = errors.New("the host closed the connection while signing in")

func (n *ntlm) RoundTrip(q *http.Request) (*http.Response, error) {
	var body []byte
	if q.Body != nil {
		var err error
		if body, err = io.ReadAll(q.Body); err != nil {
			return nil, err
		}
		_ = q.Body.Close()
	}
	if n.signed {
		r, err := n.send(q, body, "", nil)
		if err != nil || r.StatusCode != http.StatusUnauthorized {
			return r, err
		}
		drain(r) // another connection
		n.signed = false
	}
	for again := true; ; again = false {
		r, err := n.signIn(q, body)
		if errors.Is(err, errMoved) && again {
			continue
		}
		n.signed = err == nil && r.StatusCode != http.StatusUnauthorized
		return r, err
	}
}

func (n *ntlm) signIn(q *http.Request, body []byte) (*http.Response, error) {
	hello, err := ntlmssp.NewNegotiateMessage("", "")
	if err != nil {
		return nil, err
	}
	r, err := n.send(q, nil, token(hello), nil)
	if err != nil {
		return nil, err
	}
	challenge := challengeOf(r.Header)
	if r.StatusCode != http.StatusUnauthorized || len(challenge) == 0 {
		return r, nil // it is no service that takes NTLM: the caller sees the status
	}
	drain(r)
	user := n.c.user
	if n.c.domain != "" {
		user = n.c.domain + `\` + user
	}
	proof, err := ntlmssp.NewAuthenticateMessage(challenge, user, n.c.password.Reveal(), nil)
	if err != nil {
		return nil, fmt.Errorf("the host's NTLM challenge cannot be answered: %w", err)
	}
	moved := false
	r, err = n.send(q, body, token(proof), &moved)
	if err == nil && r.StatusCode == http.StatusUnauthorized && moved {
		drain(r)
		return nil, errMoved
	}
	return r, err
}

// challengeOf is the service's NTLM message; empty where there is none.
func challengeOf(h http.Header) []byte {
	for _, v := range h.Values("WWW-Authenticate") {
		if t, ok := strings.CutPrefix(v, "Negotiate "); ok {
			if p, err := base64.StdEncoding.DecodeString(t); err == nil {
				return p
			}
		}
	}
	return nil
}

func token(p []byte) string { return "Negotiate " + base64.StdEncoding.EncodeToString(p) }

func drain(r *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20))
	_ = r.Body.Close()
}

// send sends the request with that body; moved tells whether it took a new connection.
func (n *ntlm) send(q *http.Request, body []byte, authorization string, moved *bool) (*http.Response, error) {
	ctx := q.Context()
	if moved != nil {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { *moved = !i.Reused }})
	}
	q = q.Clone(ctx)
	q.Body, q.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	q.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	if len(body) == 0 {
		q.Body = http.NoBody
	}
	if authorization != "" {
		q.Header.Set("Authorization", authorization)
	}
	return n.Transport.RoundTrip(q)
}

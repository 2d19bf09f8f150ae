package wsman

import (
	"bytes"
	"crypto/rand"
	"encoding/xml"
	"fmt"
	"net/http"
	"strings"
)

// answer is what we read of an answer, in whatever namespace prefix.
type answer struct {
	Body body `xml:"http://www.w3.org/2003/05/soap-envelope Body"`
}

type body struct {
	Shell struct {
		ID string `xml:"ShellId"`
	} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Shell"`
	Selectors []selector `xml:"ResourceCreated>ReferenceParameters>SelectorSet>Selector"`
	Command   string     `xml:"CommandResponse>CommandId"`
	Streams   []stream   `xml:"ReceiveResponse>Stream"`
	State     struct {
		State string `xml:"State,attr"`
		Exit  int    `xml:"ExitCode"`
	} `xml:"ReceiveResponse>CommandState"`
	Fault *struct {
		Subcode string `xml:"Code>Subcode>Value"`
		Text    string `xml:"Reason>Text"`
		Detail  struct {
			Fault struct {
				Code    uint32 `xml:"Code,attr"`
				Message string `xml:",innerxml"`
			} `xml:"http://schemas.microsoft.com/wbem/wsman/1/wsmanfault WSManFault"`
		} `xml:"Detail"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Fault"`
}

type selector struct {
	Name string `xml:"Name,attr"`
	Text string `xml:",chardata"`
}

type stream struct {
	Name string `xml:"Name,attr"`
	Text string `xml:",chardata"`
}

// ShellID is the new shell's identifier: as the resource that was created
// ([WS-Transfer] CreateResponse), or in the shell that came with it.
func (b *body) ShellID() string {
	for _, s := range b.Selectors {
		if s.Name == "ShellId" {
			return strings.TrimSpace(s.Text)
		}
	}
	return strings.TrimSpace(b.Shell.ID)
}

// readAnswer reads an answer; one that is no success is a *Fault.
func readAnswer(status int, kind string, p []byte) (*answer, error) {
	if !strings.Contains(kind, "soap+xml") {
		return nil, &Fault{Status: status}
	}
	var a answer
	d := xml.NewDecoder(bytes.NewReader(p))
	d.Strict = true
	if err := d.Decode(&a); err != nil {
		return nil, fmt.Errorf("the WinRM service's answer cannot be read: %w", err)
	}
	f := a.Body.Fault
	if f == nil && status == http.StatusOK {
		return &a, nil
	}
	out := &Fault{Status: status}
	if f != nil {
		out.Code, out.Subcode = f.Detail.Fault.Code, f.Subcode
		out.Text = strings.Join(strings.Fields(plain(f.Text)), " ")
	}
	return nil, out
}

// plain keeps what can be shown, of a bounded length.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if len(s) > 2000 {
		s = strings.ToValidUTF8(s[:2000], "") + "…"
	}
	return s
}

// newID is a random UUID (RFC 9562, version 4).
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // documented to never fail
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

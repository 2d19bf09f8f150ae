package wsmansim

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The service's names and bounds.
const (
	nsShell      = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
	resource     = nsShell + "/cmd"
	nsTransfer   = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
	anonymous    = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
	maxEnvelope  = 500 << 10 // MaxEnvelopeSizekb of Windows Server 2012 and later
	maxShells    = 30        // MaxShellsPerUser
	leastAnswer  = 8192      // the least MaxEnvelopeSize a client may ask for ([DSP0226] 6.2)
	codeTimedOut = 2150858793
	codeNoShell  = 2150858843 // ERROR_WSMAN_INVALID_SELECTORS: the shell is not there
	codeQuota    = 2150859173
	codeSchema   = 2150858817
)

type envelope struct {
	XMLName xml.Name `xml:"http://www.w3.org/2003/05/soap-envelope Envelope"`
	Header  struct {
		To       string   `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing To"`
		ReplyTo  string   `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing ReplyTo>Address"`
		Action   string   `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing Action"`
		ID       string   `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing MessageID"`
		Resource string   `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd ResourceURI"`
		Largest  string   `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd MaxEnvelopeSize"`
		Timeout  string   `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd OperationTimeout"`
		Select   []option `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd SelectorSet>Selector"`
		Options  []option `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd OptionSet>Option"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Header"`
	Body struct {
		Shell *struct {
			In  string `xml:"InputStreams"`
			Out string `xml:"OutputStreams"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Shell"`
		Command *struct {
			Command   string   `xml:"Command"`
			Arguments []string `xml:"Arguments"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell CommandLine"`
		Send *struct {
			Streams []streamIn `xml:"Stream"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Send"`
		Receive *struct {
			Streams []struct {
				Command string `xml:"CommandId,attr"`
				Names   string `xml:",chardata"`
			} `xml:"DesiredStream"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Receive"`
		Signal *struct {
			Command string `xml:"CommandId,attr"`
			Code    string `xml:"Code"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Signal"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Body"`
}

type option struct {
	Name string `xml:"Name,attr"`
	Text string `xml:",chardata"`
}

type streamIn struct {
	Name    string `xml:"Name,attr"`
	Command string `xml:"CommandId,attr"`
	End     string `xml:"End,attr"`
	Text    string `xml:",chardata"`
}

// fault is an answer that is an error ([DSP0226] 14, [MS-WSMV] 2.2.4.43).
type fault struct {
	status  int
	subcode string
	code    uint32
	text    string
}

func schemaFault(format string, args ...any) *fault {
	return &fault{http.StatusInternalServerError, "w:SchemaValidationError", codeSchema, fmt.Sprintf(format, args...)}
}

// serve answers one message.
func (s *Sim) serve(w http.ResponseWriter, r *http.Request) {
	if !s.allowed(w, r) {
		return
	}
	if r.Method != http.MethodPost || r.URL.Path != "/wsman" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, maxEnvelope+1))
	if err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
	var e envelope
	action, answer, f := "", "", (*fault)(nil)
	switch {
	case !strings.HasPrefix(r.Header.Get("Content-Type"), "application/soap+xml"):
		w.WriteHeader(http.StatusUnsupportedMediaType)
		return
	case len(b) > maxEnvelope:
		f = &fault{http.StatusInternalServerError, "w:EncodingLimit", 2150858821, "The size of the request exceeded the configured MaxEnvelopeSize quota."}
	case xml.NewDecoder(bytes.NewReader(b)).Decode(&e) != nil:
		f = schemaFault("The envelope is not well-formed.")
	default:
		f = s.header(&e)
	}
	var instead *Fault
	if f == nil {
		action = path.Base(e.Header.Action)
		if instead = s.faulty(Call{Action: action}); instead != nil && !instead.Done {
			s.spoil(w, instead)
			return
		}
		answer, f = s.dispatch(r, action, &e)
	}
	if instead != nil {
		s.spoil(w, instead)
		return
	}
	kind, status := e.Header.Action+"Response", http.StatusOK
	if f != nil {
		kind, status, answer = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault", f.status, f.body()
	}
	w.Header().Set("Content-Type", "application/soap+xml;charset=UTF-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `<s:Envelope xml:lang="en-US" xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" `+
		`xmlns:x="%s" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:rsp="%s" xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd">`+
		`<s:Header><a:Action>%s</a:Action><a:MessageID>uuid:%s</a:MessageID><a:To>%s</a:To><a:RelatesTo>%s</a:RelatesTo></s:Header><s:Body>%s</s:Body></s:Envelope>`,
		nsTransfer, nsShell, kind, newID(), anonymous, escape(e.Header.ID), answer)
}

// spoil answers as a Fault wants.
func (s *Sim) spoil(w http.ResponseWriter, f *Fault) {
	if f.Status == 0 {
		panic(http.ErrAbortHandler) // breaks the connection
	}
	w.WriteHeader(f.Status)
}

func (f *fault) body() string {
	return fmt.Sprintf(`<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>%s</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang="en-US">%s</s:Text></s:Reason>`+
		`<s:Detail><f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="%d" Machine="%s"><f:Message>%s</f:Message></f:WSManFault></s:Detail></s:Fault>`,
		f.subcode, escape(f.text), f.code, HostName, escape(f.text))
}

var (
	messageID = regexp.MustCompile(`^uuid:[0-9A-Fa-f]{8}-([0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}$`)
	duration  = regexp.MustCompile(`^PT(\d+(?:\.\d+)?)S$`)
)

// header checks what every message must have.
func (s *Sim) header(e *envelope) *fault {
	h := e.Header
	largest, err := strconv.Atoi(h.Largest)
	switch {
	case h.To == "" || !strings.HasSuffix(h.To, "/wsman"):
		return schemaFault("a:To is %q.", h.To)
	case h.ReplyTo != anonymous:
		return schemaFault("a:ReplyTo is %q.", h.ReplyTo)
	case !messageID.MatchString(h.ID):
		return schemaFault("a:MessageID is %q.", h.ID)
	case h.Resource != resource:
		return &fault{http.StatusInternalServerError, "w:InvalidResourceURI", 2150858752, "The resource URI is not known."}
	case err != nil || largest < leastAnswer:
		return &fault{http.StatusInternalServerError, "w:EncodingLimit", 2150858821, "MaxEnvelopeSize is missing or too small."}
	case !duration.MatchString(h.Timeout):
		return schemaFault("w:OperationTimeout is %q.", h.Timeout)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[h.ID] {
		return schemaFault("The message %s was sent before.", h.ID)
	}
	s.seen[h.ID] = true
	return nil
}

func (e *envelope) timeout() time.Duration {
	m := duration.FindStringSubmatch(e.Header.Timeout)
	f, _ := strconv.ParseFloat(m[1], 64) // it matched
	return time.Duration(f * float64(time.Second))
}

func (e *envelope) option(name string) string {
	for _, o := range e.Header.Options {
		if o.Name == name {
			return strings.TrimSpace(o.Text)
		}
	}
	return ""
}

// shellID is the selector; the client may put space around it.
func (e *envelope) shellID() string {
	for _, o := range e.Header.Select {
		if o.Name == "ShellId" {
			return strings.TrimSpace(o.Text)
		}
	}
	return ""
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer takes all
	return b.String()
}

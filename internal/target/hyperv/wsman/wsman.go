// Package wsman runs a program on a Windows host by WS-Management
// ([MS-WSMV], Windows Remote Shell): the messages Create, Command, Send, Receive,
// Signal and Delete, over HTTPS.
//
// The program's standard input is a pipe and not a console
// (WINRS_CONSOLEMODE_STDIN=FALSE, [MS-WSMV] 2.2.4.7), so that lines have any
// length.
package wsman

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The bounds of an exchange.
const (
	envelope = 153600    // bytes of an answer that we take (MaxEnvelopeSizekb of Windows Server 2008 R2, the least there is)
	chunk    = 64 << 10  // bytes of standard input in one message; Base64 makes them 87 KiB
	maxReply = 4 << 20   // bytes of an answer, whatever the server says
	maxOut   = 256 << 20 // bytes of output
	// wait is how long the server may hold a Receive before it says that there is
	// nothing yet.
	wait     = 20 * time.Second
	patience = time.Minute // for any other answer
	cleanUp  = 10 * time.Second
)

// Names of the protocol.
const (
	nsShell   = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
	resource  = nsShell + "/cmd"
	transfer  = "http://schemas.xmlsoap.org/ws/2004/09/transfer/"
	anonymous = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
	done      = nsShell + "/CommandState/Done"

	actCreate  = transfer + "Create"
	actDelete  = transfer + "Delete"
	actCommand = nsShell + "/Command"
	actSend    = nsShell + "/Send"
	actReceive = nsShell + "/Receive"
	actSignal  = nsShell + "/Signal"
	terminate  = nsShell + "/signal/terminate"
)

// codeTimedOut is WSManFault's code of w:TimedOut: nothing was to be told within
// OperationTimeout ([MS-WSMV] 2.2.4.43, ERROR_WSMAN_OPERATION_TIMEDOUT).
const codeTimedOut = 2150858793

// Client runs programs on one host. It may be used concurrently.
type Client struct {
	Endpoint *url.URL
	// Connect makes a transport that signs in, for one program: NTLM signs a
	// connection in, so that its messages must keep to one. It is closed afterwards.
	Connect func() (Connection, error)
}

// Connection is one connection that is signed in, or signs in when it is first used.
type Connection interface {
	http.RoundTripper
	CloseIdleConnections()
}

// Fault is an answer that is an error.
type Fault struct {
	Status int    // of HTTP
	Code   uint32 // WSManFault's; 0 where there is none
	Subcode,
	Text string
}

func (f *Fault) Error() string {
	switch {
	case f.Text == "":
		return fmt.Sprintf("the WinRM service answered with status %d", f.Status)
	case f.Code != 0:
		return fmt.Sprintf("%s (WSManFault %d)", f.Text, f.Code)
	}
	return f.Text
}

// Result is what a program left.
type Result struct {
	Stdout, Stderr []byte
	ExitCode       int
}

// Run runs a program with standard input, and waits for its end. When ctx ends
// first the program is terminated. Whatever happened, the shell is deleted.
func (c *Client) Run(ctx context.Context, program string, args []string, input []byte) (*Result, error) {
	conn, err := c.Connect()
	if err != nil {
		return nil, err
	}
	defer conn.CloseIdleConnections()
	s := &shell{c: c, http: &http.Client{Transport: conn, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	if err := s.create(ctx); err != nil {
		return nil, err
	}
	defer s.delete(ctx)
	if err := s.command(ctx, program, args); err != nil {
		return nil, err
	}
	defer s.signal(ctx)
	if err := s.send(ctx, input); err != nil {
		return nil, err
	}
	return s.receive(ctx)
}

type shell struct {
	c       *Client
	http    *http.Client
	id      string
	program string
}

func (s *shell) create(ctx context.Context) error {
	a, err := s.call(ctx, message{
		action: actCreate, options: [][2]string{{"WINRS_NOPROFILE", "TRUE"}, {"WINRS_CODEPAGE", "65001"}},
		body: `<rsp:Shell><rsp:InputStreams>stdin</rsp:InputStreams><rsp:OutputStreams>stdout stderr</rsp:OutputStreams></rsp:Shell>`,
	})
	if err != nil {
		return err
	}
	if s.id = a.Body.ShellID(); s.id == "" {
		return errors.New("the WinRM service made a shell and does not name it")
	}
	return nil
}

func (s *shell) command(ctx context.Context, program string, args []string) error {
	var b strings.Builder
	b.WriteString("<rsp:CommandLine><rsp:Command>" + escape(program) + "</rsp:Command>")
	for _, a := range args {
		b.WriteString("<rsp:Arguments>" + escape(a) + "</rsp:Arguments>")
	}
	b.WriteString("</rsp:CommandLine>")
	a, err := s.call(ctx, message{action: actCommand, options: [][2]string{{"WINRS_CONSOLEMODE_STDIN", "FALSE"}, {"WINRS_SKIP_CMD_SHELL", "FALSE"}}, body: b.String()})
	if err != nil {
		return err
	}
	if s.program = a.Body.Command; s.program == "" {
		return errors.New("the WinRM service runs a program and does not name it")
	}
	return nil
}

func (s *shell) send(ctx context.Context, input []byte) error {
	for {
		part, end := input, ` End="TRUE"`
		if len(part) > chunk {
			part, end = part[:chunk], ""
		}
		input = input[len(part):]
		body := fmt.Sprintf(`<rsp:Send><rsp:Stream Name="stdin" CommandId="%s"%s>%s</rsp:Stream></rsp:Send>`, escape(s.program), end, base64.StdEncoding.EncodeToString(part))
		if _, err := s.call(ctx, message{action: actSend, body: body}); err != nil {
			return err
		}
		if len(input) == 0 {
			return nil
		}
	}
}

func (s *shell) receive(ctx context.Context) (*Result, error) {
	r := &Result{}
	body := fmt.Sprintf(`<rsp:Receive><rsp:DesiredStream CommandId="%s">stdout stderr</rsp:DesiredStream></rsp:Receive>`, escape(s.program))
	for {
		a, err := s.call(ctx, message{action: actReceive, body: body, options: [][2]string{{"WSMAN_CMDSHELL_OPTION_KEEPALIVE", "TRUE"}}})
		var f *Fault
		if errors.As(err, &f) && f.Code == codeTimedOut {
			continue // the program runs and said nothing
		}
		if err != nil {
			return nil, err
		}
		for _, st := range a.Body.Streams {
			p, err := base64.StdEncoding.DecodeString(strings.TrimSpace(st.Text))
			if err != nil {
				return nil, fmt.Errorf("the program's output is not Base64: %w", err)
			}
			switch st.Name {
			case "stdout":
				r.Stdout = append(r.Stdout, p...)
			case "stderr":
				r.Stderr = append(r.Stderr, p...)
			}
		}
		if len(r.Stdout)+len(r.Stderr) > maxOut {
			return nil, errors.New("the program says more than 256 MiB")
		}
		if a.Body.State.State == done {
			r.ExitCode = a.Body.State.Exit
			return r, nil
		}
	}
}

// signal ends the program if it has not ended.
func (s *shell) signal(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	// Who went away is ended with the shell, or when the shell idles for too long.
	_, _ = s.call(ctx, message{action: actSignal, body: fmt.Sprintf(`<rsp:Signal CommandId="%s"><rsp:Code>%s</rsp:Code></rsp:Signal>`, escape(s.program), terminate)})
}

func (s *shell) delete(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	_, _ = s.call(ctx, message{action: actDelete}) // as for signal
}

// message is a request's own part.
type message struct {
	action  string
	options [][2]string
	body    string
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer takes all
	return b.String()
}

func (s *shell) render(m message) string {
	var b strings.Builder
	b.WriteString(`<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" ` +
		`xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd" xmlns:rsp="` + nsShell + `"><s:Header>`)
	fmt.Fprintf(&b, `<a:To>%s</a:To><a:ReplyTo><a:Address s:mustUnderstand="true">%s</a:Address></a:ReplyTo>`, escape(s.c.Endpoint.String()), anonymous)
	fmt.Fprintf(&b, `<a:Action s:mustUnderstand="true">%s</a:Action><a:MessageID>uuid:%s</a:MessageID>`, m.action, newID())
	fmt.Fprintf(&b, `<w:ResourceURI s:mustUnderstand="true">%s</w:ResourceURI><w:MaxEnvelopeSize s:mustUnderstand="true">%d</w:MaxEnvelopeSize>`, resource, envelope)
	fmt.Fprintf(&b, `<w:OperationTimeout>PT%dS</w:OperationTimeout><w:Locale xml:lang="en-US" s:mustUnderstand="false"/><p:DataLocale xml:lang="en-US" s:mustUnderstand="false"/>`, int(wait.Seconds()))
	if s.id != "" {
		fmt.Fprintf(&b, `<w:SelectorSet><w:Selector Name="ShellId">%s</w:Selector></w:SelectorSet>`, escape(s.id))
	}
	if len(m.options) > 0 {
		b.WriteString(`<w:OptionSet s:mustUnderstand="true">`)
		for _, o := range m.options {
			fmt.Fprintf(&b, `<w:Option Name="%s">%s</w:Option>`, o[0], o[1])
		}
		b.WriteString(`</w:OptionSet>`)
	}
	b.WriteString(`</s:Header><s:Body>` + m.body + `</s:Body></s:Envelope>`)
	return b.String()
}

// call sends a message and reads the answer.
func (s *shell) call(ctx context.Context, m message) (*answer, error) {
	limit := patience
	if m.action == actReceive {
		limit += wait
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, s.c.Endpoint.String(), strings.NewReader(s.render(m)))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Content-Type", "application/soap+xml;charset=UTF-8")
	r, err := s.http.Do(q)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(r.Body, maxReply+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxReply {
		return nil, fmt.Errorf("an answer of the WinRM service is larger than %d bytes", maxReply)
	}
	return readAnswer(r.StatusCode, r.Header.Get("Content-Type"), b)
}

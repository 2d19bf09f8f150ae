package wsmansim

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"

	"ascend/internal/target/hyperv/hostscript"
)

// shell is a shell with at most one program, as this client uses it; another
// program after the first has ended is taken.
type shell struct {
	id  string
	run *program
}

type program struct {
	id    string
	input strings.Builder
	ended chan struct{} // closed when out and exit stand
	life  context.Context
	stop  context.CancelFunc
	fed   bool // standard input has ended

	out, err []byte
	exit     int
	sent     int // bytes of out that were received
}

// dispatch does what a message asks for.
func (s *Sim) dispatch(r *http.Request, action string, e *envelope) (string, *fault) {
	if e.Header.Action == nsTransfer+"/Create" {
		return s.create(e)
	}
	s.mu.Lock()
	sh := s.shells[e.shellID()]
	s.mu.Unlock()
	if sh == nil {
		return "", &fault{http.StatusInternalServerError, "w:InvalidSelectors", codeNoShell, "The shell was not found on the server."}
	}
	switch e.Header.Action {
	case nsTransfer + "/Delete":
		s.mu.Lock()
		delete(s.shells, sh.id)
		p := sh.run
		s.mu.Unlock()
		if p != nil {
			p.stop()
		}
		return "", nil
	case nsShell + "/Command":
		return s.command(sh, e)
	case nsShell + "/Send":
		return s.send(sh, e)
	case nsShell + "/Receive":
		return s.receive(r.Context(), sh, e)
	case nsShell + "/Signal":
		b := e.Body.Signal
		if b == nil || !strings.HasPrefix(strings.TrimSpace(b.Code), nsShell+"/signal/") {
			return "", schemaFault("Signal without a code.")
		}
		s.mu.Lock()
		p := sh.run
		s.mu.Unlock()
		if p == nil || p.id != b.Command {
			return "", schemaFault("There is no program %q.", b.Command)
		}
		p.stop()
		return "<rsp:SignalResponse/>", nil
	}
	return "", &fault{http.StatusInternalServerError, "a:ActionNotSupported", 2150858750, "The action " + action + " is not supported."}
}

func (s *Sim) create(e *envelope) (string, *fault) {
	b := e.Body.Shell
	if b == nil || strings.TrimSpace(b.In) != "stdin" || strings.Join(strings.Fields(b.Out), " ") != "stdout stderr" {
		return "", schemaFault("The shell's streams are not stdin, stdout and stderr.")
	}
	if cp := e.option("WINRS_CODEPAGE"); cp != "65001" {
		return "", schemaFault("The code page is %q.", cp)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.shells) == maxShells {
		return "", &fault{http.StatusInternalServerError, "w:QuotaLimit", codeQuota, "This user is allowed a maximum number of 30 concurrent shells, which has been exceeded."}
	}
	sh := &shell{id: newID()}
	s.shells[sh.id] = sh
	return fmt.Sprintf(`<x:ResourceCreated><a:Address>%s</a:Address><a:ReferenceParameters><w:ResourceURI>%s</w:ResourceURI><w:SelectorSet><w:Selector Name="ShellId">%s</w:Selector></w:SelectorSet></a:ReferenceParameters></x:ResourceCreated>`+
		`<rsp:Shell><rsp:ShellId>%[3]s</rsp:ShellId><rsp:ResourceUri>%[2]s</rsp:ResourceUri><rsp:Owner>%s</rsp:Owner><rsp:IdleTimeOut>PT7200.000S</rsp:IdleTimeOut><rsp:InputStreams>stdin</rsp:InputStreams><rsp:OutputStreams>stdout stderr</rsp:OutputStreams></rsp:Shell>`,
		escape(s.URL), resource, sh.id, escape(s.o.User)), nil
}

func (s *Sim) command(sh *shell, e *envelope) (string, *fault) {
	b := e.Body.Command
	switch {
	case b == nil:
		return "", schemaFault("There is no command line.")
	case strings.EqualFold(e.option("WINRS_CONSOLEMODE_STDIN"), "TRUE"):
		return "", schemaFault("Standard input is a console: long lines would be cut.")
	}
	line := b.Command + " " + strings.Join(b.Arguments, " ")
	if len(line) > 8191 { // cmd.exe's
		return "", &fault{http.StatusInternalServerError, "w:InternalError", 206, "The filename or extension is too long."}
	}
	ctx, stop := context.WithCancel(s.life)
	p := &program{id: newID(), ended: make(chan struct{}), life: ctx, stop: stop}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh.run != nil {
		select {
		case <-sh.run.ended:
		default:
			stop()
			return "", &fault{http.StatusInternalServerError, "w:Concurrency", codeQuota, "The shell runs a program."}
		}
	}
	sh.run = p
	context.AfterFunc(ctx, func() { // terminated
		s.mu.Lock()
		defer s.mu.Unlock()
		if !p.fed {
			p.fed, p.exit = true, 1
			close(p.ended)
		}
	})
	// The service joins arguments by spaces, and some clients do that themselves.
	if line != hostscript.Program+" "+strings.Join(hostscript.Arguments(), " ") {
		s.foreign = append(s.foreign, line)
		p.fed, p.exit, p.err = true, 1, []byte("this host runs nothing but the script\n")
		close(p.ended)
	}
	return fmt.Sprintf("<rsp:CommandResponse><rsp:CommandId>%s</rsp:CommandId></rsp:CommandResponse>", p.id), nil
}

func (s *Sim) send(sh *shell, e *envelope) (string, *fault) {
	b := e.Body.Send
	if b == nil || len(b.Streams) == 0 {
		return "", schemaFault("Nothing is sent.")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := sh.run
	for _, st := range b.Streams {
		part, err := base64.StdEncoding.DecodeString(strings.TrimSpace(st.Text))
		switch {
		case p == nil || st.Command != p.id || st.Name != "stdin":
			return "", schemaFault("There is no stream %q of %q.", st.Name, st.Command)
		case err != nil:
			return "", schemaFault("What is sent is not Base64.")
		case p.fed:
			return "", &fault{http.StatusInternalServerError, "w:InternalError", 232, "The pipe is being closed."}
		}
		_, _ = p.input.Write(part)
		if strings.EqualFold(st.End, "true") {
			p.fed = true
			go s.execute(p)
		}
	}
	return "<rsp:SendResponse/>", nil
}

// execute runs the script and ends the program.
func (s *Sim) execute(p *program) {
	defer p.stop()
	if s.o.Slow > 0 {
		select {
		case <-p.life.Done():
		case <-time.After(s.o.Slow):
		}
	}
	out, err := s.script(p.life, p.input.String())
	s.mu.Lock()
	defer s.mu.Unlock()
	p.out = out
	if err != nil {
		p.exit, p.err = 1, []byte(err.Error())
	}
	close(p.ended)
}

func (s *Sim) receive(ctx context.Context, sh *shell, e *envelope) (string, *fault) {
	b := e.Body.Receive
	s.mu.Lock()
	p := sh.run
	s.mu.Unlock()
	if b == nil || len(b.Streams) != 1 || p == nil || b.Streams[0].Command != p.id {
		return "", schemaFault("There is no such stream.")
	}
	limit := e.timeout()
	if s.o.Quiet > 0 {
		limit = min(limit, s.o.Quiet)
	}
	select {
	case <-p.ended:
	case <-time.After(limit):
		return "", &fault{http.StatusInternalServerError, "w:TimedOut", codeTimedOut, "The WS-Management service cannot complete the operation within the time specified in OperationTimeout."}
	case <-ctx.Done():
		return "", schemaFault("The client is gone.")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// A part at a time, as the service does when the output is long.
	const most = 48 << 10
	part := p.out[p.sent:min(p.sent+most, len(p.out))]
	p.sent += len(part)
	out := "<rsp:ReceiveResponse>"
	if len(part) > 0 {
		out += fmt.Sprintf(`<rsp:Stream Name="stdout" CommandId="%s">%s</rsp:Stream>`, p.id, base64.StdEncoding.EncodeToString(part))
	}
	if p.sent < len(p.out) {
		return out + fmt.Sprintf(`<rsp:CommandState CommandId="%s" State="%s/CommandState/Running"/></rsp:ReceiveResponse>`, p.id, nsShell), nil
	}
	if len(p.err) > 0 {
		out += fmt.Sprintf(`<rsp:Stream Name="stderr" CommandId="%s">%s</rsp:Stream>`, p.id, base64.StdEncoding.EncodeToString(p.err))
	}
	return out + fmt.Sprintf(`<rsp:Stream Name="stdout" CommandId="%s" End="true"/><rsp:Stream Name="stderr" CommandId="%[1]s" End="true"/>`+
		`<rsp:CommandState CommandId="%[1]s" State="%s/CommandState/Done"><rsp:ExitCode>%d</rsp:ExitCode></rsp:CommandState></rsp:ReceiveResponse>`, p.id, nsShell, p.exit), nil
}

// newID is a random GUID, in capitals as Windows writes them.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // documented to never fail
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

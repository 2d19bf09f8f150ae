package qemu

import (
	"net"
	"strings"
	"testing"
)

// TestMachine starts one without anything in it, paused, and speaks with it.
func TestMachine(t *testing.T) {
	s, err := StartSystem(t.Context(), t.TempDir(), SystemOptions{Accel: TCG, Memory: 32 << 20, Args: []string{"-S", "-machine", "pc"}, Limits: Limits{FileSize: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var status struct{ Status string }
	if err := s.Do(t.Context(), "query-status", nil, &status); err != nil || status.Status != "prelaunch" {
		t.Errorf("%v %+v", err, status)
	}
	if err := s.Do(t.Context(), "no-such-command", nil, nil); err == nil || !strings.Contains(err.Error(), "no-such-command") {
		t.Errorf("a command that is none: %v", err)
	}
	if text, err := s.Human(t.Context(), "info registers"); err != nil || !strings.Contains(text, "EIP=") {
		t.Errorf("%v: %.80s", err, text)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Do(t.Context(), "query-status", nil, nil); err == nil {
		t.Error("a closed machine answered")
	}
}

func TestMachineThatDoesNotStart(t *testing.T) {
	_, err := StartSystem(t.Context(), t.TempDir(), SystemOptions{Accel: TCG, Memory: 32 << 20, Args: []string{"-device", "no-such-device"}, Limits: Limits{FileSize: 1 << 20}})
	if err == nil || !strings.Contains(err.Error(), "no-such-device") {
		t.Errorf("the error does not say why: %v", err)
	}
}

// FuzzMonitor answers with arbitrary bytes: QEMU may have been taken over.
func FuzzMonitor(f *testing.F) {
	f.Add([]byte("{\"QMP\":{}}\n{\"return\":{},\"id\":1}\n{\"event\":\"RESET\",\"data\":{}}\n"))
	f.Add([]byte("nonsense\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs := net.Pipe()
		go func() {
			buf := make([]byte, 4096)
			for {
				if _, err := theirs.Read(buf); err != nil {
					return
				}
			}
		}()
		go func() {
			_, _ = theirs.Write(b)
			theirs.Close()
		}()
		if m, err := NewMonitor(t.Context(), ours); err == nil {
			m.Close()
		}
	})
}

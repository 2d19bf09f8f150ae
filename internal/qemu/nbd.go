package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Server is a running qemu-nbd that exports one image read-only on a unix
// socket only this user can reach.
type Server struct {
	Socket string // path
	dir    string
	cmd    *exec.Cmd
	cancel context.CancelFunc
	errs   *tail
	child  *child
}

// ServeReadOnly exports the block graph node, which names every layer and its
// driver explicitly; files are all the files that it may read. Nothing is
// probed. The server runs until Close.
func ServeReadOnly(ctx context.Context, node map[string]any, files []string) (*Server, error) {
	graph, err := json.Marshal(node)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ascend-nbd-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, Socket: filepath.Join(dir, "s"), errs: &tail{}}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.cmd, err = Command(run, Limits{ReadOnly: files, Folders: []string{dir}}, "qemu-nbd",
		"--read-only", "--shared=8", "--persistent", "--aio=threads", "--cache=writeback", "--socket="+s.Socket, "json:"+string(graph))
	if err == nil {
		// qemu-nbd allocates each request's buffer anew; without these settings
		// half its time goes to mmap and munmap.
		s.cmd.Env = append(s.cmd.Env, "MALLOC_MMAP_THRESHOLD_=1073741824", "MALLOC_TRIM_THRESHOLD_=1073741824", "MALLOC_TOP_PAD_=16777216")
		s.cmd.Stderr = s.errs
		s.child, err = spawn(s.cmd)
	}
	if err != nil {
		cancel()
		os.RemoveAll(dir)
		return nil, err
	}
	if err := s.wait(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// wait returns when the server answers.
func (s *Server) wait(ctx context.Context) error {
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for {
		if c, err := (&net.Dialer{}).DialContext(ctx, "unix", s.Socket); err == nil {
			// It listens before it has opened the image: only a greeting is an answer.
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
			_, err = io.ReadFull(c, make([]byte, 8))
			c.Close()
			if err == nil {
				return nil
			}
		}
		select {
		case <-s.child.done:
			return fmt.Errorf("qemu-nbd ended: %w: %s", errors.Join(s.child.err, errEnded), s.errs)
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return fmt.Errorf("qemu-nbd does not answer: %s", s.errs)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

var errEnded = errors.New("no export")

// Err is what qemu-nbd said last, for errors of its clients.
func (s *Server) Err() string { return s.errs.String() }

// Close ends the server and removes its socket.
func (s *Server) Close() error {
	s.cancel()
	<-s.child.done
	return os.RemoveAll(s.dir)
}

// tail keeps the last of what a child says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > 4096 {
		t.b = append(t.b[:0], t.b[len(t.b)-4096:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}

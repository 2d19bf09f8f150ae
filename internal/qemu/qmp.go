package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// Monitor speaks QMP, QEMU's control protocol (docs/interop/qmp-spec.txt), on
// one connection. Any number of goroutines may call it; commands are answered
// in the order of their sending.
type Monitor struct {
	c net.Conn

	send sync.Mutex
	mu   sync.Mutex
	next int
	wait map[int]chan answer
	gone error // why the connection ended
	done chan struct{}

	// Events receives asynchronous events; those that nobody takes in time are
	// dropped. It is never closed.
	Events chan Event
}

// Event is one of QEMU's: SHUTDOWN, RESET, GUEST_PANICKED, …
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

type answer struct {
	ID     *int            `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event
}

// maxAnswer bounds one line of the monitor; QEMU runs hostile guests.
const maxAnswer = 4 << 20

// NewMonitor reads the greeting and enters command mode. It owns c.
func NewMonitor(ctx context.Context, c net.Conn) (*Monitor, error) {
	m := &Monitor{c: c, wait: map[int]chan answer{}, done: make(chan struct{}), Events: make(chan Event, 64)}
	go m.read()
	if err := m.Do(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		<-m.done
		return nil, err
	}
	return m, nil
}

func (m *Monitor) read() {
	sc := bufio.NewScanner(m.c)
	sc.Buffer(make([]byte, 64<<10), maxAnswer)
	for sc.Scan() {
		var a answer
		if json.Unmarshal(sc.Bytes(), &a) != nil {
			break
		}
		switch {
		case a.Name != "":
			select {
			case m.Events <- a.Event:
			default:
			}
		case a.ID != nil:
			m.mu.Lock()
			if ch := m.wait[*a.ID]; ch != nil {
				delete(m.wait, *a.ID)
				ch <- a
			}
			m.mu.Unlock()
		}
	}
	m.mu.Lock()
	m.gone = errors.Join(errors.New("QEMU's monitor ended"), sc.Err())
	m.mu.Unlock()
	close(m.done)
}

// Do executes a command; args and result may be nil.
func (m *Monitor) Do(ctx context.Context, command string, args, result any) error {
	ch := make(chan answer, 1)
	m.mu.Lock()
	m.next++
	id := m.next
	m.wait[id] = ch
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.wait, id)
		m.mu.Unlock()
	}()
	q := map[string]any{"execute": command, "id": id}
	if args != nil {
		q["arguments"] = args
	}
	b, err := json.Marshal(q)
	if err != nil {
		return err
	}
	m.send.Lock()
	_, err = m.c.Write(append(b, '\n'))
	m.send.Unlock()
	if err != nil {
		return fmt.Errorf("cannot ask QEMU to %s: %w", command, err)
	}
	select {
	case a := <-ch:
		if a.Error != nil {
			return fmt.Errorf("cannot ask QEMU to %s: %s", command, a.Error.Desc)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(a.Return, result)
	case <-m.done:
		return fmt.Errorf("cannot ask QEMU to %s: %w", command, m.gone)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Human runs a command of the human monitor and returns its text.
func (m *Monitor) Human(ctx context.Context, line string) (string, error) {
	var out string
	err := m.Do(ctx, "human-monitor-command", map[string]string{"command-line": line}, &out)
	return out, err
}

// Close ends the connection.
func (m *Monitor) Close() error {
	err := m.c.Close()
	<-m.done
	return err
}

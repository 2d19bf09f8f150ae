package transfer

import (
	"sync"
	"sync/atomic"
	"time"
)

// Meter counts the progress of a transfer. All numbers are allocated bytes of
// the disk, so that a hole neither takes time nor moves a bar. Safe for
// concurrent use.
type Meter struct {
	total   atomic.Int64
	done    atomic.Int64 // including what an earlier process landed
	resumed atomic.Int64
	sent    atomic.Int64 // bytes given to the target by this process

	mu    sync.Mutex
	start time.Time
	end   time.Time // when done reached total
	last  time.Time
	seen  int64
	rate  float64 // bytes a second, smoothed
}

// Progress is a reading of a Meter.
type Progress struct {
	Total   int64         `json:"total"` // allocated bytes of the disk
	Done    int64         `json:"done"`
	Resumed int64         `json:"resumed,omitempty"` // of Done, landed before this process
	Sent    int64         `json:"sent"`              // bytes given to the target
	Rate    float64       `json:"rate"`              // allocated bytes a second, smoothed
	ETA     time.Duration `json:"eta"`               // -1: not known yet
	Elapsed time.Duration `json:"elapsed"`
}

// NewMeter makes a meter that starts to count with the first addition.
func NewMeter() *Meter { return &Meter{} }

// SetTotal says how many allocated bytes there are.
func (m *Meter) SetTotal(n int64) { m.total.Store(n) }

// Add counts n bytes as done, of work that is no transfer.
func (m *Meter) Add(n int64) {
	m.begin()
	m.add(n)
}

func (m *Meter) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.start.IsZero() {
		m.start = time.Now()
		m.last = m.start
	}
}

func (m *Meter) add(n int64) {
	if total := m.total.Load(); m.done.Add(n) >= total && n > 0 && total > 0 {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.end = time.Now()
	}
}

func (m *Meter) addOld(n int64) { m.done.Add(n); m.resumed.Add(n) }

// Read gives the progress now. The rate is smoothed over about 10 seconds; that
// of what is done is the mean of all of it.
func (m *Meter) Read() Progress {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	p := Progress{Total: m.total.Load(), Done: m.done.Load(), Resumed: m.resumed.Load(), Sent: m.sent.Load(), ETA: -1}
	if m.start.IsZero() {
		return p
	}
	p.Elapsed = now.Sub(m.start)
	fresh := p.Done - p.Resumed
	if p.Done >= p.Total && !m.end.IsZero() {
		p.Elapsed = m.end.Sub(m.start)
		p.Rate, p.ETA = float64(fresh)/max(p.Elapsed.Seconds(), 1e-6), 0
		return p
	}
	if dt := now.Sub(m.last).Seconds(); dt >= 0.1 {
		inst := float64(fresh-m.seen) / dt
		weight := min(1, dt/10)
		if p.Elapsed < 10*time.Second { // a plain mean until there is a past to smooth
			m.rate = float64(fresh) / max(p.Elapsed.Seconds(), 0.001)
		} else {
			m.rate += weight * (inst - m.rate)
		}
		m.last, m.seen = now, fresh
	}
	p.Rate = m.rate
	switch left := p.Total - p.Done; {
	case left <= 0:
		p.ETA = 0
	case m.rate > 0:
		p.ETA = time.Duration(float64(left) / m.rate * float64(time.Second))
	}
	return p
}

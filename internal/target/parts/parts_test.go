package parts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// store keeps parts.
type store struct {
	mu    sync.Mutex
	parts map[int][]byte
	puts  int
	now   int
	most  int
	fail  map[int]error
	gate  chan struct{} // when not nil, parts wait here
}

func (s *store) put(ctx context.Context, n int, p []byte) error {
	s.mu.Lock()
	s.puts++
	s.now++
	s.most = max(s.most, s.now)
	err := s.fail[n]
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.now--; s.mu.Unlock() }()
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.parts[n] = bytes.Clone(p)
	s.mu.Unlock()
	return nil
}

func (s *store) all() (b []byte) {
	for n := 1; s.parts[n] != nil; n++ {
		b = append(b, s.parts[n]...)
	}
	return b
}

func data(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}

// TestStream sends streams of all kinds of lengths in odd pieces, from the beginning
// and behind what landed before, gaps included.
func TestStream(t *testing.T) {
	for _, size := range []int{1, 99, 100, 101, 950, 1000} {
		for _, before := range [][]int{nil, {1}, {1, 2, 4}, {3}} {
			t.Run(fmt.Sprint(size, before), func(t *testing.T) {
				want := data(size)
				st := &store{parts: map[int][]byte{}}
				landed := map[int]bool{}
				for _, n := range before {
					if n*100 <= size {
						landed[n], st.parts[n] = true, bytes.Clone(want[(n-1)*100:n*100])
					}
				}
				old := len(landed)
				s := New(Options{Size: 100, Most: 3, Landed: landed, Put: st.put})
				off, err := s.Offset()
				if err != nil {
					t.Fatal(err)
				}
				for p := want[off:]; len(p) > 0; {
					n := min(len(p), 37)
					q := bytes.Clone(p[:n])
					if err := s.Append(t.Context(), q); err != nil {
						t.Fatal(err)
					}
					clear(q)
					p = p[n:]
				}
				n, err := s.Finish(t.Context())
				if err != nil || n != (size+99)/100 || !bytes.Equal(st.all(), want) {
					t.Errorf("%d parts: %v", n, err)
				}
				if st.puts != n-old || st.most > 3 {
					t.Errorf("%d parts were sent of %d, %d at once", st.puts, n-old, st.most)
				}
			})
		}
	}
}

// TestFailure: a part that fails ends the stream, and nothing is on its way when
// Stop returns.
func TestFailure(t *testing.T) {
	bad := errors.New("bad")
	st := &store{parts: map[int][]byte{}, fail: map[int]error{2: bad}}
	s := New(Options{Size: 10, Most: 2, Put: st.put})
	var err error
	for range 100 {
		if err = s.Append(t.Context(), make([]byte, 10)); err != nil {
			break
		}
	}
	if !errors.Is(err, bad) {
		t.Errorf("%v", err)
	}
	if _, err := s.Finish(t.Context()); !errors.Is(err, bad) {
		t.Errorf("%v", err)
	}
	if _, err := s.Offset(); !errors.Is(err, bad) {
		t.Errorf("%v", err)
	}
	st = &store{parts: map[int][]byte{}, gate: make(chan struct{})}
	s = New(Options{Size: 10, Most: 2, Put: st.put})
	if err := s.Append(t.Context(), make([]byte, 25)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Sync(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := s.Append(ctx, make([]byte, 10)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	s.Stop(bad)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.now != 0 || len(st.parts) != 0 || !slices.Contains([]int{0, 1, 2}, st.puts) {
		t.Errorf("%d parts are on their way", st.now)
	}
}

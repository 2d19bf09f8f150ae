package cssim

import (
	"strings"
	"sync"
)

// faults are the things that are to go wrong.
type faults struct {
	mu      sync.Mutex
	api     []apiFault
	uploads []UploadFault
	jobs    map[string]int
}

type apiFault struct {
	prefix string // of the command, in lower case
	n      int
	status int // -1: the connection is dropped
	text   string
}

// UploadFault is what becomes of one upload.
type UploadFault struct {
	Status int // answered with this status; 0: no fault of the answer
	// After so many bytes of the body the connection is dropped, or with Status
	// answered; -1: after all of them.
	After int64
	// Keep: the bytes are taken all the same, as when a proxy in between fails.
	Keep bool
	// Spoil: the upload is accepted and then found to be broken.
	Spoil bool
	// Expired: the permission has run out before it is used.
	Expired bool
}

// FailAPI makes the next n calls of commands that begin with prefix fail with
// an HTTP status; -1 drops the connection before anything is done.
func (s *Sim) FailAPI(prefix string, n, status int, text string) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.api = append(s.faults.api, apiFault{strings.ToLower(prefix), n, status, text})
}

// FailJobs makes the next n jobs of a command fail.
func (s *Sim) FailJobs(command string, n int) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	if s.faults.jobs == nil {
		s.faults.jobs = map[string]int{}
	}
	s.faults.jobs[strings.ToLower(command)] += n
}

// FailUploads makes the next n uploads go wrong.
func (s *Sim) FailUploads(n int, f UploadFault) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	for range n {
		s.faults.uploads = append(s.faults.uploads, f)
	}
}

// Stall makes uploads hang until Release.
func (s *Sim) Stall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stalled == nil {
		s.stalled = make(chan struct{})
	}
}

// Release ends Stall.
func (s *Sim) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stalled != nil {
		close(s.stalled)
		s.stalled = nil
	}
}

func (f *faults) next(command string) *apiFault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.api {
		x := &f.api[i]
		if x.n > 0 && strings.HasPrefix(command, x.prefix) {
			x.n--
			return x
		}
	}
	return nil
}

func (f *faults) job(command string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.jobs[command] > 0 {
		f.jobs[command]--
		return true
	}
	return false
}

func (f *faults) upload() *UploadFault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.uploads) == 0 {
		return nil
	}
	x := f.uploads[0]
	f.uploads = f.uploads[1:]
	return &x
}

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"ascend/internal/restore"
	"ascend/internal/transfer"
	"ascend/internal/vm"
)

// progress shows transfers: a bar for each on a terminal, JSON lines, a line
// every ten seconds elsewhere, or nothing. Safe for concurrent use.
type progress struct {
	a     *app
	lines bool
	mu    sync.Mutex
	bars  *mpb.Progress
	open  []*shown
	stop  chan struct{}
	wg    sync.WaitGroup
}

type shown struct {
	name  string
	meter *transfer.Meter // nil: told says it
	told  transfer.Progress
	bar   *mpb.Bar
	read  transfer.Progress
	said  time.Time
	line  int64 // the bytes that the last JSON line said were done; -1: none yet
}

// startProgress begins to show; force draws bars although stderr is no terminal,
// lines writes JSON lines when JSON is wanted: not before a JSON document.
func (a *app) startProgress(force, lines bool) *progress {
	p := &progress{a: a, lines: lines, stop: make(chan struct{})}
	if !a.quiet && !a.json && (force || interactive()) {
		p.bars = mpb.New(mpb.WithOutput(os.Stderr), mpb.WithWidth(40), mpb.WithAutoRefresh())
	}
	p.wg.Add(1)
	go p.loop()
	return p
}

// add shows a transfer under a name from now on.
func (p *progress) add(name string, m *transfer.Meter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &shown{name: name, meter: m, said: time.Now(), line: -1}
	if p.bars != nil {
		s.bar = p.bars.AddBar(1,
			mpb.PrependDecorators(decor.Name(clean(name), decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return p.text(s) })))
	}
	p.open = append(p.open, s)
}

// set shows a reading under a name.
func (p *progress) set(name string, r transfer.Progress) {
	p.mu.Lock()
	i := slices.IndexFunc(p.open, func(s *shown) bool { return s.name == name })
	if i >= 0 {
		p.open[i].told = r
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.add(name, nil)
	p.set(name, r)
}

// reading is a step's progress as bars show it.
func reading(st *restore.StepState) transfer.Progress {
	return transfer.Progress{Total: st.Total, Done: st.Done, Rate: st.Rate, ETA: st.ETA}
}

// now is what is to be shown.
func (s *shown) now() transfer.Progress {
	if s.meter == nil {
		return s.told
	}
	return s.meter.Read()
}

// text is what stands behind a bar.
func (p *progress) text(s *shown) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return describe(s.read)
}

func describe(r transfer.Progress) string {
	percent := 100.0
	if r.Total > 0 {
		percent = 100 * float64(r.Done) / float64(r.Total)
	}
	t := fmt.Sprintf("%5.1f %%  %s of %s  %s/s", percent, vm.FormatSize(r.Done), vm.FormatSize(r.Total), vm.FormatSize(int64(r.Rate)))
	if r.ETA > 0 {
		t += "  " + r.ETA.Round(time.Second).String() + " left"
	}
	return t
}

func (p *progress) loop() {
	defer p.wg.Done()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			p.update(true)
			return
		case <-tick.C:
			p.update(false)
		}
	}
}

func (p *progress) update(last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.open {
		s.read = s.now()
		total := max(s.read.Total, 1)
		switch {
		case s.bar != nil:
			s.bar.SetTotal(total, false)
			s.bar.SetCurrent(min(s.read.Done, total))
		case p.a.quiet:
		case p.a.json:
			if p.lines && s.read.Done != s.line && (last || time.Since(s.said) >= time.Second) {
				s.said, s.line = time.Now(), s.read.Done
				p.line(s)
			}
		case time.Since(s.said) >= 10*time.Second:
			s.said = time.Now()
			fmt.Fprintf(os.Stderr, "%s: %s\n", clean(s.name), describe(s.read))
		}
	}
}

// line is one JSON line of progress on stdout.
func (p *progress) line(s *shown) {
	p.a.event(map[string]any{
		"event": "progress", "what": s.name, "done": s.read.Done, "total": s.read.Total, "rate": int64(s.read.Rate), "eta_seconds": int64(s.read.ETA.Seconds()),
	})
}

// event writes one JSON line to stdout when JSON is wanted.
func (a *app) event(v any) {
	if a.json {
		stdoutMu.Lock()
		defer stdoutMu.Unlock()
		_ = json.NewEncoder(os.Stdout).Encode(v)
	}
}

var stdoutMu sync.Mutex

// done stops showing; the bars stay as they are.
func (p *progress) done() {
	close(p.stop)
	p.wg.Wait()
	if p.bars == nil {
		return
	}
	for _, s := range p.open {
		s.bar.SetTotal(max(s.read.Total, 1), s.read.Done >= s.read.Total)
		if s.read.Done < s.read.Total {
			s.bar.Abort(false)
		}
	}
	p.bars.Wait()
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ascend/internal/client"
	"ascend/internal/server/api"
	apijobs "ascend/internal/server/jobs"
	"ascend/internal/vm"
)

// jobRows describes a job and its steps.
func jobRows(d api.JobDetails) [][]string {
	rows := [][]string{{"job", d.ID}, {"status", d.Status}, {"vm", clean(d.Name)}, {"target", d.Target.Name}, {"progress", amount(d.Job)}, {"created", when(d.Created)}}
	if d.Error != "" {
		rows = append(rows, []string{"error", clean(d.Error)})
	}
	for _, s := range d.Steps {
		detail := ""
		if s.Total > 1 {
			detail = fmt.Sprintf("%s of %s", vm.FormatSize(s.Done), vm.FormatSize(s.Total))
		}
		if s.Attempt > 1 {
			detail += fmt.Sprintf("  attempt %d", s.Attempt)
		}
		rows = append(rows, []string{"  " + clean(s.Name), s.Status, strings.TrimSpace(detail + "  " + clean(s.Error))})
	}
	return rows
}

// amount says how far a job is.
func amount(j apijobs.Job) string {
	s := fmt.Sprintf("%5.1f %%", j.Percent)
	if j.Total > 0 {
		s += fmt.Sprintf("  %s of %s", vm.FormatSize(j.Done), vm.FormatSize(j.Total))
	}
	if j.Rate > 0 {
		s += "  " + vm.FormatSize(j.Rate) + "/s"
	}
	if j.ETA != nil && !apijobs.Resting(j.Status) {
		if left := time.Until(*j.ETA); left > 0 {
			s += "  " + left.Round(time.Second).String() + " left"
		}
	}
	return s
}

// followJob shows a job of the server until it comes to rest. Ctrl-C ends the
// following and not the job.
func (a *app) followJob(c *cobra.Command, cl *client.Client, id string) error {
	var last api.JobDetails
	said := time.Time{}
	err := cl.Stream(c.Context(), client.StreamJob, client.Request{ID: id}, func(error) { a.note("connection lost; connecting again") }, func(e client.Event) error {
		switch e.Name {
		case "log":
			v, err := decodeEvent[apijobs.Event](e)
			if err != nil {
				return err
			}
			if a.json {
				a.event(map[string]any{"event": "log", "job": v.Job, "step": v.Step, "level": v.Level, "text": v.Text, "time": v.Time})
			} else if v.Level != "debug" {
				a.note("%s  %s", v.Time.Local().Format(time.TimeOnly), clean(strings.TrimSpace(v.Step+"  "+v.Text)))
			}
		case "job":
			v, err := decodeEvent[api.JobDetails](e)
			if err != nil {
				return err
			}
			moved := v.Status != last.Status
			last = v
			if a.json {
				a.event(map[string]any{"event": "progress", "job": v.ID, "status": v.Status, "percent": v.Percent, "done": v.Done, "total": v.Total, "rate": v.Rate})
			} else if every := map[bool]time.Duration{true: 2 * time.Second, false: 10 * time.Second}[interactive()]; moved || time.Since(said) > every {
				said = time.Now()
				a.note("%s  %s  %s", time.Now().Format(time.TimeOnly), v.Status, amount(v.Job))
			}
		case "end":
			return client.ErrEnd
		}
		return nil
	})
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return withHint(err, "the job goes on; see it with: ascend jobs watch %s, or stop it: ascend jobs cancel %s", id, id)
		}
		return err
	}
	if a.json {
		a.event(map[string]any{"event": last.Status, "job": last.ID, "vm": last.VM, "error": last.Error})
	}
	if err := jobFailed(last.Job); err != nil {
		return err
	}
	a.note("job %s is %s", last.ID, last.Status)
	return nil
}

func (a *app) watchCommand() *cobra.Command {
	return &cobra.Command{
		Use: "watch", Short: "a live view of all jobs of a server", Args: cobra.NoArgs,
		Long: `A live view of all jobs of a server, in the terminal. Ctrl-C ends it and nothing
else. Where the output is no terminal, a line is printed for every change.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			w := &watch{app: a, jobs: map[string]apijobs.Job{}, live: !a.json && term.IsTerminal(int(os.Stdout.Fd()))}
			err = hintOf(w.run(c.Context(), cl))
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
}

// watch is the live view.
type watch struct {
	app  *app
	live bool
	mu   sync.Mutex
	jobs map[string]apijobs.Job
	log  []string
	lost error
}

// maxLogLines are kept for the view.
const maxLogLines = 200

func (w *watch) run(ctx context.Context, cl *client.Client) error {
	if _, err := client.Do[api.Me](ctx, cl, client.Me, client.Request{}); err != nil {
		return err
	}
	if w.live {
		fmt.Fprint(os.Stdout, "\x1b[?1049h\x1b[?25l") // the other screen, no cursor
		defer fmt.Fprint(os.Stdout, "\x1b[?25h\x1b[?1049l")
		view, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.draw(view)
		}()
		defer func() { cancel(); <-done }()
	}
	return cl.Stream(ctx, client.StreamJobs, client.Request{}, func(err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.lost = err
	}, w.event)
}

func (w *watch) event(e client.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = nil
	switch e.Name {
	case "job":
		j, err := decodeEvent[apijobs.Job](e)
		if err != nil {
			return err
		}
		was, known := w.jobs[j.ID]
		w.jobs[j.ID] = j
		switch {
		case w.app.json:
			w.app.event(map[string]any{"event": "job", "job": j})
		case !w.live && (!known || was.Status != j.Status || int(was.Percent/10) != int(j.Percent/10)):
			fmt.Fprintf(os.Stdout, "%s  %-12s  %s  to %s  %s\n", j.ID, j.Status, clean(j.Name), j.Target.Name, amount(j))
		}
	case "log":
		v, err := decodeEvent[apijobs.Event](e)
		if err != nil {
			return err
		}
		if w.app.json {
			w.app.event(map[string]any{"event": "log", "log": v})
			return nil
		}
		w.log = append(w.log, fmt.Sprintf("%s  %s  %s", v.Time.Local().Format(time.TimeOnly), v.Job[max(0, len(v.Job)-6):], clean(strings.TrimSpace(v.Step+"  "+v.Text))))
		w.log = w.log[max(0, len(w.log)-maxLogLines):]
	}
	return nil
}

func (w *watch) draw(ctx context.Context) {
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		width, height, err := term.GetSize(int(os.Stdout.Fd()))
		if err != nil {
			width, height = 80, 24
		}
		_, _ = os.Stdout.Write(w.screen(width, height, time.Now()))
		select {
		case <-ctx.Done():
			return
		case <-resized:
		case <-tick.C:
		}
	}
}

// screen is the view of a size: jobs above, the log below.
func (w *watch) screen(width, height int, now time.Time) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]apijobs.Job, 0, len(w.jobs))
	active, rate := 0, int64(0)
	for id, j := range w.jobs {
		if apijobs.Resting(j.Status) {
			if j.Finished != nil && now.Sub(*j.Finished) > time.Hour {
				delete(w.jobs, id)
				continue
			}
		} else {
			active++
			rate += j.Rate
		}
		all = append(all, j)
	}
	slices.SortFunc(all, func(x, y apijobs.Job) int {
		if a, b := apijobs.Resting(x.Status), apijobs.Resting(y.Status); a != b {
			return map[bool]int{true: 1, false: -1}[a]
		}
		return y.Created.Compare(x.Created)
	})
	lines := []string{fmt.Sprintf("ascend  %s  %d active  %s/s", now.Format(time.TimeOnly), active, vm.FormatSize(rate)), ""}
	if w.lost != nil {
		lines[1] = "connection lost; connecting again"
	}
	room := max(height-len(lines)-1, 1)
	logRoom := min(len(w.log), max(room/3, 0))
	for i, j := range all {
		if i == room-logRoom-1 && len(all) > i+1 {
			lines = append(lines, fmt.Sprintf("… and %d more", len(all)-i))
			break
		}
		lines = append(lines, fmt.Sprintf("%-12s %s %-20.20s → %-12.12s %s", j.Status, bar(j.Percent, 20), clean(j.Name), j.Target.Name, amount(j)))
	}
	if len(all) == 0 {
		lines = append(lines, "no job is under way")
	}
	for len(lines) < height-logRoom-1 {
		lines = append(lines, "")
	}
	lines = append(lines, w.log[len(w.log)-logRoom:]...)
	var b bytes.Buffer
	b.WriteString("\x1b[H")
	for i, l := range lines[:min(len(lines), max(height, 1))] {
		if i > 0 {
			b.WriteString("\r\n")
		}
		r := []rune(l)
		b.WriteString(string(r[:min(len(r), max(width, 1))]))
		b.WriteString("\x1b[K")
	}
	b.WriteString("\x1b[J")
	return b.Bytes()
}

func bar(percent float64, n int) string {
	full := min(max(int(percent/100*float64(n)), 0), n)
	return strings.Repeat("█", full) + strings.Repeat("░", n-full)
}

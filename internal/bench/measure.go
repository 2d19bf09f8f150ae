package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// figure is what one finished contender cost.
type figure struct {
	wall, cpu float64 // seconds; cpu is user and system
	rss       float64 // MiB, peak of the largest process
	staged    float64 // MiB, peak of what lay in its folder besides its target
}

// contender is a command that is measured: several processes one after the
// other count as one. Each run has an empty folder for its files, temporary ones
// included.
type contender struct {
	name   string
	steps  [][]string
	dir    string // made before each run and removed after it
	target string // in dir: the file that is to be made; "" where nothing is
}

// once runs a contender.
func (c contender) once(ctx context.Context) (figure, error) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return figure{}, err
	}
	defer os.RemoveAll(c.dir)
	w := watch(c.dir, c.target)
	var sum figure
	for _, args := range c.steps {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = c.dir
		cmd.Env = append(os.Environ(), "TMPDIR="+c.dir)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		begin := time.Now()
		err := cmd.Run()
		sum.wall += time.Since(begin).Seconds()
		if err != nil {
			return sum, errors.Join(fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, errs.String()), w.stop(nil))
		}
		u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		sum.cpu += cmd.ProcessState.UserTime().Seconds() + cmd.ProcessState.SystemTime().Seconds()
		sum.rss = max(sum.rss, float64(u.Maxrss)/1024)
	}
	return sum, w.stop(&sum.staged)
}

// watcher looks at a folder again and again and keeps the most bytes that were
// in it.
type watcher struct {
	dir, target string
	quit        chan struct{}
	done        chan error
	most        int64
}

func watch(dir, target string) *watcher {
	w := &watcher{dir: dir, target: target, quit: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-w.quit:
				w.done <- w.look()
				return
			case <-tick.C:
				if err := w.look(); err != nil {
					w.done <- err
					return
				}
			}
		}
	}()
	return w
}

func (w *watcher) look() error {
	var sum int64
	err := filepath.WalkDir(w.dir, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() || filepath.Base(p) == w.target {
			return err
		}
		st, err := d.Info()
		if err == nil {
			sum += st.Sys().(*syscall.Stat_t).Blocks * 512
		} else if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	})
	w.most = max(w.most, sum)
	return err
}

func (w *watcher) stop(staged *float64) error {
	close(w.quit)
	err := <-w.done
	if staged != nil {
		*staged = float64(w.most) / (1 << 20)
	}
	return err
}

// interleave runs the contenders in turn, rounds times, and gives their medians.
// Of contenders that take long it makes fewer rounds: no new one begins after
// most.
func interleave(ctx context.Context, rounds int, most time.Duration, list ...contender) ([]figure, int, error) {
	runs := make([][]figure, len(list))
	begin, r := time.Now(), 0
	for ; r < rounds && (r == 0 || time.Since(begin) < most); r++ {
		for i := range list {
			k := (i + r) % len(list) // nobody always goes first
			f, err := list[k].once(ctx)
			if err != nil {
				return nil, r, err
			}
			runs[k] = append(runs[k], f)
		}
	}
	var out []figure
	for _, run := range runs {
		out = append(out, figure{
			wall: median(run, func(f figure) float64 { return f.wall }), cpu: median(run, func(f figure) float64 { return f.cpu }),
			rss: median(run, func(f figure) float64 { return f.rss }), staged: median(run, func(f figure) float64 { return f.staged }),
		})
	}
	return out, r, nil
}

func median(runs []figure, of func(figure) float64) float64 {
	var v []float64
	for _, f := range runs {
		v = append(v, of(f))
	}
	slices.Sort(v)
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}

// heading and row print one table of ours against theirs, in Markdown.
func heading(title, theirs string) {
	book.begin(title, theirs)
	fmt.Printf("\n## %s\n\n| | ascend: wall s / cpu s / MiB / staged MiB | %s | wall | cpu | memory | rounds |\n|---|---|---|---|---|---|---|\n", title, theirs)
}

func row(name string, ours, theirs figure, rounds int) {
	other, ratio := theirs.measured(), measured{Wall: theirs.wall / ours.wall, CPU: theirs.cpu / ours.cpu, Memory: theirs.rss / ours.rss}
	book.add(entry{Name: name, Ours: ours.measured(), Theirs: &other, Ratio: &ratio, Rounds: rounds})
	fmt.Printf("| %s | %v | %v | %.2f | %.2f | %.2f | %d |\n", name, ours, theirs, theirs.wall/ours.wall, theirs.cpu/ours.cpu, theirs.rss/ours.rss, rounds)
}

func (f figure) String() string {
	return fmt.Sprintf("%.2f / %.2f / %.0f / %.1f", f.wall, f.cpu, f.rss, f.staged)
}

// machine prints what the figures were taken on.
func machine(ctx context.Context) {
	out := func(name string, args ...string) string {
		b, _ := exec.CommandContext(ctx, name, args...).Output()
		line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
		return line
	}
	cpu := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for l := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(l, "model name"); ok {
				cpu = strings.Trim(v, " \t:\n")
				break
			}
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("# %s; %s processors of %s; %s; load %s\n", time.Now().Format("2006-01-02"), out("nproc"), cpu, out("qemu-img", "--version"), strings.TrimSpace(string(load)))
}

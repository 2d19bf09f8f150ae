package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// figure is what one finished process cost.
type figure struct {
	wall, cpu float64 // seconds; cpu is user and system
	rss       float64 // MiB, peak
}

// contender is a command that is measured: several processes one after the
// other count as one. Placeholders are filled in by the caller.
type contender struct {
	name  string
	steps [][]string
	clean []string // files removed before each run
}

// once runs a contender.
func (c contender) once(ctx context.Context) (figure, error) {
	for _, f := range c.clean {
		_ = os.Remove(f)
		_ = os.Remove(f + ".ascend-journal")
	}
	var sum figure
	for _, args := range c.steps {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		begin := time.Now()
		err := cmd.Run()
		sum.wall += time.Since(begin).Seconds()
		if err != nil {
			return sum, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, errs.String())
		}
		u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		sum.cpu += cmd.ProcessState.UserTime().Seconds() + cmd.ProcessState.SystemTime().Seconds()
		sum.rss = max(sum.rss, float64(u.Maxrss)/1024)
	}
	return sum, nil
}

// interleave runs the contenders in turn, rounds times, and gives their medians.
func interleave(ctx context.Context, rounds int, list ...contender) ([]figure, error) {
	runs := make([][]figure, len(list))
	for r := range rounds {
		for i := range list {
			k := (i + r) % len(list) // nobody always goes first
			f, err := list[k].once(ctx)
			if err != nil {
				return nil, err
			}
			runs[k] = append(runs[k], f)
		}
	}
	for _, c := range list {
		for _, f := range c.clean {
			_ = os.Remove(f)
		}
	}
	var out []figure
	for _, r := range runs {
		out = append(out, figure{
			median(r, func(f figure) float64 { return f.wall }), median(r, func(f figure) float64 { return f.cpu }), median(r, func(f figure) float64 { return f.rss }),
		})
	}
	return out, nil
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

// heading and row print one table of ours against theirs.
func heading(title, theirs string) {
	fmt.Printf("\n## %s\n\n%-42s %21s %21s   %s\n%-42s %7s %6s %6s %7s %6s %6s %7s %6s\n", title, "", "ascend", theirs, "ratio (theirs / ours)",
		"", "wall s", "cpu s", "MiB", "wall s", "cpu s", "MiB", "wall", "cpu")
}

func row(name string, ours, theirs figure) {
	fmt.Printf("%-42s %7.2f %6.2f %6.0f %7.2f %6.2f %6.0f %6.2fx %5.2fx\n", name, ours.wall, ours.cpu, ours.rss, theirs.wall, theirs.cpu, theirs.rss,
		theirs.wall/ours.wall, theirs.cpu/ours.cpu)
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

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// jobsLine is what a benchmark of the engine prints.
var jobsLine = regexp.MustCompile(`^BenchmarkThousandJobs(?:Temporal)?/(\S+?)(?:-\d+)?\s+1\s.*?([\d.]+) cpu-ms/job\s+([\d.]+) jobs/s`)

// engine measures what a job costs besides its bytes: a thousand jobs of three
// steps that do nothing, over each database in one process, and through a Temporal
// server where $ASCEND_TEMPORAL names the one that make bin/temporal builds.
func (b *bench) engine(ctx context.Context, _ *corpus) error {
	args := []string{"test", "-run", "^$", "-bench", "ThousandJobs", "-benchtime", "1x", "-count", strconv.Itoa(b.rounds)}
	if os.Getenv("ASCEND_TEMPORAL") != "" {
		args = append(args, "-tags", "distributed")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./internal/engine")...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("cannot measure the engine: %w: %s", err, out)
	}
	runs := map[string][]figure{}
	var names []string
	for line := range strings.Lines(string(out)) {
		m := jobsLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		cpu, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return err
		}
		rate, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return err
		}
		name := strings.ReplaceAll(m[1], "_", " ")
		if runs[name] == nil {
			names = append(names, name)
		}
		runs[name] = append(runs[name], figure{wall: 1000 / rate, cpu: cpu})
	}
	if len(names) == 0 {
		return fmt.Errorf("cannot read the engine's figures: %s", out)
	}
	fmt.Printf("\n## 1,000 jobs of three empty steps\n\n| | wall s | jobs a second | this process, cpu ms a job |\n|---|---|---|---|\n")
	book.begin("1,000 jobs of three empty steps", "")
	for _, n := range names {
		wall, cpu := median(runs[n], func(f figure) float64 { return f.wall }), median(runs[n], func(f figure) float64 { return f.cpu })
		book.add(entry{Name: n, Ours: measured{Wall: wall, CPU: cpu}, Rounds: len(runs[n])}) // cpu of 1,000 jobs in s = of one in ms
		fmt.Printf("| %s | %.1f | %.0f | %.1f |\n", n, wall, 1000/wall, cpu)
	}
	return nil
}

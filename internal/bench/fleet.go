package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"ascend/internal/sim"
)

// atOnce runs n of a contender side by side, each in a folder of its own: the
// wall time until all are done, the processor time of all, the memory of all.
func atOnce(ctx context.Context, n int, c contender) (figure, error) {
	parts := make([]figure, n)
	g, ctx := errgroup.WithContext(ctx)
	for i := range parts {
		one := c
		one.dir = filepath.Join(c.dir, fmt.Sprint(i))
		g.Go(func() (err error) {
			parts[i], err = one.once(ctx)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return figure{}, err
	}
	var sum figure
	for _, p := range parts {
		sum.wall, sum.cpu, sum.rss, sum.staged = max(sum.wall, p.wall), sum.cpu+p.cpu, sum.rss+p.rss, sum.staged+p.staged
	}
	return sum, os.RemoveAll(c.dir)
}

// fleet measures one, two, five and eight conversions at once, compares them
// with what the model of many machines says of this one, and has the model say
// what many machines do.
func (b *bench) fleet(ctx context.Context, c *corpus) error {
	s, err := c.get(ctx, "qcow2")
	if err != nil {
		return err
	}
	ours, _ := b.pair(s, output{"VHDX", []string{"-O", "vhdx"}}, true)
	counts := []int{1, 2, 5, 8}
	runs := map[int][]figure{}
	for range b.rounds {
		for _, n := range counts {
			f, err := atOnce(ctx, n, ours)
			if err != nil {
				return err
			}
			runs[n] = append(runs[n], f)
		}
	}
	of := func(n int, what func(figure) float64) float64 { return median(runs[n], what) }
	wall, cpu := func(f figure) float64 { return f.wall }, func(f figure) float64 { return f.cpu }
	cost := sim.Cost{CPU: of(1, cpu) / float64(c.data), Each: float64(c.data) / of(1, wall)}
	fmt.Printf("\n## conversions at once, qcow2 → VHDX with the digest, and what the model makes of the first row\n\n| at once | wall s / cpu s / MiB / staged MiB | MiB a second | model, s | model to measured |\n|---|---|---|---|---|\n")
	book.begin("conversions at once", "")
	for _, n := range counts {
		jobs := slices.Repeat([]sim.Job{{Bytes: float64(c.data)}}, n)
		machine := sim.Fleet{Sites: []sim.Site{{}}, Targets: []sim.Target{{}}, Workers: []sim.Worker{{Cores: float64(runtime.NumCPU()), Slots: n}}, Cost: cost}
		r, err := sim.Run(machine, jobs, sim.Policies()[0], 1)
		if err != nil {
			return err
		}
		f := figure{wall: of(n, wall), cpu: of(n, cpu), rss: of(n, func(f figure) float64 { return f.rss }), staged: of(n, func(f figure) float64 { return f.staged })}
		book.add(entry{Name: fmt.Sprintf("%d at once", n), Ours: f.measured(), Extra: []quantity{{"model_seconds", r.Makespan.Seconds()}}})
		fmt.Printf("| %d | %v | %.0f | %.2f | %.2f |\n", n, f, float64(n)*float64(c.data)/f.wall/(1<<20), r.Makespan.Seconds(), r.Makespan.Seconds()/f.wall)
	}
	fmt.Printf("\n## 1,000 machines of 100 GiB at 1, 10 and 100 workers, by the model\n\n")
	return sim.Table(os.Stdout)
}

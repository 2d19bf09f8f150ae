// Command bench measures Ascend against qemu-img in one run and prints medians
// and ratios. "make bench" builds what it needs and runs it; -h lists what can
// be chosen. Every figure is of a whole process, as the kernel accounts for it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	b := bench{sources: sources}
	var only string
	flag.StringVar(&b.ascend, "ascend", "bin/ascend", "the program to measure")
	flag.StringVar(&b.dir, "dir", "", "folder for sources (default: a temporary one)")
	flag.StringVar(&b.out, "out", "/dev/shm", "folder for target files; tmpfs gives the steadiest figures")
	flag.StringVar(&b.files, "files", "/usr", "folder of real files that the corpus is made of")
	flag.Int64Var(&b.data, "data", 2200<<20, "bytes of real files in the corpus; its disk is four times as large")
	flag.IntVar(&b.rounds, "rounds", 5, "interleaved rounds")
	flag.DurationVar(&b.most, "most", time.Minute, "no new round begins of a pair that took this long")
	flag.Func("sources", "source formats of the parts convert, compressed and read, separated by commas (default: all)", func(v string) error {
		b.sources = strings.Split(v, ",")
		for _, n := range b.sources {
			if !slices.Contains(sources, n) {
				return fmt.Errorf("it is one of %s", strings.Join(sources, ", "))
			}
		}
		return nil
	})
	var out string
	flag.StringVar(&out, "json", "", "`file` that the figures are written to, as JSON")
	flag.StringVar(&only, "only", "convert,digest,read,send,sparse,compressed,fleet,serve,engine", "parts to run")
	mode := flag.String("mode", "", "internal: sink, send, read")
	flag.Parse()
	err := func() error {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		switch *mode {
		case "sink":
			return sink(ctx)
		case "send":
			return send(ctx, flag.Args())
		case "read":
			return read(ctx, flag.Args())
		}
		if err := b.run(ctx, strings.Split(only, ",")); err != nil {
			return err
		}
		book.Data = b.data
		return book.write(out)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run of the measurements.
type bench struct {
	ascend, dir, out, files string
	data                    int64
	rounds                  int
	most                    time.Duration
	sources                 []string
	self                    string
}

func (b *bench) run(ctx context.Context, parts []string) error {
	var err error
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.ascend, err = filepath.Abs(b.ascend); err != nil {
		return err
	}
	if b.dir == "" {
		if b.dir, err = os.MkdirTemp("", "ascend-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(b.dir)
	}
	out, err := os.MkdirTemp(b.out, "ascend-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(out)
	b.out = out
	machine(ctx)
	var c *corpus
	if !slices.Equal(parts, []string{"engine"}) { // which sends nothing
		if c, err = b.corpus(ctx); err != nil {
			return err
		}
	}
	steps := map[string]func(context.Context, *corpus) error{
		"convert": b.convert, "digest": b.digest, "compressed": b.compressed, "read": b.read, "send": b.send, "sparse": b.sparse, "fleet": b.fleet, "serve": b.serve, "engine": b.engine,
	}
	for _, p := range parts {
		f, ok := steps[p]
		if !ok {
			return fmt.Errorf("no part is named %q", p)
		}
		if err := f(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return nil
}

package enginetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ascend/internal/engine"
	"ascend/internal/store"
)

// Child carries every unfinished job of a database on, in a process of its own,
// and kills it with SIGKILL at the transition that the parent named. TestMain
// calls it when ASCEND_TEST_ENGINE is set.
func Child() int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	killAt, dsn, dir := os.Args[1], os.Args[2], os.Args[3]
	s, err := store.Open(ctx, dsn, store.Options{Exclusive: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer s.Close()
	w := NewWorld(dir)
	var n atomic.Int64 // steps run side by side
	e := engine.NewLocal(s, w.Handlers(), engine.LocalOptions{Trace: func(point string) {
		at := n.Add(1)
		w.log("point " + point)
		if fmt.Sprint(at) == killAt {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}})
	ids, err := s.UnfinishedJobs(ctx)
	if err == nil {
		err = e.Recover(ctx)
	}
	for _, id := range ids {
		if err == nil {
			err = e.Wait(ctx, id)
		}
	}
	if err == nil {
		err = e.Close(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Process runs Child in a process; killAt is the number of the transition at
// which it kills itself, 0 for none. It tells whether it was killed.
func Process(t testing.TB, killAt int, dsn, dir string) (killed bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], fmt.Sprint(killAt), dsn, dir) //nolint:gosec // this program
	cmd.Env = append(os.Environ(), "ASCEND_TEST_ENGINE=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if strings.Contains(err.Error(), "killed") && ctx.Err() == nil {
		return true
	}
	t.Fatalf("%v: %s: %q", err, out, NewWorld(dir).Log())
	return false
}

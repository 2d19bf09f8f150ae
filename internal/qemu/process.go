package qemu

import (
	"os/exec"
	"runtime"
)

// child is a started program; err stands once done is closed.
type child struct {
	done chan struct{}
	err  error
}

// spawn runs cmd from a thread that lives as long as the child: the parent-death
// signal is sent when the thread that forked ends.
func spawn(cmd *exec.Cmd) (*child, error) {
	c := &child{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		c.err = cmd.Wait()
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

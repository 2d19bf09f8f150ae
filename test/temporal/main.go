// Command temporal is a whole Temporal cluster in one process, over SQLite in
// memory, for tests on this machine: a module of its own, because a server is
// no part of the product and takes 200 modules with it.
//
// It writes one line, "ADDRESS NAMESPACE", to its standard output when it
// answers, and stops when its standard input ends, so that it never outlives
// the test that started it.
package main

import (
	"fmt"
	"io"
	"os"

	"go.temporal.io/server/common/log"
	"go.temporal.io/server/temporal"
	"go.temporal.io/server/temporaltest"
)

func main() {
	s := temporaltest.NewServer(temporaltest.WithBaseServerOptions(temporal.WithLogger(log.NewNoopLogger())))
	fmt.Println(s.GetFrontendHostPort(), s.GetDefaultNamespace())
	_, _ = io.Copy(io.Discard, os.Stdin) // its end is the order to stop
	s.Stop()
}

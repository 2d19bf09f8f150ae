//go:build linux

// Command ascend-agent is init inside the appliance (docs/appliance.md). On
// anything that is not the appliance it does nothing but say so.
package main

import (
	"fmt"
	"os"

	"ascend/internal/appliance/agent"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "ascend-agent is the init program of ascend's appliance; see \"ascend appliance build\"")
		os.Exit(2)
	}
	agent.Main()
}

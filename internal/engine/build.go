package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
)

// This file is how workers of two versions live side by side during an upgrade.
// Steps are carried out by whoever holds the job. What comes next is decided by
// workers of the newest driver only (Temporal: worker deployments, with workflows
// that move to the current version by themselves): an older one would not
// understand what a newer one has decided, the newer one understands both.

// Driver is the version of the driver, the part that decides what comes next.
const Driver = driverVersion

// build is Driver, but for tests of an upgrade.
var build = driverVersion

const buildPrefix = "driver-"

func buildID(driver int) string { return buildPrefix + strconv.Itoa(driver) }

// driverOf is the driver's version that a build has; 0 of a build that is none of
// ours.
func driverOf(build string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(build, buildPrefix))
	if err != nil {
		return 0
	}
	return n
}

// deploymentName is what Temporal knows the workers of a site by: a name without
// dots and colons.
func deploymentName(site string) string {
	if site == "" {
		return "ascend"
	}
	return "ascend-" + strings.NewReplacer(".", "_", ":", "_").Replace(site)
}

// claimWithin bounds how long a cluster may take to know of a new worker.
const claimWithin = time.Minute

// claim makes this worker's driver the one that decides, unless a newer one does.
func (t *Temporal) claim(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, claimWithin)
	defer cancel()
	h := t.client.WorkerDeploymentClient().GetHandle(t.deployment)
	var err error
	for {
		var d client.WorkerDeploymentDescribeResponse
		if d, err = h.Describe(ctx, client.WorkerDeploymentDescribeOptions{}); err == nil {
			current := 0
			if v := d.Info.RoutingConfig.CurrentVersion; v != nil {
				current = driverOf(v.BuildID)
			}
			if current >= build {
				if current > build {
					t.log.Warn("workers of a newer version decide what comes next in jobs; this one carries steps out", "newer", current, "this", build)
				}
				return nil
			}
			if _, err = h.SetCurrentVersion(ctx, client.WorkerDeploymentSetCurrentVersionOptions{BuildID: buildID(build), ConflictToken: d.ConflictToken}); err == nil {
				return nil
			}
		}
		var old *serviceerror.Unimplemented
		if errors.As(err, &old) {
			return fmt.Errorf("the cluster knows no worker deployments, which came with Temporal 1.28: %w", err)
		}
		select { // it does not know of this worker yet, or another one claims meanwhile
		case <-ctx.Done():
			return fmt.Errorf("cannot have version %d decide: %w", build, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Package sim is a model of restores on many machines: workers with processors
// and network cards, repositories, links between sites and the limits of targets,
// which break down now and then. It answers how long a disaster takes, where the
// bottleneck is, and which rule of placement is the best, for fleets that no test
// can afford.
//
// The model is fluid: between two events every transfer runs at a steady rate,
// and the rates are the max-min fair ones (Bertsekas and Gallager, Data Networks,
// section 6.5.2), which is what TCP, a fair processor scheduler and a fair share
// of a target's requests come to over minutes. It is seeded: the same fleet, jobs
// and seed give the same result, to the last bit.
package sim

import "time"

// Fleet is what there is. Rates are bytes a second, 0 meaning no limit.
type Fleet struct {
	Sites   []Site
	Workers []Worker
	Targets []Target
	// WAN is the rate of the link into each site from all others, which disks cross
	// that are read at another site than they are kept.
	WAN float64
	// Cost is what a byte costs a worker.
	Cost Cost
	// Failures of workers; the zero value: none.
	Failures Failures
}

// Site is a place with a repository.
type Site struct {
	Name   string
	Read   float64 // of the repository
	Uplink float64 // out of the site, to targets
}

// Worker is a machine that restores.
type Worker struct {
	Site  int     // index into Fleet.Sites
	Cores float64 // processors
	NIC   float64 // out
	Slots int     // jobs at once
}

// Target is where machines are restored to.
type Target struct {
	Name  string
	Take  float64 // of all jobs together: an account's requests a second times their size
	Each  float64 // of one disk
	Slots int     // jobs at once; 0: no limit
}

// Cost is measured on one machine.
type Cost struct {
	CPU  float64 // processor seconds for each byte of a disk's data: read, hashed, sent
	Wire float64 // bytes sent for each byte of data: below 1 when compressed
	Each float64 // bytes of data a second of one job on an idle machine; 0: only what the rest allows
}

// Failures of workers. Times between failures and to repair are exponential.
type Failures struct {
	Between time.Duration // mean, of one worker; 0: none
	Repair  time.Duration // mean
	Notice  time.Duration // until others take over what it had: the lease
	Lost    float64       // bytes of each of its transfers that are sent again: what was in flight
}

// Job is one machine to restore.
type Job struct {
	Site   int // of its backup
	Target int
	Bytes  float64       // of data
	Before time.Duration // of work that moves no data: planning, creating
	After  time.Duration // creating the machine, starting it
}

// Result is what came of it.
type Result struct {
	Makespan time.Duration   // until the last job was done
	Done     []time.Duration // of each job, when it was done
	Failures int             // of workers
	Again    float64         // bytes sent again
	// Busy is each resource's mean use over the makespan, from 0 to 1, by name.
	Busy map[string]float64
	// Bottleneck is the kind of resource that held back most of the transfers' time:
	// worker processors, worker networks, repositories, uplinks, wan, targets, disks.
	Bottleneck string
	// Held is the share of the transfers' time that each kind held back.
	Held map[string]float64
}

package sim

// Policy chooses among the workers that have a free slot; it returns an index
// into them. It must depend on nothing but what it is given.
type Policy struct {
	Name   string
	Choose func(j *Job, free []Candidate) int
}

// Candidate is a worker with a free slot.
type Candidate struct {
	Index int  // into Fleet.Workers
	Jobs  int  // it has now
	Near  bool // it is where the backup is
	Last  int  // number of the job that it was given last, -1: none
}

// Chosen is the policy that jobs are placed by; docs/benchmarks.md has the table.
const Chosen = "near, else least loaded"

// Policies are those that are compared.
func Policies() []Policy {
	return []Policy{
		{"in turn", func(_ *Job, free []Candidate) int {
			return best(free, func(a, b Candidate) bool { return a.Last < b.Last })
		}},
		{"least loaded", func(_ *Job, free []Candidate) int {
			return best(free, func(a, b Candidate) bool { return a.Jobs < b.Jobs })
		}},
		{"near, else least loaded", func(_ *Job, free []Candidate) int {
			return best(free, func(a, b Candidate) bool {
				if a.Near != b.Near {
					return a.Near
				}
				return a.Jobs < b.Jobs
			})
		}},
		{"near only", func(_ *Job, free []Candidate) int {
			i := best(free, func(a, b Candidate) bool {
				if a.Near != b.Near {
					return a.Near
				}
				return a.Jobs < b.Jobs
			})
			if !free[i].Near {
				return -1 // wait
			}
			return i
		}},
	}
}

func best(free []Candidate, less func(a, b Candidate) bool) int {
	b := 0
	for i := range free {
		if less(free[i], free[b]) {
			b = i
		}
	}
	return b
}

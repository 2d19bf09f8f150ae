package sim

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Table plays Disaster with 1, 10 and 100 workers under every policy and writes
// what comes of it, in Markdown.
func Table(w io.Writer) error {
	fmt.Fprint(w, "| workers | placed | all done | half done | 95 of 100 done | failures | held back by |\n|---|---|---|---|---|---|---|\n")
	for _, n := range []int{1, 10, 100} {
		fleet, jobs := Disaster(n)
		for _, p := range Policies() {
			r, err := Run(fleet, jobs, p, 1)
			if err != nil { // one worker at one site cannot take what is at the others
				fmt.Fprintf(w, "| %d | %s | never | | | | |\n", n, p.Name)
				continue
			}
			fmt.Fprintf(w, "| %d | %s | %s | %s | %s | %d | %s |\n", n, p.Name, hours(r.Makespan), hours(r.Percentile(0.5)), hours(r.Percentile(0.95)), r.Failures, r.why())
		}
	}
	return nil
}

func hours(d time.Duration) string { return fmt.Sprintf("%.1f h", d.Hours()) }

// why is what held the transfers back, most first, above a twentieth of the time.
func (r *Result) why() string {
	kinds := make([]string, 0, len(r.Held))
	for k, v := range r.Held {
		if v >= 0.05 {
			kinds = append(kinds, k)
		}
	}
	slices.SortFunc(kinds, func(a, b string) int {
		if r.Held[a] != r.Held[b] {
			if r.Held[a] > r.Held[b] {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	for i, k := range kinds {
		kinds[i] = fmt.Sprintf("%s %.0f %%", k, 100*r.Held[k])
	}
	return strings.Join(kinds, ", ")
}

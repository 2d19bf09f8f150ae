package restores

import (
	"math"
	"testing"
	"time"
)

func TestRates(t *testing.T) {
	r, at := &rates{}, time.Unix(1_800_000_000, 0)
	is := func(after time.Duration, done int64, want float64) {
		t.Helper()
		at = at.Add(after)
		if got := r.of("job/transfer disk 0", done, at); math.Abs(got-want) > 0.5 {
			t.Errorf("after %v at %d: %.1f, not %.1f", after, done, got, want)
		}
	}
	is(0, 100, 0)
	is(time.Second, 1100, 1000)
	is(100*time.Millisecond, 1100, 1000) // too soon to say anything new
	is(1900*time.Millisecond, 3100, 1000)
	is(10*time.Second, 3100, 0)           // stands still
	is(time.Second, 50, 0)                // begun anew
	is(time.Second, 2050, 2000)           // and goes on
	is(2*time.Minute, 2_000_000_000, 0)   // what was seen is too old
	r.of("another", 1, at.Add(time.Hour)) // what is old is forgotten
	if len(r.seen) != 1 {
		t.Errorf("%d are remembered", len(r.seen))
	}
}

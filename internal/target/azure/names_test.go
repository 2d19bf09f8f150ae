package azure

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"ascend/internal/target"
	"ascend/internal/vm"
)

var azureName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?$`)

func FuzzNames(f *testing.F) {
	for _, s := range []string{"web01", "two words", "..", "Büro", "", "-", strings.Repeat("x-", 32), "a/b", "a.", "_a", "サーバー", "\xff"} {
		f.Add(s, "job")
	}
	f.Fuzz(func(t *testing.T, s, job string) {
		if checkName(s) != nil {
			return
		}
		n := safe(s)
		if !azureName.MatchString(n) {
			t.Errorf("%q becomes %q", s, n)
		}
		if safe(n) != n {
			t.Errorf("%q becomes %q and that %q", s, n, safe(n))
		}
		o := &target.Order{Job: job, Machine: &vm.Machine{Name: s}}
		if p := partName(o, "disk-64"); !azureName.MatchString(p) || p == n {
			t.Errorf("a part of %q is named %q", s, p)
		}
		if v := tagText(s); utf8.RuneCountInString(v) > 256 || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' }) {
			t.Errorf("the tag of %q is %q", s, v)
		}
		if len(jobValue(job)) > 200 {
			t.Errorf("the tag of job %q is too long", job)
		}
	})
}

// Different names stay different.
func TestNamesDiffer(t *testing.T) {
	seen := map[string]string{}
	for _, s := range []string{"a/b", `a\b`, "a-b", "a:b", "a", "a.", ".a", "_a", "..", "...", "ä", "ö", strings.Repeat("ü", 30), strings.Repeat("ü", 31)} {
		if other, ok := seen[safe(s)]; ok {
			t.Errorf("%q and %q both become %q", s, other, safe(s))
		}
		seen[safe(s)] = s
	}
}

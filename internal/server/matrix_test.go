package server_test

import (
	"testing"

	"ascend/internal/plan"
)

// TestMatrix: every pair of platforms has a verdict, and what is no plain yes has
// a reason; so has a backup's row.
func TestMatrix(t *testing.T) {
	m := start(t)
	backup := m.repository("main")
	for path, name := range map[string]string{"/matrix": "", "/backups/" + backup + "/matrix": "a backup"} {
		var got plan.Matrix
		m.want(200, "GET", path, m.admin, nil, &got)
		if len(got.Targets) < 6 || len(got.Cells) != len(got.Sources)*len(got.Targets) || (got.Backup == "") != (name == "") {
			t.Errorf("%s: %d cells of %v x %v, backup %q", path, len(got.Cells), got.Sources, got.Targets, got.Backup)
		}
		for _, c := range got.Cells {
			if c.Verdict != plan.Yes && len(c.Reasons) == 0 || c.Verdict == "" {
				t.Errorf("%s: %s to %s: %q without a reason", path, c.Source, c.Target, c.Verdict)
			}
		}
	}
	m.want(404, "GET", "/backups/none/matrix", m.admin, nil, nil)
}

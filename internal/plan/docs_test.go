package plan

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestDocs holds the generated pages to what they are generated from. With
// ASCEND_UPDATE=1 it writes them.
func TestDocs(t *testing.T) {
	m, err := General()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"../../docs/matrix.md": "# What can be restored where\n\nMade by `ascend matrix -O markdown` from the capability data of the platforms and the rules of every plan; a\n" +
			"test holds it to them. *With conditions* means that some machines cannot be restored so, or only with consent: the reasons\n" +
			"stand below. `ascend matrix BACKUP` answers for one machine, and `ascend plan` for one machine and one real target.\n\n" +
			m.Markdown() + "\n## What the platforms take\n\nWithout a connection; a connector refines it.\n\n" + CapabilityTable(),
		"../../docs/rules.md":         rulesPage(),
		"../../docs/plan.schema.json": string(Schema()),
	} {
		if os.Getenv("ASCEND_UPDATE") != "" {
			if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s is not current: run ASCEND_UPDATE=1 go test ./internal/plan -run TestDocs (%v)", name, err)
		}
	}
}

func rulesPage() string {
	var b strings.Builder
	b.WriteString("# Rules\n\nWhat every plan is checked against, made by a test from the rules themselves; `ascend rules explain CODE` says the same.\n" +
		"**Critical** findings stop a restore, **warnings** need consent, **information** is worth knowing. What is not known is a\n" +
		"finding too. A finding that the adaptation of the guest puts right informs only.\n")
	subject := ""
	for _, r := range Rules() {
		if r.Subject != subject {
			subject = r.Subject
			fmt.Fprintf(&b, "\n## %s\n\n| code | severity | about | what to do | looks at |\n|---|---|---|---|---|\n", strings.ToUpper(subject[:1])+subject[1:])
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", r.Code, r.Severity, r.About, r.Advice, strings.Join(r.Facts, ", "))
	}
	return b.String()
}

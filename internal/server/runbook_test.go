package server_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"ascend/internal/runbook"
	"ascend/internal/server/api"
	"ascend/internal/server/auth"
	"ascend/internal/server/jobs"
)

// book is a runbook of one backup in several groups.
func book(backup string, groups int, extra string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\nname: a site\ndefaults: {target: t1, mappings: [places]}\n%sgroups:\n", extra)
	for i := range groups {
		fmt.Fprintf(&b, "  - name: group %d\n    machines: [{backup: %s, name: m%d}, {vm: web01, name: n%d, mapping: {fields: {x: y}}}]\n", i, backup, i, i)
	}
	return b.String()
}

// run asks until a run is as it is wanted.
func (m *made) run(id string, ok func(api.RunReport) bool) (r api.RunReport) {
	m.t.Helper()
	m.wait("the run", func() bool {
		r = api.RunReport{} // what is decoded into a map stays there
		m.want(200, "GET", "/runbook-runs/"+id, m.admin, nil, &r)
		return ok(r)
	})
	return r
}

// settle moves every unfinished job to a status.
func (m *made) settle(status string, rolledBack bool) {
	m.t.Helper()
	list, _, err := m.jobs.List(m.t.Context(), jobs.Filter{Unfinished: true})
	if err != nil {
		m.t.Fatal(err)
	}
	for _, j := range list {
		j.Status, j.RolledBack = status, rolledBack
		if j.Error = ""; status == "failed" {
			j.Error = "the disk is full"
		}
		m.jobs.Set(j)
	}
}

func TestRunbooks(t *testing.T) {
	m := start(t)
	backup := m.repository("main")
	m.target("t1")
	m.target("t2")
	m.want(200, "PUT", "/mappings/places", m.admin, map[string]any{"mapping": map[string]any{"fields": map[string]string{"a": "b"}}}, nil)
	text := "# kept\n" + book(backup, 3, "")
	var b api.Runbook
	m.want(200, "PUT", "/runbooks/site", m.admin, map[string]string{"document": text}, &b)
	if b.Text != text || len(b.Document.Groups) != 3 {
		t.Fatalf("%+v", b)
	}
	var p api.Problem
	m.want(422, "PUT", "/runbooks/bad", m.admin, map[string]string{"document": strings.Replace(text, "group 1", "group 0", 1)}, &p)
	if len(p.Errors) != 1 || p.Errors[0].Location != "groups[1].name" {
		t.Errorf("%+v", p.Errors)
	}
	var check api.RunbookCheck
	m.want(200, "POST", "/runbooks/check", m.token("root", auth.Viewer), map[string]string{"document": "version: 2\nname: x\n"}, &check)
	if check.OK || len(check.Places) != 2 {
		t.Errorf("%+v", check)
	}

	// The plan of the whole, before anything is done.
	var r api.RunReport
	m.want(201, "POST", "/runbook-runs", m.admin, map[string]string{"runbook": "site"}, &r)
	m.want(409, "POST", "/runbook-runs/"+r.ID+"/retry", m.admin, nil, nil)
	r = m.run(r.ID, func(r api.RunReport) bool { return r.Status == runbook.Planned })
	if r.Summary.Planned != 6 || r.Summary.Stopped || r.Summary.Bytes == 0 || r.Groups[0].Machines[1].Plan.Backup != backup || len(r.Summary.Capacity) == 0 {
		t.Fatalf("%+v %s", r.Summary, r.Markdown())
	}
	if list, _, _ := m.jobs.List(t.Context(), jobs.Filter{}); len(list) > 0 {
		t.Fatal("planning began jobs")
	}
	if len(r.Summary.Consent) > 0 {
		m.want(409, "POST", "/runbook-runs/"+r.ID+"/apply", m.admin, nil, &p)
		if p.Code != "consent-needed" || len(p.Missing) == 0 {
			t.Errorf("%+v", p)
		}
	}
	accept := map[string]any{"accept": r.Summary.Consent}
	m.want(202, "POST", "/runbook-runs/"+r.ID+"/apply", m.admin, accept, &r)
	m.want(409, "POST", "/runbook-runs/"+r.ID+"/apply", m.admin, accept, nil)
	m.want(409, "DELETE", "/runbook-runs/"+r.ID, m.admin, nil, nil)
	m.run(r.ID, func(r api.RunReport) bool { return r.Counts.Active == 2 && len(r.Jobs) == 2 })
	m.settle("completed", false)

	// The second group fails: the third is held back.
	m.run(r.ID, func(r api.RunReport) bool { return r.Groups[0].Status == runbook.Completed && len(r.Jobs) == 2 })
	m.settle("failed", false)
	r = m.run(r.ID, func(r api.RunReport) bool { return r.Status == runbook.Failed })
	if r.Counts.Held != 2 || r.Counts.Failed != 2 || !strings.Contains(r.Groups[1].Machines[0].Error, "disk is full") {
		t.Errorf("%s", r.Markdown())
	}
	if list, _, _ := m.jobs.List(t.Context(), jobs.Filter{}); len(list) != 4 {
		t.Errorf("%d jobs", len(list))
	}
	m.want(202, "POST", "/runbook-runs/"+r.ID+"/retry", m.admin, nil, nil)
	m.run(r.ID, func(r api.RunReport) bool { return r.Counts.Active == 2 && len(r.Jobs) == 2 })
	m.settle("completed", false)
	m.run(r.ID, func(r api.RunReport) bool { return r.Groups[1].Status == runbook.Completed && len(r.Jobs) == 2 })
	m.settle("completed", false)
	r = m.run(r.ID, func(r api.RunReport) bool { return r.Status.AtRest() })
	if list, _, _ := m.jobs.List(t.Context(), jobs.Filter{}); r.Status != runbook.Completed || len(list) != 6 {
		t.Errorf("%s, %d jobs", r.Status, len(list))
	}
	resp, md := m.do("GET", "/runbook-runs/"+r.ID+"/report", m.admin, nil)
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/markdown") || !strings.Contains(string(md), "6 machines: 6 completed") {
		t.Errorf("%s", md)
	}
	_, js := m.do("GET", "/runbook-runs/"+r.ID+"/report?format=json", m.admin, nil)
	var rep runbook.Report
	if err := json.Unmarshal(js, &rep); err != nil || rep.Counts.Completed != 6 || rep.Summary == nil {
		t.Errorf("%v %s", err, js)
	}
	m.want(204, "DELETE", "/runbook-runs/"+r.ID, m.admin, nil, nil)
	m.want(404, "GET", "/runbook-runs/"+r.ID, m.admin, nil, nil)
	m.want(204, "DELETE", "/runbooks/site", m.admin, nil, nil)
	var log api.Page[map[string]any]
	m.want(200, "GET", "/audit?action=runbook-run.", m.admin, nil, &log)
	if len(log.Items) != 4 {
		t.Errorf("%d lines of audit: %v", len(log.Items), log.Items)
	}
}

// TestRunbookStopped: what cannot be planned is told, and nothing begins.
func TestRunbookStopped(t *testing.T) {
	m := start(t)
	backup := m.repository("main")
	m.target("t1")
	text := book(backup, 1, "") + "    until: {is: boot_proof}\n"
	text += "  - name: none\n    machines: [{vm: nobody}, {vm: web01, before: 2001-01-01T00:00:00Z, name: old}, {vm: web01, name: m0, mappings: [missing]}]\n"
	m.want(200, "PUT", "/mappings/places", m.admin, map[string]any{"mapping": map[string]any{}}, nil)
	var r api.RunReport
	m.want(201, "POST", "/runbook-runs", m.admin, map[string]string{"document": text}, &r)
	r = m.run(r.ID, func(r api.RunReport) bool { return r.Status == runbook.Planned })
	troubles := r.Groups[1].Machines[0].Trouble + r.Groups[1].Machines[1].Trouble + r.Groups[1].Machines[2].Trouble
	for _, want := range []string{`no backup of "nobody"`, "from before 2001", `no saved mapping "missing"`} {
		if !strings.Contains(troubles, want) {
			t.Errorf("%q is not told: %s", want, troubles)
		}
	}
	if fs := r.Groups[0].Machines[0].Plan.Findings; len(fs) == 0 || fs[len(fs)-1].Code != "runbook-no-proof" {
		t.Errorf("a folder proves no boot: %+v", fs)
	}
	var p api.Problem
	m.want(409, "POST", "/runbook-runs/"+r.ID+"/apply", m.admin, map[string]any{"accept": r.Summary.Consent}, &p)
	if p.Code != "plan-stopped" {
		t.Errorf("%+v", p)
	}
	m.want(202, "POST", "/runbook-runs/"+r.ID+"/cancel", m.admin, nil, &r)
	if r.Status != runbook.Cancelled {
		t.Errorf("%s", r.Status)
	}
}

// TestRunbookRoles: a runbook runs on the targets that its caller may restore to.
func TestRunbookRoles(t *testing.T) {
	m := start(t)
	backup := m.repository("main")
	m.target("t1")
	m.target("t2")
	m.want(200, "PUT", "/mappings/places", m.admin, map[string]any{"mapping": map[string]any{}}, nil)
	m.user("gina", auth.Viewer, auth.Grant{Target: "t1", Role: auth.Operator})
	gina := m.token("gina", auth.Admin)
	mine := book(backup, 1, "")
	both := strings.Replace(mine, "name: n0", "name: n0, target: t2", 1)
	var r, other api.RunReport
	m.want(201, "POST", "/runbook-runs", gina, map[string]string{"document": mine}, &r)
	m.want(403, "POST", "/runbook-runs", gina, map[string]string{"document": both}, nil)
	m.want(201, "POST", "/runbook-runs", m.admin, map[string]string{"document": both}, &other)
	other = m.run(other.ID, func(r api.RunReport) bool { return r.Status == runbook.Planned })
	for _, verb := range []string{"apply", "cancel", "retry"} {
		m.want(403, "POST", "/runbook-runs/"+other.ID+"/"+verb, gina, map[string]any{"accept": other.Summary.Consent}, nil)
	}
	m.want(403, "DELETE", "/runbook-runs/"+other.ID, gina, nil, nil)
	r = m.run(r.ID, func(r api.RunReport) bool { return r.Status == runbook.Planned })
	m.want(202, "POST", "/runbook-runs/"+r.ID+"/apply", gina, map[string]any{"accept": r.Summary.Consent}, nil)

	// The stream tells the run until it is at rest; cancelling ends its jobs.
	m.run(r.ID, func(r api.RunReport) bool { return len(r.Jobs) == 2 })
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, m.url+api.Prefix+"/runbook-runs/"+r.ID+"/stream", nil)
	req.Header.Set("Authorization", "Bearer "+gina)
	resp, err := m.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	m.want(202, "POST", "/runbook-runs/"+r.ID+"/cancel", gina, nil, nil)
	events := map[string]int{}
	for s := bufio.NewScanner(resp.Body); events["end"] == 0 && s.Scan(); {
		if name, ok := strings.CutPrefix(s.Text(), "event: "); ok {
			events[name]++
		}
	}
	if events["run"] < 2 || events["end"] != 1 {
		t.Errorf("%v", events)
	}
	if list, _, _ := m.jobs.List(t.Context(), jobs.Filter{Unfinished: true}); len(list) > 0 {
		t.Errorf("jobs go on: %+v", list)
	}
}

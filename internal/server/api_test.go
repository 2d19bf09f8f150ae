package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"ascend/internal/client"
	"ascend/internal/plan"
	"ascend/internal/secret"
	"ascend/internal/server/api"
	"ascend/internal/server/jobs"
)

func TestIdempotency(t *testing.T) {
	m := start(t)
	body := map[string]any{"name": "ci", "role": "viewer", "days": 1}
	var first, second api.MadeToken
	m.want(201, "POST", "/tokens", m.admin, body, &first, "Idempotency-Key", "k")
	resp := m.want(201, "POST", "/tokens", m.admin, body, &second, "Idempotency-Key", "k")
	if first.Text == "" || first.Text != second.Text || resp.Header.Get("Idempotent-Replayed") != "true" || resp.Header.Get("Location") == "" {
		t.Errorf("%+v %+v", first, second)
	}
	var p api.Problem
	body["days"] = 2
	m.want(422, "POST", "/tokens", m.admin, body, &p, "Idempotency-Key", "k")
	if p.Code != "key-reused" {
		t.Errorf("%+v", p)
	}
	// Others' keys are others'.
	m.user("otto", "operator")
	var third api.MadeToken
	body["days"] = 1
	m.want(201, "POST", "/tokens", m.token("otto", "operator"), body, &third, "Idempotency-Key", "k")
	if third.ID == first.ID {
		t.Error("the answer was another's")
	}
	// Of many at once, one is carried out.
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]bool{}
	for range 10 {
		wg.Go(func() {
			for range 100 {
				resp, b := m.do("POST", "/tokens", m.admin, body, "Idempotency-Key", "many")
				if resp.StatusCode == http.StatusConflict {
					time.Sleep(5 * time.Millisecond)
					continue
				}
				var x api.MadeToken
				_ = json.Unmarshal(b, &x)
				mu.Lock()
				ids[x.ID] = true
				mu.Unlock()
				return
			}
		})
	}
	wg.Wait()
	if len(ids) != 1 {
		t.Errorf("%v", ids)
	}
}

func TestETags(t *testing.T) {
	m := start(t)
	m.target("t1")
	resp := m.want(200, "GET", "/targets/t1", m.admin, nil, nil)
	tag := resp.Header.Get("ETag")
	m.want(200, "PATCH", "/targets/t1", m.admin, map[string]any{"note": "a"}, nil, "If-Match", tag)
	m.want(412, "PATCH", "/targets/t1", m.admin, map[string]any{"note": "b"}, nil, "If-Match", tag)
	m.want(412, "DELETE", "/targets/t1", m.admin, nil, nil, "If-Match", tag)
	resp = m.want(200, "GET", "/targets/t1", m.admin, nil, nil, "If-None-Match", tag)
	fresh := resp.Header.Get("ETag")
	if resp, b := m.do("GET", "/targets/t1", m.admin, nil, "If-None-Match", `"x", W/`+fresh); resp.StatusCode != http.StatusNotModified || len(b) > 0 {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	resp, _ = m.do("GET", "/jobs", m.admin, nil)
	if resp, _ := m.do("GET", "/jobs", m.admin, nil, "If-None-Match", resp.Header.Get("ETag")); resp.StatusCode != http.StatusNotModified {
		t.Errorf("%d", resp.StatusCode)
	}
}

func TestPagesAndErrors(t *testing.T) {
	m := start(t)
	for i := range 25 {
		m.want(200, "PUT", fmt.Sprintf("/mappings/m%02d", i), m.admin, map[string]any{"mapping": map[string]any{}}, nil)
	}
	n := 0
	for cursor := ""; ; n++ {
		var p api.Page[api.NamedMapping]
		m.want(200, "GET", "/mappings?limit=1&cursor="+cursor, m.admin, nil, &p)
		if len(p.Items) != 1 || p.Items[0].ID != fmt.Sprintf("m%02d", n) {
			t.Fatalf("%d %+v", n, p)
		}
		if cursor = p.Next; cursor == "" {
			break
		}
	}
	if n != 24 {
		t.Errorf("%d", n)
	}
	for path, status := range map[string]int{
		"/backups?limit=0": 422, "/backups?limit=501": 422, "/backups?cursor=x": 422, "/backups?nonsense=1": 422, "/jobs/none": 404, "/nowhere": 404, "/backups/x/chain": 404,
		"/targets/none/inventory": 404, "/plans/none": 404, "/backups?since=yesterday": 422,
	} {
		m.want(status, "GET", path, m.admin, nil, nil)
	}
	m.want(405, "DELETE", "/jobs", m.admin, nil, nil)
}

// TestPlanToJob goes the wizard's way: plan, consent, submit; and what cannot be.
func TestPlanToJob(t *testing.T) {
	m := start(t)
	backup := m.repository("main")
	m.target("t1")
	var p api.Plan
	m.want(201, "POST", "/plans", m.admin, map[string]any{"backup": backup, "target": "t1", "wish": map[string]any{"name": "new", "format": "qcow2"}}, &p)
	if p.Plan.Machine.Name != "new" || p.Stopped || p.Plan.Disks[0].Delivery.Format.Name != "qcow2" {
		t.Fatalf("%+v", p)
	}
	_, yaml := m.do("GET", "/plans/"+p.ID+"/export", m.admin, nil)
	var again api.Plan
	m.want(201, "POST", "/plans/import", m.admin, map[string]any{"document": string(yaml)}, &again)
	if again.Plan.Machine.Name != "new" || again.Plan.Disks[0].Delivery.Format != p.Plan.Disks[0].Delivery.Format || again.Backup != backup {
		t.Errorf("%+v", again)
	}
	// An edit of the file is taken; a later wish goes before it; a part that may
	// not be edited is refused.
	doc, err := plan.ParseDocument("p", yaml)
	if err != nil {
		t.Fatal(err)
	}
	doc.Plan.Machine.Memory, doc.Plan.Machine.NICs[0].MAC = 3<<30, "52:54:00:aa:bb:cc"
	edited, err := doc.Plan.YAML()
	if err != nil {
		t.Fatal(err)
	}
	m.want(201, "POST", "/plans/import", m.admin, map[string]any{"document": string(edited)}, &again)
	if k := again.Plan.Machine; k.Memory != 3<<30 || k.NICs[0].MAC != "52:54:00:aa:bb:cc" {
		t.Errorf("%+v", k)
	}
	wish := again.Wish
	wish.Name, wish.Memory = "third", 5<<30
	wish.Mapping.Networks = []plan.NetworkRule{{From: "nic0", To: "lan"}}
	m.want(200, "PATCH", "/plans/"+again.ID, m.admin, map[string]any{"wish": wish}, &again)
	if k := again.Plan.Machine; k.Memory != 5<<30 || k.Name != "third" || k.NICs[0].MAC != "52:54:00:aa:bb:cc" || again.Plan.Placement.Networks[0] != "lan" {
		t.Errorf("%+v %+v", k, again.Plan.Placement)
	}
	doc.Plan.Disks[0].Virtual++
	sealed, err := doc.Plan.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if resp, b := m.do("POST", "/plans/import", m.admin, map[string]any{"document": string(sealed)}); resp.StatusCode != http.StatusUnprocessableEntity || !bytes.Contains(b, []byte("cannot be edited")) {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	for _, bad := range []string{"", "x: [", "version: 1", string(yaml) + "\nunknown: 1\n", strings.Replace(string(yaml), "repo-main", "../../etc", 1)} {
		resp, b := m.do("POST", "/plans/import", m.admin, map[string]any{"document": bad})
		if resp.StatusCode != http.StatusUnprocessableEntity && resp.StatusCode != http.StatusNotFound {
			t.Errorf("%d %s", resp.StatusCode, b)
		}
	}
	var j jobs.Job
	m.want(201, "POST", "/jobs", m.admin, map[string]any{"plan": p.ID, "accept": p.Consent}, &j)
	m.want(200, "PATCH", "/plans/"+p.ID, m.admin, map[string]any{"wish": map[string]any{"firmware": "uefi", "name": "a\x01b"}}, &p)
	if !p.Stopped {
		t.Errorf("%+v", p.Plan.Findings)
	}
	var problem api.Problem
	m.want(409, "POST", "/jobs", m.admin, map[string]any{"plan": p.ID}, &problem)
	if problem.Code != "plan-stopped" {
		t.Errorf("%+v", problem)
	}
	m.want(409, "DELETE", "/targets/t1", m.admin, nil, nil) // a job is at work on it
	m.want(202, "POST", "/jobs/"+j.ID+"/cancel", m.admin, nil, nil)
	m.want(409, "POST", "/jobs/"+j.ID+"/retry", m.admin, nil, nil)
	m.want(204, "DELETE", "/targets/t1", m.admin, nil, nil)
}

// TestEvidence: the screen of a boot proof is shown as a picture and nothing else.
func TestEvidence(t *testing.T) {
	m := start(t)
	m.jobs.Set(jobs.Job{ID: "01J00001", Status: "completed", Created: time.Now()})
	var list api.Page[api.Evidence]
	m.want(200, "GET", "/jobs/01J00001/evidence", m.admin, nil, &list)
	if len(list.Items) != 2 || list.Items[1].Name != "screen.png" {
		t.Fatalf("%+v", list)
	}
	resp, b := m.do("GET", "/jobs/01J00001/evidence/screen.png", m.admin, nil)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "image/png" || string(b) != "screen.png" {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, b)
	}
	m.want(404, "GET", "/jobs/01J00001/evidence/..%2Fmap", m.admin, nil, nil)
	m.want(404, "GET", "/jobs/none/evidence", m.admin, nil, nil)
}

// TestStream follows a job and all jobs, loses the connection and goes on with
// the next event, none twice and none left out.
func TestStream(t *testing.T) {
	m := start(t)
	j := jobs.Job{ID: "01J00000", Status: "running", Created: time.Now()}
	m.jobs.Set(j, jobs.Step{Name: "transfer disk 0", Kind: "transfer", Status: "running", Done: 1, Total: 10})
	c, err := client.New(client.Config{URL: m.url, Token: secret.New(m.admin)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for name, call := range map[string]client.Call{"one": client.StreamJob, "all": client.StreamJobs} {
		t.Run(name, func(t *testing.T) {
			j.Status = "running"
			m.jobs.Set(j)
			var ids []string
			var percents []float64
			ended := false
			q := map[string][]string{"after": {"0"}}
			err := c.Stream(ctx, call, client.Request{ID: j.ID, Query: q}, nil, func(e client.Event) error {
				switch e.Name {
				case "log":
					ids = append(ids, e.ID)
				case "job":
					var got jobs.Job
					if err := json.Unmarshal(e.Data, &got); err != nil {
						return err
					}
					if percents = append(percents, got.Percent); len(percents) == 1 {
						j.Percent = 50
						m.jobs.Set(j)
						m.client.CloseIdleConnections()
					}
					if got.Percent == 50 && got.Status == "running" {
						j.Status, j.Percent = "completed", 50
						m.jobs.Set(j)
					}
					if call == client.StreamJobs && got.Status == "completed" {
						return client.ErrEnd
					}
				case "end":
					ended = true
					return client.ErrEnd
				}
				return nil
			})
			if err != nil || call == client.StreamJob && !ended {
				t.Fatal(err)
			}
			for i, id := range ids {
				if id != fmt.Sprint(i+1) {
					t.Errorf("ids %v", ids)
					break
				}
			}
		})
		j.Percent = 0
	}
	// Last-Event-ID wins over the query.
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, m.url+api.Prefix+"/jobs/"+j.ID+"/stream?after=0", nil)
	req.Header.Set("Authorization", "Bearer "+m.admin)
	req.Header.Set("Last-Event-ID", "3")
	resp, err := m.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b := make([]byte, 4096)
	n, _ := resp.Body.Read(b)
	more, _ := resp.Body.Read(b[n:])
	if text := string(b[:n+more]); resp.Header.Get("Content-Type") != "text/event-stream" || strings.Contains(text, "id: 3\n") || !strings.Contains(text, "id: 4\n") {
		t.Errorf("%s", text)
	}
}

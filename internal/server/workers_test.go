package server_test

import (
	"strings"
	"testing"

	"ascend/internal/server/api"
	"ascend/internal/server/auth"
	"ascend/internal/server/fleet"
)

// TestWorkers: a worker that gives a sign of life is listed, an admin can drain it
// and nobody else, the worker is told, and the audit log knows.
func TestWorkers(t *testing.T) {
	m := start(t)
	var list api.Page[fleet.Listed]
	m.want(200, "GET", "/workers", m.admin, nil, &list)
	if list.Items == nil || len(list.Items) != 0 {
		t.Errorf("%+v", list)
	}
	f := fleet.New(m.store)
	if _, err := f.Beat(t.Context(), "host-1", fleet.Worker{Site: "north", Repositories: []string{"main"}, Jobs: 1, Capacity: 4}); err != nil {
		t.Fatal(err)
	}
	m.user("olaf", auth.Operator)
	m.want(200, "GET", "/workers", m.token("olaf", auth.Viewer), nil, &list)
	if len(list.Items) != 1 || list.Items[0].ID != "host-1" || !list.Items[0].Alive || list.Items[0].Capacity != 4 || list.Items[0].State() != fleet.Alive {
		t.Errorf("%+v", list)
	}
	m.want(403, "POST", "/workers/host-1/drain", m.token("olaf", auth.Operator), nil, nil)
	m.want(404, "POST", "/workers/none/drain", m.admin, nil, nil)
	m.want(202, "POST", "/workers/host-1/drain", m.admin, nil, nil)
	if drain, err := f.Beat(t.Context(), "host-1", fleet.Worker{Site: "north", Draining: true}); err != nil || !drain {
		t.Errorf("it is not told: %v", err)
	}
	m.want(200, "GET", "/workers", m.admin, nil, &list)
	if list.Items[0].State() != fleet.Draining {
		t.Errorf("%+v", list)
	}
	if _, b := m.do("GET", "/audit", m.admin, nil); !strings.Contains(string(b), "worker.drain") {
		t.Errorf("%s", b)
	}
}

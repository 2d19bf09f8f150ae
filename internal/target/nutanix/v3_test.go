package nutanix

import (
	"net/http"
	"strings"
	"testing"

	"ascend/internal/target"
	"ascend/internal/target/nutanix/prismsim"
	"ascend/internal/target/targettest"
)

// oldPeer is a Prism Central that has no v4 API.
type oldPeer struct{ *peer }

func newOldPeer(t testing.TB) targettest.Peer {
	return oldPeer{startPeer(t, prismsim.Options{Version: "v3"}, nil)}
}

func isFile(q prismsim.Request) bool {
	return q.Method == http.MethodPut && strings.HasSuffix(q.Path, "/file")
}

func (p oldPeer) Break(t testing.TB) map[string]target.Target {
	all := p.peer.Break(t)
	delete(all, "no such container") // v3 does not know them
	all["v4 that is not there"] = p.open(t, "api", apiV4)
	return all
}

func (p oldPeer) Faults() []targettest.Fault {
	return []targettest.Fault{
		{Name: "the file breaks off", Arm: p.first(2, isFile, prismsim.Fault{})},
		{Name: "503 for the file", Arm: p.first(2, isFile, prismsim.Fault{Status: 503})},
		{Name: "the file's answer is lost", Arm: p.first(1, isFile, prismsim.Fault{Done: true})},
		{Name: "500 for tasks", Arm: p.first(4, func(q prismsim.Request) bool { return isTaskV3(q.Path) }, prismsim.Fault{Status: 500})},
	}
}

func isTaskV3(path string) bool { return strings.HasPrefix(path, apiV3Base+"tasks/") }

func TestConformanceV3(t *testing.T) {
	d := (&prism{cfg: &config{part: part}, old: true}).deliveries()[0]
	targettest.Run(t, targettest.Harness{New: newOldPeer, Delivery: d, MaxName: maxName, UniqueNames: true})
}

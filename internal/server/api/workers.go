package api

import (
	"context"
	"net/http"

	"ascend/internal/server/auth"
	"ascend/internal/server/fleet"
)

func (a *API) workers() {
	add(a, op{method: "GET", path: "/workers", id: "list-workers", summary: "Workers that carry jobs out, by site; none where this server does", tag: "system", role: auth.Viewer},
		func(ctx context.Context, _ *struct{}) (*List[fleet.Listed], error) {
			list, err := a.Fleet.List(ctx)
			return listOf(list, ""), err
		})
	add(a, op{method: "POST", path: "/workers/{id}/drain", id: "drain-worker", summary: "Have a worker take no more jobs and end after its last", tag: "system", role: auth.Admin, status: http.StatusAccepted, errors: []int{404}},
		func(ctx context.Context, in *ID) (*struct{}, error) {
			if err := a.Fleet.Drain(ctx, in.ID); err != nil {
				return nil, err
			}
			return nil, a.audit(ctx, "worker.drain", in.ID)
		})
}

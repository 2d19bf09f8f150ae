package api

import (
	"context"
	"sync"

	"ascend/internal/plan"
	"ascend/internal/server/auth"
	"ascend/internal/server/planning"
)

func (a *API) matrix() {
	general := sync.OnceValues(plan.General) // of compiled-in data only
	add(a, op{method: "GET", path: "/matrix", id: "get-matrix", summary: "Which platforms' machines can be restored to which, with the reasons", tag: "plans", role: auth.Viewer},
		func(context.Context, *struct{}) (*One[plan.Matrix], error) {
			m, err := general()
			if err != nil {
				return nil, err
			}
			return &One[plan.Matrix]{Body: *m}, nil
		})
	add(a, op{method: "GET", path: "/backups/{id}/matrix", id: "get-backup-matrix", summary: "What stands in the way on each platform, and what would help; opens the backup, asks no target", tag: "plans", role: auth.Viewer, errors: []int{404, 409}},
		func(ctx context.Context, in *ID) (*One[plan.Matrix], error) {
			src, err := a.source(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			m, err := planning.Matrix(ctx, src)
			if err != nil {
				return nil, err
			}
			return &One[plan.Matrix]{Body: *m}, nil
		})
}

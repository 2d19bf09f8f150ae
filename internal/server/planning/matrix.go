package planning

import (
	"context"

	"ascend/internal/plan"
	"ascend/internal/target"
)

// Matrix is what stands in the way of a backup on each platform, judged by the
// platforms' capabilities alone. It opens the backup and reads no data.
func Matrix(ctx context.Context, src Source) (*plan.Matrix, error) {
	images, err := src.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer (&Made{Images: images}).Close()
	sources, err := plan.Measure(ctx, images)
	if err != nil {
		return nil, err
	}
	r, err := Wish{}.fresh(src, sources, target.Capabilities{})
	if err != nil {
		return nil, err
	}
	return plan.Of(src.Backup.ID, r.Machine, sources)
}

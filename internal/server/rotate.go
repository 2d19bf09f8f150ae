package server

import (
	"context"

	"ascend/internal/server/api"
	"ascend/internal/server/fleet"
	"ascend/internal/server/notify"
	"ascend/internal/server/records"
	"ascend/internal/vault"
)

// Rotate seals everything that is sealed with the vault's first key, and returns
// how much there was. It may be called again when it failed: what was done is
// left as it is. Remembered answers are forgotten: they are sealed too.
func Rotate(ctx context.Context, s records.Store, v *vault.Vault) (int, error) {
	n, err := api.NewTargets(s, v, nil).Rotate(ctx)
	if err != nil {
		return n, err
	}
	if err := api.NewSettings(s, v).Rotate(ctx); err != nil {
		return n, err
	}
	if err := fleet.RotateKey(ctx, s, v); err != nil {
		return n, err
	}
	m, err := notify.NewQueue(s, v, nil, nil).Rotate(ctx)
	if err != nil {
		return n + m, err
	}
	for {
		list, err := s.Records(ctx, "replay", "", records.Page{Limit: 500})
		if err != nil || len(list) == 0 {
			return n + m, err
		}
		for _, r := range list {
			if err := s.DeleteRecord(ctx, r.Kind, r.ID, records.AnyRev); err != nil {
				return n + m, err
			}
		}
	}
}

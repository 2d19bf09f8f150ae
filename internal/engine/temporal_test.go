package engine_test

import (
	"strings"
	"testing"

	"ascend/internal/engine"
	"ascend/internal/engine/enginetest"
	"ascend/internal/store"
	"ascend/internal/store/storetest"
)

func TestTemporalEnvironment(t *testing.T) {
	s := storetest.Open(t, store.Postgres, store.Options{})
	enginetest.Run(t, func(t *testing.T) *enginetest.Bench {
		w := enginetest.NewWorld(t.TempDir())
		return &enginetest.Bench{Store: s, World: w, New: func(t testing.TB) engine.Engine { return engine.NewTestFlow(t, s, w.Handlers()) }}
	})
}

func TestTemporalRefusesSQLite(t *testing.T) {
	s := storetest.Open(t, store.SQLite, store.Options{})
	_, err := engine.NewTemporal(t.Context(), s, nil, engine.TemporalOptions{Address: "127.0.0.1:1"})
	if err == nil || !strings.Contains(err.Error(), "cannot share") {
		t.Errorf("%v", err)
	}
}

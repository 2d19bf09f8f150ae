package engine_test

import (
	"context"
	"os"
	"testing"
	"time"

	"ascend/internal/engine"
	"ascend/internal/engine/enginetest"
	"ascend/internal/store"
	"ascend/internal/store/storetest"
)

func TestMain(m *testing.M) {
	if os.Getenv("ASCEND_TEST_ENGINE") != "" {
		os.Exit(enginetest.Child())
	}
	os.Exit(storetest.Main(m))
}

func local(t testing.TB, s *store.Store, w *enginetest.World) engine.Engine {
	e := engine.NewLocal(s, w.Handlers(), engine.LocalOptions{})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return e
}

// bench is a store of a kind with an empty world.
func bench(s *store.Store) func(t *testing.T) *enginetest.Bench {
	return func(t *testing.T) *enginetest.Bench {
		w := enginetest.NewWorld(t.TempDir())
		return &enginetest.Bench{Store: s, World: w, New: func(t testing.TB) engine.Engine { return local(t, s, w) }}
	}
}

func TestLocal(t *testing.T) {
	for _, k := range storetest.Kinds() {
		t.Run(string(k), func(t *testing.T) {
			s := storetest.Open(t, k, store.Options{})
			enginetest.Run(t, bench(s))
		})
	}
}

package storage_test

import (
	"os"
	"testing"

	"ascend/internal/server/records/recordstest"
	"ascend/internal/server/storage"
	"ascend/internal/store"
	"ascend/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

func TestTables(t *testing.T) {
	for _, k := range storetest.Kinds() {
		t.Run(string(k), func(t *testing.T) { recordstest.Run(t, storage.New(storetest.Open(t, k, store.Options{}))) })
	}
}

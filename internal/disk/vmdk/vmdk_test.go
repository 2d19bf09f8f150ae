package vmdk

import (
	"encoding/binary"
	"errors"
	"testing"
)

// wantErr checks that err is of the kind want.
func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want one that is %v", err, want)
	}
}

func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

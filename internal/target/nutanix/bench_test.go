package nutanix

import (
	"fmt"
	"testing"

	"ascend/internal/target/nutanix/prismsim"
	"ascend/internal/target/targettest"
)

// BenchmarkRestore restores a machine of one disk of 256 MiB in parts of 16 MiB,
// signatures and both ends' digests included:
//
//	go test ./internal/target/nutanix -run '^$' -bench Restore
func BenchmarkRestore(b *testing.B) {
	p := startPeer(b, prismsim.Options{}, nil)
	tgt := p.open(b)
	tgt.cfg.part = 16 << 20
	const size = 256 << 20
	b.SetBytes(size)
	for n := 0; b.Loop(); n++ {
		o, files := order(b, p, tgt, fmt.Sprint("bench", n), size>>10)
		if _, err := restoreAll(b, tgt, o, files, new(targettest.MemRecorder)); err != nil {
			b.Fatal(err)
		}
	}
}

package backup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"ascend/internal/disk"
)

// declaredSize reads the virtual size of an image whose content is only read
// through a child process, which a listing does not start.
//
// VDI: VirtualBox's "Virtual Disk Image" header 1.1: at 0x4c the image type (4
// is a differencing one), at 0x170 the size in bytes, which QEMU rounds up to
// whole sectors. Parallels: QEMU's docs/interop/parallels, "Header": at 36 the
// size in sectors, of which the older signature uses 32 bits.
func declaredSize(f *disk.File, format string) (int64, error) {
	head := make([]byte, 512)
	if n, err := f.ReadAt(head, 0); n < len(head) {
		if err == nil || errors.Is(err, io.EOF) {
			err = fmt.Errorf("the file ends in its header: %w", disk.ErrCorrupt)
		}
		return 0, fmt.Errorf("%s: %w", f.Name(), err)
	}
	var size uint64
	switch format {
	case "vdi":
		if kind := binary.LittleEndian.Uint32(head[0x4c:]); kind == 4 {
			return 0, fmt.Errorf("%s is a differencing VDI image, whose parent is not read: %w", f.Name(), disk.ErrUnsupported)
		}
		if size = binary.LittleEndian.Uint64(head[0x170:]); size > math.MaxInt64-511 {
			size = math.MaxInt64 - 511
		}
		size = (size + 511) &^ 511
	case "parallels":
		if size = binary.LittleEndian.Uint64(head[36:]); string(head[:16]) == "WithoutFreeSpace" {
			size &= math.MaxUint32
		}
		size = min(size, math.MaxInt64/512) * 512
	default:
		return 0, fmt.Errorf("%s: %s: %w", f.Name(), format, disk.ErrUnsupported)
	}
	if size == 0 || size > disk.MaxSize {
		return 0, fmt.Errorf("%s: virtual size of %d bytes: %w", f.Name(), size, disk.ErrCorrupt)
	}
	return int64(size), nil
}

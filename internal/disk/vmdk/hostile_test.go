package vmdk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
)

// openAll opens dir/name and reads and maps all of it, at most 64 MiB. What it
// takes is bounded, whatever the file says.
func openAll(t *testing.T, dir, name string) error {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	defer func() {
		runtime.ReadMemStats(&after)
		if d := time.Since(start); d > time.Minute {
			t.Errorf("took %v", d)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
			t.Errorf("allocated %d bytes", n)
		}
	}()
	img, err := disktest.Open(t, dir, name, Open)
	if err != nil {
		return err
	}
	defer img.Close()
	p := make([]byte, 1<<20)
	for off := int64(0); off < min(img.Size(), 64<<20); off += int64(len(p)) {
		if n, err := img.ReadAt(p, off); int64(n) != min(int64(len(p)), img.Size()-off) {
			return err
		}
	}
	_, err = disk.ReadMap(t.Context(), img)
	return err
}

// Headers that lie. Each change is made to an image that opens.
func TestHostileHeader(t *testing.T) {
	le := binary.LittleEndian
	u32 := func(at int, v uint32) func([]byte) { return func(h []byte) { le.PutUint32(h[at:], v) } }
	u64 := func(at int, v uint64) func([]byte) { return func(h []byte) { le.PutUint64(h[at:], v) } }
	both := func(f ...func([]byte)) func([]byte) {
		return func(h []byte) {
			for _, f := range f {
				f(h)
			}
		}
	}
	for name, c := range map[string]struct {
		change func([]byte)
		want   error
	}{
		"magic":                      {u32(0, 0x11111111), disk.ErrFormat},
		"version 0":                  {u32(4, 0), disk.ErrUnsupported},
		"version 4":                  {u32(4, 4), disk.ErrUnsupported},
		"unknown flag":               {u32(8, 1<<3|3), disk.ErrUnsupported},
		"line ends":                  {func(h []byte) { copy(h[73:], "\n \n\n") }, disk.ErrCorrupt},
		"capacity 0":                 {u64(12, 0), disk.ErrCorrupt},
		"capacity 2^60":              {u64(12, 1<<60), disk.ErrUnsupported},
		"capacity 2^64-1":            {u64(12, 1<<64-1), disk.ErrUnsupported},
		"capacity of a giant GD":     {u64(12, disk.MaxSize/512), disk.ErrCorrupt},
		"grain 0":                    {u64(20, 0), disk.ErrCorrupt},
		"grain 1":                    {u64(20, 1), disk.ErrCorrupt},
		"grain 12":                   {u64(20, 12), disk.ErrCorrupt},
		"grain 2^63":                 {u64(20, 1<<63), disk.ErrCorrupt},
		"grain of 1 GiB":             {u64(20, 1<<21), disk.ErrCorrupt},
		"no table entries":           {u32(44, 0), disk.ErrCorrupt},
		"300 table entries":          {u32(44, 300), disk.ErrCorrupt},
		"2^31 table entries":         {u32(44, 1<<31), disk.ErrCorrupt},
		"no directory":               {both(u64(56, 0), u64(48, 0)), disk.ErrCorrupt},
		"directory beyond the file":  {u64(56, 1<<40), disk.ErrCorrupt},
		"directory overflows":        {u64(56, 1<<63|1), disk.ErrCorrupt},
		"directory at the very end":  {both(u64(56, 62), u64(48, 0)), disk.ErrCorrupt},
		"footer that is not there":   {u64(56, 1<<64-1), disk.ErrCorrupt},
		"descriptor beyond the file": {u64(28, 1<<40), disk.ErrCorrupt},
		"descriptor overflows":       {both(u64(28, 1<<63), u64(36, 1<<63)), disk.ErrCorrupt},
		"giant descriptor":           {u64(36, 1<<40), disk.ErrCorrupt},
		"no descriptor":              {u64(28, 0), disk.ErrUnsupported},
		"descriptor is the header":   {u64(28, 0), disk.ErrUnsupported},
		"descriptor in a table":      {u64(28, 2), disk.ErrCorrupt},
		"compression without flag":   {func(h []byte) { h[77] = 1 }, disk.ErrCorrupt},
		"flag without compression":   {u32(8, 0x30003), disk.ErrCorrupt},
		"markers alone":              {u32(8, 0x20003), disk.ErrUnsupported},
		"unknown compression":        {func(h []byte) { h[77] = 2 }, disk.ErrUnsupported},
		"other size than descriptor": {u64(12, 2048+8), disk.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSparseFile()
			s.header = c.change
			dir := t.TempDir()
			write(t, dir, "x.vmdk", s.build())
			wantErr(t, openAll(t, dir, "x.vmdk"), c.want)
		})
	}
}

// The largest disk there may be, in small files and in files without blocks:
// directories that are not there, that are, and that are too large.
func TestGiantDirectory(t *testing.T) {
	for name, c := range map[string]struct {
		file    int64
		grain   uint64
		entries uint32
		want    error
	}{
		"beyond the file": {1 << 20, 128, 512, disk.ErrCorrupt},
		"in a hole":       {1 << 40, 128, 512, nil},
		"too large":       {1 << 40, 8, 128, disk.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSparseFile()
			s.resize(disk.MaxSize / 512)
			s.capacity, s.grain, s.entries = 2048, c.grain, c.entries
			clear(s.grains)
			s.header = func(h []byte) {
				binary.LittleEndian.PutUint64(h[12:], disk.MaxSize/512)
				binary.LittleEndian.PutUint64(h[56:], 1024)
				binary.LittleEndian.PutUint64(h[48:], 0)
			}
			dir := t.TempDir()
			write(t, dir, "x.vmdk", s.build())
			if err := os.Truncate(filepath.Join(dir, "x.vmdk"), c.file); err != nil {
				t.Fatal(err)
			}
			wantErr(t, openAll(t, dir, "x.vmdk"), c.want)
		})
	}
}

// Tables that lie.
func TestHostileTables(t *testing.T) {
	le := binary.LittleEndian
	for name, c := range map[string]struct {
		change func(b []byte, gd, gt int)
		flags  uint32
	}{
		"table beyond the file":   {func(b []byte, gd, _ int) { le.PutUint32(b[gd:], 1<<31) }, 1},
		"table at the very end":   {func(b []byte, gd, _ int) { le.PutUint32(b[gd:], uint32(len(b)/512)) }, 1},
		"table is the directory":  {func(b []byte, gd, _ int) { le.PutUint32(b[gd:], uint32(gd/512)) }, 1},
		"table is the header":     {func(b []byte, gd, _ int) { le.PutUint32(b[gd:], 1) }, 1},
		"grain beyond the file":   {func(b []byte, _, gt int) { le.PutUint32(b[gt:], 1<<32-1) }, 1},
		"grain cut by the end":    {func(b []byte, _, gt int) { le.PutUint32(b[gt:], uint32(len(b)/512-1)) }, 1},
		"zero grain without flag": {func(b []byte, _, gt int) { le.PutUint32(b[gt+4:], 1) }, 1},
		"last grain beyond the end": {func(b []byte, gd, _ int) {
			last := int(le.Uint32(b[gd+4:])) * 512
			le.PutUint32(b[last+4*127:], uint32(len(b)/512-1))
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSparseFile()
			s.flags = c.flags
			b := s.build()
			gd := int(le64(b[56:])) * 512
			c.change(b, gd, int(le.Uint32(b[gd:]))*512)
			dir := t.TempDir()
			write(t, dir, "x.vmdk", b)
			wantErr(t, openAll(t, dir, "x.vmdk"), disk.ErrCorrupt)
		})
	}
}

// A small file whose directory leads to one table again and again would be a
// disk of terabytes of data.
func TestSharedTables(t *testing.T) {
	s := newSparseFile()
	b := s.build()
	table := binary.LittleEndian.Uint32(b[int(le64(b[56:]))*512:])
	b = append(b, bytes.Repeat(binary.LittleEndian.AppendUint32(nil, table), 1<<16)...)
	big := newSparseFile()
	big.resize(1 << 16 * 128 * 8)
	copy(b[512:], big.descriptor)
	binary.LittleEndian.PutUint64(b[12:], big.capacity)
	binary.LittleEndian.PutUint64(b[56:], uint64(len(b)-1<<18)/512)
	binary.LittleEndian.PutUint64(b[48:], 0)
	dir := t.TempDir()
	write(t, dir, "x.vmdk", b)
	wantErr(t, openAll(t, dir, "x.vmdk"), disk.ErrCorrupt)
}

// Streams that lie.
func TestHostileStream(t *testing.T) {
	le := binary.LittleEndian
	foot := func(f func([]byte)) func(*sparseFile) { return func(s *sparseFile) { s.footer = f } }
	grain := func(f func([]byte)) func(*sparseFile, []byte) {
		return func(_ *sparseFile, b []byte) { f(b[bytes.Index(b, []byte{0x78, 0x9c})-12:]) }
	}
	for name, c := range map[string]struct {
		change func(*sparseFile)
		patch  func(*sparseFile, []byte)
	}{
		"footer's capacity":           {change: foot(func(h []byte) { le.PutUint64(h[12:], 1024) })},
		"footer's grain":              {change: foot(func(h []byte) { le.PutUint64(h[20:], 16) })},
		"footer's table entries":      {change: foot(func(h []byte) { le.PutUint32(h[44:], 256) })},
		"footer's flags":              {change: foot(func(h []byte) { le.PutUint32(h[8:], 0x30003) })},
		"footer's version":            {change: foot(func(h []byte) { le.PutUint32(h[4:], 1) })},
		"footer's descriptor":         {change: foot(func(h []byte) { le.PutUint64(h[28:], 2) })},
		"footer's magic":              {change: foot(func(h []byte) { h[0] = 'X' })},
		"footer without directory":    {change: foot(func(h []byte) { le.PutUint64(h[56:], 0) })},
		"footer leads to a footer":    {change: foot(func(h []byte) { le.PutUint64(h[56:], 1<<64-1) })},
		"no end marker":               {change: func(s *sparseFile) { s.noTrailingMarker = true }},
		"marker of another grain":     {change: func(s *sparseFile) { s.lba = func(lba uint64) uint64 { return lba + 8 } }},
		"marker within the grain":     {change: func(s *sparseFile) { s.lba = func(lba uint64) uint64 { return lba + 1 } }},
		"no data":                     {patch: grain(func(b []byte) { le.PutUint32(b[8:], 0) })},
		"data of twice the grain":     {patch: grain(func(b []byte) { le.PutUint32(b[8:], 8193) })},
		"data of 4 GiB":               {patch: grain(func(b []byte) { le.PutUint32(b[8:], 1<<32-1) })},
		"data that is cut":            {patch: grain(func(b []byte) { le.PutUint32(b[8:], 10) })},
		"damaged data":                {patch: grain(func(b []byte) { b[20] ^= 0xff })},
		"damaged checksum":            {patch: grain(func(b []byte) { b[12+le.Uint32(b[8:])-1] ^= 1 })},
		"decompression bomb":          {change: func(s *sparseFile) { s.grains[0] = make([]byte, 2<<20) }},
		"one byte too many":           {change: func(s *sparseFile) { s.grains[0] = make([]byte, 4097) }},
		"a grain that is too short":   {change: func(s *sparseFile) { s.grains[0] = make([]byte, 4095) }},
		"the last grain is too short": {change: func(s *sparseFile) { s.grains[255] = make([]byte, 4095) }},
		"another marker at the end":   {patch: func(_ *sparseFile, b []byte) { b[len(b)-500] = 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStream()
			if c.change != nil {
				c.change(s)
			}
			b := s.build()
			if c.patch != nil {
				c.patch(s, b)
			}
			dir := t.TempDir()
			write(t, dir, "x.vmdk", b)
			wantErr(t, openAll(t, dir, "x.vmdk"), disk.ErrCorrupt)
		})
	}
}

// Images cut off anywhere are errors, and never panic.
func TestCut(t *testing.T) {
	for _, b := range [][]byte{newSparseFile().build(), newStream().build()} {
		dir := t.TempDir()
		for n := 0; n < len(b); n += 100 {
			write(t, dir, "x.vmdk", b[:n])
			if err := openAll(t, dir, "x.vmdk"); err == nil {
				t.Errorf("%d bytes of %d: no error", n, len(b))
			}
		}
	}
}

// Descriptors that lead out of the repository, or name what is not there.
func TestHostileReferences(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	write(t, outside, "secret", bytes.Repeat([]byte("s"), 4096))
	for _, kind := range []string{"FLAT", "VMFS", "SPARSE", "VMFSSPARSE"} {
		for ref, want := range map[string]error{
			"/etc/passwd":            disk.ErrEscape,
			secret:                   disk.ErrEscape,
			"../../../../etc/passwd": disk.ErrEscape,
			"link":                   disk.ErrMissing,
			"gone.vmdk":              disk.ErrMissing,
			"nbd://127.0.0.1/x":      disk.ErrEscape,
			`json:{"driver":"file"}`: disk.ErrEscape,
			`\\.\PhysicalDrive0`:     disk.ErrMissing,
			"/dev/zero":              disk.ErrEscape,
		} {
			dir := t.TempDir()
			if err := os.Symlink(secret, filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			name := strings.ReplaceAll(ref, `"`, "")
			write(t, dir, "x.vmdk", text("CID=1\nparentCID=ffffffff\ncreateType=\"custom\"", fmt.Sprintf("RW 1 %s \"%s\"", kind, name)))
			wantErr(t, openAll(t, dir, "x.vmdk"), want)
		}
	}
	for ref, want := range map[string]error{"/etc/passwd": disk.ErrEscape, "gone.vmdk": disk.ErrMissing} {
		s := newSparseFile()
		s.descriptor = bytes.Replace(s.descriptor, []byte("parentCID=ffffffff"), fmt.Appendf(nil, "parentCID=00000001\nparentFileNameHint=\"%s\"", ref), 1)
		dir := t.TempDir()
		write(t, dir, "x.vmdk", s.build())
		wantErr(t, openAll(t, dir, "x.vmdk"), want)
	}
}

// The descriptor inside a sparse file may name that file and nothing else.
func TestHostileEmbeddedDescriptor(t *testing.T) {
	for line, want := range map[string]error{
		`RW 2048 SPARSE "/etc/passwd"`:                         disk.ErrEscape,
		`RW 2048 SPARSE "..\x.vmdk"`:                           disk.ErrEscape,
		`RW 2048 FLAT "/etc/passwd" 0`:                         disk.ErrCorrupt,
		`RW 2048 FLAT "x.vmdk" 0`:                              disk.ErrCorrupt,
		"RW 1024 SPARSE \"x.vmdk\"\nRW 1024 SPARSE \"y.vmdk\"": disk.ErrCorrupt,
		`RW 4096 SPARSE "x.vmdk"`:                              disk.ErrCorrupt,
		"something else":                                       disk.ErrCorrupt,
	} {
		s := newSparseFile()
		s.descriptor = text("CID=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"", line)
		dir := t.TempDir()
		write(t, dir, "x.vmdk", s.build())
		wantErr(t, openAll(t, dir, "x.vmdk"), want)
	}
}

// Extents that are not what the descriptor says.
func TestHostileExtents(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "flat", make([]byte, 4096))
	sparse := newSparseFile().build()
	write(t, dir, "sparse", sparse)
	write(t, dir, "cowd", cowd(100, nil))
	short := newSparseFile()
	short.header = func(h []byte) { binary.LittleEndian.PutUint64(h[12:], 0) }
	write(t, dir, "empty", short.build())
	for _, c := range []struct {
		lines string
		want  error
	}{
		{`RW 9 FLAT "flat"`, disk.ErrCorrupt},
		{`RW 8 FLAT "flat" 1`, disk.ErrCorrupt},
		{`RW 1 FLAT "flat" 9007199254740992`, disk.ErrCorrupt},
		{`RW 1 FLAT "flat" 9223372036854775807`, disk.ErrCorrupt},
		{`RW 1 FLAT "flat" 99999999999999999999`, disk.ErrCorrupt},
		{`RW 0 FLAT "flat"`, disk.ErrCorrupt},
		{`RW -1 FLAT "flat"`, disk.ErrCorrupt},
		{`RW 9223372036854775807 FLAT "flat"`, disk.ErrUnsupported},
		{`RW 9223372036854775808 FLAT "flat"`, disk.ErrCorrupt},
		{`RW 8 SPARSE "flat"`, disk.ErrCorrupt},
		{`RW 8 VMFSSPARSE "sparse"`, disk.ErrCorrupt},
		{`RW 100 SPARSE "cowd"`, disk.ErrCorrupt},
		{`RW 2049 SPARSE "sparse"`, disk.ErrCorrupt},
		{`RW 2040 SPARSE "sparse"`, disk.ErrCorrupt},
		{`RW 2048 SPARSE "sparse" 8`, disk.ErrCorrupt},
		{"RW 2048 SPARSE \"sparse\"\nRW 2048 SPARSE \"sparse\"", disk.ErrCorrupt},
		{`RW 2048 SPARSE "empty"`, disk.ErrCorrupt},
		{`RW 101 VMFSSPARSE "cowd"`, disk.ErrCorrupt},
		{`RW 1 FLAT "x.vmdk"`, disk.ErrCorrupt},
		{`RW 1 SPARSE "x.vmdk"`, disk.ErrCorrupt},
		{`NOACCESS 8 FLAT "flat"`, disk.ErrUnsupported},
		{`RW 8 SESPARSE "sparse"`, disk.ErrUnsupported},
		{`RW 8 VMFSRDM "flat"`, disk.ErrUnsupported},
		{`RW 8 NONSENSE "flat"`, disk.ErrUnsupported},
		{strings.Repeat("RW 137438953472 ZERO\n", 2), disk.ErrUnsupported},
		{strings.Repeat("RW 1 ZERO\n", maxExtents+1), disk.ErrUnsupported},
		{"", disk.ErrCorrupt},
	} {
		write(t, dir, "x.vmdk", text("CID=1\nparentCID=ffffffff\ncreateType=\"custom\"", c.lines))
		if err := openAll(t, dir, "x.vmdk"); err == nil {
			t.Errorf("%.100s: no error", c.lines)
		} else {
			wantErr(t, err, c.want)
		}
	}
}

// ESX sparse files that lie.
func TestHostileCOWD(t *testing.T) {
	le := binary.LittleEndian
	for name, c := range map[string]struct {
		at   int
		v    uint32
		want error
	}{
		"version":                    {4, 2, disk.ErrUnsupported},
		"capacity 0":                 {12, 0, disk.ErrCorrupt},
		"other capacity":             {12, 8192, disk.ErrCorrupt},
		"grain 0":                    {16, 0, disk.ErrCorrupt},
		"grain 3":                    {16, 3, disk.ErrCorrupt},
		"giant grain":                {16, 1 << 31, disk.ErrCorrupt},
		"directory in the header":    {20, 3, disk.ErrCorrupt},
		"directory beyond the file":  {20, 1 << 31, disk.ErrCorrupt},
		"too short a directory":      {24, 1, disk.ErrCorrupt},
		"table beyond the file":      {2048, 1 << 31, disk.ErrCorrupt},
		"table is the directory":     {2048, 4, disk.ErrCorrupt},
		"grain beyond the file":      {2560, 1 << 31, disk.ErrCorrupt},
		"grain in the header":        {2560, 3, disk.ErrCorrupt},
		"entry of a grain of zeros":  {2560, 1, disk.ErrCorrupt},
		"grain just beyond the file": {2560, 38, disk.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			b := cowd(5000, map[uint32][]byte{3: make([]byte, 512)})
			if len(b) != 38*512 {
				t.Fatalf("file of %d sectors", len(b)/512)
			}
			le.PutUint32(b[c.at:], c.v)
			dir := t.TempDir()
			write(t, dir, "delta", b)
			write(t, dir, "x.vmdk", text("CID=1\nparentCID=ffffffff\ncreateType=\"vmfsSparse\"", `RW 5000 VMFSSPARSE "delta"`))
			wantErr(t, openAll(t, dir, "x.vmdk"), c.want)
		})
	}
}

// Parents that are missing, wrong, or the disk itself.
func TestHostileParents(t *testing.T) {
	child := func(cid, parentCID, hint string) []byte {
		s := newSparseFile()
		s.descriptor = text("CID="+cid+"\nparentCID="+parentCID+"\n"+hint+"\ncreateType=\"monolithicSparse\"", `RW 2048 SPARSE "x.vmdk"`)
		return s.build()
	}
	hint := func(name string) string { return "parentFileNameHint=\"" + name + "\"" }
	orphan := newSparseFile()
	orphan.descriptor = bytes.Replace(orphan.descriptor, []byte("CID=11223344\n"), nil, 1)
	for name, c := range map[string]struct {
		files map[string][]byte
		want  error
	}{
		"itself":         {map[string][]byte{"a": child("1", "1", hint("a"))}, disk.ErrCorrupt},
		"a ring":         {map[string][]byte{"a": child("1", "2", hint("b")), "b": child("2", "1", hint("a"))}, disk.ErrCorrupt},
		"changed":        {map[string][]byte{"a": child("1", "2", hint("b")), "b": child("3", "ffffffff", "")}, disk.ErrCorrupt},
		"without CID":    {map[string][]byte{"a": child("1", "2", hint("b")), "b": orphan.build()}, disk.ErrCorrupt},
		"missing":        {map[string][]byte{"a": child("1", "2", hint("b"))}, disk.ErrMissing},
		"of no name":     {map[string][]byte{"a": child("1", "2", "")}, disk.ErrCorrupt},
		"denied":         {map[string][]byte{"a": child("1", "ffffffff", hint("b")), "b": child("2", "ffffffff", "")}, disk.ErrCorrupt},
		"not a VMDK":     {map[string][]byte{"a": child("1", "2", hint("b")), "b": make([]byte, 4096)}, disk.ErrFormat},
		"a bare extent":  {map[string][]byte{"a": child("1", "2", hint("b")), "b": cowd(100, nil)}, disk.ErrUnsupported},
		"grand-orphaned": {map[string][]byte{"a": child("1", "2", hint("b")), "b": child("2", "3", hint("c"))}, disk.ErrMissing},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range c.files {
				write(t, dir, name, data)
			}
			wantErr(t, openAll(t, dir, "a"), c.want)
		})
	}
	t.Run("a long chain", func(t *testing.T) {
		dir := t.TempDir()
		for i := range 100 {
			write(t, dir, fmt.Sprint(i), child(fmt.Sprint(i), fmt.Sprint(i+1), hint(fmt.Sprint(i+1))))
		}
		wantErr(t, openAll(t, dir, "0"), disk.ErrCorrupt)
	})
}

// What a failed open opened is closed again.
func TestFailedOpenLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "flat", make([]byte, 4096))
	write(t, dir, "x.vmdk", text("CID=1\nparentCID=ffffffff\ncreateType=\"custom\"", `RW 8 FLAT "flat"`, `RW 1 SPARSE "gone"`))
	before := openFiles(t)
	for range 10 {
		wantErr(t, openAll(t, dir, "x.vmdk"), disk.ErrMissing)
	}
	if after := openFiles(t); slices.ContainsFunc(after, func(s string) bool { return strings.HasPrefix(s, dir) }) {
		t.Errorf("open before: %q, after: %q", before, after)
	}
}

func openFiles(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			names = append(names, name)
		}
	}
	return names
}

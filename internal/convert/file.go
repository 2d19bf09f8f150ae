package convert

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// writeSize is the size of one write: 256 KiB stays in a processor's cache
// between reading, hashing and writing, which 1 MiB does not.
const writeSize = 256 << 10

// file is a local file as a sink of ranges or of a stream.
type file struct {
	f   *os.File
	end int64
	got bool
}

func (s *file) WriteRange(ctx context.Context, off int64, p []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := s.f.WriteAt(p, off); err != nil {
		return fmt.Errorf("cannot write: %w", err)
	}
	return nil
}

func (s *file) Sync(context.Context) error { return unix.Fdatasync(int(s.f.Fd())) }

// Offset is the file's length, which a new Append goes on from.
func (s *file) Offset(context.Context) (int64, error) {
	st, err := s.f.Stat()
	if err != nil {
		return 0, err
	}
	s.end, s.got = st.Size(), true
	return s.end, nil
}

func (s *file) Append(ctx context.Context, p []byte) error {
	if !s.got {
		if _, err := s.Offset(ctx); err != nil {
			return err
		}
	}
	if err := s.WriteRange(ctx, s.end, p); err != nil {
		return err
	}
	s.end += int64(len(p))
	return nil
}

func (s *file) Patch(ctx context.Context, p []byte) error { return s.WriteRange(ctx, 0, p) }

func (s *file) Rewind(_ context.Context, off int64) error {
	s.end, s.got = off, true
	return s.f.Truncate(off)
}

package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// Resource is one external thing a job makes, recorded before it is made.
// ExternalID is empty while only the intent is recorded.
type Resource struct {
	bun.BaseModel `bun:"table:resources,alias:r"`

	ID         string            `bun:"id,pk"`
	Job        string            `bun:"job_id"`
	Seq        int64             `bun:"seq"` // order of the first recording
	Kind       string            `bun:"kind"`
	NameKey    string            `bun:"name_key"` // digest of Name, for the unique key
	Name       string            `bun:"name"`
	ExternalID string            `bun:"external_id,nullzero"` // the platform's identifier
	Data       map[string]string `bun:"data,type:text,nullzero"`
	Done       bool              `bun:"done"` // created for sure
	Gone       bool              `bun:"gone"` // removed again
	CreatedAt  time.Time         `bun:"created_at"`
	UpdatedAt  time.Time         `bun:"updated_at"`
}

func nameKey(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// RecordResource stores a resource of a job durably before it returns. One of
// the same job, kind and name is replaced and keeps its place.
func (s *Store) RecordResource(ctx context.Context, r *Resource) error {
	return s.tx(ctx, "record the resource", func(t *Store) error {
		r.NameKey, r.UpdatedAt = nameKey(r.Name), now()
		var old Resource
		err := t.db.NewSelect().Model(&old).Column("id", "seq", "created_at").
			Where("job_id = ? AND kind = ? AND name_key = ?", r.Job, r.Kind, r.NameKey).Scan(ctx)
		switch {
		case err == nil:
			r.ID, r.Seq, r.CreatedAt = old.ID, old.Seq, old.CreatedAt
			_, err = t.db.NewUpdate().Model(r).WherePK().Column("external_id", "data", "done", "gone", "updated_at").Exec(ctx)
			return err
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		r.ID, r.CreatedAt = NewID(), r.UpdatedAt
		if r.Seq, err = t.next(ctx, "resources", 1); err != nil {
			return err
		}
		_, err = t.db.NewInsert().Model(r).Exec(ctx)
		return err
	})
}

// Resources lists what a job recorded, in the order of first recording.
func (s *Store) Resources(ctx context.Context, job string) ([]Resource, error) {
	var rows []Resource
	err := s.read(ctx, "list the job's resources", func(ctx context.Context) error {
		rows = nil
		return s.db.NewSelect().Model(&rows).Where("job_id = ?", job).OrderExpr("seq").Scan(ctx)
	})
	return rows, err
}

// ChunkSize bounds one stored piece of a job's blob, so that no statement
// exceeds what a database takes in one packet.
const ChunkSize = 1 << 20

type blobChunk struct {
	bun.BaseModel `bun:"table:job_blobs,alias:b"`

	Job   string `bun:"job_id,pk"`
	Name  string `bun:"name,pk"`
	Chunk int64  `bun:"chunk,pk"`
	Data  []byte `bun:"data"`
}

// PutBlob stores a whole blob of a job (an extent map, a receipt's draft) in
// place of one of that name. It is stored in chunks of ChunkSize.
func (s *Store) PutBlob(ctx context.Context, job, name string, b []byte) error {
	return s.tx(ctx, "store the job's "+cut(name, 80), func(t *Store) error {
		if err := t.deleteBlob(ctx, job, name); err != nil {
			return err
		}
		for i := int64(0); i == 0 || len(b) > 0; i++ {
			n := min(len(b), ChunkSize)
			if err := t.putChunk(ctx, job, name, i, b[:n]); err != nil {
				return err
			}
			b = b[n:]
		}
		return nil
	})
}

func (s *Store) deleteBlob(ctx context.Context, job, name string) error {
	_, err := s.db.NewDelete().Model((*blobChunk)(nil)).Where("job_id = ? AND name = ?", job, name).Exec(ctx)
	return err
}

func (s *Store) putChunk(ctx context.Context, job, name string, i int64, b []byte) error {
	_, err := s.db.NewInsert().Model(&blobChunk{Job: job, Name: name, Chunk: i, Data: append([]byte{}, b...)}).Exec(ctx)
	return err
}

// AppendBlob appends one piece of at most ChunkSize to a blob, as its chunk
// number at, which must be the number of chunks there are (0 makes the blob).
// Appending the same piece at the same number again does nothing, so that an
// answer may be lost; another piece there is ErrConflict, a gap too.
func (s *Store) AppendBlob(ctx context.Context, job, name string, at int64, piece []byte) error {
	if len(piece) > ChunkSize {
		return fmt.Errorf("cannot append to the job's %s: a piece of %d bytes is larger than %d", cut(name, 80), len(piece), ChunkSize)
	}
	return s.tx(ctx, "append to the job's "+cut(name, 80), func(t *Store) error {
		var c blobChunk
		err := t.db.NewSelect().Model(&c).Where("job_id = ? AND name = ? AND chunk = ?", job, name, at).Scan(ctx)
		switch {
		case err == nil && string(c.Data) == string(piece):
			return nil
		case err == nil:
			return fmt.Errorf("cannot append to the job's %s: chunk %d: %w", cut(name, 80), at, ErrConflict)
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		if n, err := t.chunks(ctx, job, name); err != nil {
			return err
		} else if n != at {
			return fmt.Errorf("cannot append to the job's %s: chunk %d of %d: %w", cut(name, 80), at, n, ErrConflict)
		}
		return t.putChunk(ctx, job, name, at, piece)
	})
}

func (s *Store) chunks(ctx context.Context, job, name string) (n int64, err error) {
	err = s.db.NewSelect().Model((*blobChunk)(nil)).ColumnExpr("COALESCE(MAX(chunk) + 1, 0)").Where("job_id = ? AND name = ?", job, name).Scan(ctx, &n)
	return n, err
}

// BlobChunks is the number of chunks of a blob: where AppendBlob goes on.
func (s *Store) BlobChunks(ctx context.Context, job, name string) (n int64, err error) {
	err = s.read(ctx, "read the job's "+cut(name, 80), func(ctx context.Context) error {
		n, err = s.chunks(ctx, job, name)
		return err
	})
	return n, err
}

// Blob returns a whole blob, its chunks one after the other; ErrNotFound when
// there is none.
func (s *Store) Blob(ctx context.Context, job, name string) ([]byte, error) {
	out := []byte{}
	found := false
	err := s.BlobEach(ctx, job, name, 0, func(_ int64, b []byte) error {
		found = true
		out = append(out, b...)
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("cannot read the job's %s: %w", cut(name, 80), ErrNotFound)
	}
	return out, err
}

// BlobEach calls fn with each chunk from number from, in order; one is in
// memory at a time.
func (s *Store) BlobEach(ctx context.Context, job, name string, from int64, fn func(chunk int64, b []byte) error) error {
	for i := from; ; i++ {
		var c blobChunk
		err := s.read(ctx, "read the job's "+cut(name, 80), func(ctx context.Context) error {
			return s.db.NewSelect().Model(&c).Where("job_id = ? AND name = ? AND chunk = ?", job, name, i).Scan(ctx)
		})
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := fn(i, c.Data); err != nil {
			return err
		}
	}
}

// Blobs lists the names of a job's blobs that begin with prefix.
func (s *Store) Blobs(ctx context.Context, job, prefix string) ([]string, error) {
	var names []string
	err := s.read(ctx, "list the job's blobs", func(ctx context.Context) error {
		names = nil
		return s.db.NewSelect().Model((*blobChunk)(nil)).Column("name").Where("job_id = ? AND chunk = 0", job).
			Where("SUBSTR(name, 1, ?) = ?", len([]rune(prefix)), prefix).OrderExpr("name").Scan(ctx, &names)
	})
	return names, err
}

// DeleteBlobs removes a job's blobs whose names begin with prefix.
func (s *Store) DeleteBlobs(ctx context.Context, job, prefix string) error {
	return s.tx(ctx, "delete the job's blobs", func(t *Store) error {
		_, err := t.db.NewDelete().Model((*blobChunk)(nil)).Where("job_id = ?", job).
			Where("SUBSTR(name, 1, ?) = ?", len([]rune(prefix)), prefix).Exec(ctx)
		return err
	})
}

type receipt struct {
	bun.BaseModel `bun:"table:receipts,alias:r"`

	Job       string    `bun:"job_id,pk"`
	Body      []byte    `bun:"body"`
	CreatedAt time.Time `bun:"created_at"`
}

// PutReceipt stores a job's signed receipt, byte for byte, in place of an earlier one.
func (s *Store) PutReceipt(ctx context.Context, job string, body []byte) error {
	return s.tx(ctx, "store the receipt", func(t *Store) error {
		if _, err := t.db.NewDelete().Model((*receipt)(nil)).Where("job_id = ?", job).Exec(ctx); err != nil {
			return err
		}
		_, err := t.db.NewInsert().Model(&receipt{Job: job, Body: body, CreatedAt: now()}).Exec(ctx)
		return err
	})
}

// Receipt returns a job's receipt.
func (s *Store) Receipt(ctx context.Context, job string) ([]byte, error) {
	var r receipt
	err := s.read(ctx, "read the receipt", func(ctx context.Context) error {
		return s.db.NewSelect().Model(&r).Where("job_id = ?", job).Scan(ctx)
	})
	return r.Body, err
}

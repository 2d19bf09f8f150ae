package prices

import (
	"bytes"
	_ "embed" // the tables
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"ascend/internal/vm"
)

//go:embed data/aws.tsv.gz
var awsData []byte

//go:embed data/azure.tsv.gz
var azureData []byte

//go:embed data/storage.tsv
var storageData []byte

// Book is all prices. It is read-only once opened.
type Book struct {
	AWS, Azure *Table
	Storage    *Storage
	Rates      *RateCard // nil: none was given
}

// Table is the sizes of a provider; nil for others.
func (b *Book) Table(p vm.Platform) *Table {
	switch {
	case b == nil:
	case p == vm.AWS:
		return b.AWS
	case p == vm.Azure:
		return b.Azure
	}
	return nil
}

var builtin = sync.OnceValues(func() (*Book, error) {
	b := &Book{}
	var e1, e2, e3 error
	b.AWS, e1 = Read(bytes.NewReader(awsData))
	b.Azure, e2 = Read(bytes.NewReader(azureData))
	b.Storage, e3 = ReadStorage(bytes.NewReader(storageData))
	return b, errors.Join(e1, e2, e3)
})

// Builtin is the book that is built into the program. The caller does not
// change it.
func Builtin() *Book {
	b, err := builtin()
	if err != nil {
		panic(err) // the files are part of the program and tested
	}
	return b
}

// Fresh is the book's storage prices with those of a document in them, for Save.
func (b *Book) Fresh(f *Fresh) *Storage {
	if len(f.Storage.rows) == 0 {
		return nil
	}
	s := &Storage{Date: b.Storage.Date, rows: maps.Clone(b.Storage.rows)}
	s.Merge(f.Storage)
	return s
}

// Files of a folder of updated prices.
var tableFiles = map[vm.Platform]string{vm.AWS: "aws.tsv.gz", vm.Azure: "azure.tsv.gz"}

const storageFile = "storage.tsv"

// Open is the built-in book with the updates that were saved in a folder.
func Open(dir string) (*Book, error) {
	b := *Builtin()
	for p, name := range tableFiles {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read prices: %w", err)
		}
		t, err := Read(bytes.NewReader(data))
		if err == nil && t.Platform != p {
			err = fmt.Errorf("it holds prices of %s", t.Platform)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
		}
		if p == vm.AWS {
			b.AWS = t
		} else {
			b.Azure = t
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, storageFile))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return &b, err
	}
	s, err := ReadStorage(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, storageFile), err)
	}
	merged, err := ReadStorage(bytes.NewReader(storageData))
	if err != nil {
		return nil, err
	}
	merged.Merge(s)
	b.Storage = merged
	return &b, nil
}

// Save writes a table, and the storage prices when there are some, to a folder
// where Open finds them. Each file is replaced whole.
func Save(dir string, t *Table, s *Storage) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot save prices: %w", err)
	}
	put := func(name string, write func(*bytes.Buffer) error) error {
		var b bytes.Buffer
		err := write(&b)
		path := filepath.Join(dir, name)
		if err == nil {
			err = os.WriteFile(path+".new", b.Bytes(), 0o644)
		}
		if err == nil {
			err = os.Rename(path+".new", path)
		}
		if err != nil {
			return fmt.Errorf("cannot save prices: %w", err)
		}
		return nil
	}
	if err := put(tableFiles[t.Platform], func(b *bytes.Buffer) error { return t.Write(b) }); err != nil || s == nil || len(s.rows) == 0 {
		return err
	}
	return put(storageFile, func(b *bytes.Buffer) error { return s.Write(b) })
}

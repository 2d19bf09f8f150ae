package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"ascend/internal/store"
)

func (a *app) storeCommand() *cobra.Command {
	c := &cobra.Command{Use: "store", Short: "look after a server's database", Args: cobra.NoArgs}
	var from, to string
	cp := &cobra.Command{
		Use: "copy --to FILE", Short: "copy a server's database to another one, of any kind", Args: cobra.NoArgs,
		Long: `Copy all that a server's database holds, jobs under way included, to another
database, which must be empty: all of it arrives, or nothing. So a server moves
from SQLite to PostgreSQL or MariaDB, and back, without losing a job: stop the
server, copy, start it with the other database. The one that was copied from is
not changed.

Each database is named by sqlite:PATH, or by a file that holds its URL
(postgres://… or mysql://…): a URL may hold a password, and command lines can be
read by others.`,
		Example: `  systemctl stop ascend
  ascend store copy --to /etc/ascend/database
  ascend store copy --from sqlite:/var/lib/ascend/ascend.db --to /etc/ascend/database`,
		RunE: func(c *cobra.Command, _ []string) error { return a.copyStore(c.Context(), c, from, to) },
	}
	cp.Flags().StringVar(&from, "from", "", "sqlite:PATH, or a `file` that holds a URL (default: the SQLite database in the server's data folder)")
	cp.Flags().StringVar(&to, "to", "", "likewise `where` it is copied to")
	_ = cp.MarkFlagRequired("to")
	c.AddCommand(cp)
	return c
}

// databaseOf reads how a command line names a database.
func databaseOf(flag, text string) (string, error) {
	if strings.HasPrefix(text, "sqlite:") {
		return text, nil
	}
	if strings.Contains(text, "://") {
		return "", usageError{fmt.Errorf("%s: a URL may hold a password, which others could read on the command line: write it into a file and name that", flag)}
	}
	b, err := os.ReadFile(text)
	if err != nil {
		return "", fmt.Errorf("cannot read the database's URL: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (a *app) copyStore(ctx context.Context, c *cobra.Command, from, to string) error {
	if from == "" {
		from = "sqlite:" + filepath.Join(a.dataDir(&serverFlags{}), "ascend.db")
	}
	source, err := databaseOf("--from", from)
	if err != nil {
		return err
	}
	target, err := databaseOf("--to", to)
	if err != nil {
		return err
	}
	if path, ok := strings.CutPrefix(from, "sqlite:"); ok {
		if _, err := os.Stat(path); err != nil { // opening would make it
			return fmt.Errorf("cannot copy: %w", err)
		}
	}
	open := func(dsn string) (*store.Store, error) {
		s, err := store.Open(ctx, dsn, store.Options{Exclusive: true})
		if errors.Is(err, store.ErrLocked) {
			err = withHint(err, "stop the server first: what it wrote meanwhile would be lost")
		}
		return s, err
	}
	src, err := open(source)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	dst, err := open(target)
	if err != nil {
		return err
	}
	defer func() { _ = dst.Close() }()
	all, err := dst.Copy(ctx, src)
	if errors.Is(err, store.ErrNotEmpty) {
		err = withHint(err, "copy to a new, empty database")
	}
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(c, all)
	}
	rows := [][]string{{"TABLE", "ROWS"}}
	total := int64(0)
	for _, t := range all {
		total += t.Rows
		if t.Rows > 0 {
			rows = append(rows, []string{t.Table, fmt.Sprint(t.Rows)})
		}
	}
	table(c.OutOrStdout(), rows)
	a.note("copied %d rows from %s to %s", total, src, dst)
	return nil
}

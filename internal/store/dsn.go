package store

import (
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// Kind is a kind of database.
type Kind string

// Kinds. MySQL stands for MariaDB too.
const (
	SQLite   Kind = "sqlite"
	MySQL    Kind = "mysql"
	Postgres Kind = "postgres"
)

// DSN names a database. It prints without its password.
type DSN struct {
	Kind Kind
	Path string // SQLite: absolute path of the file
	my   *mysql.Config
	pg   *pgx.ConnConfig
	name string // for people
}

// ParseDSN reads
//
//	sqlite:PATH
//	mysql://USER:PASSWORD@HOST:PORT/DATABASE?tls=true   (also mariadb://)
//	mysql://USER:PASSWORD@/DATABASE?socket=/run/mysqld/mysqld.sock
//	postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=require   (also postgresql://)
//
// Parameters of postgres are libpq's; the password may come from PGPASSWORD or
// its password file, and that of mysql from MYSQL_PWD.
func ParseDSN(s string) (DSN, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return DSN{}, fmt.Errorf("cannot read the database's name: it has no scheme: use sqlite:PATH, mysql://… or postgres://…")
	}
	switch scheme {
	case "sqlite":
		if rest == "" || strings.ContainsRune(rest, 0) {
			return DSN{}, fmt.Errorf("cannot read the database's name: sqlite: needs a path")
		}
		p, err := filepath.Abs(rest)
		return DSN{Kind: SQLite, Path: p, name: "sqlite:" + p}, err
	case "mysql", "mariadb":
		return parseMySQL(s)
	case "postgres", "postgresql":
		c, err := pgx.ParseConfig(s)
		if err != nil {
			// The parser's error quotes the whole text, password included.
			return DSN{}, fmt.Errorf("cannot read the database's name: it is not a postgres URL (a password with special characters must be percent-encoded)")
		}
		c.ConnectTimeout = 5 * time.Second
		c.RuntimeParams["timezone"] = "UTC"
		c.RuntimeParams["application_name"] = "ascend"
		return DSN{Kind: Postgres, pg: c, name: fmt.Sprintf("postgres://%s@%s/%s", c.User, hostPort(c.Host, c.Port), c.Database)}, nil
	}
	return DSN{}, fmt.Errorf("cannot read the database's name: unknown scheme %q: use sqlite:PATH, mysql://… or postgres://…", cut(scheme, 20))
}

func hostPort(host string, port uint16) string {
	if strings.HasPrefix(host, "/") {
		return "(" + host + ")"
	}
	return fmt.Sprintf("%s:%d", host, port)
}

func parseMySQL(s string) (DSN, error) {
	u, err := url.Parse(s)
	if err != nil || len(u.Path) < 2 {
		return DSN{}, fmt.Errorf("cannot read the database's name: use mysql://USER:PASSWORD@HOST:PORT/DATABASE (a password with special characters must be percent-encoded)")
	}
	q := u.Query()
	c := mysql.NewConfig()
	c.User, c.DBName = u.User.Username(), strings.TrimPrefix(u.Path, "/")
	if pw, ok := u.User.Password(); ok {
		c.Passwd = pw
	} else {
		c.Passwd = os.Getenv("MYSQL_PWD")
	}
	if socket := q.Get("socket"); socket != "" {
		c.Net, c.Addr = "unix", socket
	} else {
		c.Net, c.Addr = "tcp", u.Host
		if u.Port() == "" {
			c.Addr = u.Host + ":3306"
		}
	}
	for k := range q {
		switch k {
		case "socket":
		case "tls":
			c.TLSConfig = q.Get(k)
		default:
			return DSN{}, fmt.Errorf("cannot read the database's name: unknown parameter %q of mysql: use tls or socket", k)
		}
	}
	c.ParseTime, c.Loc = true, time.UTC
	c.ClientFoundRows = true // an update that changes nothing has still found its row
	c.Timeout, c.ReadTimeout, c.WriteTimeout = 5*time.Second, time.Minute, time.Minute
	c.Collation = "utf8mb4_bin"
	c.MaxAllowedPacket = 0 // ask the server
	c.Logger = &mysql.NopLogger{}
	c.Params = map[string]string{
		// Strict: a value that does not fit is an error. Backslashes escape.
		"sql_mode":          "'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO,NO_ZERO_DATE,NO_ZERO_IN_DATE'",
		"time_zone":         "'+00:00'",
		"lock_wait_timeout": "60",
	}
	return DSN{Kind: MySQL, my: c, name: fmt.Sprintf("mysql://%s@%s/%s", c.User, c.Addr, c.DBName)}, nil
}

// String names the database without its password.
func (d DSN) String() string { return d.name }

// GoString is String: a password never shows, however it is printed.
func (d DSN) GoString() string { return d.name }

// Format makes every verb print String.
func (d DSN) Format(f fmt.State, _ rune) { fmt.Fprint(f, d.name) }

// lockName is a name of the database that all who use it agree on.
func (d DSN) lockName() string {
	db := ""
	switch d.Kind {
	case MySQL:
		db = d.my.DBName
	case Postgres:
		db = d.pg.Database
	}
	sum := sha256.Sum256([]byte(db))
	return "ascend-" + hex.EncodeToString(sum[:8])
}

func (d DSN) open() (*sql.DB, error) {
	switch d.Kind {
	case SQLite:
		if err := os.MkdirAll(filepath.Dir(d.Path), 0o700); err != nil {
			return nil, err
		}
		// The file holds hashes and encrypted secrets: nobody else reads it.
		// SQLite gives its journals the same mode.
		f, err := os.OpenFile(d.Path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
		u := url.URL{Scheme: "file", Path: d.Path}
		q := url.Values{"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"}, "_txlock": {"immediate"}}
		db, err := sql.Open("sqlite", u.String()+"?"+q.Encode())
		if err == nil {
			db.SetMaxOpenConns(8) // readers; writers take turns
			db.SetMaxIdleConns(8)
		}
		return db, err
	case MySQL:
		c, err := mysql.NewConnector(d.my)
		if err != nil {
			return nil, err
		}
		return pooled(sql.OpenDB(c)), nil
	default:
		return pooled(stdlib.OpenDB(*d.pg)), nil
	}
}

// pooled bounds the connections to a server that others use too.
func pooled(db *sql.DB) *sql.DB {
	db.SetMaxOpenConns(20)
	db.SetMaxIdleConns(10)
	db.SetConnMaxIdleTime(time.Minute)
	return db
}

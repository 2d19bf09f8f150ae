// Package storetest starts real database servers for tests: MariaDB and
// PostgreSQL of Debian, each once for a test program, on a socket in a
// temporary folder, as a user without privileges. A missing server fails the
// test.
package storetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ascend/internal/store"
)

// Kinds are the databases that tests run on.
func Kinds() []store.Kind { return []store.Kind{store.SQLite, store.MySQL, store.Postgres} }

// Main runs the tests and then ends the servers that they started. TestMain
// calls it: os.Exit(storetest.Main(m)).
func Main(m *testing.M) int {
	code := m.Run()
	for _, s := range servers {
		s.end()
	}
	return code
}

// Open opens a new, empty store of a kind; it is closed when the test ends.
func Open(t testing.TB, k store.Kind, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), DSN(t, k), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// DSN names a new, empty database of a kind.
func DSN(t testing.TB, k store.Kind) string {
	t.Helper()
	if k == store.SQLite {
		return "sqlite:" + filepath.Join(t.TempDir(), "test.db")
	}
	s := servers[k]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" {
		if err := s.make(); err != nil {
			t.Fatalf("cannot start %s (Debian package %s): %v", k, s.pkg, err)
		}
	}
	if s.cmd == nil {
		if err := s.start(); err != nil {
			t.Fatal(err)
		}
	}
	s.n++
	name := fmt.Sprintf("t%d", s.n)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.exec(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	return s.dsn(name)
}

// Stop kills the server of a kind as a power failure would; Start starts it
// again. No other test may use it meanwhile.
func Stop(t testing.TB, k store.Kind) {
	s := servers[k]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kill()
}

// Start starts a stopped server again and returns when it answers.
func Start(t testing.TB, k store.Kind) {
	t.Helper()
	s := servers[k]
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
}

type server struct {
	pkg, driver string
	init, run   func(dir string) []string
	dsn         func(db string) string // for the store
	admin       func() string          // for the driver

	mu  sync.Mutex
	dir string
	cmd *exec.Cmd
	log *os.File
	n   int

	ended chan struct{} // closed when cmd has ended
}

var servers = map[store.Kind]*server{}

func init() {
	my := &server{pkg: "mariadb-server", driver: "mysql"}
	my.init = func(dir string) []string {
		return []string{"mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--datadir=" + dir + "/data"}
	}
	my.run = func(dir string) []string {
		return []string{"mariadbd", "--no-defaults", "--datadir=" + dir + "/data", "--socket=" + dir + "/s", "--skip-networking", "--pid-file=" + dir + "/pid",
			"--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=2", "--innodb-log-file-size=16M", "--max-connections=100"}
	}
	my.dsn = func(db string) string { return "mysql://root@/" + db + "?socket=" + my.dir + "/s" }
	my.admin = func() string { return "root@unix(" + my.dir + "/s)/mysql" }

	pg := &server{pkg: "postgresql", driver: "pgx"}
	pg.init = func(dir string) []string {
		return []string{"initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-D", dir + "/data"}
	}
	pg.run = func(dir string) []string {
		return []string{"postgres", "-D", dir + "/data", "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=32MB", "-c", "max_connections=100"}
	}
	pg.dsn = func(db string) string { return "postgres://postgres@/" + db + "?host=" + pg.dir }
	pg.admin = func() string { return pg.dsn("postgres") }

	servers[store.MySQL], servers[store.Postgres] = my, pg
}

// find looks for a program where Debian puts servers, too.
func find(name string) (string, error) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Sort(dirs)
	slices.Reverse(dirs)
	for _, d := range append(dirs, "/usr/sbin", "/usr/bin", "/usr/local/bin") {
		p := filepath.Join(d, name)
		if fi, err := os.Stat(p); err == nil && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return exec.LookPath(name)
}

// nobody is who servers run as when the tests run as root.
const nobody = 65534

func (s *server) command(args []string) (*exec.Cmd, error) {
	p, err := find(args[0])
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(p, args[1:]...) //nolint:noctx // it outlives the test that starts it
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "HOME="+s.dir, "TMPDIR="+s.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return cmd, nil
}

func (s *server) make() error {
	dir, err := os.MkdirTemp("", "ascend-db-") // short: a socket's path is
	if err != nil {
		return err
	}
	if os.Getuid() == 0 {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			return err
		}
	}
	s.dir = dir
	cmd, err := s.command(s.init(dir))
	if err == nil {
		var out []byte
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
	}
	if err != nil {
		s.dir = ""
		return errors.Join(err, os.RemoveAll(dir))
	}
	s.log, err = os.Create(filepath.Join(dir, "log"))
	return err
}

// start starts the server. The kernel kills it when the thread that started it
// ends, and so when this process does, however it ends.
func (s *server) start() error {
	cmd, err := s.command(s.run(s.dir))
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // for as long as the server runs
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // killed, as a rule
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.cmd, s.ended = cmd, ended
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		err := s.exec(ctx, "SELECT 1")
		if err == nil {
			return nil
		}
		stop := ctx.Err() != nil
		select {
		case <-ended:
			stop = true
		default:
		}
		if stop {
			text, _ := os.ReadFile(s.log.Name())
			return fmt.Errorf("the server does not answer: %w: %s", err, text)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *server) exec(ctx context.Context, q string) error {
	db, err := sql.Open(s.driver, s.admin())
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, q)
	return err
}

// kill kills the server with all its processes.
func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.ended
	s.cmd = nil
	// PostgreSQL's children see the end of their parent and go by themselves;
	// its own lock file tells when the last has gone.
	for range 500 {
		out, err := os.ReadFile(filepath.Join(s.dir, "data", "postmaster.pid"))
		if err != nil || !alive(strings.SplitN(string(out), "\n", 2)[0]) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func alive(pid string) bool {
	_, err := os.Stat("/proc/" + pid)
	return pid != "" && err == nil
}

func (s *server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kill()
	if s.dir != "" {
		s.log.Close()
		_ = os.RemoveAll(s.dir)
		s.dir = ""
	}
}

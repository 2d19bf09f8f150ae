package vmware

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// conn is one signed-in session with the server. Its methods may be called
// concurrently. A session that the server has ended (idle for half an hour, a
// restart) is signed in again in passing; what belonged to the old session, an
// import lease for instance, may then be gone.
type conn struct {
	cfg  *config
	vim  *vim25.Client
	http *http.Client // carries the session's cookie, for /folder

	mu     sync.Mutex
	logins int    // how often this conn has signed in
	key    string // of the current session
	closed bool
}

// dial connects and signs in.
func dial(ctx context.Context, cfg *config) (*conn, error) {
	c := &conn{cfg: cfg}
	s := soap.NewClient(cfg.sdk, false)
	s.Transport = cfg.trust.Transport()
	s.UserAgent = "ascend"
	c.http = &s.Client
	fail := func(err error) (*conn, error) {
		s.Transport.(*http.Transport).CloseIdleConnections()
		return nil, fmt.Errorf("cannot connect to %s: %w", cfg.sdk.Host, translate(err))
	}
	cctx, cancel := context.WithTimeout(ctx, cfg.call)
	defer cancel()
	var err error
	if c.vim, err = vim25.NewClient(cctx, s); err != nil {
		return fail(err)
	}
	c.vim.RoundTripper = c
	if err := c.login(ctx, 0); err != nil {
		return fail(err)
	}
	return c, nil
}

// RoundTrip sends one API call. It is what govmomi's methods use. A call that
// was refused because the session had ended was not carried out, so it is
// repeated once after signing in again.
func (c *conn) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	c.mu.Lock()
	seen := c.logins
	c.mu.Unlock()
	err := c.once(ctx, req, res)
	if err == nil || !isFault[*types.NotAuthenticated](err) {
		return err
	}
	if lerr := c.login(ctx, seen); lerr != nil {
		return fmt.Errorf("the session has ended and cannot be renewed: %w", lerr)
	}
	// The decoder leaves the first answer's fault in place.
	reflect.ValueOf(res).Elem().SetZero()
	return c.once(ctx, req, res)
}

func (c *conn) once(ctx context.Context, req, res soap.HasFault) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.call)
	defer cancel()
	return c.vim.Client.RoundTrip(ctx, req, res)
}

// login signs in unless somebody else has done so since seen logins.
func (c *conn) login(ctx context.Context, seen int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("the connection is closed")
	}
	if c.logins != seen {
		return nil
	}
	req := methods.LoginBody{Req: &types.Login{
		This:     *c.vim.ServiceContent.SessionManager,
		UserName: c.cfg.username,
		Password: c.cfg.password.Reveal(),
		Locale:   "en_US",
	}}
	var res methods.LoginBody
	if err := c.once(ctx, &req, &res); err != nil {
		return translate(err)
	}
	c.logins++
	c.key = res.Res.Returnval.Key
	return nil
}

// sessionKey identifies the session to the server's authorization manager.
func (c *conn) sessionKey() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.key
}

// close signs out. Later calls fail.
func (c *conn) close(ctx context.Context) error {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed {
		return nil
	}
	defer c.http.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	req := methods.LogoutBody{Req: &types.Logout{This: *c.vim.ServiceContent.SessionManager}}
	var res methods.LogoutBody
	err := c.once(ctx, &req, &res)
	if err == nil || isFault[*types.NotAuthenticated](err) {
		return nil
	}
	return fmt.Errorf("cannot sign out of %s: %w", c.cfg.sdk.Host, translate(err))
}

// get retrieves properties of one object into dst, a pointer to its mo type. A
// property that may not be read without a session is no refusal of the call, so
// RoundTrip does not see it.
func (c *conn) get(ctx context.Context, ref types.ManagedObjectReference, dst any, props ...string) error {
	c.mu.Lock()
	seen := c.logins
	c.mu.Unlock()
	err := property.DefaultCollector(c.vim).RetrieveOne(ctx, ref, props, dst)
	if err == nil || !isFault[*types.NotAuthenticated](err) {
		return err
	}
	if err := c.login(ctx, seen); err != nil {
		return fmt.Errorf("the session has ended and cannot be renewed: %w", err)
	}
	return property.DefaultCollector(c.vim).RetrieveOne(ctx, ref, props, dst)
}

// await waits for a task of the platform and returns its result. It asks again
// and again rather than subscribing, so that it survives a renewed session and
// a short loss of the network.
func (c *conn) await(ctx context.Context, task types.ManagedObjectReference) (types.AnyType, error) {
	const patience = 2 * time.Minute // without any answer
	var (
		pause  = 20 * time.Millisecond
		silent time.Time
	)
	for {
		var t mo.Task
		err := c.get(ctx, task, &t, "info")
		switch {
		case err == nil:
			silent = time.Time{}
			switch t.Info.State {
			case types.TaskInfoStateSuccess:
				return t.Info.Result, nil
			case types.TaskInfoStateError:
				return nil, &taskError{t.Info.Error}
			}
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case faultOf(err) != nil:
			return nil, err
		case silent.IsZero():
			silent = time.Now()
		case time.Since(silent) > patience:
			return nil, err
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
		pause = min(pause*3/2, 2*time.Second)
	}
}

// taskError is how a task of the platform failed.
type taskError struct{ fault *types.LocalizedMethodFault }

func (e *taskError) Error() string {
	if e.fault == nil {
		return "the task failed"
	}
	return e.fault.LocalizedMessage
}

// Fault is the platform's fault.
func (e *taskError) Fault() types.BaseMethodFault {
	if e.fault == nil {
		return nil
	}
	return e.fault.Fault
}

// sleep waits for d or until ctx is done.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"ascend/internal/target"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// API versions.
const (
	apiResources     = "2021-04-01"
	apiSubscriptions = "2022-12-01"
	apiPermissions   = "2022-04-01"
	apiCompute       = "2024-07-01" // machines, sets, usages
	apiDisks         = "2024-03-02" // disks, encryption sets
	apiSKUs          = "2021-07-01"
	apiNetwork       = "2024-05-01"
)

// client speaks to the resource manager. It is safe for concurrent use.
type client struct {
	cfg *config

	mu  sync.Mutex
	arm *arm.Client
}

// pipeline is the authenticated pipeline; a new one, with a token of its own,
// after drop.
func (c *client) pipeline() (*arm.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.arm != nil {
		return c.arm, nil
	}
	cred, err := c.cfg.credential()
	if err != nil {
		return nil, err
	}
	a, err := arm.NewClient("ascend", "v1.0.0", cred, &arm.ClientOptions{ClientOptions: c.cfg.options(), DisableRPRegistration: true})
	if err != nil {
		return nil, err
	}
	c.arm = a
	return a, nil
}

// drop forgets a pipeline whose token the platform no longer takes.
func (c *client) drop(old *arm.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.arm == old {
		c.arm = nil
	}
}

// options are those of calls to the resource manager and the authority: 429, 5xx
// and broken connections are repeated, as Retry-After says or ever later.
func (c *config) options() policy.ClientOptions {
	return policy.ClientOptions{
		Cloud: c.cloud, Transport: c.http,
		Retry: policy.RetryOptions{MaxRetries: 8, RetryDelay: c.delay, MaxRetryDelay: time.Minute},
	}
}

// credential is the identity that the settings name.
func (c *config) credential() (azcore.TokenCredential, error) {
	o := c.options()
	switch c.auth {
	case authSecret:
		return azidentity.NewClientSecretCredential(c.tenant, c.clientID, c.secret.Reveal(),
			&azidentity.ClientSecretCredentialOptions{ClientOptions: o, DisableInstanceDiscovery: c.custom})
	case authCertificate:
		b, err := os.ReadFile(c.certificate)
		if err != nil {
			return nil, target.Permanent(fmt.Sprintf("cannot read the certificate: %v", err), "check certificate_file")
		}
		certs, key, err := azidentity.ParseCertificates(b, []byte(c.password.Reveal()))
		if err != nil {
			return nil, target.Permanent(fmt.Sprintf("cannot read the certificate %s: %v", c.certificate, err), "it must be PEM or PKCS#12, with the key; check certificate_password")
		}
		return azidentity.NewClientCertificateCredential(c.tenant, c.clientID, certs, key,
			&azidentity.ClientCertificateCredentialOptions{ClientOptions: o, DisableInstanceDiscovery: c.custom})
	case authManaged:
		m := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: o}
		if c.clientID != "" {
			m.ID = azidentity.ClientID(c.clientID)
		}
		return azidentity.NewManagedIdentityCredential(m)
	case authWorkload:
		return azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{
			ClientOptions: o, ClientID: c.clientID, TenantID: c.tenant, TokenFilePath: c.tokenFile, DisableInstanceDiscovery: c.custom,
		})
	}
	return azidentity.NewAzureCLICredential(&azidentity.AzureCLICredentialOptions{TenantID: c.tenant, Subscription: c.subscription})
}

// path makes the path of something in the subscription.
func (c *client) path(parts ...string) string {
	out := "/subscriptions/" + c.cfg.subscription
	for _, p := range parts {
		out += "/" + p
	}
	return out
}

// send makes one request and gives its answer, whatever it is, and the pipeline
// that made it. A token that is refused is replaced once.
func (c *client) send(ctx context.Context, method, path, api string, body any, header ...string) (*http.Response, *arm.Client, error) {
	for try := 0; ; try++ {
		a, err := c.pipeline()
		if err != nil {
			return nil, nil, err
		}
		address := a.Endpoint() + path
		if base := strings.TrimSuffix(a.Endpoint(), "/"); strings.HasPrefix(path, "https://") {
			// nextLink: only ever to where the token belongs.
			if address = path; !strings.HasPrefix(path, base+"/") {
				return nil, nil, target.Permanent("the platform names a next page on another host", "")
			}
		}
		req, err := runtime.NewRequest(ctx, method, address)
		if err != nil {
			return nil, nil, target.Permanent("an identifier cannot be part of an address", "check the names that are set")
		}
		if api != "" {
			q := req.Raw().URL.Query()
			q.Set("api-version", api)
			req.Raw().URL.RawQuery = q.Encode()
		}
		req.Raw().Header.Set("Accept", "application/json")
		for i := 0; i+1 < len(header); i += 2 {
			req.Raw().Header.Set(header[i], header[i+1])
		}
		if body != nil {
			if err := runtime.MarshalAsJSON(req, body); err != nil {
				return nil, nil, err
			}
		}
		res, err := a.Pipeline().Do(req)
		if err != nil {
			return nil, nil, err
		}
		if res.StatusCode == http.StatusUnauthorized && try == 0 {
			_ = res.Body.Close()
			c.drop(a)
			continue
		}
		return res, a, nil
	}
}

// get reads a resource.
func (c *client) get(ctx context.Context, path, api string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.call)
	defer cancel()
	res, _, err := c.send(ctx, http.MethodGet, path, api, nil)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return runtime.NewResponseError(res)
	}
	return runtime.UnmarshalAsJSON(res, out)
}

// list reads every page of a list.
func list[T any](ctx context.Context, c *client, path, api string) ([]T, error) {
	const most = 10_000 // pages: a platform that never ends is broken
	var out []T
	for range most {
		var page struct {
			Value []T    `json:"value"`
			Next  string `json:"nextLink"`
		}
		if err := c.get(ctx, path, api, &page); err != nil {
			return nil, err
		}
		out = append(out, page.Value...)
		if page.Next == "" {
			return out, nil
		}
		path, api = page.Next, ""
	}
	return nil, errors.New("the platform's list does not end")
}

// wait waits for an operation's end and reads what it made into out, unless nil.
type wait func(ctx context.Context, out any) error

// begin starts a long-running operation. Once asked for it is not cancelled: a
// context that ends must not leave open whether there is something.
func (c *client) begin(ctx context.Context, method, path, api string, body any, header ...string) (wait, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.call)
	defer cancel()
	res, a, err := c.send(ask, method, path, api, body, header...) //nolint:bodyclose // NewPoller closes it
	if err != nil {
		return nil, err
	}
	// Where the answer is an error, NewPoller gives it.
	p, err := runtime.NewPoller[json.RawMessage](res, a.Pipeline(), nil)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, out any) error { return c.await(ctx, a, p, out) }, nil
}

// await polls until the operation is over.
func (c *client) await(ctx context.Context, a *arm.Client, p *runtime.Poller[json.RawMessage], out any) error {
	for renewed := false; !p.Done(); {
		res, err := p.Poll(ctx) //nolint:bodyclose // Poll has read and closed it
		if statusOf(err) == http.StatusUnauthorized && !renewed {
			// The pipeline's token has ended: go on with another.
			renewed = true
			token, terr := p.ResumeToken()
			if terr != nil {
				return err
			}
			c.drop(a)
			if a, terr = c.pipeline(); terr != nil {
				return terr
			}
			if p, terr = runtime.NewPollerFromResumeToken[json.RawMessage](token, a.Pipeline(), nil); terr != nil {
				return terr
			}
			continue
		}
		if err != nil {
			return err
		}
		renewed = false
		if p.Done() {
			break
		}
		if err := sleep(ctx, retryAfter(res, c.cfg.poll)); err != nil {
			return err
		}
	}
	raw, err := p.Result(ctx)
	if err != nil || out == nil || len(raw) == 0 {
		return err
	}
	return json.Unmarshal(raw, out)
}

// do is begin and wait.
func (c *client) do(ctx context.Context, method, path, api string, body, out any) error {
	w, err := c.begin(ctx, method, path, api, body)
	if err != nil {
		return err
	}
	return w(ctx, out)
}

// retryAfter is how long an answer asks to wait; otherwise d.
func retryAfter(res *http.Response, d time.Duration) time.Duration {
	if res == nil {
		return d
	}
	for name, unit := range map[string]time.Duration{"retry-after-ms": time.Millisecond, "x-ms-retry-after-ms": time.Millisecond} {
		if n, err := strconv.Atoi(res.Header.Get(name)); err == nil && n >= 0 {
			return time.Duration(n) * unit
		}
	}
	if n, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && n >= 0 {
		return min(time.Duration(n)*time.Second, time.Minute)
	}
	return d
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// endpoint is the resource manager's endpoint, for people.
func (c *config) endpoint() string {
	u, err := url.Parse(c.cloud.Services[cloud.ResourceManager].Endpoint)
	if err != nil {
		return ""
	}
	return u.Host
}

// Package awsapi asks the few dozen AWS operations that a restore needs: the EC2
// query API (version 2016-11-15), the EBS direct APIs (2019-11-02) and STS
// (2011-06-15). Credentials, profiles, roles, regions and signatures are
// aws-sdk-go-v2's; the operations are spelt out here because the SDK's EC2
// package is as large as the rest of this program many times over, and because
// throttling is to be seen, not slept through, where uploads are paced.
package awsapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"ascend/internal/secret"
)

// Config says how to reach an account. The zero value is the SDK's own chain:
// environment, shared files, web identity, container and instance roles.
type Config struct {
	Region     string
	Profile    string
	RoleARN    string // assumed with the credentials found
	ExternalID string
	Endpoint   string // of every service, instead of AWS's own
	CAFile     string // PEM, added to the system's
	AccessKey  string // with SecretKey: instead of the chain
	SecretKey  secret.String
	Token      secret.String
	// Conns is the number of idle connections kept for each service; 0: 160.
	Conns int
	// Backoff is the first pause between attempts; 0: 100 ms. It doubles up to
	// 20 s, with jitter.
	Backoff time.Duration
}

// maxAttempts bounds one call: with the pauses about 90 s. The SDK's default of
// 3 does not survive a throttling storm.
const maxAttempts = 12

// maxReply bounds a reply in bytes; the largest are lists of instance types.
const maxReply = 64 << 20

// Client asks one account in one region. It is safe for concurrent use.
type Client struct {
	region   string
	endpoint string
	creds    *aws.CredentialsCache
	signer   *v4.Signer
	http     *http.Client
	backoff  time.Duration
}

// New finds credentials' sources and the region; it asks nobody.
func New(ctx context.Context, c Config) (*Client, error) {
	hc, err := httpClient(c)
	if err != nil {
		return nil, err
	}
	// The SDK's own client, for sign-in and roles, must be of the SDK's type for
	// AWS_CA_BUNDLE to be applied to it.
	signIn := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.TLSClientConfig = hc.Transport.(*http.Transport).TLSClientConfig.Clone()
	})
	opts := []func(*config.LoadOptions) error{config.WithHTTPClient(signIn)}
	if c.Region != "" {
		opts = append(opts, config.WithRegion(c.Region))
	}
	if c.Profile != "" {
		opts = append(opts, config.WithSharedConfigProfile(c.Profile))
	}
	if c.AccessKey != "" {
		opts = append(opts, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(c.AccessKey, c.SecretKey.Reveal(), c.Token.Reveal())))
	}
	if c.Endpoint != "" {
		opts = append(opts, config.WithBaseEndpoint(c.Endpoint))
	}
	cfg, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("cannot load the AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		return nil, errors.New("cannot tell the AWS region: set it, or AWS_REGION, or the profile's region")
	}
	prov := cfg.Credentials
	if c.RoleARN != "" {
		prov = stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), c.RoleARN, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName = "ascend"
			if c.ExternalID != "" {
				o.ExternalID = &c.ExternalID
			}
		})
	}
	cl := &Client{
		region: cfg.Region, signer: v4.NewSigner(), http: hc, backoff: c.Backoff,
		// Renewed five minutes early: nothing expires between signing and arriving.
		creds: aws.NewCredentialsCache(prov, func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = 5 * time.Minute }),
	}
	if cfg.BaseEndpoint != nil {
		cl.endpoint = *cfg.BaseEndpoint
	}
	if cl.backoff <= 0 {
		cl.backoff = 100 * time.Millisecond
	}
	return cl, nil
}

func httpClient(c Config) (*http.Client, error) {
	conns := c.Conns
	if conns <= 0 {
		conns = 160
	}
	tr := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 90 * time.Second,
		IdleConnTimeout:       60 * time.Second,
		MaxIdleConns:          4 * conns,
		MaxIdleConnsPerHost:   conns,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
	}
	for _, file := range []string{c.CAFile, os.Getenv("AWS_CA_BUNDLE")} {
		if file == "" {
			continue
		}
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read the CA file: %w", err)
		}
		pool := tr.TLSClientConfig.RootCAs
		if pool == nil {
			if pool, err = x509.SystemCertPool(); err != nil {
				pool = x509.NewCertPool()
			}
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cannot use the CA file %s: it holds no certificate", file)
		}
		tr.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{Transport: tr}, nil
}

// Region is the region that is asked.
func (c *Client) Region() string { return c.region }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// CheckCredentials finds credentials without asking a service for more.
func (c *Client) CheckCredentials(ctx context.Context) error {
	_, err := c.creds.Retrieve(ctx)
	return hide(err)
}

// endpointVariable is the end of the variable's name: the service's identifier in
// the SDKs' models.
func endpointVariable(service string) string {
	if service == "servicequotas" {
		return "SERVICE_QUOTAS"
	}
	return strings.ToUpper(service)
}

// base is the URL of a service: the service's own variable, the configured
// endpoint, or AWS's.
func (c *Client) base(service string) string {
	if e := os.Getenv("AWS_ENDPOINT_URL_" + endpointVariable(service)); e != "" {
		return strings.TrimSuffix(e, "/")
	}
	if c.endpoint != "" {
		return strings.TrimSuffix(c.endpoint, "/")
	}
	suffix := "amazonaws.com"
	switch {
	case strings.HasPrefix(c.region, "cn-"):
		suffix = "amazonaws.com.cn"
	case strings.HasPrefix(c.region, "us-iso-"):
		suffix = "c2s.ic.gov"
	case strings.HasPrefix(c.region, "us-isob-"):
		suffix = "sc2s.sgov.gov"
	}
	return "https://" + service + "." + c.region + "." + suffix
}

// call is one request, to be signed and sent as often as it takes.
type call struct {
	service, method, path string
	query                 url.Values
	header                http.Header
	body                  []byte
	unsigned              bool // the body's digest travels in a header of its own
	throttled             func()
}

type reply struct {
	header http.Header
	body   []byte
}

// do sends a call until it is answered for good.
func (c *Client) do(ctx context.Context, q call) (*reply, error) {
	var last error
	renewed := 0
	for n := range maxAttempts {
		if n > 0 {
			if err := c.pause(ctx, n, last); err != nil {
				return nil, err
			}
		}
		r, err := c.once(ctx, q)
		if err == nil {
			return r, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		last = err
		var e *Error
		if !errors.As(err, &e) {
			continue // a broken connection
		}
		switch {
		case e.expired() && renewed < 2:
			renewed++
			c.creds.Invalidate()
		case e.Throttled():
			if q.throttled != nil {
				q.throttled()
			}
		case !e.transient():
			return nil, err
		}
	}
	return nil, last
}

// pause waits before attempt n, at least as long as the service asks.
func (c *Client) pause(ctx context.Context, n int, last error) error {
	d := min(c.backoff<<(n-1), 20*time.Second)
	d = d/2 + rand.N(d/2+1)
	if e := (*Error)(nil); errors.As(last, &e) && e.retryAfter > d {
		d = min(e.retryAfter, time.Minute)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Client) once(ctx context.Context, q call) (*reply, error) {
	u := c.base(q.service) + q.path
	if len(q.query) > 0 {
		u += "?" + strings.ReplaceAll(q.query.Encode(), "+", "%20")
	}
	req, err := http.NewRequestWithContext(ctx, q.method, u, bytes.NewReader(q.body))
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %w", q.service, err)
	}
	for k, v := range q.header {
		req.Header[k] = v
	}
	creds, err := c.creds.Retrieve(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &Error{Service: "credentials", Code: "NoCredentials", Message: hide(err).Error()}
	}
	hash := "UNSIGNED-PAYLOAD"
	if !q.unsigned {
		sum := sha256.Sum256(q.body)
		hash = hex.EncodeToString(sum[:])
	} else {
		req.Header.Set("X-Amz-Content-Sha256", hash)
	}
	s3 := q.service == "s3"
	if s3 {
		req.Header.Set("X-Amz-Content-Sha256", hash)
	}
	err = c.signer.SignHTTP(ctx, creds, req, hash, q.service, c.region, time.Now(), func(o *v4.SignerOptions) { o.DisableURIPathEscaping = s3 })
	if err != nil {
		return nil, fmt.Errorf("cannot sign a request: %w", err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot reach %s: %w", q.service, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxReply+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot read the reply of %s: %w", q.service, err)
	case len(body) > maxReply:
		return nil, &Error{Service: q.service, Code: "ReplyTooLong", Message: "the reply is longer than 64 MiB"}
	case res.StatusCode >= 300:
		return nil, parseError(q.service, res, body)
	}
	return &reply{header: res.Header, body: body}, nil
}

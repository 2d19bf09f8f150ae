package nutanix

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"ascend/internal/target"

	"github.com/aws/aws-sdk-go-v2/aws"
	signer "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Objects Lite is Prism Central's S3 service for image files: one bucket, path
// style, region us-east-1, the user's name and password in base64 as access key
// and as secret key, at most eight requests at once, no lists of parts.
const (
	liteBucket = "/api/prism/v4.0/objects/vmm-images/"
	liteRegion = "us-east-1"
	liteParts  = 10_000 // S3's limit of an upload
)

// lite makes one S3 request, repeated while the service is busy. body may be nil.
func (c *client) lite(ctx context.Context, method, key string, q url.Values, body []byte) (*reply, error) {
	sum := sha256.Sum256(body)
	digest := hex.EncodeToString(sum[:])
	var out *reply
	err := c.again(ctx, false, func() error {
		select {
		case c.gate <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-c.gate }()
		var err error
		out, err = c.liteOnce(ctx, method, key, q, body, digest)
		return err
	})
	return out, err
}

func (c *client) liteOnce(ctx context.Context, method, key string, q url.Values, body []byte, digest string) (*reply, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	clock := time.AfterFunc(c.cfg.stall, func() { cancel(fmt.Errorf("nothing moved for %s", c.cfg.stall)) })
	defer clock.Stop()
	u := *c.cfg.base
	u.Path, u.RawQuery = liteBucket+key, q.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), &ticking{r: bytes.NewReader(body), tick: func() { clock.Reset(c.cfg.stall) }})
	if err != nil {
		return nil, err
	}
	req.ContentLength = int64(len(body))
	if len(body) == 0 {
		req.Body = http.NoBody
	}
	req.Header.Set("User-Agent", "ascend")
	req.Header.Set("X-Amz-Content-Sha256", digest)
	k := base64.StdEncoding.EncodeToString([]byte(c.cfg.user + ":" + c.cfg.password.Reveal()))
	err = signer.NewSigner().SignHTTP(ctx, aws.Credentials{AccessKeyID: k, SecretAccessKey: k}, req, digest, "s3", liteRegion, time.Now(),
		func(o *signer.SignerOptions) { o.DisableURIPathEscaping = true })
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
			return nil, cause
		}
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return nil, fmt.Errorf("the answer broke off: %w", err)
	}
	if res.StatusCode >= 300 {
		e := &apiError{what: method + " of an object", status: res.StatusCode}
		var v struct{ Code, Message string }
		if xml.Unmarshal(b, &v) == nil {
			e.code, e.text = v.Code, v.Message
		}
		return nil, withWait(e, res.Header)
	}
	return &reply{header: res.Header, body: b}, nil
}

// ticking is a reader that tells that bytes move.
type ticking struct {
	r    io.Reader
	tick func()
}

func (t *ticking) Read(p []byte) (int, error) {
	t.tick()
	return t.r.Read(p)
}

// createUpload begins a multipart upload and returns its identifier.
func (c *client) createUpload(ctx context.Context, key string) (string, error) {
	r, err := c.lite(ctx, http.MethodPost, key, url.Values{"uploads": {""}}, nil)
	if err != nil {
		return "", err
	}
	var v struct {
		ID string `xml:"UploadId"`
	}
	if err := xml.Unmarshal(r.body, &v); err != nil || v.ID == "" {
		return "", target.Permanent("Objects Lite does not answer as S3 does", "check url: it must be Prism Central's")
	}
	return v.ID, nil
}

// putPart sends one part and returns its ETag.
func (c *client) putPart(ctx context.Context, key, upload string, n int, body []byte) (string, error) {
	r, err := c.lite(ctx, http.MethodPut, key, url.Values{"partNumber": {strconv.Itoa(n)}, "uploadId": {upload}}, body)
	if err != nil {
		return "", err
	}
	tag := r.header.Get("ETag")
	if tag == "" {
		return "", fmt.Errorf("the answer to part %d has no ETag", n)
	}
	return tag, nil
}

// completeUpload puts the parts together. Where an earlier call did so and its
// answer was lost, the upload is not there any more and the object is.
func (c *client) completeUpload(ctx context.Context, key, upload string, tags []string, size int64) error {
	type part struct {
		PartNumber int
		ETag       string
	}
	req := struct {
		XMLName xml.Name `xml:"CompleteMultipartUpload"`
		Parts   []part   `xml:"Part"`
	}{}
	for i, t := range tags {
		req.Parts = append(req.Parts, part{i + 1, t})
	}
	b, err := xml.Marshal(req)
	if err != nil {
		return err
	}
	r, err := c.lite(ctx, http.MethodPost, key, url.Values{"uploadId": {upload}}, b)
	if isGone(err) {
		if have, herr := c.objectSize(ctx, key); herr == nil && have == size {
			return nil
		}
	}
	if err != nil {
		return err
	}
	// S3 may answer 200 and an error in the body.
	var v struct {
		XMLName       xml.Name
		Code, Message string
	}
	if xml.Unmarshal(r.body, &v) == nil && v.XMLName.Local == "Error" {
		return &apiError{what: "completing an object", status: http.StatusInternalServerError, code: v.Code, text: v.Message}
	}
	return nil
}

// abortUpload drops an unfinished upload; nil when it is not there.
func (c *client) abortUpload(ctx context.Context, key, upload string) error {
	_, err := c.lite(ctx, http.MethodDelete, key, url.Values{"uploadId": {upload}}, nil)
	if isGone(err) {
		return nil
	}
	return err
}

// objectSize is an object's size; -1 when it is not there.
func (c *client) objectSize(ctx context.Context, key string) (int64, error) {
	r, err := c.lite(ctx, http.MethodHead, key, nil, nil)
	if isGone(err) {
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(r.header.Get("Content-Length"), 10, 64)
}

// deleteObject removes an object; nil when it is not there. A Prism Central that
// does not delete objects expires them itself.
func (c *client) deleteObject(ctx context.Context, key string) error {
	_, err := c.lite(ctx, http.MethodDelete, key, nil, nil)
	switch statusOf(err) {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return nil
	}
	return err
}

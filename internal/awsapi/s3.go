package awsapi

import (
	"context"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// Limits of a multipart upload ("Amazon S3 multipart upload limits"): of every part
// but the last, and of their number.
const (
	MinPart  = 5 << 20
	MaxParts = 10_000
)

// Part is one part of a multipart upload.
type Part struct {
	Number int    `xml:"PartNumber"`
	ETag   string `xml:"ETag"`
	Size   int64  `xml:"Size"`
}

// s3 makes one request of S3's REST API, path style. S3 compares the SHA-256 of the
// body, which is signed.
func (c *Client) s3(ctx context.Context, method, bucket, key string, q url.Values, body []byte) (*reply, error) {
	path := "/" + url.PathEscape(bucket)
	if key != "" {
		path += (&url.URL{Path: "/" + key}).EscapedPath()
	}
	return c.do(ctx, call{service: "s3", method: method, path: path, query: q, header: http.Header{}, body: body})
}

// Bucket is nil for a bucket that is in the region and may be asked.
func (c *Client) Bucket(ctx context.Context, bucket string) error {
	_, err := c.s3(ctx, http.MethodHead, bucket, "", nil, nil)
	return err
}

// CreateUpload begins a multipart upload.
func (c *Client) CreateUpload(ctx context.Context, bucket, key string) (id string, err error) {
	r, err := c.s3(ctx, http.MethodPost, bucket, key, url.Values{"uploads": {""}}, nil)
	if err != nil {
		return "", err
	}
	var out struct{ UploadId string } //nolint:revive // the service's spelling
	if err := xml.Unmarshal(r.body, &out); err != nil || out.UploadId == "" {
		return "", fmt.Errorf("cannot read the reply of CreateMultipartUpload: %.200q", r.body)
	}
	return out.UploadId, nil
}

// PutPart sends one part and tells its ETag.
func (c *Client) PutPart(ctx context.Context, bucket, key, upload string, number int, p []byte) (etag string, err error) {
	r, err := c.s3(ctx, http.MethodPut, bucket, key, url.Values{"partNumber": {strconv.Itoa(number)}, "uploadId": {upload}}, p)
	if err != nil {
		return "", err
	}
	if etag = r.header.Get("ETag"); etag == "" {
		return "", fmt.Errorf("the reply to part %d has no ETag", number)
	}
	return etag, nil
}

// Parts lists what has landed of an upload, in ascending order.
func (c *Client) Parts(ctx context.Context, bucket, key, upload string) (all []Part, err error) {
	q := url.Values{"uploadId": {upload}}
	for {
		r, err := c.s3(ctx, http.MethodGet, bucket, key, q, nil)
		if err != nil {
			return nil, err
		}
		var out struct {
			Parts []Part `xml:"Part"`
			More  bool   `xml:"IsTruncated"`
			Next  string `xml:"NextPartNumberMarker"`
		}
		if err := xml.Unmarshal(r.body, &out); err != nil {
			return nil, fmt.Errorf("cannot read the list of parts: %w", err)
		}
		all = append(all, out.Parts...)
		if !out.More || len(out.Parts) == 0 {
			return all, nil
		}
		q.Set("part-number-marker", out.Next)
	}
}

// CompleteUpload makes the object of its parts.
func (c *Client) CompleteUpload(ctx context.Context, bucket, key, upload string, parts []Part) error {
	type part struct {
		PartNumber int
		ETag       string
	}
	in := struct {
		XMLName xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ CompleteMultipartUpload"`
		Parts   []part   `xml:"Part"`
	}{}
	for _, p := range parts {
		in.Parts = append(in.Parts, part{p.Number, p.ETag})
	}
	slices.SortFunc(in.Parts, func(a, b part) int { return a.PartNumber - b.PartNumber })
	body, err := xml.Marshal(in)
	if err != nil {
		return fmt.Errorf("cannot describe the parts: %w", err)
	}
	r, err := c.s3(ctx, http.MethodPost, bucket, key, url.Values{"uploadId": {upload}}, body)
	if err != nil {
		return err
	}
	// An error may come after 200 was answered (CompleteMultipartUpload).
	var out struct {
		XMLName       xml.Name
		Code, Message string
	}
	if err := xml.Unmarshal(r.body, &out); err != nil || out.XMLName.Local == "Error" {
		return &Error{Service: "s3", Status: http.StatusInternalServerError, Code: out.Code, Message: clean(out.Message)}
	}
	return nil
}

// Uploads lists the multipart uploads of one key that are not complete.
func (c *Client) Uploads(ctx context.Context, bucket, key string) (ids []string, err error) {
	r, err := c.s3(ctx, http.MethodGet, bucket, "", url.Values{"uploads": {""}, "prefix": {key}}, nil)
	if err != nil {
		return nil, err
	}
	var out struct {
		Uploads []struct {
			Key string
			ID  string `xml:"UploadId"`
		} `xml:"Upload"`
	}
	if err := xml.Unmarshal(r.body, &out); err != nil {
		return nil, fmt.Errorf("cannot read the list of uploads: %w", err)
	}
	for _, u := range out.Uploads {
		if u.Key == key {
			ids = append(ids, u.ID)
		}
	}
	return ids, nil
}

// AbortUpload drops an upload's parts; nil when it is not there.
func (c *Client) AbortUpload(ctx context.Context, bucket, key, upload string) error {
	_, err := c.s3(ctx, http.MethodDelete, bucket, key, url.Values{"uploadId": {upload}}, nil)
	if Missing(err) {
		return nil
	}
	return err
}

// DeleteObject removes an object; nil when it is not there.
func (c *Client) DeleteObject(ctx context.Context, bucket, key string) error {
	_, err := c.s3(ctx, http.MethodDelete, bucket, key, nil, nil)
	if Missing(err) {
		return nil
	}
	return err
}

// ObjectSize is an object's length in bytes; -1 when it is not there.
func (c *Client) ObjectSize(ctx context.Context, bucket, key string) (int64, error) {
	r, err := c.s3(ctx, http.MethodHead, bucket, key, nil, nil)
	if Missing(err) {
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(r.header.Get("Content-Length"), 10, 64)
}

package prismsim

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// accessKey is the S3 access key and secret key of the user.
func accessKey() string { return base64.StdEncoding.EncodeToString([]byte(User + ":" + Password)) }

// signed verifies a request's signature (AWS General Reference, Signature Version
// 4) and returns the digest that the payload must have; "" with UNSIGNED-PAYLOAD.
func signed(r *http.Request) (payload, code, msg string) {
	auth, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return "", "AccessDenied", "the request is not signed"
	}
	f := map[string]string{}
	for p := range strings.SplitSeq(auth, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		f[k] = v
	}
	// An access key in base64 may itself hold slashes.
	scope := strings.Split(f["Credential"], "/")
	if n := len(scope) - 4; n > 1 {
		scope = append([]string{strings.Join(scope[:n], "/")}, scope[n:]...)
	}
	if len(scope) != 5 || scope[2] != "us-east-1" || scope[3] != "s3" || scope[4] != "aws4_request" {
		return "", "AuthorizationHeaderMalformed", "the credential's scope must be us-east-1, s3"
	}
	if scope[0] != accessKey() {
		return "", "InvalidAccessKeyId", "the access key is nobody's"
	}
	date := r.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", date)
	if err != nil || time.Since(at).Abs() > 15*time.Minute || !strings.HasPrefix(date, scope[1]) {
		return "", "RequestTimeTooSkewed", "the request's time is too far away"
	}
	names := strings.Split(f["SignedHeaders"], ";")
	if !slices.Contains(names, "host") || !slices.Contains(names, "x-amz-date") {
		return "", "AccessDenied", "host and x-amz-date must be signed"
	}
	for h := range r.Header {
		if l := strings.ToLower(h); strings.HasPrefix(l, "x-amz-") && !slices.Contains(names, l) {
			return "", "AccessDenied", "the header " + l + " is not signed"
		}
	}
	payload = r.Header.Get("X-Amz-Content-Sha256")
	var c strings.Builder
	c.WriteString(r.Method + "\n" + r.URL.EscapedPath() + "\n" + canonicalQuery(r.URL.Query()) + "\n")
	for _, n := range names {
		v := strings.Join(r.Header.Values(n), ",")
		switch n {
		case "host":
			v = r.Host
		case "content-length":
			v = strconv.FormatInt(r.ContentLength, 10)
		}
		c.WriteString(n + ":" + strings.Join(strings.Fields(v), " ") + "\n")
	}
	c.WriteString("\n" + f["SignedHeaders"] + "\n" + payload)
	sum := sha256.Sum256([]byte(c.String()))
	toSign := "AWS4-HMAC-SHA256\n" + date + "\n" + strings.Join(scope[1:], "/") + "\n" + hex.EncodeToString(sum[:])
	m := []byte("AWS4" + accessKey())
	for _, p := range append(slices.Clone(scope[1:]), toSign) {
		h := hmac.New(sha256.New, m)
		h.Write([]byte(p))
		m = h.Sum(nil)
	}
	if !hmac.Equal([]byte(hex.EncodeToString(m)), []byte(f["Signature"])) {
		return "", "SignatureDoesNotMatch", "the signature is not that of the request"
	}
	switch {
	case payload == "UNSIGNED-PAYLOAD":
		return "", "", ""
	case len(payload) != 64:
		return "", "NotImplemented", "payloads in signed chunks or with trailers are not taken"
	}
	return payload, "", ""
}

func canonicalQuery(q url.Values) string {
	var out []string
	for k, vs := range q {
		for _, v := range vs {
			out = append(out, escape(k)+"="+escape(v))
		}
	}
	sort.Strings(out)
	return strings.Join(out, "&")
}

func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

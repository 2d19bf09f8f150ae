package awssim

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strings"
	"time"
)

// signed verifies a request's signature (AWS General Reference, Signature
// Version 4) and tells the service it is for.
func (s *Sim) signed(r *http.Request, body []byte) (service string, _ *apiError) {
	deny := func(code, msg string) (string, *apiError) {
		return service, &apiError{status: http.StatusForbidden, code: code, msg: msg}
	}
	auth, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	service = "ec2"
	if ebsAction(r.Method, r.URL.Path) != "" {
		service = "ebs"
	}
	if !ok {
		return deny("MissingAuthenticationToken", "Request is missing Authentication Token")
	}
	f := map[string]string{}
	for _, p := range strings.Split(auth, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		f[k] = v
	}
	scope := strings.Split(f["Credential"], "/")
	if len(scope) != 5 || scope[4] != "aws4_request" || scope[2] != s.o.Region {
		return deny("SignatureDoesNotMatch", "Credential should be scoped to a valid region.")
	}
	service = scope[3]
	if !slices.Contains([]string{"ec2", "ebs", "s3", "sts", "servicequotas"}, service) {
		return deny("SignatureDoesNotMatch", "Credential should be scoped to correct service.")
	}
	s.mu.Lock()
	k, ok := s.keys[scope[0]]
	s.mu.Unlock()
	if !ok {
		if service == "ec2" {
			return service, &apiError{status: 401, code: "AuthFailure", msg: "AWS was not able to validate the provided access credentials"}
		}
		return deny("UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	date := r.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", date)
	if err != nil || time.Since(at).Abs() > 15*time.Minute || !strings.HasPrefix(date, scope[1]) {
		return deny("RequestExpired", "Request has expired.")
	}
	names := strings.Split(f["SignedHeaders"], ";")
	if !slices.Contains(names, "host") || !slices.Contains(names, "x-amz-date") {
		return deny("SignatureDoesNotMatch", "host and x-amz-date must be signed")
	}
	for h := range r.Header {
		l := strings.ToLower(h)
		if strings.HasPrefix(l, "x-amz-") && !slices.Contains(names, l) {
			return deny("SignatureDoesNotMatch", "the header "+l+" is not signed")
		}
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	switch h := r.Header.Get("X-Amz-Content-Sha256"); {
	case h == "UNSIGNED-PAYLOAD" && service == "ebs":
		hash = h
	case service == "s3" && h == "":
		return deny("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
	case h == "UNSIGNED-PAYLOAD" && service == "s3":
		hash = h
	case h != "" && h != hash && service == "s3":
		return service, bad("XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed.")
	case h != "" && h != hash:
		return deny("SignatureDoesNotMatch", "x-amz-content-sha256 is not the body's")
	}
	var c strings.Builder
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	if service != "s3" { // S3's paths are escaped once
		path = strings.ReplaceAll(url.PathEscape(path), "%2F", "/")
	}
	c.WriteString(r.Method + "\n" + path + "\n" + canonicalQuery(r.URL.Query()) + "\n")
	for _, n := range names {
		v := strings.Join(r.Header.Values(n), ",")
		switch n {
		case "host":
			v = r.Host
		case "content-length":
			v = r.Header.Get("Content-Length")
			if v == "" {
				v = itoa(r.ContentLength)
			}
		}
		c.WriteString(n + ":" + strings.Join(strings.Fields(v), " ") + "\n")
	}
	c.WriteString("\n" + f["SignedHeaders"] + "\n" + hash)
	cs := sha256.Sum256([]byte(c.String()))
	toSign := "AWS4-HMAC-SHA256\n" + date + "\n" + strings.Join(scope[1:], "/") + "\n" + hex.EncodeToString(cs[:])
	m := []byte("AWS4" + k.secret)
	for _, p := range append(slices.Clone(scope[1:]), toSign) {
		h := hmac.New(sha256.New, m)
		h.Write([]byte(p))
		m = h.Sum(nil)
	}
	if !hmac.Equal([]byte(hex.EncodeToString(m)), []byte(f["Signature"])) {
		return deny("SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
	}
	if k.token != r.Header.Get("X-Amz-Security-Token") {
		return deny("InvalidClientTokenId", "The security token included in the request is invalid")
	}
	if !k.expires.IsZero() && time.Now().After(k.expires) {
		if service == "ec2" {
			return service, &apiError{status: 400, code: "RequestExpired", msg: "Request has expired."}
		}
		return deny("ExpiredTokenException", "The security token included in the request is expired")
	}
	return service, nil
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

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

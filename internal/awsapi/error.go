package awsapi

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Error is what a service answered instead of doing what was asked.
type Error struct {
	Service string
	Status  int
	Code    string // the service's: "UnauthorizedOperation", …
	Message string
	Request string // the request's identifier, for AWS's support

	retryAfter time.Duration
}

// Error is the service's words. They never hold a credential: messages that
// quote what was signed are cut.
func (e *Error) Error() string {
	s := e.Service + ": " + e.Code
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.Request != "" {
		s += " (request " + e.Request + ")"
	}
	return s
}

// Throttled tells that the service asks for fewer requests.
func (e *Error) Throttled() bool {
	return e.Status == http.StatusTooManyRequests || slices.Contains([]string{
		"RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled",
		"RequestThrottledException", "TooManyRequestsException", "SlowDown", "EC2ThrottledException",
	}, e.Code)
}

func (e *Error) transient() bool {
	if strings.HasPrefix(e.Code, "Insufficient") {
		return false // capacity of an instance type: minutes to days
	}
	return e.Status >= 500 || e.Code == "RequestTimeout" || e.Code == "RequestTimeoutException"
}

func (e *Error) expired() bool {
	return slices.Contains([]string{"ExpiredToken", "ExpiredTokenException", "RequestExpired"}, e.Code)
}

// Code is the service's code in err, or "".
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Missing tells that what was asked for does not exist.
func Missing(err error) bool {
	c := Code(err)
	return strings.HasSuffix(c, ".NotFound") || strings.HasSuffix(c, ".Unavailable") && strings.HasPrefix(c, "InvalidAMIID") ||
		c == "ResourceNotFoundException" || c == "NoSuchKey" || c == "NoSuchUpload"
}

// parseError reads the three shapes of errors: EC2's and STS's XML, and REST-JSON.
func parseError(service string, res *http.Response, body []byte) error {
	e := &Error{Service: service, Status: res.StatusCode}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 {
		e.retryAfter = time.Duration(s) * time.Second
	}
	e.Request = res.Header.Get("X-Amzn-Requestid")
	if typ := res.Header.Get("X-Amzn-Errortype"); typ != "" || strings.Contains(res.Header.Get("Content-Type"), "json") {
		var j struct {
			Type, Code, Message, Reason string
			Under                       string `json:"__type"`
		}
		_ = json.Unmarshal(body, &j) // what cannot be read is told by its status
		for _, c := range []string{typ, j.Under, j.Code} {
			if c != "" {
				c, _, _ = strings.Cut(c, ":")
				e.Code = c[strings.LastIndexByte(c, '#')+1:]
				break
			}
		}
		e.Message = j.Message
		if j.Reason != "" {
			e.Message += " [" + j.Reason + "]"
		}
	} else {
		var x struct {
			EC2 struct{ Code, Message string } `xml:"Errors>Error"`
			STS struct{ Code, Message string } `xml:"Error"`
			ID  string                         `xml:"RequestID"`
			// S3's error is the root itself, and answers to HEAD have none.
			Code, Message string
		}
		_ = xml.Unmarshal(body, &x)
		e.Code, e.Message = x.EC2.Code, x.EC2.Message
		if e.Code == "" {
			e.Code, e.Message = x.STS.Code, x.STS.Message
		}
		if e.Code == "" {
			e.Code, e.Message = x.Code, x.Message
		}
		if e.Code == "" && service == "s3" && e.Status == http.StatusNotFound {
			e.Code = "NoSuchKey"
		}
		if x.ID != "" {
			e.Request = x.ID
		}
	}
	if e.Code == "" {
		e.Code = "HTTP " + strconv.Itoa(e.Status)
	}
	e.Message = clean(e.Message)
	return e
}

// clean cuts a message where it begins to quote the request: a wrong signature
// is answered with the canonical request, which holds the session token.
func clean(msg string) string {
	for _, mark := range []string{"The Canonical String", "The String-to-Sign", "\n"} {
		if i := strings.Index(msg, mark); i >= 0 {
			msg = msg[:i]
		}
	}
	if len(msg) > 500 {
		msg = msg[:500] + "…"
	}
	return strings.TrimSpace(msg)
}

// hide keeps a credential provider's error to its first line.
func hide(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(clean(err.Error()))
}

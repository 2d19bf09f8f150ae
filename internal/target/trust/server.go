package trust

import (
	"errors"
	"net/url"
	"strings"
)

// ParseServer reads the address of an API as people set it; a bare host is
// completed. plain allows http://. What may stand in the path is the connector's.
// Its errors never repeat the address, which may hold a password.
func ParseServer(s string, plain bool) (*url.URL, error) {
	if s = strings.TrimSpace(s); s == "" {
		return nil, errors.New("is missing")
	}
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("cannot be read as a URL")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("must not hold a user, a query or a fragment")
	case u.Hostname() == "":
		return nil, errors.New("names no host")
	case u.Scheme != "https" && (u.Scheme != "http" || !plain):
		return nil, errors.New("must begin with https:// (http:// only with insecure=true)")
	}
	return u, nil
}

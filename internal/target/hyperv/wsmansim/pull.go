package wsmansim

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"ascend/internal/target/hyperv/hostscript"
)

// pull fetches a disk's file as the script does: from where it stops, over TLS
// with exactly the certificate that is named.
func (s *Sim) pull(ctx context.Context, q hostscript.Request) (any, error) {
	bad := func(err error) (any, error) {
		return nil, failed("", "NotSpecified", `Exception calling "Run" with "5" argument(s): "%v"`, err)
	}
	file := s.local(q.File)
	if file == "" {
		return bad(errors.New("could not find a part of the path"))
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // the pin is compared below
		VerifyConnection: func(c tls.ConnectionState) error {
			sum := sha256.Sum256(c.PeerCertificates[0].Raw)
			if hex.EncodeToString(sum[:]) != q.Pin {
				return errors.New("the underlying connection was closed: could not establish trust relationship")
			}
			return nil
		},
	}}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, q.URL, http.NoBody)
	if err != nil {
		return bad(err)
	}
	r.Header.Set("Authorization", "Bearer "+q.Token)
	r.Header.Set("Range", fmt.Sprintf("bytes=%d-", q.Offset))
	a, err := (&http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(r)
	if err != nil {
		return bad(err)
	}
	defer func() { _ = a.Body.Close() }()
	if a.StatusCode != http.StatusPartialContent {
		return bad(fmt.Errorf("the answer is %d and not PartialContent", a.StatusCode))
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // served by the host's share
	if err != nil {
		return bad(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Seek(q.Offset, io.SeekStart); err != nil {
		return bad(err)
	}
	if _, err := io.Copy(f, a.Body); err != nil {
		return bad(err)
	}
	st, err := f.Stat()
	if err != nil {
		return bad(err)
	}
	return hostscript.Pulled{Length: st.Size()}, nil
}

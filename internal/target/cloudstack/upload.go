package cloudstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"ascend/internal/target"
	"ascend/internal/target/body"
)

// ticket is the permission to send one disk, once.
type ticket struct {
	ID        string `json:"id"`
	URL       string `json:"postURL"`
	Metadata  string `json:"metadata"`
	Signature string `json:"signature"`
	Expires   string `json:"expires"`
	asked     time.Time
}

// window is how long CloudStack gives the upload (upload.operation.timeout): one
// that takes longer is given up by the server. 0 when not known.
func (k *ticket) window() time.Duration {
	if t, err := time.Parse(time.RFC3339, k.Expires); err == nil {
		return t.Sub(k.asked)
	}
	return 0
}

// reserve makes way for disk i and asks for the permission to upload it.
func (s *session) reserve(ctx context.Context, i int) (*ticket, error) {
	kind, name := s.kind(i), s.name(i)
	if err := s.t.removeNamed(ctx, s.f, kind, name); err != nil {
		return nil, fmt.Errorf("cannot remove what an interrupted upload left: %w", err)
	}
	if err := s.record(ctx, kind, name, "", false, nil); err != nil {
		return nil, err
	}
	command := "getUploadParamsForVolume"
	p := params{"name": name, "format": "QCOW2", "zoneid": s.place.zone.ID, "diskofferingid": s.place.disks[i]}
	if kind == kindTemplate {
		delete(p, "diskofferingid")
		command = "getUploadParamsForTemplate"
		p["displaytext"], p["hypervisor"], p["ostypeid"] = s.display, "KVM", s.place.osType
		p["requireshvm"], p["ispublic"] = "true", "false"
		for k, v := range s.place.details(s.order, s.f.version) {
			if k == "rootDiskController" || k == "nicAdapter" {
				p["details[0]."+k] = v
			}
		}
	}
	var out struct {
		Ticket ticket `json:"getuploadparams"`
	}
	if err := s.t.c.call(ctx, command, s.f.owned(p), &out); err != nil {
		return nil, err
	}
	k := &out.Ticket
	k.asked = time.Now()
	u, err := url.Parse(k.URL)
	switch {
	case err != nil || u.Host == "" || k.ID == "" || k.Signature == "":
		return nil, target.Permanent("the answer to "+command+" is not complete", "check that the secondary storage VM runs")
	case u.Scheme != "https" && !s.t.cfg.insecure:
		s.spoil(k)
		return nil, target.Permanent("the cloud wants disks to be sent to "+u.Host+" without encryption", "set use.https.to.upload=true and secstorage.ssl.cert.domain in the cloud, or insecure=true here")
	}
	if err := s.record(ctx, kind, name, k.ID, false, nil); err != nil {
		s.spoil(k)
		return nil, err
	}
	s.mu.Lock()
	s.disks[i].id = k.ID
	s.mu.Unlock()
	return k, nil
}

// The parts of the body around the file (RFC 7578). The service takes the name's
// ending for the format.
const (
	boundary = "ascend-7f3b1c52a9e84d06"
	tail     = "\r\n--" + boundary + "--\r\n"
)

func head(i int) string {
	return fmt.Sprintf("--%s\r\nContent-Disposition: form-data; name=\"files[]\"; filename=\"disk-%d.qcow2\"\r\nContent-Type: application/octet-stream\r\n\r\n", boundary, i)
}

// post sends body as the one file of an upload. Its errors and status are those
// of the service; the body's length is exact.
func (s *session) post(ctx context.Context, k *ticket, i int, body io.Reader, size int64) error {
	h := head(i)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.URL, io.MultiReader(strings.NewReader(h), body, strings.NewReader(tail)))
	if err != nil {
		return errors.New("the upload's address is not valid")
	}
	req.ContentLength = int64(len(h)) + size + int64(len(tail))
	req.Header.Set("Content-Type", "multipart/form-data; boundary="+boundary)
	req.Header.Set("User-Agent", "ascend")
	req.Header.Set("X-signature", k.Signature)
	req.Header.Set("X-metadata", k.Metadata)
	req.Header.Set("X-expires", k.Expires)
	res, err := s.t.c.http.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			return cause
		}
		return fmt.Errorf("the transfer to %s broke: %w", req.URL.Host, translate(err))
	}
	defer func() { _ = res.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10)) // what is missing of the text is no loss
	if res.StatusCode == http.StatusOK {
		return nil
	}
	e := &uploadError{status: res.StatusCode, text: strings.TrimSpace(string(text))}
	if strings.HasPrefix(e.text, "<") {
		e.text = ""
	}
	return e
}

// uploadError is an answer of the upload service other than "successful".
type uploadError struct {
	status int
	text   string
}

func (e *uploadError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("the upload was refused with HTTP %d", e.status)
	}
	return fmt.Sprintf("the upload was refused: %s (HTTP %d)", e.text, e.status)
}

func (e *uploadError) Unwrap() error {
	if strings.Contains(e.text, "not valid anymore") {
		return target.ErrExpired
	}
	return nil
}

// spoil uses a permission up by sending what is no image. CloudStack deletes no
// volume whose upload may still come.
func (s *session) spoil(k *ticket) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	const nothing = "given up"
	_ = s.post(ctx, k, 0, strings.NewReader(nothing), int64(len(nothing)))
}

// state is where the upload that ticket k began has come to.
func (s *session) state(ctx context.Context, i int) (whole, failed bool, word string, err error) {
	if s.kind(i) == kindTemplate {
		t, err := s.t.templateNamed(ctx, s.f, s.name(i))
		if err != nil || t == nil {
			return false, t == nil, "gone", err
		}
		if t.Ready {
			err = s.sizeIs(i, t.Size)
		}
		return t.Ready && err == nil, strings.Contains(t.Status, "Error") || strings.Contains(t.Status, "Abandoned"), t.Status, err
	}
	v, err := s.t.volumeNamed(ctx, s.f, s.name(i))
	if err != nil || v == nil {
		return false, v == nil, "gone", err
	}
	there := v.State == "Uploaded" || v.State == "Ready"
	if there {
		err = s.sizeIs(i, v.Size)
	}
	return there && err == nil, v.State == "UploadError" || v.State == "UploadAbandoned", v.State, err
}

// sizeIs compares the size that the platform reads in disk i's image; 0 is not
// known.
func (s *session) sizeIs(i int, size int64) error {
	if want := s.order.Disks[i].Virtual; size != 0 && size != want {
		return fmt.Errorf("%w: the platform reads a disk of %d bytes in it, not %d", target.ErrDigest, size, want)
	}
	return nil
}

// stream is the upload of one disk: what is appended becomes the middle of one
// request's body. Append, Complete and Offset are called by one goroutine at a
// time; Abort by any.
type stream struct {
	s    *session
	i    int
	size int64
	body body.Body

	mu     sync.Mutex
	ticket *ticket
	landed *target.Landed
}

var _ target.StreamUpload = (*stream)(nil)

func newStream(s *session, i int) *stream {
	u := &stream{s: s, i: i, size: s.order.Disks[i].FileSize}
	u.body.Stall = s.t.cfg.stall
	return u
}

func landedStream(s *session, i int, l *target.Landed) *stream {
	return &stream{s: s, i: i, size: l.Bytes, landed: l}
}

func (u *stream) what() string { return fmt.Sprintf("disk %d", u.i) }

// begin asks for the permission and makes the request, once.
func (u *stream) begin(ctx context.Context) error {
	u.mu.Lock()
	landed := u.landed
	u.mu.Unlock()
	switch {
	case landed != nil:
		return target.Permanent("it is already complete", "")
	case u.body.Failed() != nil:
		return u.body.Failed()
	case u.body.Begun():
		return nil
	}
	select {
	case u.s.gate <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-u.s.life.Done():
		return context.Cause(u.s.life)
	}
	k, err := u.s.reserve(ctx, u.i)
	if err != nil {
		<-u.s.gate
		return translate(err)
	}
	u.mu.Lock()
	u.ticket = k
	u.mu.Unlock()
	err = u.body.Begin(u.s.life, func(ctx context.Context, r io.ReadCloser) error {
		err := u.s.post(ctx, k, u.i, r, u.size)
		if err != nil && u.body.Sent() == 0 { // perhaps the service never saw it, and waits
			u.s.spoil(k)
		}
		return err
	}, func() { <-u.s.gate })
	if err != nil { // aborted meanwhile
		u.s.spoil(k)
		<-u.s.gate
	}
	return err
}

// Offset is what was sent; a broken stream is opened anew and begins at 0.
func (u *stream) Offset(context.Context) (int64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.landed != nil {
		return u.landed.Bytes, nil
	}
	return u.body.Sent(), nil
}

// Append sends the next bytes. A context that ends breaks the stream.
func (u *stream) Append(ctx context.Context, p []byte) error {
	err := u.begin(ctx)
	if err == nil && u.body.Sent()+int64(len(p)) > u.size {
		err = target.Permanent(fmt.Sprintf("it is longer than the %d bytes that were announced", u.size), "")
		u.body.Fail(err)
	}
	if err == nil {
		err = u.late(u.body.Write(ctx, p))
	}
	if err != nil {
		return fmt.Errorf("cannot send %s: %w", u.what(), err)
	}
	return nil
}

// late adds to a failure that it came after the time the cloud gives an upload.
func (u *stream) late(err error) error {
	u.mu.Lock()
	k := u.ticket
	u.mu.Unlock()
	if k == nil || err == nil {
		return err
	}
	if w := k.window(); w > 0 && time.Since(k.asked) >= w && !errors.Is(err, context.Canceled) {
		return &target.Problem{
			Msg:  fmt.Sprintf("%v; the cloud gives an upload %s and this one took longer", err, w.Round(time.Minute)),
			Hint: "raise the global setting upload.operation.timeout (minutes) and begin again", Kind: target.ErrPermanent, Cause: err,
		}
	}
	return err
}

// Sync does nothing: a broken stream begins again anyway.
func (u *stream) Sync(context.Context) error { return nil }

// Patch is not possible: the bytes are gone.
func (u *stream) Patch(context.Context, []byte) error {
	return target.Permanent("the start of a stream cannot be overwritten", "")
}

// Complete ends the body, waits for the answer and for the platform to have the
// disk whole. An answer that something in between made up is not believed: the
// platform's own word counts.
func (u *stream) Complete(ctx context.Context, sum target.Sum) (*target.Landed, error) {
	u.mu.Lock()
	landed, k := u.landed, u.ticket
	u.mu.Unlock()
	wrap := func(err error) (*target.Landed, error) {
		return nil, fmt.Errorf("cannot complete %s: %w", u.what(), translate(err))
	}
	sent, failed := u.body.Sent(), u.body.Failed()
	switch {
	case landed != nil:
		out := *landed
		return &out, nil
	case failed != nil:
		return wrap(failed)
	case !u.body.Begun():
		return wrap(target.Permanent("nothing was sent", ""))
	case sum.Bytes != 0 && sum.Bytes != sent || sent != u.size:
		err := target.Permanent(fmt.Sprintf("%d bytes were sent, %d were announced and %d counted", sent, u.size, sum.Bytes), "")
		u.body.Fail(err)
		return wrap(err)
	}
	err := u.body.Close(ctx)
	if ctx.Err() != nil {
		return wrap(ctx.Err())
	}
	if err := u.settle(ctx, err); err != nil {
		if ctx.Err() == nil {
			u.body.Fail(err)
		}
		return wrap(u.late(err))
	}
	l, err := u.s.arrived(ctx, u.i, k.ID)
	if err != nil {
		return wrap(err)
	}
	u.s.tag(ctx, map[string]string{kindVolume: "Volume", kindTemplate: "Template"}[u.s.kind(u.i)], k.ID)
	u.mu.Lock()
	u.landed = l
	u.mu.Unlock()
	u.body.Settle()
	out := *l
	return &out, nil
}

// settle waits until the platform has the disk whole or has lost it. sendErr is
// how the request itself ended.
func (u *stream) settle(ctx context.Context, sendErr error) error {
	var up *uploadError
	if errors.As(sendErr, &up) && up.status < 500 {
		return sendErr
	}
	began, pause := time.Now(), u.s.t.cfg.pause/8
	for {
		whole, failed, word, err := u.s.state(ctx, u.i)
		switch {
		case err != nil && (errors.Is(err, target.ErrDigest) || ctx.Err() != nil):
			return err
		case err == nil && whole:
			return nil
		case err == nil && failed && sendErr != nil:
			return sendErr
		case err == nil && failed:
			return fmt.Errorf("the platform could not use what was sent: the upload's state is %s", word)
		case time.Since(began) > u.s.t.cfg.stall:
			return errors.Join(sendErr, fmt.Errorf("the upload's state is %q for %s after the last byte", word, u.s.t.cfg.stall))
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(pause*3/2, u.s.t.cfg.maxPause)
	}
}

// Abort breaks an upload that is not complete.
func (u *stream) Abort() error {
	u.body.Abort()
	return nil
}

// tag marks a resource with the job's id. The name or detail says it already:
// that a role may not tag stops nothing.
func (s *session) tag(ctx context.Context, kind, id string) {
	_ = s.t.c.job(ctx, "createTags", params{"resourceids": id, "resourcetype": kind, "tags[0].key": tagKey, "tags[0].value": s.order.Job}, nil)
}

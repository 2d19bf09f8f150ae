package cssim

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"time"
)

// The upload service, after HttpUploadServerHandler and
// NfsPostUploadRequestValidationService of Apache CloudStack's secondary
// storage: what is checked, in which order, with which answers.

const expiresForm = "2006-01-02T15:04:05.000Z07:00"

// permit makes an upload permission and its parameters.
func (s *Sim) permit(id string, v *volume, t *template) entity {
	u := &upload{volume: v, template: t, created: time.Now(), metadata: base64.StdEncoding.EncodeToString([]byte("metadata of " + id + newID()))}
	u.expires = time.Now().Add(s.o.UploadTimeout).UTC().Format(expiresForm)
	address := s.upload + "/upload/" + id
	u.signature = s.permission(u.metadata + address + u.expires)
	s.uploads[id] = u
	return entity{"id": id, "postURL": address, "metadata": u.metadata, "expires": u.expires, "signature": u.signature}
}

func (s *Sim) permission(data string) string {
	m := hmac.New(sha256.New, s.psk)
	m.Write([]byte(data))
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

func (s *Sim) serveUpload(w http.ResponseWriter, r *http.Request) {
	status, text := s.receive(r)
	if status < 0 {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

func (s *Sim) receive(r *http.Request) (int, string) {
	if r.Method != http.MethodPost {
		return http.StatusBadRequest, "only post requests are allowed"
	}
	id, ok := strings.CutPrefix(r.URL.Path, "/upload/")
	signature, metadata, expires := r.Header.Get("X-signature"), r.Header.Get("X-metadata"), r.Header.Get("X-expires")
	s.mu.Lock()
	u := s.uploads[id]
	s.mu.Unlock()
	if !ok || u == nil {
		return http.StatusBadRequest, "signature validation failed."
	}
	set := func(f func()) { s.mu.Lock(); defer s.mu.Unlock(); f() }
	later := set
	if s.o.Monitor > 0 {
		later = func(f func()) { time.AfterFunc(s.o.Monitor, func() { set(f) }) }
	}
	broken := func(status int, text string) (int, string) {
		later(func() { u.end("UploadError") })
		return status, text
	}
	fault := s.faults.upload()
	if fault == nil {
		fault = &UploadFault{}
	}
	if fault.Status != 0 && fault.After == 0 && !fault.Keep {
		return broken(fault.Status, "unavailable")
	}
	switch t, err := time.Parse(expiresForm, expires); {
	case signature == "" || metadata == "" || expires == "":
		return broken(http.StatusBadRequest, "signature, metadata and expires are compulsory fields.")
	case r.ContentLength <= 0:
		return http.StatusBadRequest, "content length is not set in the request or has invalid value."
	case !hmac.Equal([]byte(signature), []byte(s.permission(metadata+s.upload+r.URL.Path+expires))):
		return broken(http.StatusBadRequest, "signature validation failed.")
	case err != nil || time.Now().After(t) || fault.Expired:
		return broken(http.StatusBadRequest, "request not valid anymore.")
	}
	used := false
	set(func() {
		used, u.used = u.used || !u.pending(), true
		if !used && u.volume != nil {
			u.volume.state = "UploadInProgress"
		}
		if !used && u.template != nil {
			u.template.status = "0% Downloaded"
		}
	})
	if used {
		return http.StatusBadRequest, "upload entity already exists"
	}
	file, name, err := s.body(r, fault)
	switch {
	case errors.Is(err, errNoFile):
		return broken(http.StatusUnprocessableEntity, "received entity is not a file")
	case err != nil && fault.Status != 0:
		return broken(fault.Status, "broken off")
	case err != nil:
		return broken(-1, "")
	}
	size, text := qcow2Size(file, name)
	if text != "" {
		return broken(http.StatusBadRequest, text)
	}
	if fault.Status != 0 && !fault.Keep {
		return broken(fault.Status, "no more")
	}
	if fault.Spoil {
		return broken(http.StatusOK, "upload successful.")
	}
	later(func() {
		if v := u.volume; v != nil && u.pending() {
			v.state, v.file, v.size, v.format = "Uploaded", file, size, "qcow2"
		}
		if t := u.template; t != nil && u.pending() {
			t.ready, t.status, t.file, t.size, t.format = true, "Download Complete", file, size, "qcow2"
		}
	})
	if fault.Status != 0 {
		return fault.Status, "bad gateway"
	}
	return http.StatusOK, "upload successful."
}

var errNoFile = errors.New("no file")

// body reads the request to its end and returns the one file in it.
func (s *Sim) body(r *http.Request, f *UploadFault) (file []byte, name string, err error) {
	in := &counted{r: r.Body, s: s, limit: -1}
	if f.After > 0 && !f.Keep {
		in.limit = f.After
	}
	r.Body = io.NopCloser(in)
	mr, err := r.MultipartReader()
	if err != nil {
		return nil, "", errNoFile
	}
	for {
		p, err := mr.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, "", err
		}
		b, err := part(p)
		if err != nil {
			return nil, "", err
		}
		if p.FileName() != "" && file == nil {
			file, name = b, p.FileName()
		}
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return nil, "", err
	}
	if file == nil || in.n != r.ContentLength {
		return nil, "", errNoFile
	}
	return file, name, nil
}

func part(p *multipart.Part) ([]byte, error) {
	var b bytes.Buffer
	_, err := io.Copy(&b, p)
	return b.Bytes(), err
}

// counted reads a body; it breaks at limit and hangs while uploads are stalled.
type counted struct {
	r     io.Reader
	s     *Sim
	n     int64
	limit int64
}

func (c *counted) Read(p []byte) (int, error) {
	c.s.mu.Lock()
	stalled := c.s.stalled
	c.s.mu.Unlock()
	if stalled != nil {
		<-stalled
	}
	if c.limit >= 0 {
		if p = p[:min(int64(len(p)), max(c.limit-c.n, 0))]; len(p) == 0 {
			return 0, io.ErrUnexpectedEOF
		}
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// qcow2Size holds a file to its name, as ImageStoreUtil.checkTemplateFormat does,
// and reads its virtual size (QEMU docs/interop/qcow2.txt, "Header"). A KVM cloud
// takes no backing file and no feature that its QEMU may not know.
func qcow2Size(file []byte, name string) (int64, string) {
	if !strings.HasSuffix(name, ".qcow2") {
		return 0, "File type mismatch between the sent file and the actual content. Received: " + name
	}
	if len(file) < 72 || !bytes.HasPrefix(file, []byte("QFI\xfb")) {
		return 0, "File type mismatch between the sent file and the actual content. Received: data"
	}
	if v := binary.BigEndian.Uint32(file[4:]); v != 2 && v != 3 {
		return 0, fmt.Sprintf("qcow2 version %d", v)
	}
	if binary.BigEndian.Uint64(file[8:]) != 0 {
		return 0, "the file has a backing file"
	}
	return int64(binary.BigEndian.Uint64(file[24:])), ""
}

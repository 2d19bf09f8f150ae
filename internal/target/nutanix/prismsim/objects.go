package prismsim

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Objects Lite: its one bucket, and how much it takes at once.
const (
	litePrefix = "/api/prism/v4.0/objects/"
	bucket     = "vmm-images"
	liteMost   = 8
	maxSingle  = 5 << 30
)

type object struct {
	file, sha256, etag string
	size               int64
}

type part struct {
	file, etag string
	size       int64
}

type multipart struct {
	key   string
	parts map[int]part
}

func s3Error(status int, code, msg string) answer {
	b, _ := xml.Marshal(struct { // a struct of strings marshals
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}{Code: code, Message: msg})
	return answer{status: status, header: map[string]string{"Content-Type": "application/xml"}, body: b}
}

// objectsLite answers one S3 request. The answer is made before the request stops
// counting as under way, and written after.
func (s *Sim) objectsLite(r *http.Request) answer {
	s.mu.Lock()
	if s.busy == liteMost {
		s.refused++
		s.mu.Unlock()
		return s3Error(http.StatusServiceUnavailable, "SlowDown", "at most 8 requests at a time")
	}
	s.busy++
	s.busiest = max(s.busiest, s.busy)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.busy--
		s.mu.Unlock()
	}()
	payload, code, msg := signed(r)
	if code != "" {
		status := http.StatusForbidden
		if code == "NotImplemented" {
			status = http.StatusNotImplemented
		}
		return s3Error(status, code, msg)
	}
	b, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, litePrefix), "/")
	if b != bucket {
		return s3Error(http.StatusNotFound, "NoSuchBucket", "there is only "+bucket)
	}
	if s.o.Version == "v3" {
		return answer{status: http.StatusNotFound}
	}
	q := r.URL.Query()
	switch {
	case key == "":
		return s3Error(http.StatusNotImplemented, "NotImplemented", "the bucket itself cannot be asked")
	case r.Method == http.MethodPost && q.Has("uploads"):
		s.mu.Lock()
		defer s.mu.Unlock()
		id := s.id()
		s.uploads[id] = &multipart{key: key, parts: map[int]part{}}
		return s3XML(struct {
			XMLName     xml.Name `xml:"InitiateMultipartUploadResult"`
			Bucket, Key string
			Upload      string `xml:"UploadId"`
		}{Bucket: bucket, Key: key, Upload: id})
	case r.Method == http.MethodPut && q.Has("uploadId"):
		return s.putPart(r, key, payload)
	case r.Method == http.MethodPost && q.Has("uploadId"):
		return s.complete(r, key, payload)
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		s.mu.Lock()
		defer s.mu.Unlock()
		u := s.uploads[q.Get("uploadId")]
		if u == nil || u.key != key {
			return s3Error(http.StatusNotFound, "NoSuchUpload", "there is no such upload")
		}
		s.drop(q.Get("uploadId"))
		return answer{status: http.StatusNoContent}
	case len(q) > 0 && r.Method != http.MethodPut && !q.Has("x-id"):
		return s3Error(http.StatusNotImplemented, "NotImplemented", "Objects Lite lists neither parts nor uploads")
	case r.Method == http.MethodPut:
		return s.putObject(r, key, payload)
	case r.Method == http.MethodHead:
		s.mu.Lock()
		defer s.mu.Unlock()
		o := s.objects[key]
		if o == nil {
			return answer{status: http.StatusNotFound}
		}
		return answer{status: http.StatusOK, header: map[string]string{"Content-Length": strconv.FormatInt(o.size, 10), "ETag": `"` + o.etag + `"`}}
	case r.Method == http.MethodDelete:
		s.mu.Lock()
		defer s.mu.Unlock()
		if o := s.objects[key]; o != nil {
			_ = os.Remove(o.file)
			delete(s.objects, key)
		}
		return answer{status: http.StatusNoContent}
	}
	return s3Error(http.StatusNotImplemented, "NotImplemented", "Objects Lite does not do that")
}

func s3XML(v any) answer {
	b, err := xml.Marshal(v)
	if err != nil {
		return s3Error(http.StatusInternalServerError, "InternalError", err.Error())
	}
	return answer{status: http.StatusOK, header: map[string]string{"Content-Type": "application/xml"}, body: append([]byte(xml.Header), b...)}
}

// drop forgets an upload; callers hold the lock.
func (s *Sim) drop(id string) {
	for _, p := range s.uploads[id].parts {
		_ = os.Remove(p.file)
	}
	delete(s.uploads, id)
}

// DropUploads forgets every unfinished upload, as Objects Lite does after a while.
func (s *Sim) DropUploads() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.uploads {
		s.drop(id)
	}
}

// receive stores a body of known length and checks its digests.
func (s *Sim) receive(r *http.Request, payload string) (part, string, *answer) {
	fail := func(status int, code, msg string) (part, string, *answer) {
		a := s3Error(status, code, msg)
		return part{}, "", &a
	}
	if r.ContentLength < 0 {
		return fail(http.StatusLengthRequired, "MissingContentLength", "the length must be known")
	}
	s.waits(r)
	f, err := os.CreateTemp(s.dir, "part-")
	if err != nil {
		return fail(http.StatusInternalServerError, "InternalError", err.Error())
	}
	sum, md := sha256.New(), md5.New()
	n, err := io.Copy(io.MultiWriter(f, sum, md), r.Body)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	hexSum := hex.EncodeToString(sum.Sum(nil))
	bad := ""
	switch m := r.Header.Get("Content-Md5"); {
	case err != nil || n != r.ContentLength:
		bad = "IncompleteBody"
	case payload != "" && payload != hexSum:
		bad = "XAmzContentSHA256Mismatch"
	case m != "" && m != base64.StdEncoding.EncodeToString(md.Sum(nil)):
		bad = "BadDigest"
	}
	if bad != "" {
		_ = os.Remove(f.Name())
		return fail(http.StatusBadRequest, bad, "the body is not what was announced")
	}
	return part{file: f.Name(), etag: hex.EncodeToString(md.Sum(nil)), size: n}, hexSum, nil
}

func (s *Sim) putPart(r *http.Request, key, payload string) answer {
	n, err := strconv.Atoi(r.URL.Query().Get("partNumber"))
	if err != nil || n < 1 || n > 10_000 {
		return s3Error(http.StatusBadRequest, "InvalidArgument", "part numbers are 1 to 10000")
	}
	p, _, bad := s.receive(r, payload)
	if bad != nil {
		return *bad
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.uploads[r.URL.Query().Get("uploadId")]
	if u == nil || u.key != key {
		_ = os.Remove(p.file)
		return s3Error(http.StatusNotFound, "NoSuchUpload", "there is no such upload")
	}
	if old, ok := u.parts[n]; ok {
		_ = os.Remove(old.file)
	}
	u.parts[n] = p
	return answer{status: http.StatusOK, header: map[string]string{"ETag": `"` + p.etag + `"`}}
}

func (s *Sim) putObject(r *http.Request, key, payload string) answer {
	if r.ContentLength >= maxSingle {
		return s3Error(http.StatusBadRequest, "EntityTooLarge", "one request takes less than 5 GB")
	}
	p, sum, bad := s.receive(r, payload)
	if bad != nil {
		return *bad
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.objects[key]; old != nil {
		_ = os.Remove(old.file)
	}
	s.objects[key] = &object{file: p.file, sha256: sum, etag: p.etag, size: p.size}
	return answer{status: http.StatusOK, header: map[string]string{"ETag": `"` + p.etag + `"`}}
}

func (s *Sim) complete(r *http.Request, key, payload string) answer {
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		return s3Error(http.StatusBadRequest, "IncompleteBody", err.Error())
	}
	if sum := sha256.Sum256(body); payload != "" && payload != hex.EncodeToString(sum[:]) {
		return s3Error(http.StatusBadRequest, "XAmzContentSHA256Mismatch", "the body is not what was signed")
	}
	var req struct {
		Parts []struct {
			PartNumber int
			ETag       string
		} `xml:"Part"`
	}
	if err := xml.Unmarshal(body, &req); err != nil || len(req.Parts) == 0 {
		return s3Error(http.StatusBadRequest, "MalformedXML", "the parts cannot be read")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := r.URL.Query().Get("uploadId")
	u := s.uploads[id]
	if u == nil || u.key != key {
		return s3Error(http.StatusNotFound, "NoSuchUpload", "there is no such upload")
	}
	for i, p := range req.Parts {
		if i > 0 && p.PartNumber <= req.Parts[i-1].PartNumber {
			return s3Error(http.StatusBadRequest, "InvalidPartOrder", "the parts must ascend")
		}
	}
	for _, p := range req.Parts {
		if have, ok := u.parts[p.PartNumber]; !ok || strings.Trim(p.ETag, `"`) != have.etag {
			return s3Error(http.StatusBadRequest, "InvalidPart", fmt.Sprintf("part %d is not there, or another", p.PartNumber))
		}
	}
	for _, p := range req.Parts[:len(req.Parts)-1] {
		if u.parts[p.PartNumber].size < s.o.MinPart {
			return s3Error(http.StatusBadRequest, "EntityTooSmall", fmt.Sprintf("part %d is too small", p.PartNumber))
		}
	}
	f, err := os.Create(filepath.Join(s.dir, "object-"+s.id()))
	if err != nil {
		return s3Error(http.StatusInternalServerError, "InternalError", err.Error())
	}
	sum, all := sha256.New(), md5.New()
	var size int64
	for _, p := range req.Parts {
		have := u.parts[p.PartNumber]
		b, err := os.ReadFile(have.file)
		if err == nil {
			_, err = io.MultiWriter(f, sum).Write(b)
		}
		if err != nil {
			_ = f.Close()
			return s3Error(http.StatusInternalServerError, "InternalError", err.Error())
		}
		raw, _ := hex.DecodeString(have.etag) // our own
		all.Write(raw)
		size += have.size
	}
	if err := f.Close(); err != nil {
		return s3Error(http.StatusInternalServerError, "InternalError", err.Error())
	}
	s.drop(id)
	if old := s.objects[key]; old != nil {
		_ = os.Remove(old.file)
	}
	etag := fmt.Sprintf("%x-%d", all.Sum(nil), len(req.Parts))
	s.objects[key] = &object{file: f.Name(), sha256: hex.EncodeToString(sum.Sum(nil)), etag: etag, size: size}
	return s3XML(struct {
		XMLName           xml.Name `xml:"CompleteMultipartUploadResult"`
		Bucket, Key, ETag string
	}{Bucket: bucket, Key: key, ETag: `"` + etag + `"`})
}

package awssim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"ascend/internal/disk"
	"ascend/internal/disk/open"
)

// Bucket is the one bucket of the account.
const Bucket = "ascend-uploads"

const (
	minPart  = 5 << 20 // of every part but the last (S3, "Multipart upload limits")
	maxParts = 10_000
	maxPart  = 64 << 20 // of the simulation
)

// multipart is an upload that is not complete.
type multipart struct {
	key   string
	parts map[int][]byte
}

// s3Action names a REST request, path style.
func s3Action(r *http.Request) string {
	q := r.URL.Query()
	_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case key == "" && r.Method == http.MethodHead:
		return "HeadBucket"
	case key == "" && r.Method == http.MethodGet && q.Has("uploads"):
		return "ListMultipartUploads"
	case key == "":
	case r.Method == http.MethodPost && q.Has("uploads"):
		return "CreateMultipartUpload"
	case r.Method == http.MethodPost && q.Has("uploadId"):
		return "CompleteMultipartUpload"
	case r.Method == http.MethodPut && q.Has("uploadId") && q.Has("partNumber"):
		return "UploadPart"
	case r.Method == http.MethodGet && q.Has("uploadId"):
		return "ListParts"
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		return "AbortMultipartUpload"
	case r.Method == http.MethodDelete:
		return "DeleteObject"
	case r.Method == http.MethodHead:
		return "HeadObject"
	case r.Method == http.MethodGet:
		return "GetObject"
	}
	return ""
}

func (s *Sim) serveS3(w http.ResponseWriter, r *http.Request, q Request, body []byte, aerr *apiError) {
	var out []el
	if aerr == nil {
		s.mu.Lock()
		out, aerr = s.s3(w, r, q.Action, body)
		s.mu.Unlock()
	}
	if aerr != nil {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(aerr.status)
		if r.Method != http.MethodHead {
			var b strings.Builder
			b.WriteString(xml.Header)
			e("Error", []el{e("Code", aerr.code), e("Message", aerr.msg)}).write(&b)
			_, _ = w.Write([]byte(b.String())) // the client may be gone
		}
		return
	}
	if root := map[string]string{
		"CreateMultipartUpload": "InitiateMultipartUploadResult", "CompleteMultipartUpload": "CompleteMultipartUploadResult", "ListParts": "ListPartsResult",
		"ListMultipartUploads": "ListMultipartUploadsResult",
	}[q.Action]; root != "" {
		w.Header().Set("Content-Type", "application/xml")
		var b strings.Builder
		b.WriteString(xml.Header)
		e(root, out).write(&b)
		_, _ = w.Write([]byte(b.String()))
		return
	}
	if strings.HasPrefix(q.Action, "Delete") || strings.HasPrefix(q.Action, "Abort") {
		w.WriteHeader(http.StatusNoContent)
	}
}

func missing(code string) *apiError {
	return &apiError{status: http.StatusNotFound, code: code, msg: "The specified " + strings.ToLower(strings.TrimPrefix(code, "NoSuch")) + " does not exist."}
}

func etag(p []byte) string {
	sum := sha256.Sum256(p)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

func (s *Sim) s3(w http.ResponseWriter, r *http.Request, action string, body []byte) ([]el, *apiError) {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if bucket != Bucket {
		return nil, missing("NoSuchBucket")
	}
	q := r.URL.Query()
	id := q.Get("uploadId")
	up := s.uploads[id]
	if q.Has("uploadId") && (up == nil || up.key != key) {
		return nil, missing("NoSuchUpload")
	}
	switch action {
	case "HeadBucket":
		return nil, nil
	case "ListMultipartUploads":
		out := []el{e("Bucket", bucket), e("IsTruncated", false)}
		for _, id := range slices.Sorted(maps.Keys(s.uploads)) {
			if strings.HasPrefix(s.uploads[id].key, q.Get("prefix")) {
				out = append(out, e("Upload", []el{e("Key", s.uploads[id].key), e("UploadId", id)}))
			}
		}
		return out, nil
	case "CreateMultipartUpload":
		id := s.newID("upload")
		s.uploads[id] = &multipart{key: key, parts: map[int][]byte{}}
		return []el{e("Bucket", bucket), e("Key", key), e("UploadId", id)}, nil
	case "UploadPart":
		n, err := strconv.Atoi(q.Get("partNumber"))
		if err != nil || n < 1 || n > maxParts {
			return nil, bad("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
		}
		up.parts[n] = body
		w.Header().Set("ETag", etag(body))
		return nil, nil
	case "ListParts":
		// Short pages, so that clients have to ask for the next.
		const page = 3
		from, _ := strconv.Atoi(q.Get("part-number-marker"))
		out := []el{e("UploadId", id)}
		listed, last := 0, from
		for _, n := range slices.Sorted(maps.Keys(up.parts)) {
			if n <= from {
				continue
			}
			if listed == page {
				return append(out, e("IsTruncated", true), e("NextPartNumberMarker", last)), nil
			}
			listed, last = listed+1, n
			out = append(out, e("Part", []el{e("PartNumber", n), e("ETag", etag(up.parts[n])), e("Size", len(up.parts[n]))}))
		}
		return append(out, e("IsTruncated", false)), nil
	case "CompleteMultipartUpload":
		return s.join(bucket, key, id, body)
	case "AbortMultipartUpload":
		delete(s.uploads, id)
		return nil, nil
	case "DeleteObject":
		delete(s.objects, key)
		return nil, nil
	case "HeadObject", "GetObject":
		o, ok := s.objects[key]
		if !ok {
			return nil, missing("NoSuchKey")
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(o)))
		w.Header().Set("ETag", etag(o))
		if action == "GetObject" {
			_, _ = w.Write(o)
		}
		return nil, nil
	}
	return nil, &apiError{status: http.StatusNotImplemented, code: "NotImplemented", msg: r.Method + " " + r.URL.Path}
}

// join makes an object of the parts that are named, in their order.
func (s *Sim) join(bucket, key, id string, body []byte) ([]el, *apiError) {
	var in struct {
		Parts []struct {
			PartNumber int
			ETag       string
		} `xml:"Part"`
	}
	if err := xml.Unmarshal(body, &in); err != nil || len(in.Parts) == 0 {
		return nil, bad("MalformedXML", "The XML you provided was not well-formed or did not validate against our published schema")
	}
	for i, p := range in.Parts {
		if i > 0 && p.PartNumber <= in.Parts[i-1].PartNumber {
			return nil, bad("InvalidPartOrder", "The list of parts was not in ascending order.")
		}
	}
	var whole []byte
	for i, p := range in.Parts {
		have, ok := s.uploads[id].parts[p.PartNumber]
		switch {
		case !ok || strings.Trim(p.ETag, `"`) != strings.Trim(etag(have), `"`):
			return nil, bad("InvalidPart", "One or more of the specified parts could not be found.")
		case i < len(in.Parts)-1 && len(have) < minPart:
			return nil, bad("EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
		}
		whole = append(whole, have...)
	}
	delete(s.uploads, id)
	s.objects[key] = whole
	return []el{e("Location", "/"+bucket+"/"+key), e("Bucket", bucket), e("Key", key), e("ETag", etag(whole))}, nil
}

// diskImport is a task of ImportSnapshot.
type diskImport struct {
	id, status, message, format, key, desc, snapshot string

	encrypted bool
	kms       string
	polls     int
	tags      []tag
}

func (s *Sim) importSnapshot(p *params) ([]el, *apiError) {
	k := &diskImport{
		status: "active", format: p.get("DiskContainer.Format"), key: p.get("DiskContainer.UserBucket.S3Key"), desc: p.get("Description"),
		encrypted: p.get("Encrypted") == "true", kms: p.get("KmsKeyId"), polls: s.o.Polls,
	}
	bucket, role := p.get("DiskContainer.UserBucket.S3Bucket"), p.get("RoleName")
	token, what := p.get("ClientToken"), p.v.Encode()
	var aerr *apiError
	if k.tags, aerr = p.tags("import-snapshot-task"); aerr != nil {
		return nil, aerr
	}
	if id, err := s.once("disk import", token, what); err != nil {
		return nil, err
	} else if id != "" {
		return s.diskImports[id].xml(), nil
	}
	_, there := s.objects[k.key]
	switch {
	case !slices.Contains([]string{"VMDK", "VHD", "RAW"}, k.format):
		return nil, bad("InvalidParameter", "The disk format %s is not supported", k.format)
	case bucket != Bucket || !there:
		return nil, bad("InvalidParameter", "S3 bucket does not exist or the object %s cannot be read", k.key)
	case role != "" && role != "vmimport":
		return nil, bad("InvalidParameter", "The service role %s provided does not exist or does not have sufficient permissions", role)
	case k.kms != "" && !k.encrypted:
		return nil, bad("InvalidParameter", "KmsKeyId needs Encrypted")
	}
	k.id = s.newID("import-snap")
	s.diskImports[k.id] = k
	s.used("disk import", token, what, k.id)
	return k.xml(), nil
}

func (k *diskImport) xml() []el {
	d := []el{e("diskImageSize", "0.0"), e("format", k.format), e("status", k.status), e("description", k.desc), e("userBucket", []el{e("s3Bucket", Bucket), e("s3Key", k.key)})}
	for name, v := range map[string]string{"statusMessage": k.message, "snapshotId": k.snapshot} {
		if v != "" {
			d = append(d, e(name, v))
		}
	}
	return []el{e("importTaskId", k.id), e("description", k.desc), e("snapshotTaskDetail", d), tagSet(k.tags)}
}

func (s *Sim) describeDiskImports(p *params) ([]el, *apiError) {
	ids := p.list("ImportTaskId")
	for _, id := range ids {
		if s.diskImports[id] == nil {
			return nil, bad("InvalidConversionTaskId.Malformed", "The task ID %s is not valid", id)
		}
	}
	var out [][]el
	for _, id := range slices.Sorted(maps.Keys(s.diskImports)) {
		if k := s.diskImports[id]; len(ids) == 0 || slices.Contains(ids, id) {
			s.convert(k)
			out = append(out, k.xml())
		}
	}
	return []el{items("importSnapshotTaskSet", out)}, nil
}

// convert carries a task one description further: it reads the object as a disk and
// makes a snapshot of what is in it.
func (s *Sim) convert(k *diskImport) {
	switch {
	case k.status == "deleting":
		k.status = "deleted"
		return
	case k.status != "active" || passing(&k.polls):
		return
	case s.failing != "":
		k.status, k.message = "deleted", s.failing
		return
	}
	sn := &snapshot{desc: "Created by AWS-VMImport service for " + k.id, state: "completed", sealed: true, encrypted: k.encrypted, kms: k.kms, started: s.now()}
	err := sn.fill(s.objects[k.key], map[string]string{"VMDK": "vmdk", "VHD": "vhd", "RAW": "raw"}[k.format])
	if err != nil {
		k.status, k.message = "deleted", "ClientError: Disk validation failed: "+err.Error()
		return
	}
	sn.id = s.newID("snap")
	sn.lineage = sn.id
	s.snaps[sn.id] = sn
	k.status, k.snapshot = "completed", sn.id
}

// fill reads an image file into the snapshot's blocks.
func (sn *snapshot) fill(file []byte, format string) error {
	dir, err := os.MkdirTemp("", "awssim-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "object"), file, 0o600); err != nil {
		return err
	}
	root, err := disk.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	img, err := open.Disk(root, "object", format)
	if err != nil {
		return err
	}
	defer img.Close()
	sn.gib = (img.Size() + 1<<30 - 1) >> 30
	sn.blocks = map[int64][]byte{}
	return img.Extents(context.Background(), 0, img.Size(), func(x disk.Extent) error {
		if !x.Data {
			return nil
		}
		for i := x.Off / blockSize; i*blockSize < x.Off+x.Len; i++ {
			if sn.blocks[i] != nil {
				continue
			}
			b := make([]byte, blockSize)
			n, err := img.ReadAt(b, i*blockSize)
			if err != nil && (err != io.EOF || n == 0) { //nolint:errorlint // io.ReaderAt's
				return fmt.Errorf("at block %d: %w", i, err)
			}
			if strings.Trim(string(b), "\x00") != "" {
				sn.blocks[i] = b
			}
		}
		return nil
	})
}

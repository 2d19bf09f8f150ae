package server_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/files"
	"ascend/internal/server/api"
	"ascend/internal/server/auth"
)

// guestRepository makes a repository with one backup of an ext4 disk.
func (m *made) guestRepository() (backup string) {
	m.t.Helper()
	dir, src := filepath.Join(m.dir, "guests"), filepath.Join(m.dir, "src")
	for name, text := range map[string]string{"etc/a note": "0123456789", "etc/x\xffy": "odd", "etc/deep/b": "b"} {
		p := filepath.Join(src, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o640)); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("/../../../../etc", filepath.Join(src, "out")), os.Mkdir(dir, 0o755)); err != nil {
		m.t.Fatal(err)
	}
	mke2fs := "/usr/sbin/mke2fs"
	if _, err := os.Stat(mke2fs); err != nil {
		m.t.Fatal("mke2fs is missing: run build/deps (Debian package e2fsprogs)")
	}
	if out, err := exec.Command(mke2fs, "-q", "-t", "ext4", "-d", src, filepath.Join(dir, "web01.raw"), "16M").CombinedOutput(); err != nil {
		m.t.Fatalf("%v: %s", err, out)
	}
	m.want(201, "POST", "/repositories", m.admin, map[string]any{"id": "guests", "path": dir}, nil)
	m.wait("the scan", func() bool {
		var r api.Repository
		m.want(200, "GET", "/repositories/guests", m.admin, nil, &r)
		return r.Scanned != nil && !r.Scan.Running
	})
	var list api.Page[api.BackupRow]
	m.want(200, "GET", "/backups?repository=guests", m.admin, nil, &list)
	if len(list.Items) != 1 {
		m.t.Fatalf("%+v", list)
	}
	return list.Items[0].ID
}

func TestFiles(t *testing.T) {
	m := start(t)
	b := "/backups/" + m.guestRepository()
	m.user("vera", auth.Viewer)
	m.want(403, "GET", b+"/files/content?path=/etc/a%20note", m.token("vera", auth.Admin), nil, nil)

	var vols api.Page[files.Volume]
	m.want(200, "GET", b+"/volumes", m.admin, nil, &vols)
	if len(vols.Items) != 1 || vols.Items[0].Type != "ext4" || !vols.Items[0].Readable {
		t.Fatalf("%+v", vols)
	}
	// A folder by pages, a link out of the tree, a name that is no UTF-8.
	var names []string
	var raw []byte
	for cursor, more := "", true; more; more = cursor != "" {
		var page api.Page[files.Record]
		m.want(200, "GET", b+"/files?volume=disk0&limit=2&path=/out&cursor="+cursor, m.admin, nil, &page)
		for _, r := range page.Items {
			names = append(names, r.Name)
			if r.Raw != nil {
				raw = r.Raw
			}
		}
		cursor = page.Next
	}
	if strings.Join(names, "|") != "a note|deep|x\ufffdy" || string(raw) != "/etc/x\xffy" {
		t.Errorf("%q, %q", names, raw)
	}
	var rec files.Record
	m.want(200, "GET", b+"/files/stat?path=/etc/a%20note", m.admin, nil, &rec)
	if rec.Mode != "0640" || rec.Size != 10 || rec.Type != "file" {
		t.Errorf("%+v", rec)
	}
	for _, q := range []string{"path_base64=" + url.QueryEscape(base64.StdEncoding.EncodeToString(raw)), "path=/etc/x%FFy"} {
		if _, body := m.do("GET", b+"/files/content?"+q, m.admin, nil); string(body) != "odd" {
			t.Errorf("%s: %q", q, body)
		}
	}
	// Content, whole and in part.
	note := b + "/files/content?path=/etc/a%20note"
	resp, body := m.do("GET", note, m.admin, nil)
	if string(body) != "0123456789" || resp.Header.Get("Content-Disposition") != `attachment; filename="a note"` || resp.ContentLength != 10 {
		t.Errorf("%q, %v", body, resp.Header)
	}
	tag := resp.Header.Get("ETag")
	if resp, body = m.do("GET", note, m.admin, nil, "Range", "bytes=3-5", "If-Range", tag); resp.StatusCode != http.StatusPartialContent || string(body) != "345" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	if resp, _ = m.do("GET", note, m.admin, nil, "Range", "bytes=50-"); resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("%d", resp.StatusCode)
	}
	if resp, _ = m.do("GET", note, m.admin, nil, "If-None-Match", tag); resp.StatusCode != http.StatusNotModified {
		t.Errorf("%d", resp.StatusCode)
	}
	// Trees.
	resp, body = m.do("GET", b+"/files/archive?path=/etc", m.admin, nil)
	if resp.Header.Get("Content-Type") != "application/x-tar" || resp.Trailer.Get("Ascend-Skipped") != "0" {
		t.Errorf("%v, trailer %v", resp.Header, resp.Trailer)
	}
	got := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(body)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r)
		got[h.Name] = string(text)
	}
	if len(got) != 5 || got["etc/a note"] != "0123456789" || got["etc/x\xffy"] != "odd" {
		t.Errorf("%q", got)
	}
	_, body = m.do("GET", b+"/files/archive?path=/&as=zip", m.admin, nil)
	if z, err := zip.NewReader(bytes.NewReader(body), int64(len(body))); err != nil || len(z.File) < 6 {
		t.Errorf("zip: %v", err)
	}
	// Paths that mean harm, or nothing.
	for path, status := range map[string]int{
		"/files?path=/none": 404, "/files?path=/etc/a%20note": 409, "/files/content?path=/etc": 409, "/files/content?path=/etc/%00": 422, "/files?volume=disk9": 404,
		"/files/content?path=/../../../../etc/passwd": 404, "/files/content?path=/out/passwd": 404, "/files?path=/&path_base64=Lw": 422, "/files?cursor=zz": 422, "/files/archive?as=rar": 422,
		"/files/content?path=" + strings.Repeat("/a", 4000): 404, "/files/content?path=" + strings.Repeat("a", 9000): 422,
	} {
		m.want(status, "GET", b+path, m.admin, nil, nil)
	}
	m.want(404, "GET", "/backups/none/files", m.admin, nil, nil)
	// Downloads are on record, and looking is not.
	var log api.Page[struct {
		Action string            `json:"action"`
		Detail map[string]string `json:"detail"`
	}]
	m.want(200, "GET", "/audit?action=backup.download", m.admin, nil, &log)
	if len(log.Items) < 5 || log.Items[0].Detail["path"] != "/" || log.Items[0].Detail["as"] != "zip" {
		t.Errorf("%+v", log.Items)
	}
}

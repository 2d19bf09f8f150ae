package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"ascend/internal/backup"
	"ascend/internal/disk"
	"ascend/internal/files"
	"ascend/internal/guest/vfs"
	"ascend/internal/server/auth"
)

// maxLooks bounds how many requests look into backups at once: each keeps up to
// 16 MiB of metadata for each disk.
const maxLooks = 16

// lookTime bounds what is no download; a hostile file system can take long.
const lookTime = time.Minute

// FileIn names a file of a backup.
type FileIn struct {
	ID
	Volume string `query:"volume" maxLength:"300" doc:"as the list of volumes names it; absent: the one that holds the path"`
	Path   string `query:"path" maxLength:"8192" doc:"absolute in its volume; / when absent"`
	Raw    string `query:"path_base64" maxLength:"8192" doc:"in place of path: its bytes, where they are no UTF-8"`
}

func (f FileIn) name() (string, error) {
	p := f.Path
	if f.Raw != "" {
		if p != "" {
			return "", notValid("query.path_base64", "path and path_base64 are both given")
		}
		b, err := base64.StdEncoding.DecodeString(f.Raw)
		if err != nil {
			return "", notValid("query.path_base64", "path_base64 is not base64")
		}
		p = string(b)
	}
	if strings.ContainsRune(p, 0) {
		return "", notValid("query.path", "a path holds no NUL")
	}
	if p == "" {
		p = "/"
	}
	return p, nil
}

func (a *API) files() {
	errs := []int{404, 409}
	add(a, op{method: "GET", path: "/backups/{id}/volumes", id: "list-backup-volumes", summary: "The file systems on a backup's disks; opens them", tag: "files", role: auth.Operator, errors: errs},
		func(ctx context.Context, in *ID) (*List[files.Volume], error) {
			ctx, cancel := context.WithTimeout(ctx, lookTime)
			defer cancel()
			l, err := a.look(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			defer l.close()
			return listOf(l.set.Volumes(), ""), l.changed()
		})
	add(a, op{method: "GET", path: "/backups/{id}/files", id: "list-backup-files", summary: "A folder in a backup, by name", tag: "files", role: auth.Operator, errors: errs},
		func(ctx context.Context, in *struct {
			FileIn
			PageIn
		}) (*List[files.Record], error) {
			ctx, cancel := context.WithTimeout(ctx, lookTime)
			defer cancel()
			l, v, name, err := a.lookAt(ctx, in.FileIn)
			if err != nil {
				return nil, err
			}
			defer l.close()
			list, err := v.List(ctx, name)
			if err != nil {
				return nil, notRead(err)
			}
			if in.Cursor != "" { // the last name of the page before
				after, err := hex.DecodeString(in.Cursor)
				if err != nil {
					return nil, notValid("query.cursor", "the cursor is none of this list")
				}
				list = list[sort.Search(len(list), func(i int) bool { return cursorOf(list[i]) > string(after) }):]
			}
			next := ""
			if len(list) > in.Limit {
				list = list[:in.Limit]
				next = hex.EncodeToString([]byte(cursorOf(list[in.Limit-1])))
			}
			out := make([]files.Record, 0, len(list))
			for _, e := range list {
				out = append(out, e.Record())
			}
			return listOf(out, next), l.changed()
		})
	add(a, op{method: "GET", path: "/backups/{id}/files/stat", id: "get-backup-file", summary: "A file in a backup and its attributes; of a link, the link", tag: "files", role: auth.Operator, errors: errs},
		func(ctx context.Context, in *FileIn) (*One[files.Record], error) {
			ctx, cancel := context.WithTimeout(ctx, lookTime)
			defer cancel()
			l, v, name, err := a.lookAt(ctx, *in)
			if err != nil {
				return nil, err
			}
			defer l.close()
			e, err := v.Stat(name, false)
			if err != nil {
				return nil, notRead(err)
			}
			return &One[files.Record]{Body: e.Record()}, l.changed()
		})
	add(a, op{method: "GET", path: "/backups/{id}/files/content", id: "download-backup-file", summary: "A file's bytes, or a range of them", tag: "files", role: auth.Operator, errors: errs, describe: func(o *huma.Operation) {
		o.Description = "Takes Range and If-Range; links are followed within the file system. Recorded in the audit log."
		answers("application/octet-stream", "the bytes")(o)
	}},
		func(ctx context.Context, in *FileIn) (*huma.StreamResponse, error) {
			l, v, name, err := a.lookAt(ctx, *in)
			if err != nil {
				return nil, err
			}
			f, err := v.Open(name)
			if err == nil {
				err = a.audit(ctx, "backup.download", in.ID.ID, "volume", v.ID, "path", f.Record().Path)
			}
			if err != nil {
				l.close()
				return nil, notRead(err)
			}
			tag := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%d\x00%d\x00%d", in.ID.ID, v.ID, f.Path, f.Size, f.Time.UnixNano(), l.created.UnixNano()))
			return a.download(l, f.Name(), "application/octet-stream", func(r *http.Request, w *lasting) error {
				w.Header().Set("ETag", `"`+hex.EncodeToString(tag[:12])+`"`)
				src := &failing{io.NewSectionReader(f, 0, f.Size), nil}
				http.ServeContent(w, r, "", f.Time, src)
				return src.err
			}), nil
		})
	add(a, op{method: "GET", path: "/backups/{id}/files/archive", id: "download-backup-tree", summary: "A file or folder as tar or zip", tag: "files", role: auth.Operator, errors: errs, describe: func(o *huma.Operation) {
		o.Description = "tar keeps owners, permissions, times, access control lists and other attributes, hard links and holes; zip has names that Windows takes. " +
			"The trailer Ascend-Skipped counts what could not be read. A download that fails in the middle is cut off. Recorded in the audit log."
		answers("application/octet-stream", "the archive")(o)
	}},
		func(ctx context.Context, in *struct {
			FileIn
			As string `query:"as" enum:"tar,zip" default:"tar"`
		}) (*huma.StreamResponse, error) {
			l, v, name, err := a.lookAt(ctx, in.FileIn)
			if err != nil {
				return nil, err
			}
			e, err := v.Stat(name, false)
			if err == nil {
				err = a.audit(ctx, "backup.download", in.ID.ID, "volume", v.ID, "path", e.Record().Path, "as", in.As)
			}
			if err != nil {
				l.close()
				return nil, notRead(err)
			}
			as, kind := v.Tar, "application/x-tar"
			if in.As == "zip" {
				as, kind = v.Zip, "application/zip"
			}
			top := e.Name()
			if e.Path == "/" {
				top = v.ID
			}
			return a.download(l, top+"."+in.As, kind, func(r *http.Request, w *lasting) error {
				if r.Method == http.MethodHead {
					w.WriteHeader(http.StatusOK)
					return nil
				}
				res, err := as(r.Context(), e.Path, w)
				w.Header().Set(http.TrailerPrefix+"Ascend-Skipped", strconv.FormatInt(res.Skipped.Count, 10))
				return err
			}), nil
		})
}

// cursorOf is what a folder is sorted by.
func cursorOf(e files.Entry) string { return e.Path }

// notRead makes errors of looking ones of the API.
func notRead(err error) error {
	text := strings.ToValidUTF8(err.Error(), "\ufffd")
	switch {
	case errors.Is(err, files.ErrVolume):
		return newProblem(http.StatusNotFound, "no-volume", text, "name a volume; see the list of volumes")
	case errors.Is(err, fs.ErrNotExist):
		return newProblem(http.StatusNotFound, "no-file", text, "list the folder")
	case errors.Is(err, files.ErrKind):
		return newProblem(http.StatusConflict, "not-of-kind", text, "a folder is listed or fetched as an archive; a file has content")
	case errors.Is(err, vfs.ErrUnsupported):
		return newProblem(http.StatusConflict, "file-unsupported", text, "restore the machine to get at it")
	case errors.Is(err, vfs.ErrCorrupt):
		return newProblem(http.StatusConflict, "file-system-damaged", text, "choose another point in time")
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		return newProblem(http.StatusConflict, "not-readable", text, "name another path")
	}
	return err
}

// opened is a backup that is looked into.
type opened struct {
	set     *files.Set
	created time.Time
	disks   []disk.Disk
	repo    *backup.Repository
	free    func()
}

func (l *opened) close() {
	for _, d := range l.disks {
		_ = d.Close()
	}
	_ = l.repo.Close()
	l.free()
}

func (l *opened) changed() error {
	for _, d := range l.disks {
		if err := d.Unchanged(); err != nil {
			return err
		}
	}
	return nil
}

func (a *API) look(ctx context.Context, id string) (_ *opened, err error) {
	src, err := a.source(ctx, id)
	if err != nil {
		return nil, err
	}
	if src.Backup.Fault != "" {
		return nil, fmt.Errorf("%w: %s", backup.ErrFault, src.Backup.Fault)
	}
	select {
	case a.looks <- struct{}{}:
	default:
		p := newProblem(http.StatusTooManyRequests, "busy", "too many backups are looked into at this moment", "try again in a moment")
		p.retryAfter = 2 * time.Second
		return nil, p
	}
	l := &opened{created: src.Backup.Created, free: func() { <-a.looks }}
	if l.repo, err = backup.Open(src.Dir); err != nil {
		l.free()
		return nil, newProblem(http.StatusConflict, "repository-missing", fmt.Sprintf("cannot open the repository: %v", err), "mount it, or scan it again")
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	for i := range src.Backup.Disks {
		d, err := l.repo.OpenDisk(ctx, src.Backup, i)
		if err != nil {
			return nil, err
		}
		l.disks = append(l.disks, d)
	}
	l.set, err = files.Open(ctx, l.disks)
	return l, err
}

// lookAt opens the backup and finds the volume; with an error nothing is open.
func (a *API) lookAt(ctx context.Context, in FileIn) (*opened, *files.Volume, string, error) {
	name, err := in.name()
	if err != nil {
		return nil, nil, "", err
	}
	l, err := a.look(ctx, in.ID.ID)
	if err != nil {
		return nil, nil, "", err
	}
	v, err := l.set.Volume(in.Volume, name)
	if err != nil {
		l.close()
		if e := notRead(err); e != err { //nolint:errorlint // is it one that was translated?
			return nil, nil, "", e
		}
		return nil, nil, "", newProblem(http.StatusConflict, "volume-unreadable", strings.ToValidUTF8(err.Error(), "\ufffd"), "name another volume")
	}
	return l, v, name, nil
}

// download answers with bytes that are not held back, and closes l. One that fails
// after it has begun is cut off, so that nobody takes it for whole.
func (a *API) download(l *opened, name, kind string, f func(*http.Request, *lasting) error) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		defer l.close()
		r, w := humago.Unwrap(hctx)
		h := w.Header()
		h.Set("Content-Type", kind)
		h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": files.Portable(name)}))
		h.Set("Cache-Control", "private, no-cache")
		h.Set("X-Accel-Buffering", "no")
		err := f(r, &lasting{w, http.NewResponseController(w)})
		if err == nil {
			err = l.changed()
		}
		if err != nil {
			a.Log.WarnContext(r.Context(), "download failed", "path", r.URL.Path, "error", err)
			panic(http.ErrAbortHandler)
		}
	}}
}

// lasting lets a download take as long as it moves.
type lasting struct {
	http.ResponseWriter
	rc *http.ResponseController
}

func (w *lasting) Write(p []byte) (int, error) {
	if err := w.rc.SetWriteDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(p)
}

// failing remembers the error of a read, which http.ServeContent keeps to itself.
type failing struct {
	io.ReadSeeker
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.ReadSeeker.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

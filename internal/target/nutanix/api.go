package nutanix

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"

	"ascend/internal/target"
)

// newRequest makes an NTNX-Request-Id: a random UUID (RFC 9562, version 4).
func newRequest() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // documented to never fail
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// version finds, once, the newest vmm API that both ends know.
func (t *prism) version(ctx context.Context) (string, error) {
	t.mu.Lock()
	v := t.vmm
	t.mu.Unlock()
	if v != "" {
		return v, nil
	}
	for _, v := range []string{"v4.1", "v4.0"} {
		_, err := t.c.do(ctx, call{method: http.MethodGet, path: "/api/vmm/" + v + "/content/images", query: url.Values{"$limit": {"1"}}})
		if isGone(err) {
			continue
		}
		if err != nil {
			return "", err
		}
		t.mu.Lock()
		t.vmm = v
		t.mu.Unlock()
		return v, nil
	}
	return "", &problem{
		msg:  "Prism Central has no v4 API for machines and images",
		hint: "v4 came with pc.2024.3: upgrade Prism Central; check also that url is Prism Central's and not a cluster's (Prism Element)", kind: target.ErrPermanent,
	}
}

func (t *prism) images(ctx context.Context) (string, error) {
	v, err := t.version(ctx)
	return "/api/vmm/" + v + "/content/images", err
}

func (t *prism) vms(ctx context.Context) (string, error) {
	v, err := t.version(ctx)
	return "/api/vmm/" + v + "/ahv/config/vms", err
}

// imageInfo is what is read of an image.
type imageInfo struct {
	ID   string `json:"extId"`
	Name string `json:"name"`
	Size int64  `json:"sizeBytes"`
}

// imageNamed finds an image by its name, nil when there is none.
func (t *prism) imageNamed(ctx context.Context, name string) (*imageInfo, error) {
	path, err := t.images(ctx)
	if err != nil {
		return nil, err
	}
	all, err := list[imageInfo](ctx, t.c, path, "name eq "+quoted(name))
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if i.Name == name {
			return &i, nil
		}
	}
	return nil, nil //nolint:nilnil // absence is an answer
}

// imageThere tells whether an image is there and of that name.
func (t *prism) imageThere(ctx context.Context, id, name string) (bool, error) {
	path, err := t.images(ctx)
	if err != nil {
		return false, err
	}
	var i imageInfo
	_, err = t.c.get(ctx, path+"/"+id, &i)
	if isGone(err) {
		return false, nil
	}
	return i.Name == name, err
}

// newImage is the request that makes an image (vmm.v4.content.Image).
type newImage struct {
	Type     string       `json:"$objectType"`
	Name     string       `json:"name"`
	About    string       `json:"description"`
	Kind     string       `json:"type"`
	Checksum typedDigest  `json:"checksum"`
	Source   objectSource `json:"source"`
	Clusters []string     `json:"clusterLocationExtIds,omitempty"`
}

type typedDigest struct {
	Type string `json:"$objectType"`
	Hex  string `json:"hexDigest"`
}

type objectSource struct {
	Type string `json:"$objectType"`
	Key  string `json:"key"`
}

func (t *prism) createImage(ctx context.Context, request, name, about, sha256, cluster string) (task string, err error) {
	path, err := t.images(ctx)
	if err != nil {
		return "", err
	}
	return t.c.start(ctx, call{method: http.MethodPost, path: path, request: request, body: newImage{
		Type: "vmm.v4.content.Image", Name: name, About: about, Kind: "DISK_IMAGE",
		Checksum: typedDigest{"vmm.v4.content.ImageSha256Checksum", sha256},
		Source:   objectSource{"vmm.v4.content.ObjectsLiteSource", name},
		Clusters: []string{cluster},
	}})
}

// deleteImage removes an image; nil when it is not there.
func (t *prism) deleteImage(ctx context.Context, id string) error {
	path, err := t.images(ctx)
	if err != nil {
		return err
	}
	task, err := t.c.start(ctx, call{method: http.MethodDelete, path: path + "/" + id, request: newRequest()})
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err = t.c.wait(ctx, task); err != nil {
		// Somebody else may have deleted it meanwhile.
		if _, gerr := t.c.get(ctx, path+"/"+id, &imageInfo{}); isGone(gerr) {
			return nil
		}
	}
	return err
}

// vmInfo is what is read of a machine.
type vmInfo struct {
	ID    string `json:"extId"`
	Name  string `json:"name"`
	About string `json:"description"`
	Power string `json:"powerState"`
}

func (t *prism) vmsNamed(ctx context.Context, name string) ([]vmInfo, error) {
	path, err := t.vms(ctx)
	if err != nil {
		return nil, err
	}
	return list[vmInfo](ctx, t.c, path, "name eq "+quoted(name))
}

// vm reads a machine; nil when it is not there.
func (t *prism) vm(ctx context.Context, id string) (m *vmInfo, etag string, err error) {
	path, err := t.vms(ctx)
	if err != nil {
		return nil, "", err
	}
	m = &vmInfo{}
	etag, err = t.c.get(ctx, path+"/"+id, m)
	if isGone(err) {
		return nil, "", nil
	}
	return m, etag, err
}

// staleTries is how often a change is made anew because the machine was changed
// between our look at it and the change.
const staleTries = 6

// changeVM makes a change of a machine as it is now. When somebody else changes
// it in between (412), it is looked at again: skip tells what needs no change.
func (t *prism) changeVM(ctx context.Context, method, id, action string, skip func(m *vmInfo) (bool, error)) error {
	path, err := t.vms(ctx)
	if err != nil {
		return err
	}
	for n := 1; ; n++ {
		m, etag, err := t.vm(ctx, id)
		if err != nil {
			return err
		}
		if done, err := skip(m); done || err != nil {
			return err
		}
		// A new look has another ETag, so that it is another request.
		task, err := t.c.start(ctx, call{method: method, path: path + "/" + id + action, match: etag, request: newRequest()})
		switch {
		case statusOf(err) == http.StatusPreconditionFailed && n < staleTries:
			if err := sleep(ctx, t.cfg.pause); err != nil {
				return err
			}
			continue
		case isGone(err):
			_, err := skip(nil)
			return err
		case err != nil:
			return err
		}
		_, err = t.c.wait(ctx, task)
		return err
	}
}

// deleteVM removes a machine; nil when it is not there.
func (t *prism) deleteVM(ctx context.Context, id string) error {
	err := t.changeVM(ctx, http.MethodDelete, id, "", func(m *vmInfo) (bool, error) { return m == nil, nil })
	if err != nil && ctx.Err() == nil {
		if m, _, gerr := t.vm(ctx, id); gerr == nil && m == nil {
			return nil
		}
	}
	return err
}

// powerOn starts a machine.
func (t *prism) powerOn(ctx context.Context, id string) error {
	return t.changeVM(ctx, http.MethodPost, id, "/$actions/power-on", func(m *vmInfo) (bool, error) {
		if m == nil {
			return false, permanent("the machine is not there", "")
		}
		return m.Power == "ON", nil
	})
}

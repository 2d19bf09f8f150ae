package nutanix

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"ascend/internal/target"
)

// newRequest makes an NTNX-Request-Id: a random UUID (RFC 9562, version 4).
func newRequest() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // documented to never fail
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// api is what a restore needs of Prism Central: v4, or v3 where there is no v4.
// Methods that find one thing answer nil or "" when it is not there; those that
// remove are nil then.
type api interface {
	clusters(ctx context.Context) ([]named, error)
	containers(ctx context.Context) ([]containerRow, error)
	subnets(ctx context.Context) ([]subnetRow, error)
	categories(ctx context.Context) ([]categoryRow, error)
	category(ctx context.Context, key, value string) (id string, err error)
	givesProject() bool // whether a machine is made in a project

	imageNamed(ctx context.Context, name string) (*imageInfo, error)
	imageThere(ctx context.Context, id, name string) (bool, error)
	deleteImage(ctx context.Context, id string) error

	machines(ctx context.Context) ([]vmInfo, error)
	machinesNamed(ctx context.Context, name string) ([]vmInfo, error)
	machine(ctx context.Context, id string) (*vmInfo, error)
	createVM(ctx context.Context, request string, m *vmSpec) (task string, err error)
	deleteVM(ctx context.Context, id string) error
	powerOn(ctx context.Context, id string) error

	// wait waits for a task's end and returns what it made or changed, "" where
	// the task does not tell. It gives up when the task does not move for long; the
	// task itself goes on.
	wait(ctx context.Context, task string) (entity string, err error)
}

// api is the API of this Prism Central, found once.
func (t *prism) api(ctx context.Context) (api, error) {
	if t.old {
		return &v3{t.c}, nil
	}
	t.mu.Lock()
	v := t.vmm
	t.mu.Unlock()
	if v == "" {
		var err error
		if v, err = t.c.version(ctx, false); err != nil {
			return nil, err
		}
		t.mu.Lock()
		t.vmm = v
		t.mu.Unlock()
	}
	return &v4{c: t.c, version: v}, nil
}

// errNoV4 is what a Prism Central without v4 is refused with.
var errNoV4 = &target.Problem{
	Msg:  "Prism Central has no v4 API for machines and images",
	Hint: "v4 came with pc.2024.3: set api=v3, or upgrade; check also that url is Prism Central's and not a cluster's (Prism Element)", Kind: target.ErrPermanent,
}

// version finds the newest vmm API that both ends know; once asks without trying
// again.
func (c *client) version(ctx context.Context, once bool) (string, error) {
	for _, v := range []string{"v4.1", "v4.0"} {
		_, err := c.do(ctx, call{method: http.MethodGet, path: "/api/vmm/" + v + "/content/images", query: url.Values{"$limit": {"1"}}, once: once})
		if err == nil {
			return v, nil
		}
		if !isGone(err) {
			return "", err
		}
	}
	return "", errNoV4
}

// v4 is Prism Central's v4 API.
type v4 struct {
	c       *client
	version string // of the vmm namespace
}

func (v *v4) images() string { return "/api/vmm/" + v.version + "/content/images" }

func (v *v4) vms() string { return "/api/vmm/" + v.version + "/ahv/config/vms" }

func (v *v4) givesProject() bool { return v.version != "v4.0" }

func (v *v4) clusters(ctx context.Context) ([]named, error) {
	rows, err := list[clusterRow](ctx, v.c, apiClusters, "")
	var out []named
	for _, r := range rows {
		if !slices.Contains(r.Config.Functions, "PRISM_CENTRAL") {
			out = append(out, named{r.ID, r.Name, "AOS " + r.Config.Build.Version})
		}
	}
	return out, err
}

func (v *v4) containers(ctx context.Context) ([]containerRow, error) {
	rows, err := list[containerRow](ctx, v.c, apiContainers, "")
	for i := range rows {
		rows[i].ID = cmp.Or(rows[i].ID, rows[i].OldID)
	}
	return rows, err
}

func (v *v4) subnets(ctx context.Context) ([]subnetRow, error) {
	return list[subnetRow](ctx, v.c, apiSubnets, "")
}

func (v *v4) categories(ctx context.Context) ([]categoryRow, error) {
	return list[categoryRow](ctx, v.c, apiCategories, "")
}

func (v *v4) category(ctx context.Context, key, value string) (string, error) {
	rows, err := list[categoryRow](ctx, v.c, apiCategories, "key eq "+quoted(key)+" and value eq "+quoted(value))
	for _, r := range rows {
		if r.Key == key && r.Value == value {
			return r.ID, nil
		}
	}
	return "", err
}

// imageInfo is what is read of an image.
type imageInfo struct {
	ID   string `json:"extId"`
	Name string `json:"name"`
	Size int64  `json:"sizeBytes"`
}

// imageNamed finds an image by its name, nil when there is none.
func (v *v4) imageNamed(ctx context.Context, name string) (*imageInfo, error) {
	all, err := list[imageInfo](ctx, v.c, v.images(), "name eq "+quoted(name))
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
func (v *v4) imageThere(ctx context.Context, id, name string) (bool, error) {
	var i imageInfo
	_, err := v.c.get(ctx, v.images()+"/"+id, &i)
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

func (v *v4) createImage(ctx context.Context, request, name, about, sha256, cluster string) (task string, err error) {
	return v.c.start(ctx, call{method: http.MethodPost, path: v.images(), request: request, body: newImage{
		Type: "vmm.v4.content.Image", Name: name, About: about, Kind: "DISK_IMAGE",
		Checksum: typedDigest{"vmm.v4.content.ImageSha256Checksum", sha256},
		Source:   objectSource{"vmm.v4.content.ObjectsLiteSource", name},
		Clusters: []string{cluster},
	}})
}

// deleteImage removes an image; nil when it is not there.
func (v *v4) deleteImage(ctx context.Context, id string) error {
	task, err := v.c.start(ctx, call{method: http.MethodDelete, path: v.images() + "/" + id, request: newRequest()})
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err = v.wait(ctx, task); err != nil {
		// Somebody else may have deleted it meanwhile.
		if _, gerr := v.c.get(ctx, v.images()+"/"+id, &imageInfo{}); isGone(gerr) {
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
	Disks []struct {
		ID string `json:"extId"`
	} `json:"disks"`
	pending bool // v3: not made yet
}

func (v *v4) machinesNamed(ctx context.Context, name string) ([]vmInfo, error) {
	return list[vmInfo](ctx, v.c, v.vms(), "name eq "+quoted(name))
}

func (v *v4) machines(ctx context.Context) ([]vmInfo, error) {
	return list[vmInfo](ctx, v.c, v.vms(), "")
}

func (v *v4) machine(ctx context.Context, id string) (*vmInfo, error) {
	m, _, err := v.look(ctx, id)
	return m, err
}

// look reads a machine and its ETag.
func (v *v4) look(ctx context.Context, id string) (m *vmInfo, etag string, err error) {
	m = &vmInfo{}
	etag, err = v.c.get(ctx, v.vms()+"/"+id, m)
	if isGone(err) {
		return nil, "", nil
	}
	return m, etag, err
}

func (v *v4) createVM(ctx context.Context, request string, m *vmSpec) (task string, err error) {
	return v.c.start(ctx, call{method: http.MethodPost, path: v.vms(), body: m, request: request})
}

// staleTries is how often a change is made anew because the machine was changed
// between our look at it and the change.
const staleTries = 6

// changeVM makes a change of a machine as it is now. When somebody else changes
// it in between (412), it is looked at again: skip tells what needs no change.
func (v *v4) changeVM(ctx context.Context, method, id, action string, skip func(m *vmInfo) (bool, error)) error {
	for n := 1; ; n++ {
		m, etag, err := v.look(ctx, id)
		if err != nil {
			return err
		}
		if done, err := skip(m); done || err != nil {
			return err
		}
		// A new look has another ETag, so that it is another request.
		task, err := v.c.start(ctx, call{method: method, path: v.vms() + "/" + id + action, match: etag, request: newRequest()})
		switch {
		case statusOf(err) == http.StatusPreconditionFailed && n < staleTries:
			if err := sleep(ctx, v.c.cfg.pause); err != nil {
				return err
			}
			continue
		case isGone(err):
			_, err := skip(nil)
			return err
		case err != nil:
			return err
		}
		_, err = v.wait(ctx, task)
		return err
	}
}

// deleteVM removes a machine; nil when it is not there.
func (v *v4) deleteVM(ctx context.Context, id string) error {
	err := v.changeVM(ctx, http.MethodDelete, id, "", func(m *vmInfo) (bool, error) { return m == nil, nil })
	if err != nil && ctx.Err() == nil {
		if m, gerr := v.machine(ctx, id); gerr == nil && m == nil {
			return nil
		}
	}
	return err
}

// powerOn starts a machine.
func (v *v4) powerOn(ctx context.Context, id string) error {
	return v.changeVM(ctx, http.MethodPost, id, "/$actions/power-on", func(m *vmInfo) (bool, error) {
		if m == nil {
			return false, target.Permanent("the machine is not there", "")
		}
		return m.Power == "ON", nil
	})
}

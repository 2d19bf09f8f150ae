package azure

import (
	"context"
	"net/http"
	"sync"
	"time"

	"ascend/internal/target"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
)

// access is granted access to a disk's bytes: a page blob opened by a shared
// access signature, which is kept in memory only and asked for anew before it
// ends. It is safe for concurrent use.
type access struct {
	c    *client
	id   string
	kind string // Read, Write

	mu    sync.Mutex
	blob  *pageblob.Client
	url   string
	fresh time.Time // until when it is good without asking anew
}

// open is the blob, by a signature that is good for some time yet.
func (a *access) open(ctx context.Context) (*pageblob.Client, error) {
	a.mu.Lock()
	blob, old, fresh := a.blob, a.url, a.fresh
	a.mu.Unlock()
	if blob != nil && time.Now().Before(fresh) {
		return blob, nil
	}
	if err := a.renew(ctx, old); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.blob, nil
}

// renew asks for a signature in the place of old, once for all that ask at the
// same time. While an upload lasts another may be asked for at any time, also
// after the first has ended ("Upload a VHD to Azure": "you can get a new SAS to
// continue"); revoking the old one would end the upload.
func (a *access) renew(ctx context.Context, old string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.url != old {
		return nil
	}
	asked := time.Now()
	var answer grantAnswer
	err := a.c.do(ctx, http.MethodPost, a.id+"/beginGetAccess", apiDisks,
		grantRequest{Access: a.kind, Duration: int64(a.c.cfg.access / time.Second)}, &answer)
	if err != nil {
		return err
	}
	if answer.SAS == "" {
		return target.Permanent("the platform grants access to the disk and does not say where", "")
	}
	blob, err := pageblob.NewClientWithNoCredential(answer.SAS, &pageblob.ClientOptions{ClientOptions: azcore.ClientOptions{
		Transport: a.c.cfg.http,
		Retry:     policy.RetryOptions{MaxRetries: -1}, // repetitions are the caller's, who adapts
	}})
	if err != nil {
		return target.Permanent("the address of the disk's bytes is not valid", "")
	}
	a.blob, a.url, a.fresh = blob, answer.SAS, asked.Add(a.c.cfg.access*4/5)
	return nil
}

// renewed is renew in the place of the signature that blob was opened with.
func (a *access) renewed(ctx context.Context, blob *pageblob.Client) error {
	return a.renew(ctx, blob.URL())
}

// revoke voids every signature of a disk.
func (c *client) revoke(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, id+"/endGetAccess", apiDisks, nil, nil)
}

package awsapi

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// BlockSize is the size of a snapshot's blocks (EBS direct APIs, StartSnapshot:
// "currently, the block size is 512 KiB").
const BlockSize = 512 << 10

// Tag is a name and value on a resource.
type Tag struct {
	Key   string `json:"Key"   xml:"key"`
	Value string `json:"Value" xml:"value"`
}

// NewSnapshot is what StartSnapshot is asked.
type NewSnapshot struct {
	VolumeSize  int64  `json:"VolumeSize"` // GiB
	Description string `json:"Description,omitempty"`
	ClientToken string `json:"ClientToken"`
	Tags        []Tag  `json:"Tags,omitempty"`
	Timeout     int    `json:"Timeout"` // minutes without a PutSnapshotBlock
	Encrypted   bool   `json:"Encrypted,omitempty"`
	KMSKey      string `json:"KmsKeyArn,omitempty"`
}

// StartSnapshot makes an empty snapshot to be filled. It is idempotent by its
// ClientToken.
func (c *Client) StartSnapshot(ctx context.Context, n NewSnapshot) (id string, err error) {
	body, err := json.Marshal(n)
	if err != nil {
		return "", fmt.Errorf("cannot describe a snapshot: %w", err)
	}
	r, err := c.do(ctx, call{
		service: "ebs", method: http.MethodPost, path: "/snapshots", body: body,
		header: http.Header{"Content-Type": {"application/json"}},
	})
	if err != nil {
		return "", err
	}
	var out struct{ SnapshotId string } //nolint:revive // the service's spelling
	if err := json.Unmarshal(r.body, &out); err != nil || out.SnapshotId == "" {
		return "", fmt.Errorf("cannot read the reply of StartSnapshot: %q", r.body)
	}
	return out.SnapshotId, nil
}

// PutBlock writes one block of BlockSize bytes, whose SHA-256 the service
// checks. throttled is called for every answer that asks to slow down; may be
// nil. The payload itself is not signed: the digest is its integrity.
func (c *Client) PutBlock(ctx context.Context, snapshot string, index int64, p []byte, sum [sha256.Size]byte, throttled func()) error {
	_, err := c.do(ctx, call{
		service: "ebs", method: http.MethodPut, body: p, unsigned: true, throttled: throttled,
		path: "/snapshots/" + url.PathEscape(snapshot) + "/blocks/" + strconv.FormatInt(index, 10),
		header: http.Header{
			"Content-Type":             {"application/octet-stream"},
			"X-Amz-Data-Length":        {strconv.Itoa(len(p))},
			"X-Amz-Checksum":           {base64.StdEncoding.EncodeToString(sum[:])},
			"X-Amz-Checksum-Algorithm": {"SHA256"},
		},
	})
	return err
}

// CompleteSnapshot seals a snapshot of so many written blocks. sum is the
// LINEAR aggregate: the SHA-256 of the blocks' digests in ascending order.
func (c *Client) CompleteSnapshot(ctx context.Context, snapshot string, blocks int64, sum []byte) error {
	h := http.Header{"X-Amz-Changedblockscount": {strconv.FormatInt(blocks, 10)}}
	if blocks > 0 {
		h["X-Amz-Checksum"] = []string{base64.StdEncoding.EncodeToString(sum)}
		h["X-Amz-Checksum-Algorithm"] = []string{"SHA256"}
		h["X-Amz-Checksum-Aggregation-Method"] = []string{"LINEAR"}
	}
	_, err := c.do(ctx, call{
		service: "ebs", method: http.MethodPost, path: "/snapshots/completion/" + url.PathEscape(snapshot), header: h,
	})
	return err
}

// Block is one block of a snapshot and the token that reads it.
type Block struct {
	Index int64
	Token string
}

// ListBlocks lists a completed snapshot's blocks in ascending order, or with
// since, an earlier snapshot of the same volume, those that differ from it. A
// block that is in since and no more in snapshot has an empty Token. The whole
// list is held; EachBlocks does without.
func (c *Client) ListBlocks(ctx context.Context, snapshot, since string) (blocks []Block, volumeGiB int64, err error) {
	volumeGiB, err = c.EachBlocks(ctx, snapshot, since, 0, maxPage, func(page []Block) bool {
		blocks = append(blocks, page...)
		return true
	})
	return blocks, volumeGiB, err
}

// maxPage is the most blocks that one answer lists, minPage the least that may be
// asked for (ListSnapshotBlocks, MaxResults).
const (
	minPage = 100
	maxPage = 10_000
)

// EachBlocks is ListBlocks from a block on, in pages of at most so many, until
// more is false; 0 for as many as a page may list.
func (c *Client) EachBlocks(ctx context.Context, snapshot, since string, from int64, most int, more func([]Block) bool) (volumeGiB int64, err error) {
	if most <= 0 {
		most = maxPage
	}
	q := url.Values{"maxResults": {strconv.Itoa(min(max(most, minPage), maxPage))}}
	if from > 0 {
		q.Set("startingBlockIndex", strconv.FormatInt(from, 10))
	}
	path := "/snapshots/" + url.PathEscape(snapshot) + "/blocks"
	if since != "" {
		path = "/snapshots/" + url.PathEscape(snapshot) + "/changedblocks"
		q.Set("firstSnapshotId", since)
	}
	for last := int64(-1); ; {
		r, err := c.do(ctx, call{service: "ebs", method: http.MethodGet, path: path, query: q})
		if err != nil {
			return 0, err
		}
		var out struct {
			Blocks []struct {
				BlockIndex int64
				BlockToken string
			}
			ChangedBlocks []struct {
				BlockIndex       int64
				SecondBlockToken string
			}
			BlockSize, VolumeSize int64
			NextToken             string
		}
		if err := json.Unmarshal(r.body, &out); err != nil {
			return 0, fmt.Errorf("cannot read the list of blocks of %s: %w", snapshot, err)
		}
		if out.BlockSize != BlockSize {
			return 0, fmt.Errorf("cannot read snapshot %s: its blocks are of %d bytes, not %d", snapshot, out.BlockSize, BlockSize)
		}
		var page []Block
		for _, b := range out.Blocks {
			page = append(page, Block{b.BlockIndex, b.BlockToken})
		}
		for _, b := range out.ChangedBlocks {
			page = append(page, Block{b.BlockIndex, b.SecondBlockToken})
		}
		for _, b := range page {
			if b.Index <= last || b.Index >= out.VolumeSize<<30/BlockSize || out.VolumeSize > maxVolume {
				return 0, fmt.Errorf("cannot read snapshot %s: its blocks are not listed in order, or not within its volume", snapshot)
			}
			last = b.Index
		}
		if volumeGiB = out.VolumeSize; !more(page) || out.NextToken == "" {
			return volumeGiB, nil
		}
		q.Set("pageToken", out.NextToken)
		q.Del("startingBlockIndex") // the token knows it
	}
}

// maxVolume is the largest volume in GiB (Amazon EBS volume types, 2026).
const maxVolume = 64 << 10

// GetBlock reads one block and checks the digest that came with it.
func (c *Client) GetBlock(ctx context.Context, snapshot string, b Block) ([]byte, error) {
	r, err := c.do(ctx, call{
		service: "ebs", method: http.MethodGet, query: url.Values{"blockToken": {b.Token}},
		path: "/snapshots/" + url.PathEscape(snapshot) + "/blocks/" + strconv.FormatInt(b.Index, 10),
	})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(r.body)
	if len(r.body) != BlockSize || r.header.Get("X-Amz-Checksum") != base64.StdEncoding.EncodeToString(sum[:]) {
		return nil, fmt.Errorf("cannot read block %d of snapshot %s: the bytes do not have the digest sent with them", b.Index, snapshot)
	}
	return r.body, nil
}

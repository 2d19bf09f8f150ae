package awssim

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// blockSize is the EBS direct APIs' only block size in bytes.
const blockSize = 512 << 10

type tag struct{ Key, Value string }

// snapshot is one EBS snapshot; blocks that were never written are zeros.
type snapshot struct {
	id, desc      string
	gib           int64
	state         string // pending, completed
	sealed        bool
	hidden, polls int
	encrypted     bool
	kms           string
	tags          []tag
	blocks        map[int64][]byte
	wrote         map[int64]bool // of blocks, by PutSnapshotBlock
	volume        string         // "": of none
	lineage       string         // of the first snapshot that all of the volume come from
	started       time.Time
}

// now is a time that no snapshot has yet, in whole milliseconds.
func (s *Sim) now() time.Time {
	t := time.Now().UTC().Truncate(time.Millisecond)
	if !t.After(s.last) {
		t = s.last.Add(time.Millisecond)
	}
	s.last = t
	return t
}

// tokenUse is what a ClientToken was used for.
type tokenUse struct{ what, id string }

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// invalid is the EBS direct APIs' ValidationException.
func invalid(format string, args ...any) *apiError {
	return bad("ValidationException", format, args...)
}

func (s *Sim) serveEBS(w http.ResponseWriter, r *http.Request, q Request, body []byte, aerr *apiError) {
	var out any
	if aerr == nil {
		s.mu.Lock()
		out, aerr = s.ebs(w, r, q.Action, body)
		s.mu.Unlock()
	}
	if aerr != nil {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Amzn-Errortype", aerr.code)
		if aerr.retry != "" {
			w.Header().Set("Retry-After", aerr.retry)
		}
		w.WriteHeader(aerr.status)
		// A reason stands in brackets at the message's end.
		msg, reason, _ := strings.Cut(strings.TrimSuffix(aerr.msg, "]"), " [")
		reply := map[string]string{"Message": msg}
		if reason != "" {
			reply["Reason"] = reason
		}
		_ = json.NewEncoder(w).Encode(reply) // the client may be gone
		return
	}
	if p, ok := out.([]byte); ok {
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(p)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(cmp.Or(map[string]int{"StartSnapshot": 201, "PutSnapshotBlock": 201, "CompleteSnapshot": 202}[q.Action], 200))
	_ = json.NewEncoder(w).Encode(out)
}

func (s *Sim) ebs(w http.ResponseWriter, r *http.Request, action string, body []byte) (any, *apiError) {
	p := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch action {
	case "StartSnapshot":
		return s.startSnapshot(body)
	case "PutSnapshotBlock":
		return s.putBlock(w, r, p[1], p[3], body)
	case "CompleteSnapshot":
		return s.complete(r, p[2])
	case "GetSnapshotBlock":
		return s.getBlock(w, r, p[1], p[3])
	case "ListSnapshotBlocks":
		return s.listBlocks(r, p[1], "")
	case "ListChangedBlocks":
		return s.listBlocks(r, p[1], r.URL.Query().Get("firstSnapshotId"))
	}
	return nil, &apiError{status: 404, code: "UnknownOperationException", msg: r.Method + " " + r.URL.Path}
}

func (s *Sim) startSnapshot(body []byte) (any, *apiError) {
	var in struct {
		VolumeSize                                            int64
		Description, ClientToken, ParentSnapshotId, KmsKeyArn string //nolint:revive // the service's spelling
		Tags                                                  []tag
		Timeout                                               int
		Encrypted                                             *bool
	}
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, invalid("cannot read the request: %v", err)
	}
	switch {
	case in.VolumeSize < 1 || in.VolumeSize > 65536:
		return nil, invalid("VolumeSize %d is not between 1 and 65536 GiB", in.VolumeSize)
	case in.Timeout != 0 && (in.Timeout < 10 || in.Timeout > 4320):
		return nil, invalid("Timeout %d is not between 10 and 4320 minutes", in.Timeout)
	case len(in.Description) > 255 || len(in.ClientToken) > 255:
		return nil, invalid("a description or token of more than 255 characters")
	case in.KmsKeyArn != "" && (in.Encrypted == nil || !*in.Encrypted):
		return nil, invalid("KmsKeyArn needs Encrypted")
	}
	parent := &snapshot{}
	if in.ParentSnapshotId != "" {
		var aerr *apiError
		if parent, aerr = s.done(in.ParentSnapshotId); aerr != nil {
			return nil, aerr
		}
		if in.Encrypted != nil || in.VolumeSize < parent.gib {
			return nil, invalid("the parent says whether the snapshot is encrypted, and how large it is at least [INVALID_DEPENDENCY_REQUEST]")
		}
	}
	if err := checkTags(in.Tags); err != nil {
		return nil, err
	}
	if id, err := s.once("snapshot", in.ClientToken, string(body)); err != nil || id != "" {
		if err != nil {
			return nil, &apiError{status: 409, code: "ConflictException", msg: err.msg}
		}
		if s.snaps[id] == nil {
			return nil, notFound(id)
		}
		return s.startReply(s.snaps[id]), nil
	}
	sn := &snapshot{
		id: s.newID("snap"), desc: in.Description, gib: in.VolumeSize, state: "pending", hidden: s.o.Invisible, polls: s.o.Polls,
		tags: in.Tags, kms: in.KmsKeyArn, encrypted: in.Encrypted != nil && *in.Encrypted, started: s.now(), blocks: map[int64][]byte{}, wrote: map[int64]bool{},
	}
	sn.lineage = cmp.Or(parent.lineage, sn.id)
	if in.ParentSnapshotId != "" {
		sn.blocks, sn.encrypted, sn.kms = maps.Clone(parent.blocks), parent.encrypted, parent.kms
	}
	s.snaps[sn.id] = sn
	s.used("snapshot", in.ClientToken, string(body), sn.id)
	return s.startReply(sn), nil
}

func (s *Sim) startReply(sn *snapshot) any {
	return map[string]any{
		"SnapshotId": sn.id, "OwnerId": Account, "Status": sn.state, "VolumeSize": sn.gib, "BlockSize": blockSize,
		"StartTime": 1700000000, "Tags": sn.tags,
	}
}

// once is what a ClientToken has made already.
func (s *Sim) once(kind, token, what string) (id string, _ *apiError) {
	u, ok := s.tokens[kind+"\x00"+token]
	if token == "" || !ok {
		return "", nil
	}
	if u.what != what {
		return "", bad("IdempotentParameterMismatch", "the token was used with other parameters")
	}
	return u.id, nil
}

func (s *Sim) used(kind, token, what, id string) {
	if token != "" {
		s.tokens[kind+"\x00"+token] = tokenUse{what, id}
	}
}

func notFound(id string) *apiError {
	return &apiError{status: 404, code: "ResourceNotFoundException", msg: "The snapshot " + id + " does not exist."}
}

// filling finds a snapshot that is to be written.
func (s *Sim) filling(id string) (*snapshot, *apiError) {
	sn := s.snaps[id]
	switch {
	case sn == nil:
		return nil, notFound(id)
	case sn.hidden > 0:
		sn.hidden--
		return nil, notFound(id)
	}
	return sn, nil
}

func (s *Sim) putBlock(w http.ResponseWriter, r *http.Request, id, index string, body []byte) (any, *apiError) {
	sn, aerr := s.filling(id)
	if aerr != nil {
		return nil, aerr
	}
	i, err := strconv.ParseInt(index, 10, 64)
	sum := sha256.Sum256(body)
	b64 := base64.StdEncoding.EncodeToString(sum[:])
	switch {
	case sn.state == "error":
		return nil, invalid("the snapshot waited too long for its next block [WRITE_REQUEST_TIMEOUT]")
	case sn.sealed:
		return nil, invalid("the snapshot is not pending [INVALID_SNAPSHOT_ID]")
	case err != nil || i < 0 || i >= sn.gib<<30/blockSize:
		return nil, invalid("BlockIndex %s is outside a volume of %d GiB", index, sn.gib)
	case r.Header.Get("X-Amz-Data-Length") != itoa(blockSize) || len(body) != blockSize:
		return nil, invalid("a block of %d bytes (DataLength %s), not %d", len(body), r.Header.Get("X-Amz-Data-Length"), blockSize)
	case r.Header.Get("X-Amz-Checksum-Algorithm") != "SHA256":
		return nil, invalid("ChecksumAlgorithm must be SHA256")
	case r.Header.Get("X-Amz-Checksum") != b64:
		return nil, invalid("the block's checksum does not match [INVALID_BLOCK]")
	}
	sn.blocks[i], sn.wrote[i] = body, true
	w.Header().Set("X-Amz-Checksum", b64)
	w.Header().Set("X-Amz-Checksum-Algorithm", "SHA256")
	return map[string]string{}, nil
}

func (s *Sim) complete(r *http.Request, id string) (any, *apiError) {
	sn, aerr := s.filling(id)
	if aerr != nil {
		return nil, aerr
	}
	count, err := strconv.ParseInt(r.Header.Get("X-Amz-Changedblockscount"), 10, 64)
	if err != nil {
		return nil, invalid("ChangedBlocksCount is missing")
	}
	if sn.state == "error" {
		return nil, invalid("the snapshot waited too long for its next block [WRITE_REQUEST_TIMEOUT]")
	}
	if sn.sealed {
		return map[string]string{"Status": sn.state}, nil
	}
	if count != int64(len(sn.wrote)) {
		return nil, invalid("ChangedBlocksCount is %d and %d blocks were written", count, len(sn.wrote))
	}
	if sum := r.Header.Get("X-Amz-Checksum"); sum != "" {
		if r.Header.Get("X-Amz-Checksum-Algorithm") != "SHA256" || r.Header.Get("X-Amz-Checksum-Aggregation-Method") != "LINEAR" {
			return nil, invalid("a checksum needs ChecksumAlgorithm SHA256 and ChecksumAggregationMethod LINEAR")
		}
		h := sha256.New()
		for _, i := range slices.Sorted(maps.Keys(sn.wrote)) {
			b := sha256.Sum256(sn.blocks[i])
			h.Write(b[:])
		}
		if sum != base64.StdEncoding.EncodeToString(h.Sum(nil)) {
			return nil, invalid("the checksum of the snapshot does not match")
		}
	}
	sn.sealed = true
	return map[string]string{"Status": sn.state}, nil
}

// done finds a completed snapshot.
func (s *Sim) done(id string) (*snapshot, *apiError) {
	sn := s.snaps[id]
	switch {
	case sn == nil:
		return nil, notFound(id)
	case sn.state != "completed":
		return nil, invalid("the snapshot %s is not completed", id)
	}
	return sn, nil
}

func blockToken(id string, i int64) string {
	sum := sha256.Sum256([]byte(id + itoa(i)))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (s *Sim) getBlock(w http.ResponseWriter, r *http.Request, id, index string) (any, *apiError) {
	sn, aerr := s.done(id)
	if aerr != nil {
		return nil, aerr
	}
	i, err := strconv.ParseInt(index, 10, 64)
	b, ok := sn.blocks[i]
	switch {
	case err != nil || !ok:
		return nil, notFound(id + " block " + index)
	case r.URL.Query().Get("blockToken") != blockToken(id, i):
		return nil, invalid("the block token is not of this block [INVALID_BLOCK_TOKEN]")
	}
	sum := sha256.Sum256(b)
	w.Header().Set("X-Amz-Data-Length", itoa(blockSize))
	w.Header().Set("X-Amz-Checksum", base64.StdEncoding.EncodeToString(sum[:]))
	w.Header().Set("X-Amz-Checksum-Algorithm", "SHA256")
	return b, nil
}

// listBlocks answers ListSnapshotBlocks, or with first ListChangedBlocks.
func (s *Sim) listBlocks(r *http.Request, id, first string) (any, *apiError) {
	sn, aerr := s.done(id)
	if aerr != nil {
		return nil, aerr
	}
	old := &snapshot{}
	if first != "" {
		if old, aerr = s.done(first); aerr != nil {
			return nil, aerr
		}
		if old.lineage != sn.lineage {
			return nil, invalid("the snapshots %s and %s are not of one volume [UNRELATED_SNAPSHOTS]", first, id)
		}
	}
	q := r.URL.Query()
	limit, err := strconv.Atoi(cmp.Or(q.Get("maxResults"), "10000"))
	if err != nil || limit < 100 || limit > 10000 {
		return nil, invalid("MaxResults is not between 100 and 10000")
	}
	start, err := strconv.ParseInt(cmp.Or(q.Get("pageToken"), q.Get("startingBlockIndex"), "0"), 10, 64)
	if err != nil {
		return nil, invalid("PageToken is not of this list [INVALID_PAGE_TOKEN]")
	}
	all := maps.Clone(sn.blocks)
	maps.Copy(all, old.blocks)
	blocks := []map[string]any{}
	out := map[string]any{"BlockSize": blockSize, "VolumeSize": sn.gib, "ExpiryTime": 2000000000}
	for _, i := range slices.Sorted(maps.Keys(all)) {
		b := map[string]any{"BlockIndex": i}
		a, inOld := old.blocks[i]
		c, inNew := sn.blocks[i]
		if i < start || first != "" && inOld && inNew && string(a) == string(c) {
			continue
		}
		if len(blocks) == limit {
			out["NextToken"] = itoa(i)
			break
		}
		if first == "" {
			b["BlockToken"] = blockToken(id, i)
		} else {
			if inOld {
				b["FirstBlockToken"] = blockToken(first, i)
			}
			if inNew {
				b["SecondBlockToken"] = blockToken(id, i)
			}
		}
		blocks = append(blocks, b)
	}
	if first == "" {
		out["Blocks"] = blocks
	} else {
		out["ChangedBlocks"] = blocks
	}
	return out, nil
}

// checkTags enforces "Tag your Amazon EC2 resources": at most 50, keys of 1 to
// 128 characters that do not begin with aws:, values of at most 256.
func checkTags(tags []tag) *apiError {
	if len(tags) > 50 {
		return bad("TagLimitExceeded", "more than 50 tags")
	}
	for _, t := range tags {
		if k := len([]rune(t.Key)); k < 1 || k > 128 || strings.HasPrefix(t.Key, "aws:") || len([]rune(t.Value)) > 256 {
			return bad("InvalidParameterValue", "Tag %q is not valid", t.Key)
		}
		for _, r := range t.Value {
			if r < ' ' {
				return bad("InvalidParameterValue", "Tag %q has a control character", t.Key)
			}
		}
	}
	return nil
}

package luks

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

// meta is what is used of the JSON area.
type meta struct {
	Keyslots map[string]struct {
		Type    string `json:"type"`
		KeySize int    `json:"key_size"`
		AF      struct {
			Type    string `json:"type"`
			Stripes int    `json:"stripes"`
			Hash    string `json:"hash"`
		} `json:"af"`
		Area struct {
			Type       string `json:"type"`
			Encryption string `json:"encryption"`
			KeySize    int    `json:"key_size"`
			Offset     string `json:"offset"`
		} `json:"area"`
		KDF struct {
			Type       string `json:"type"`
			Salt       []byte `json:"salt"`
			Hash       string `json:"hash"`
			Iterations int    `json:"iterations"`
			Time       int    `json:"time"`
			Memory     int    `json:"memory"`
			CPUs       int    `json:"cpus"`
		} `json:"kdf"`
	} `json:"keyslots"`
	Segments map[string]struct {
		Type       string   `json:"type"`
		Offset     string   `json:"offset"`
		Size       string   `json:"size"`
		IVTweak    string   `json:"iv_tweak"`
		Encryption string   `json:"encryption"`
		SectorSize int64    `json:"sector_size"`
		Integrity  any      `json:"integrity"`
		Flags      []string `json:"flags"`
	} `json:"segments"`
	Digests map[string]struct {
		Type       string   `json:"type"`
		Keyslots   []string `json:"keyslots"`
		Segments   []string `json:"segments"`
		Salt       []byte   `json:"salt"`
		Digest     []byte   `json:"digest"`
		Hash       string   `json:"hash"`
		Iterations int      `json:"iterations"`
	} `json:"digests"`
	Config struct {
		Requirements any `json:"requirements"`
	} `json:"config"`
}

const maxMeta = 4 << 20

func header2(r io.ReaderAt, b []byte, size int64) (*head, error) {
	n := int64(binary.BigEndian.Uint64(b[8:]))
	if n <= 4096 || n > maxMeta || n > size {
		return nil, corrupt("header of %d bytes", n)
	}
	area := make([]byte, n-4096)
	if k, err := r.ReadAt(area, 4096); k < len(area) {
		return nil, fmt.Errorf("LUKS: cannot read the header: %w", err)
	}
	area, _, _ = bytes.Cut(area, []byte{0})
	var m meta
	if err := json.Unmarshal(area, &m); err != nil {
		return nil, corrupt("metadata: %v", err)
	}
	if m.Config.Requirements != nil {
		return nil, unsupported("it is being re-encrypted, or needs %v", m.Config.Requirements)
	}
	if len(m.Segments) != 1 {
		return nil, unsupported("%d segments", len(m.Segments))
	}
	h := &head{}
	segment := ""
	for id, s := range m.Segments {
		segment = id
		offset, err := strconv.ParseInt(s.Offset, 10, 64)
		if err != nil || offset < 0 || offset > size {
			return nil, corrupt("segment at %q", s.Offset)
		}
		h.cipher, h.offset, h.size, h.unit = s.Encryption, offset, size-offset, s.SectorSize
		if s.Size != "dynamic" {
			k, err := strconv.ParseInt(s.Size, 10, 64)
			if err != nil || k < 0 || k > h.size {
				return nil, corrupt("segment of %q bytes", s.Size)
			}
			h.size = k
		}
		switch {
		case s.Type != "crypt" || s.Integrity != nil || s.IVTweak != "" && s.IVTweak != "0":
			return nil, unsupported("segment %s", s.Type)
		case s.SectorSize != 512 && s.SectorSize != 1024 && s.SectorSize != 2048 && s.SectorSize != 4096:
			return nil, corrupt("sectors of %d bytes", s.SectorSize)
		}
	}
	h.size -= h.size % h.unit
	for _, id := range slices.Sorted(maps.Keys(m.Keyslots)) {
		s := m.Keyslots[id]
		offset, err := strconv.ParseInt(s.Area.Offset, 10, 64)
		if s.Type != "luks2" || s.AF.Type != "luks1" || s.Area.Type != "raw" || err != nil || s.Area.KeySize < 16 || s.Area.KeySize > maxKey {
			continue // one of another kind: the others may do
		}
		x := slot{
			id: id, kdf: s.KDF.Type, hash: s.KDF.Hash, salt: s.KDF.Salt, iterations: s.KDF.Iterations, memory: s.KDF.Memory, threads: s.KDF.CPUs,
			cipher: s.Area.Encryption, wrapKey: s.Area.KeySize, keyBytes: s.KeySize, offset: offset, stripes: s.AF.Stripes, afHash: s.AF.Hash,
		}
		if s.KDF.Type != "pbkdf2" {
			x.iterations = s.KDF.Time
		}
		h.slots = append(h.slots, x)
		if len(h.slots) == 32 {
			break
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.Digests)) {
		d := m.Digests[id]
		if d.Type == "pbkdf2" && slices.Contains(d.Segments, segment) {
			h.digests = append(h.digests, digest{slots: append([]string{}, d.Keyslots...), hash: d.Hash, salt: d.Salt, sum: d.Digest, iterations: d.Iterations})
		}
	}
	return h, nil
}

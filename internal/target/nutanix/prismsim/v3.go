package prismsim

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// v3Error is an error as v3 answers it.
func v3Error(status int, reason, format string, args ...any) answer {
	return v4Body(status, obj{
		"api_version": "3.1", "code": status, "state": "ERROR", "kind": "api",
		"message_list": []obj{{"message": fmt.Sprintf(format, args...), "reason": reason}},
	}, nil)
}

// v3 answers a request to the v3 API.
func (s *Sim) v3(r *http.Request) answer {
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		return v3Error(http.StatusBadRequest, "BAD_REQUEST", "the body broke off")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/api/nutanix/v3/")
	if r.Method == http.MethodPost && path == "projects/list" {
		return s.v3List(body, "project", func() (rows []obj) {
			for _, p := range s.projects {
				rows = append(rows, obj{"status": obj{"name": p.Key, "state": "COMPLETE"}, "spec": obj{"name": p.Key}, "metadata": obj{"kind": "project", "uuid": p.ID}})
			}
			return rows
		})
	}
	return v3Error(http.StatusNotFound, "ENTITY_NOT_FOUND", "there is no %s", path)
}

// v3List answers a list by the limits that its body sets.
func (s *Sim) v3List(body []byte, kind string, all func() []obj) answer {
	var q struct {
		Kind   string `json:"kind"`
		Length int    `json:"length"`
		Offset int    `json:"offset"`
	}
	if err := json.Unmarshal(body, &q); err != nil || q.Kind != "" && q.Kind != kind || q.Length < 0 || q.Length > 500 || q.Offset < 0 {
		return v3Error(http.StatusUnprocessableEntity, "INVALID_REQUEST", "the list's metadata are not valid")
	}
	rows := all()
	total := len(rows)
	rows = rows[min(q.Offset, total):]
	if q.Length == 0 {
		q.Length = 20
	}
	rows = rows[:min(q.Length, len(rows))]
	return v4Body(http.StatusOK, obj{
		"api_version": "3.1", "entities": rows, "metadata": obj{"kind": kind, "offset": q.Offset, "length": len(rows), "total_matches": total},
	}, nil)
}

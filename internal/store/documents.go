package store

import (
	"encoding/json"
	"time"
)

// shelf is the table of one kind of documents, and what its columns repeat of a
// document: by column, the path of the value.
type shelf struct {
	table string
	texts map[string][]string
	flags map[string][]string
	ints  map[string][]string
	times map[string][]string
}

func at(path ...string) []string { return path }

// shelves are the kinds with a table of their own; the others lie in records.
var shelves = map[string]shelf{
	"user": {
		table: "users",
		texts: map[string][]string{"name": at("name"), "email": at("email"), "role": at("role"), "subject": at("subject")},
		flags: map[string][]string{"disabled": at("disabled")},
		times: map[string][]string{"last_seen_at": at("last_seen")},
	},
	"token": {
		table: "tokens",
		texts: map[string][]string{"name": at("name"), "user_id": at("user"), "role": at("role"), "hash": at("hash")},
		times: map[string][]string{"used_at": at("used")},
	},
	"session": {
		table: "sessions",
		texts: map[string][]string{"user_id": at("user"), "remote": at("address"), "agent": at("agent")},
		times: map[string][]string{"used_at": at("used")},
	},
	"target": {
		table: "targets",
		texts: map[string][]string{"platform": at("platform")},
		flags: map[string][]string{"healthy": at("healthy")},
		times: map[string][]string{"checked_at": at("checked")},
	},
	"mapping": {
		table: "mapping_sets",
		texts: map[string][]string{"note": at("note")},
	},
	"plan": {
		table: "plans",
		texts: map[string][]string{"backup_id": at("backup"), "target_name": at("target"), "created_by": at("by"), "job_id": at("job")},
	},
	"channel": {
		table: "channels",
		texts: map[string][]string{"kind": at("kind"), "address": at("host")},
		flags: map[string][]string{"disabled": at("disabled")},
	},
	"delivery": {
		table: "deliveries",
		texts: map[string][]string{"channel": at("channel"), "job_id": at("message", "job"), "status": at("state"), "error_message": at("error")},
		ints:  map[string][]string{"attempts": at("attempts")},
		times: map[string][]string{"next_at": at("next"), "sent_at": at("sent")},
	},
	"replay": {
		table: "idempotency_keys",
		flags: map[string][]string{"done": at("done")},
		ints:  map[string][]string{"status": at("status")},
	},
	"settings": {table: "settings"},
}

// shelfOf is the table of a kind. The kind is a column only of records.
func shelfOf(kind string) (sh shelf, own bool) {
	if sh, own = shelves[kind]; own {
		return sh, true
	}
	return shelf{table: "records"}, false
}

// columns repeats values of a document, for those who look into the database;
// what a document does not say, or says otherwise than it should, is empty.
func (sh shelf) columns(row map[string]any, data []byte) {
	var doc map[string]any
	_ = json.Unmarshal(data, &doc) // not an object: every column is empty
	for c, path := range sh.texts {
		s, _ := find(doc, path).(string)
		row[c] = cut(s, maxName)
	}
	for c, path := range sh.flags {
		row[c], _ = find(doc, path).(bool)
	}
	for c, path := range sh.ints {
		n, _ := find(doc, path).(float64)
		row[c] = int64(n)
	}
	for c, path := range sh.times {
		s, _ := find(doc, path).(string)
		row[c] = nil
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil && !t.IsZero() {
			row[c] = t.UTC().Truncate(time.Microsecond)
		}
	}
}

func find(doc map[string]any, path []string) any {
	for _, name := range path[:len(path)-1] {
		doc, _ = doc[name].(map[string]any)
	}
	return doc[path[len(path)-1]]
}

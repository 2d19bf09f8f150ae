package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"ascend/internal/server/auth"
	"ascend/internal/server/jobs"
)

// answers describes an answer that is no JSON of ours.
func answers(contentType, what string) func(*huma.Operation) {
	return func(o *huma.Operation) {
		o.Responses = map[string]*huma.Response{"200": {Description: what, Content: map[string]*huma.MediaType{contentType: {Schema: &huma.Schema{Type: huma.TypeString}}}}}
	}
}

// StreamIn says where a stream goes on.
type StreamIn struct {
	Last string `header:"Last-Event-ID" maxLength:"20" pattern:"^[0-9]*$" doc:"the id of the last event that was received: those after it are told"`
	From string `query:"after" maxLength:"20" pattern:"^[0-9]*$" doc:"as Last-Event-ID, for a first connection; absent: only what is new"`
}

func (s StreamIn) after(fallback int64) int64 {
	for _, t := range []string{s.Last, s.From} {
		if n, err := strconv.ParseInt(t, 10, 64); err == nil {
			return n
		}
	}
	return fallback
}

const streamDoc = "Server-sent events. `log` is a line of a job's log; its id is what Last-Event-ID takes. `job` is a job as it is now, whenever it has changed. "

func (a *API) streams() {
	add(a, op{method: "GET", path: "/jobs/{id}/stream", id: "stream-job", summary: "What happens in a restore, as it happens", tag: "jobs", role: auth.Viewer, errors: []int{404}, describe: func(o *huma.Operation) {
		o.Description = streamDoc + "It holds the steps too. `end` is the last event: the job has come to rest."
		answers("text/event-stream", "the events")(o)
	}},
		func(ctx context.Context, in *struct {
			ID
			StreamIn
		}) (*huma.StreamResponse, error) {
			d, err := a.job(ctx, in.ID.ID)
			if err != nil {
				return nil, err
			}
			return a.stream(func(ctx context.Context, s *sender) error { return a.follow(ctx, s, d.ID, in.after(0)) }), nil
		})
	add(a, op{method: "GET", path: "/events", id: "stream-jobs", summary: "What happens in all restores, as it happens", tag: "jobs", role: auth.Viewer, describe: func(o *huma.Operation) {
		o.Description = streamDoc
		answers("text/event-stream", "the events")(o)
	}},
		func(ctx context.Context, in *StreamIn) (*huma.StreamResponse, error) {
			last, err := a.Jobs.LastEvent(ctx)
			if err != nil {
				return nil, err
			}
			after := min(in.after(last), last) // an id of another database begins anew
			return a.stream(func(ctx context.Context, s *sender) error { return a.followAll(ctx, s, after) }), nil
		})
}

// heartbeat is how often a silent stream says that it is there.
const heartbeat = 15 * time.Second

// sender writes one stream.
type sender struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	sent map[string][32]byte // what was told last, by subject
	last time.Time
}

func (a *API) stream(f func(context.Context, *sender) error) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		r, w := humago.Unwrap(hctx)
		h := w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Accel-Buffering", "no")
		s := &sender{w: w, rc: http.NewResponseController(w), sent: map[string][32]byte{}, last: time.Now()}
		w.WriteHeader(http.StatusOK)
		if s.write(": ascend\nretry: 2000\n\n") != nil {
			return
		}
		if err := f(r.Context(), s); err != nil && r.Context().Err() == nil {
			a.Log.InfoContext(r.Context(), "event stream ended", "error", err) // the client connects again
		}
	}}
}

func (s *sender) write(text string) error {
	// A client that does not read must not hold a connection for ever.
	if err := s.rc.SetWriteDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	s.last = time.Now()
	return s.rc.Flush()
}

// event writes one event; id 0 has none.
func (s *sender) event(name string, id int64, v any) error {
	var b bytes.Buffer
	if id > 0 {
		fmt.Fprintf(&b, "id: %d\n", id)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", name, data)
	return s.write(b.String())
}

// changed writes an event about a subject when it is not what was told last.
func (s *sender) changed(subject, name string, v any) error {
	sum := sha256.Sum256(mustJSON(v))
	if s.sent[subject] == sum {
		return nil
	}
	s.sent[subject] = sum
	return s.event(name, 0, v)
}

func (s *sender) beat() error {
	if time.Since(s.last) < heartbeat {
		return nil
	}
	return s.write(": still here\n\n")
}

// logs writes the lines after a sequence number, and says which was the last.
func (s *sender) logs(ctx context.Context, after int64, read func(context.Context, int64, int) ([]jobs.Event, error)) (int64, error) {
	for {
		list, err := read(ctx, after, 500)
		if err != nil {
			return after, err
		}
		for _, e := range list {
			if err := s.event("log", e.Seq, e); err != nil {
				return after, err
			}
			after = e.Seq
		}
		if len(list) < 500 {
			return after, nil
		}
	}
}

func (a *API) follow(ctx context.Context, s *sender, id string, after int64) error {
	for {
		_, next := a.Feed.Jobs()
		d, err := a.job(ctx, id) // first: what it shows has happened in the log
		if err != nil {
			return err
		}
		if after, err = s.logs(ctx, after, func(ctx context.Context, after int64, n int) ([]jobs.Event, error) {
			return a.Jobs.Events(ctx, id, after, n)
		}); err != nil {
			return err
		}
		if err := s.changed(id, "job", d); err != nil {
			return err
		}
		if jobs.Resting(d.Status) {
			return s.event("end", 0, map[string]string{"id": id, "status": d.Status})
		}
		if err := wait(ctx, next, s); err != nil {
			return err
		}
	}
}

func (a *API) followAll(ctx context.Context, s *sender, after int64) error {
	for {
		active, next := a.Feed.Jobs()
		var err error
		if after, err = s.logs(ctx, after, a.Jobs.AllEvents); err != nil {
			return err
		}
		there := map[string]bool{}
		for _, j := range active {
			there[j.ID] = true
			if err := s.changed(j.ID, "job", j); err != nil {
				return err
			}
		}
		for id := range s.sent { // at rest, and told so
			if !there[id] {
				delete(s.sent, id)
			}
		}
		if err := wait(ctx, next, s); err != nil {
			return err
		}
	}
}

// wait returns at the feed's next look.
func wait(ctx context.Context, next <-chan struct{}, s *sender) error {
	beat := time.NewTicker(heartbeat / 3)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next:
			return s.beat()
		case <-beat.C:
			if err := s.beat(); err != nil {
				return err
			}
		}
	}
}

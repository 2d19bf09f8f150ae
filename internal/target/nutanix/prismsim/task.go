package prismsim

import "net/http"

// TaskEnd is how a task ends.
type TaskEnd string

// Ends of tasks. Half fails after what it was to make was made.
const (
	Succeeds TaskEnd = "SUCCEEDED"
	Fails    TaskEnd = "FAILED"
	Canceled TaskEnd = "CANCELED"
	Never    TaskEnd = "RUNNING"
	Half     TaskEnd = "HALF"
)

// Operations that tasks are of, for DoomTasks.
const (
	OpImage       = "create image"
	OpDeleteImage = "delete image"
	OpVM          = "create vm"
	OpDeleteVM    = "delete vm"
	OpPower       = "power on vm"
)

type task struct {
	id, op  string
	end     TaskEnd
	message string
	rel     string
	entity  string
	polls   int
}

// DoomTasks has the next n tasks of an operation end so.
func (s *Sim) DoomTasks(op string, n int, end TaskEnd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		s.taskDoom[op] = append(s.taskDoom[op], end)
	}
}

// EndTasks ends the tasks that never end.
func (s *Sim) EndTasks(end TaskEnd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tasks {
		if t.end == Never {
			t.end, t.message = end, "The task took too long"
		}
	}
}

// begin starts a task that does what do says; callers hold the lock. do returns
// the entity it made or changed, or why it failed.
func (s *Sim) begin(op, rel string, do func() (entity, failure string)) *task {
	t := &task{id: s.id(), op: op, end: Succeeds, rel: rel}
	if d := s.taskDoom[op]; len(d) > 0 {
		t.end, s.taskDoom[op] = d[0], d[1:]
	}
	if t.end == Succeeds || t.end == Half {
		t.entity, t.message = do()
		if t.message != "" {
			t.end = Fails
		}
	}
	switch t.end {
	case Half:
		t.end, t.message = Fails, "The operation failed after it had begun"
	case Fails:
		if t.message == "" {
			t.message = "Internal error: the operation failed"
		}
	case Canceled:
		t.message = "The task was aborted"
	}
	s.tasks[t.id] = t
	return t
}

// ergon is the prefix of a task's identifier in v4 (the name of the task service,
// in base64).
const ergon = "ZXJnb24=:"

func (s *Sim) taskStatus(t *task) TaskEnd {
	t.polls++
	if t.polls <= s.o.Polls {
		return map[bool]TaskEnd{true: "QUEUED", false: "RUNNING"}[t.polls == 1]
	}
	return t.end
}

func (s *Sim) getTask(id string) answer {
	t := s.tasks[id]
	if t == nil {
		return v4Error(http.StatusNotFound, "TASK-404", "no such task")
	}
	status := s.taskStatus(t)
	out := obj{"$objectType": "prism.v4.config.Task", "extId": ergon + t.id, "operation": t.op, "status": status, "progressPercentage": 50}
	switch status {
	case Succeeds:
		out["progressPercentage"] = 100
	case Fails, Canceled:
		out["errorMessages"] = []obj{{"$objectType": "prism.v4.error.AppMessage", "message": t.message, "code": "VMM-30100", "severity": "ERROR"}}
	}
	if t.entity != "" && status == Succeeds {
		out["entitiesAffected"] = []obj{{"$objectType": "prism.v4.config.EntityReference", "extId": t.entity, "rel": t.rel}}
	}
	return v4Data(http.StatusOK, out, nil)
}

package wsmansim

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"ascend/internal/target/hyperv/hostscript"
)

// failure is an error as the script tells it.
type failure struct{ record hostscript.Error }

func failed(command, category, format string, args ...any) *failure {
	return &failure{record: hostscript.Error{Message: fmt.Sprintf(format, args...), ID: category + ",Microsoft.HyperV.PowerShell.Commands", Category: category, Command: command}}
}

func (f *failure) Error() string { return f.record.Message }

// script is what the program does: it takes the script and its document from
// standard input. An error of its own is one of PowerShell, which the script does not see.
func (s *Sim) script(ctx context.Context, input string) ([]byte, error) {
	lines := strings.Split(strings.TrimSuffix(input, "\n"), "\n")
	if len(lines) != 2 {
		return nil, fmt.Errorf("standard input has %d lines", len(lines))
	}
	text, err1 := base64.StdEncoding.DecodeString(lines[0])
	doc, err2 := base64.StdEncoding.DecodeString(lines[1])
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if string(text) != hostscript.Script {
		s.mu.Lock()
		s.foreign = append(s.foreign, string(text))
		s.mu.Unlock()
		return nil, errors.New("this host runs nothing but the script")
	}
	q, err := document(doc)
	if err != nil {
		return nil, err
	}
	f := s.faulty(Call{Action: "Run", Op: q.Op})
	s.mu.Lock()
	s.calls = append(s.calls, q.Op)
	s.mu.Unlock()
	var result any
	if f == nil || f.Done {
		result, err = s.do(ctx, q)
	}
	if f != nil {
		err = failed("", "NotSpecified", "%s", f.Message)
	}
	answer := map[string]any{"result": result}
	if err != nil {
		var e *failure
		if !errors.As(err, &e) {
			e = failed("", "NotSpecified", "%v", err)
		}
		answer = map[string]any{"error": e.record}
	}
	b, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	return []byte(base64.StdEncoding.EncodeToString(b)), nil
}

// document reads the script's document. The script runs in strict mode: a field
// that is not there is an error when it is asked for, so all must be.
func document(doc []byte) (hostscript.Request, error) {
	var q hostscript.Request
	d := json.NewDecoder(bytes.NewReader(doc))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return q, err
	}
	var has map[string]json.RawMessage
	if err := json.Unmarshal(doc, &has); err != nil {
		return q, err
	}
	for f := range reflect.TypeFor[hostscript.Request]().Fields() {
		if _, ok := has[f.Tag.Get("json")]; !ok {
			return q, fmt.Errorf("the property '%s' cannot be found on this object", f.Tag.Get("json"))
		}
	}
	return q, nil
}

package nutanix

import (
	"encoding/json"
	"testing"
)

// FuzzAnswers reads what a hostile server may answer.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		`{"data":{"error":[{"message":"no","code":"VMM-1"}]}}`, `{"data":{"error":{"error":"schema","validationErrorMessages":[{"message":"x"}]}}}`,
		`{"message_list":[{"message":"no","reason":"R"}],"code":422}`, `{"status":{"execution_context":{"task_uuid":["a"]},"resources":{"power_state":7}},"metadata":{"uuid":1}}`,
		`{"data":{"error":7}}`, `[]`, `null`, ``, `<html>`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := refusal(call{method: "GET", path: "/"}, 400, b); err.Error() == "" || translate(err).Error() == "" {
			t.Error("an error without words")
		}
		e := &v3Entity{}
		if json.Unmarshal(b, e) == nil {
			e.fill()
			_ = e.task()
			v3Machine(e)
		}
	})
}

package proto

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestNamesKeepEveryByte(t *testing.T) {
	for _, n := range []Name{"", "plain", "caf\xe9", "\"{}\n\xff\xfe", "{\"b64\":\"eA==\"}", "ü"} {
		b, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		var back Name
		if err := json.Unmarshal(b, &back); err != nil || back != n {
			t.Errorf("%q came back as %q: %v", n, back, err)
		}
	}
}

func TestFrames(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789"), 70000)
	var stream bytes.Buffer
	for range 2 { // two streams, one after another on one port
		w := &FrameWriter{W: &stream}
		if _, err := w.Write(want); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil || w.Bytes() != int64(len(want)) {
			t.Fatal(err)
		}
	}
	whole := bytes.Clone(stream.Bytes())
	for range 2 {
		if got, err := io.ReadAll(&FrameReader{R: &stream}); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v, or bytes differ", err)
		}
	}
	for _, n := range []int{0, 3, 4, 100, len(whole)/2 - 1} {
		if _, err := io.ReadAll(&FrameReader{R: bytes.NewReader(whole[:n])}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	w := &FrameWriter{W: &stream}
	_, _ = w.Write([]byte("part"))
	if err := w.Fail(errors.New("disk broke")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(&FrameReader{R: &stream}); string(got) != "part" || err == nil || !strings.Contains(err.Error(), "disk broke") {
		t.Errorf("a failed stream: %q %v", got, err)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 'x', 0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _ := io.ReadAll(&FrameReader{R: bytes.NewReader(b)})
		if len(got) > len(b) {
			t.Error("more than was sent")
		}
	})
}

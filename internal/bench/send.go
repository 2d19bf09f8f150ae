package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"ascend/internal/convert"
	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/image"
	"ascend/internal/transfer"
)

// The end-to-end comparison: a disk computed while it is sent, against
// converted first and sent then. The sink takes everything and keeps nothing.

func sink(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Discard by itself reads 8 KiB at a time.
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 1<<20))
	})}
	context.AfterFunc(ctx, func() { s.Close() })
	return s.Serve(l)
}

// httpSink sends ranges, or one stream, to the sink.
type httpSink struct {
	url string
	c   http.Client
	w   *io.PipeWriter
	res chan error
}

func (s *httpSink) put(ctx context.Context, body io.Reader, size int64, off int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, s.url, body)
	if err != nil {
		return err
	}
	req.ContentLength = size
	req.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/*", off, off+size-1))
	res, err := s.c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("sink: %s", res.Status)
	}
	return nil
}

func (s *httpSink) WriteRange(ctx context.Context, off int64, p []byte) error {
	return s.put(ctx, bytes.NewReader(p), int64(len(p)), off)
}
func (s *httpSink) Sync(context.Context) error            { return nil }
func (s *httpSink) Offset(context.Context) (int64, error) { return 0, nil }
func (s *httpSink) Append(_ context.Context, p []byte) error {
	_, err := s.w.Write(p)
	return err
}
func (s *httpSink) Patch(context.Context, []byte) error { return fmt.Errorf("no patch in a stream") }

// send is our side: ADDR SOURCE STREAMS FORMAT [OPTION=VALUE ...].
func send(ctx context.Context, args []string) error {
	if len(args) < 4 {
		return fmt.Errorf("send takes an address, a source, a number of streams, a format and its options")
	}
	img, err := convert.OpenSource(args[1], "", open.Options{Format: "qcow2"})
	if err != nil {
		return err
	}
	defer img.Close()
	m, err := disk.ReadMap(ctx, img)
	if err != nil {
		return err
	}
	options := map[string]string{}
	for _, a := range args[4:] {
		k, v, _ := strings.Cut(a, "=")
		options[k] = v
	}
	format, o, err := image.ParseFormat(args[3], options, false)
	if err != nil {
		return err
	}
	f, err := image.New(image.Source{Disk: img, Map: m}, format, o)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	s := &httpSink{url: "http://" + args[0] + "/", c: http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, WriteBufferSize: 256 << 10}}}
	if n > 1 {
		_, err = transfer.Ranges(ctx, f, s, nil, transfer.Options{Workers: n})
		return err
	}
	r, w := io.Pipe()
	s.w, s.res = w, make(chan error, 1)
	go func() { s.res <- s.put(ctx, r, f.Size(), 0) }()
	if _, err := transfer.Sequential(ctx, f, s, nil, transfer.Options{}); err != nil {
		return err
	}
	w.Close()
	return <-s.res
}

// read reads a disk's allocated bytes to nothing: SOURCE FORMAT TIMES.
func read(ctx context.Context, args []string) error {
	img, err := convert.OpenSource(args[0], "", open.Options{Format: strings.Replace(args[1], "vpc", "vhd", 1)})
	if err != nil {
		return err
	}
	defer img.Close()
	m, err := disk.ReadMap(ctx, img)
	if err != nil {
		return err
	}
	times, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	for range times {
		if err := transfer.Read(ctx, image.Source{Disk: img, Map: m}, transfer.Options{}); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) send(ctx context.Context, c *corpus) error {
	server := exec.CommandContext(ctx, b.self, "-mode", "sink")
	server.Stderr = os.Stderr
	out, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		return err
	}
	addr := strings.TrimSpace(string(line[:n]))
	s, err := c.get(ctx, "qcow2")
	if err != nil {
		return err
	}
	heading("end to end over loopback HTTP: computed while sent, against convert then upload", "qemu-img convert, then curl")
	for _, o := range outputs {
		theirs := b.contender("curl", "", append(append([]string{"qemu-img", "convert", "-W", "-m", "16", "-f", "qcow2"}, o.args...), s.path, "staged"),
			[]string{"curl", "-sS", "-T", "staged", "http://" + addr + "/"})
		ours := func(streams string) contender {
			return b.contender("send"+streams, "", append([]string{b.self, "-mode", "send", addr, s.path, streams}, o.words()...))
		}
		f, rounds, err := interleave(ctx, b.rounds, b.most, ours("4"), ours("1"), theirs)
		if err != nil {
			return err
		}
		row("qcow2 → "+o.name+", 4 ranges at once", f[0], f[2], rounds)
		row("qcow2 → "+o.name+", one stream", f[1], f[2], rounds)
	}
	return nil
}

// words are the format and its options as the internal mode takes them.
func (o output) words() []string {
	w := []string{o.args[1]}
	if len(o.args) > 3 {
		w = append(w, strings.Split(o.args[3], ",")...)
	}
	return w
}

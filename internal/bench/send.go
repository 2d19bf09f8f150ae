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
	"path/filepath"
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
		_, _ = io.CopyBuffer(io.Discard, r.Body, make([]byte, 1<<20))
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

// send is our side: ADDR SOURCE FORMAT STREAMS.
func send(ctx context.Context, args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("send takes an address, a source, a format and a number of streams")
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
	format, o, err := image.ParseFormat(args[2], nil, false)
	if err != nil {
		return err
	}
	f, err := image.New(image.Source{Disk: img, Map: m}, format, o)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[3])
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

// read reads a disk's allocated bytes to nothing: SOURCE TIMES.
func read(ctx context.Context, args []string) error {
	img, err := convert.OpenSource(args[0], "", open.Options{Format: formatOf(args[0])})
	if err != nil {
		return err
	}
	defer img.Close()
	m, err := disk.ReadMap(ctx, img)
	if err != nil {
		return err
	}
	times, err := strconv.Atoi(args[1])
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

func formatOf(path string) string {
	f := strings.TrimPrefix(filepath.Ext(path), ".")
	if f == "vpc" {
		return "vhd"
	}
	return f
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
	heading("sent over loopback HTTP: computed while sent, against convert then upload", "convert, then curl")
	for _, format := range []string{"qcow2", "vhdx", "vmdk"} {
		staged := filepath.Join(b.dir, "staged")
		theirs := contender{steps: [][]string{
			{"qemu-img", "convert", "-W", "-m", "16", "-f", "qcow2", "-O", format, s.path, staged},
			{"curl", "-sS", "-T", staged, "http://" + addr + "/"},
		}, clean: []string{staged}}
		four := contender{steps: [][]string{{b.self, "-mode", "send", addr, s.path, format, "4"}}}
		one := contender{steps: [][]string{{b.self, "-mode", "send", addr, s.path, format, "1"}}}
		f, err := interleave(ctx, b.rounds, four, one, theirs)
		if err != nil {
			return err
		}
		row(format+", 4 ranges at once", f[0], f[2])
		row(format+", one stream", f[1], f[2])
	}
	fmt.Println("staged by ascend: 0 bytes; by convert, then curl: the whole target file")
	return nil
}

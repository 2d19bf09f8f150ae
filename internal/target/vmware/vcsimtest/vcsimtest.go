// Package vcsimtest is a vCenter for tests: govmomi's simulator behind TLS and a
// password, made to keep what it throws away, the bytes of imported disks, and
// to misbehave on request. Only tests and demonstrations import it.
package vcsimtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Username and Password sign in. The password holds what needs escaping.
const (
	Username = "restore@vsphere.local"
	Password = "s3cret-p%ss/word"
)

// Certificate is the one of every simulator of the process, for 127.0.0.1 and
// vcenter.test, signed by itself.
var Certificate = sync.OnceValues(selfSigned)

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vcenter.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"vcenter.test"},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// VCenter is a simulated vCenter or ESXi host.
type VCenter struct {
	Model  *simulator.Model
	Server *simulator.Server
	Host   string // 127.0.0.1:port
	CAFile string // PEM file of the certificate

	once  sync.Once
	admin *govmomi.Client
	dirs  map[string]string

	mu     sync.Mutex
	posted map[string][]byte // by file name
	puts   []string
	posts  int
	handle func(w http.ResponseWriter, r *http.Request) bool
	stall  chan struct{}

	flats sync.Mutex
	last  inflated // the one that was read last
}

// inflated is a flat file that was made of an imported disk.
type inflated struct {
	name, dir string
	of        []byte
}

// Small is the inventory most tests use: a cluster of one host, two datastores,
// a resource pool, the networks "VM Network" and "DC0_DVPG0", and one machine of
// somebody else's.
func Small() *simulator.Model {
	m := simulator.VPX()
	m.Host, m.ClusterHost, m.Datastore, m.Pool, m.Machine = 0, 1, 2, 1, 1
	return m
}

// Bare is the least that a machine can be restored to; it takes a fifth of the
// time to make.
func Bare() *simulator.Model {
	m := Small()
	m.Pool, m.Portgroup, m.Machine = 0, 0, 0
	return m
}

// New starts a simulator that ends with the test.
func New(t testing.TB, m *simulator.Model) *VCenter {
	t.Helper()
	v, err := Start(m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// quiet keeps the simulator's remarks out of the output.
var quiet sync.Once

// Start starts a simulator of the model, which must not have been created. The
// caller closes it. It silences package log.
func Start(m *simulator.Model) (*VCenter, error) {
	quiet.Do(func() { log.SetOutput(io.Discard) })
	cert, err := Certificate()
	if err != nil {
		return nil, fmt.Errorf("cannot make a certificate: %w", err)
	}
	v := &VCenter{Model: m, posted: map[string][]byte{}}
	if err := m.Create(); err != nil {
		return nil, fmt.Errorf("cannot make the inventory: %w", err)
	}
	svc := m.Service
	svc.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	svc.Listen = &url.URL{User: url.UserPassword(Username, Disguise(Password))}
	svc.HandleFunc("POST /sdk", v.serveSDK)
	svc.HandleFunc("POST /nfc/{lease}/{file}", v.serveNFC)
	svc.HandleFunc("PUT /folder/{path...}", v.servePut)
	svc.HandleFunc("GET /folder/{path...}", v.serveGet)
	v.Server = svc.NewServer()
	v.Host = v.Server.URL.Host
	if v.CAFile, err = v.Server.CertificateFile(); err != nil {
		v.Close()
		return nil, fmt.Errorf("cannot write the certificate: %w", err)
	}
	return v, nil
}

// Close ends the simulator and removes its files.
func (v *VCenter) Close() {
	v.mu.Lock()
	if v.stall != nil {
		close(v.stall)
		v.stall = nil
	}
	v.mu.Unlock()
	v.Server.CloseClientConnections()
	v.Server.Close()
	v.Model.Remove()
	_ = os.RemoveAll(v.last.dir)
}

// The simulator doubles every device of a machine whose name holds a "%", as an
// escaped name does (deepCopy in its createVM.Run). It never sees one: on the
// way in "%" becomes a character for private use, on the way out "%" again.
const percent = "\ue025"

// Disguise is how the simulator itself, and its files, have a text.
func Disguise(s string) string { return strings.ReplaceAll(s, "%", percent) }

func reveal(s string) string { return strings.ReplaceAll(s, percent, "%") }

func (v *VCenter) serveSDK(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if bytes.Contains(body, []byte("SearchDatastore_Task")) {
		v.settle()
	}
	r.Body = io.NopCloser(strings.NewReader(Disguise(string(body))))
	v.Model.Service.ServeSDK(revealer{w}, r)
}

// settle waits until no files are being deleted. The simulator destroys a
// machine before its files are gone, and its datastore browser dies of a file
// that goes while it looks.
func (v *VCenter) settle() {
	for range 500 {
		busy := false
		for _, ref := range v.Model.Map().AllReference("Task") {
			task, ok := ref.(*simulator.Task)
			if !ok {
				continue
			}
			v.Model.Map().WithLock(new(simulator.Context), task, func() {
				over := task.Info.State == types.TaskInfoStateSuccess || task.Info.State == types.TaskInfoStateError
				busy = busy || !over && task.Info.DescriptionId == "FileManager.deleteDatastoreFile"
			})
		}
		if !busy {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// revealer undoes Disguise in an answer, which the simulator writes at once.
type revealer struct{ http.ResponseWriter }

func (r revealer) Write(p []byte) (int, error) {
	_, err := r.ResponseWriter.Write([]byte(reveal(string(p))))
	return len(p), err
}

// intercept runs what stands in the way of a request that brings bytes.
func (v *VCenter) intercept(w http.ResponseWriter, r *http.Request) (handled bool) {
	v.mu.Lock()
	v.posts++
	handle, stall := v.handle, v.stall
	v.mu.Unlock()
	if stall != nil {
		<-stall
	}
	return handle != nil && handle(w, r)
}

// serveNFC keeps what the simulator only digests.
func (v *VCenter) serveNFC(w http.ResponseWriter, r *http.Request) {
	if v.intercept(w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // broken: nothing landed
	}
	v.mu.Lock()
	v.posted[reveal(r.PathValue("file"))] = body
	v.mu.Unlock()
	v.Digest(w, r, body)
}

// Digest answers an NFC upload as if body had come. The simulator's map of
// digests is not safe for two uploads at once.
func (v *VCenter) Digest(w http.ResponseWriter, r *http.Request, body []byte) {
	r.Body = io.NopCloser(bytes.NewReader(body))
	lease := types.ManagedObjectReference{Type: "HttpNfcLease", Value: r.PathValue("lease")}
	v.Model.Map().WithLock(new(simulator.Context), lease, func() { simulator.ServeNFC(w, r) })
}

// servePut takes a file that comes whole.
func (v *VCenter) servePut(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	v.puts = append(v.puts, r.URL.Path)
	v.mu.Unlock()
	if v.intercept(w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	v.Model.Service.ServeDatastore(w, r)
}

// serveGet serves files. A host makes a flat file of an imported disk; the
// simulator leaves it empty.
func (v *VCenter) serveGet(w http.ResponseWriter, r *http.Request) {
	base, flat := strings.CutSuffix(path.Base(r.URL.Path), "-flat.vmdk")
	posted := v.Posted(base + ".vmdk")
	if !flat || posted == nil {
		v.Model.Service.ServeDatastore(w, r)
		return
	}
	f, err := v.open(base, posted)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer func() { _ = f.Close() }()
	http.ServeContent(w, r, base, time.Time{}, f)
}

// open opens the flat file of an imported disk, which is read in many requests.
func (v *VCenter) open(name string, posted []byte) (*os.File, error) {
	v.flats.Lock()
	defer v.flats.Unlock()
	if v.last.name != name || len(v.last.of) != len(posted) || len(posted) > 0 && &v.last.of[0] != &posted[0] {
		_ = os.RemoveAll(v.last.dir)
		v.last = inflated{}
		dir, err := os.MkdirTemp("", "vcsimtest")
		if err != nil {
			return nil, err
		}
		if err := inflate(posted, dir); err != nil {
			_ = os.RemoveAll(dir)
			return nil, err
		}
		v.last = inflated{name, dir, posted}
	}
	return os.Open(filepath.Join(v.last.dir, "out"))
}

// inflate has qemu-img make a raw file "out" of a VMDK in a folder.
func inflate(vmdk []byte, dir string) error {
	src, dst := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(src, vmdk, 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(context.Background(), "qemu-img", "convert", "-f", "vmdk", "-O", "raw", src, dst).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("qemu-img is needed: apt-get install qemu-utils")
	}
	if err != nil {
		return fmt.Errorf("qemu-img: %w: %s", err, out)
	}
	return nil
}

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"ascend/internal/engine"
	"ascend/internal/store"
)

// temporalFlags say where the Temporal cluster is that hands jobs to workers.
type temporalFlags struct {
	address, namespace, ca, cert, key string
}

func (f *temporalFlags) register(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.address, "temporal", os.Getenv("ASCEND_TEMPORAL_ADDRESS"), "`HOST:PORT` of the Temporal cluster's frontend (default $ASCEND_TEMPORAL_ADDRESS, or 127.0.0.1:7233)")
	fs.StringVar(&f.namespace, "temporal-namespace", os.Getenv("ASCEND_TEMPORAL_NAMESPACE"), "`NAME` of the namespace there (default $ASCEND_TEMPORAL_NAMESPACE, or default)")
	fs.StringVar(&f.ca, "temporal-ca", "", "`file` of the certificates that the cluster is believed by; TLS is spoken when it or --temporal-cert is given")
	fs.StringVar(&f.cert, "temporal-cert", "", "`file` of the certificate shown to the cluster, PEM")
	fs.StringVar(&f.key, "temporal-key", "", "`file` of its key, PEM")
}

// options of an engine; TLS is read now.
func (f *temporalFlags) options(log *slog.Logger) (engine.TemporalOptions, error) {
	o := engine.TemporalOptions{Address: f.address, Namespace: f.namespace, Log: log}
	if o.Address == "" {
		o.Address = "127.0.0.1:7233"
	}
	if (f.cert == "") != (f.key == "") {
		return o, usageError{errors.New("--temporal-cert and --temporal-key belong together")}
	}
	if f.ca == "" && f.cert == "" {
		return o, nil
	}
	o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return o, fmt.Errorf("cannot read the cluster's certificates: %w", err)
		}
		o.TLS.RootCAs = x509.NewCertPool()
		if !o.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return o, fmt.Errorf("cannot read the cluster's certificates: %s holds none", f.ca)
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return o, fmt.Errorf("cannot read the certificate for the cluster: %w", err)
		}
		o.TLS.Certificates = []tls.Certificate{pair}
	}
	return o, nil
}

// newTemporal makes the engine, or says what to do.
func newTemporal(ctx context.Context, s *store.Store, h engine.Handlers, o engine.TemporalOptions) (*engine.Temporal, error) {
	e, err := engine.NewTemporal(ctx, s, h, o)
	switch {
	case err == nil:
		return e, nil
	case s.Kind() == store.SQLite:
		return nil, withHint(err, "ascend store copy takes what there is to PostgreSQL or MariaDB; see docs/scale.md")
	}
	return nil, withHint(err, "is a Temporal cluster there, with the namespace? --temporal HOST:PORT, --temporal-namespace NAME")
}

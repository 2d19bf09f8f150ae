package aws

import (
	"context"
	"fmt"

	"ascend/internal/awsapi"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// Names of connection settings.
const (
	setRegion   = "region"
	setProfile  = "profile"
	setRole     = "role"
	setExternal = "external-id"
	setEndpoint = "endpoint"
	setCA       = "ca-file"
	setKey      = "access-key"
	setSecret   = "secret-key"
	setToken    = "session-token"
	setBucket   = "bucket"
)

// Kind describes the connector.
func Kind() target.Kind {
	f := func(name, help string) target.Setting {
		return target.Setting{Field: target.Field{Name: name, Help: help}}
	}
	hidden := func(name, help string) target.Setting {
		s := f(name, help)
		s.Secret = true
		return s
	}
	return target.Kind{
		Platform: vm.AWS,
		Settings: []target.Setting{
			f(setRegion, "region, such as eu-central-1; without it AWS_REGION or the profile's"),
			f(setProfile, "profile of the shared AWS configuration"),
			f(setRole, "ARN of a role to assume with the credentials found"),
			f(setExternal, "external id that the role asks for"),
			f(setEndpoint, "URL to ask instead of AWS's own endpoints"),
			f(setBucket, "S3 bucket of the region for disks that cannot travel by the EBS direct APIs; without one that way is not offered"),
			f(setCA, "PEM file of authorities to trust besides the system's"),
			f(setKey, "access key id, instead of the SDK's chain of credentials"),
			hidden(setSecret, "secret access key of access-key"),
			hidden(setToken, "session token of a temporary access-key"),
		},
		Open: func(ctx context.Context, s target.Settings) (target.Target, error) { return open(ctx, s) },
	}
}

func open(ctx context.Context, s target.Settings) (*cloud, error) {
	if (s.Values[setKey] == "") != s.Secrets[setSecret].Empty() {
		return nil, fmt.Errorf("target %s: %s and %s belong together: %w", s.Name, setKey, setSecret, target.ErrPermanent)
	}
	c, err := awsapi.New(ctx, awsapi.Config{
		Region: s.Values[setRegion], Profile: s.Values[setProfile], RoleARN: s.Values[setRole], ExternalID: s.Values[setExternal],
		Endpoint: s.Values[setEndpoint], CAFile: s.Values[setCA],
		AccessKey: s.Values[setKey], SecretKey: s.Secrets[setSecret], Token: s.Secrets[setToken], Conns: workers,
	})
	if err != nil {
		return nil, fmt.Errorf("target %s: %w: %w", s.Name, err, target.ErrPermanent)
	}
	return &cloud{c: c, pace: newPacer(putRate), bucket: s.Values[setBucket]}, nil
}

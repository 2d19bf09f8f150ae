package aws

import (
	"errors"
	"strings"

	"ascend/internal/awsapi"
	"ascend/internal/target"
)

// hints say what to do about codes that people meet (Amazon EC2 API, Error codes).
var hints = []struct{ prefix, hint string }{
	{"NoCredentials", "sign in (aws sso login), set AWS_PROFILE, or give access-key and secret-key"},
	{"AuthFailure", "check the access key and that the clock is right"},
	{"InvalidClientTokenId", "check the access key and the session token"},
	{"UnrecognizedClientException", "check the access key, the session token and that the region is enabled"},
	{"SignatureDoesNotMatch", "check the secret key and that the clock is right"},
	{"UnauthorizedOperation", "give the role the action that is named; docs/aws.md lists all that are needed"},
	{"AccessDenied", "give the role the action that is named; docs/aws.md lists all that are needed"},
	{"OptInRequired", "enable the region or the service for the account"},
	{"VcpuLimitExceeded", "ask for a higher quota of running on-demand vCPUs, or choose a smaller instance type"},
	{"InsufficientInstanceCapacity", "choose another availability zone (subnet) or instance type, or try later"},
	{"SnapshotLimitExceeded", "delete snapshots or ask for a higher quota"},
	{"ServiceQuotaExceeded", "wait until other snapshots are complete, or ask for a higher quota"},
	{"VolumeLimitExceeded", "delete volumes or ask for a higher quota"},
	{"InvalidSubnet", "choose one of the region's subnets: ascend targets show"},
	{"InvalidGroup", "choose security groups of the subnet's VPC"},
	{"InvalidKeyPair", "choose one of the region's key pairs"},
	{"InvalidParameter", "check the placement and the options"},
}

// translate tells a service's refusal in the contract's terms. Whatever the
// client answers with 4xx and did not retry is permanent.
func translate(err error) error {
	var e *awsapi.Error
	if !errors.As(err, &e) {
		return err
	}
	p := &target.Problem{Msg: e.Error(), Cause: err}
	for _, h := range hints {
		if strings.HasPrefix(e.Code, h.prefix) {
			p.Hint = h.hint
			break
		}
	}
	if e.Status < 500 && !e.Throttled() || p.Hint != "" && e.Service == "credentials" {
		p.Kind = target.ErrPermanent
	}
	return p
}

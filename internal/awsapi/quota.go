package awsapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// Quota is one of Service Quotas.
type Quota struct {
	Name  string  `json:"QuotaName"`
	Value float64 `json:"Value"`
}

// Quota asks Service Quotas (JSON 1.1, version 2019-06-24) for the limit that
// applies to the account.
func (c *Client) Quota(ctx context.Context, service, code string) (Quota, error) {
	body, err := json.Marshal(map[string]string{"ServiceCode": service, "QuotaCode": code})
	if err != nil {
		return Quota{}, fmt.Errorf("cannot ask for a quota: %w", err)
	}
	r, err := c.do(ctx, call{
		service: "servicequotas", method: http.MethodPost, path: "/", body: body,
		header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}, "X-Amz-Target": {"ServiceQuotasV20190624.GetServiceQuota"}},
	})
	if err != nil {
		return Quota{}, err
	}
	var out struct{ Quota Quota }
	if err := json.Unmarshal(r.body, &out); err != nil {
		return Quota{}, fmt.Errorf("cannot read the reply of GetServiceQuota: %w", err)
	}
	return out.Quota, nil
}

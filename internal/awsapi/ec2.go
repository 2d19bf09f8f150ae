package awsapi

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// API versions of the query protocols.
const (
	ec2Version = "2016-11-15"
	stsVersion = "2011-06-15"
)

// Params are an operation's parameters, flattened as the query protocol wants
// them: "BlockDeviceMapping.1.Ebs.SnapshotId".
type Params map[string]string

// List adds values as name.1, name.2, …
func (p Params) List(name string, values ...string) Params {
	for i, v := range values {
		p[name+"."+strconv.Itoa(i+1)] = v
	}
	return p
}

// Filter adds a filter, after those that are there.
func (p Params) Filter(name string, values ...string) Params {
	n := 1
	for p["Filter."+strconv.Itoa(n)+".Name"] != "" {
		n++
	}
	at := "Filter." + strconv.Itoa(n)
	p[at+".Name"] = name
	return p.List(at+".Value", values...)
}

// Tags adds a TagSpecification for a resource type, after those that are there.
func (p Params) Tags(resource string, tags []Tag) Params {
	n := 1
	for p["TagSpecification."+strconv.Itoa(n)+".ResourceType"] != "" {
		n++
	}
	at := "TagSpecification." + strconv.Itoa(n)
	p[at+".ResourceType"] = resource
	for i, t := range tags {
		k := at + ".Tag." + strconv.Itoa(i+1)
		p[k+".Key"], p[k+".Value"] = t.Key, t.Value
	}
	return p
}

func (c *Client) query(ctx context.Context, service, version, action string, p Params, out any) error {
	v := url.Values{"Action": {action}, "Version": {version}}
	for k, s := range p {
		v.Set(k, s)
	}
	r, err := c.do(ctx, call{
		service: service, method: http.MethodPost, path: "/", body: []byte(v.Encode()),
		header: http.Header{"Content-Type": {"application/x-www-form-urlencoded; charset=utf-8"}},
	})
	if err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := xml.Unmarshal(r.body, out); err != nil {
		return fmt.Errorf("cannot read the reply of %s: %w", action, err)
	}
	return nil
}

// EC2 asks one operation and decodes the reply's root element into out.
func (c *Client) EC2(ctx context.Context, action string, p Params, out any) error {
	return c.query(ctx, "ec2", ec2Version, action, p, out)
}

// pages asks until there is no next token; more is given each page.
func pages[T any](ctx context.Context, c *Client, action string, p Params, more func(*T) (next string)) error {
	for {
		page := new(T)
		if err := c.EC2(ctx, action, p, page); err != nil {
			return err
		}
		next := more(page)
		if next == "" {
			return nil
		}
		p["NextToken"] = next
	}
}

// CallerIdentity is the account and the principal that requests are made as.
func (c *Client) CallerIdentity(ctx context.Context) (account, arn string, err error) {
	var out struct {
		Account string `xml:"GetCallerIdentityResult>Account"`
		ARN     string `xml:"GetCallerIdentityResult>Arn"`
	}
	err = c.query(ctx, "sts", stsVersion, "GetCallerIdentity", nil, &out)
	return out.Account, out.ARN, err
}

// SnapshotInfo is what DescribeSnapshots says of one.
type SnapshotInfo struct {
	ID        string `xml:"snapshotId"`
	State     string `xml:"status"` // pending, completed, error
	Message   string `xml:"statusMessage"`
	VolumeID  string `xml:"volumeId"`
	GiB       int64  `xml:"volumeSize"`
	Bytes     int64  `xml:"fullSnapshotSizeInBytes"` // of all blocks that were ever written; 0: not told
	Encrypted bool   `xml:"encrypted"`
	Started   string `xml:"startTime"` // RFC 3339
	Text      string `xml:"description"`
	Tier      string `xml:"storageTier"` // standard, archive
	Tags      []Tag  `xml:"tagSet>item"`
}

// Snapshots lists those p asks for.
func (c *Client) Snapshots(ctx context.Context, p Params) (all []SnapshotInfo, err error) {
	type page struct {
		Set  []SnapshotInfo `xml:"snapshotSet>item"`
		Next string         `xml:"nextToken"`
	}
	err = pages(ctx, c, "DescribeSnapshots", p, func(g *page) string { all = append(all, g.Set...); return g.Next })
	return all, err
}

// ImageInfo is what DescribeImages says of one.
type ImageInfo struct {
	ID       string `xml:"imageId"`
	Name     string `xml:"name"`
	State    string `xml:"imageState"` // pending, available, failed, …
	Reason   string `xml:"stateReason>message"`
	Arch     string `xml:"architecture"`
	BootMode string `xml:"bootMode"`
	Platform string `xml:"platform"`
	TPM      string `xml:"tpmSupport"`
	Created  string `xml:"creationDate"` // RFC 3339
	Instance string `xml:"sourceInstanceId"`
	Root     string `xml:"rootDeviceName"`
	Devices  []struct {
		Name     string `xml:"deviceName"`
		Snapshot string `xml:"ebs>snapshotId"`
		GiB      int64  `xml:"ebs>volumeSize"`
	} `xml:"blockDeviceMapping>item"`
	Tags []Tag `xml:"tagSet>item"`
}

// Images lists those p asks for.
func (c *Client) Images(ctx context.Context, p Params) (all []ImageInfo, err error) {
	type page struct {
		Set  []ImageInfo `xml:"imagesSet>item"`
		Next string      `xml:"nextToken"`
	}
	err = pages(ctx, c, "DescribeImages", p, func(g *page) string { all = append(all, g.Set...); return g.Next })
	return all, err
}

// InstanceInfo is what DescribeInstances says of one.
type InstanceInfo struct {
	ID        string `xml:"instanceId"`
	ImageID   string `xml:"imageId"`
	Type      string `xml:"instanceType"`
	State     string `xml:"instanceState>name"`
	Reason    string `xml:"stateReason>message"`
	Zone      string `xml:"placement>availabilityZone"`
	Subnet    string `xml:"subnetId"`
	Arch      string `xml:"architecture"`
	BootMode  string `xml:"currentInstanceBootMode"`
	Platform  string `xml:"platform"`
	PrivateIP string `xml:"privateIpAddress"`
	Root      string `xml:"rootDeviceName"`
	Lifecycle string `xml:"instanceLifecycle"` // "" for on-demand
	Cores     int    `xml:"cpuOptions>coreCount"`
	Threads   int    `xml:"cpuOptions>threadsPerCore"`
	Devices   []struct {
		Name   string `xml:"deviceName"`
		Volume string `xml:"ebs>volumeId"`
	} `xml:"blockDeviceMapping>item"`
	NICs []struct {
		MAC     string `xml:"macAddress"`
		Private string `xml:"privateIpAddress"`
		Subnet  string `xml:"subnetId"`
	} `xml:"networkInterfaceSet>item"`
	Tags []Tag `xml:"tagSet>item"`
}

// Instances lists those p asks for.
func (c *Client) Instances(ctx context.Context, p Params) (all []InstanceInfo, err error) {
	type page struct {
		Set []struct {
			Instances []InstanceInfo `xml:"instancesSet>item"`
		} `xml:"reservationSet>item"`
		Next string `xml:"nextToken"`
	}
	err = pages(ctx, c, "DescribeInstances", p, func(g *page) string {
		for _, r := range g.Set {
			all = append(all, r.Instances...)
		}
		return g.Next
	})
	return all, err
}

// VolumeInfo is what DescribeVolumes says of one.
type VolumeInfo struct {
	ID       string `xml:"volumeId"`
	State    string `xml:"status"`
	GiB      int64  `xml:"size"`
	Attached []struct {
		Instance string `xml:"instanceId"`
		Device   string `xml:"device"`
		State    string `xml:"status"`
	} `xml:"attachmentSet>item"`
	Tags []Tag `xml:"tagSet>item"`
}

// Volumes lists those p asks for.
func (c *Client) Volumes(ctx context.Context, p Params) (all []VolumeInfo, err error) {
	type page struct {
		Set  []VolumeInfo `xml:"volumeSet>item"`
		Next string       `xml:"nextToken"`
	}
	err = pages(ctx, c, "DescribeVolumes", p, func(g *page) string { all = append(all, g.Set...); return g.Next })
	return all, err
}

// InstanceType is what DescribeInstanceTypes says of one.
type InstanceType struct {
	Name      string   `xml:"instanceType"`
	CPUs      int      `xml:"vCpuInfo>defaultVCpus"`
	MiB       int64    `xml:"memoryInfo>sizeInMiB"`
	Archs     []string `xml:"processorInfo>supportedArchitectures>item"`
	BootModes []string `xml:"supportedBootModes>item"`
	NVMe      string   `xml:"ebsInfo>nvmeSupport"`
	ENA       string   `xml:"networkInfo>enaSupport"`
	Current   bool     `xml:"currentGeneration"`
	BareMetal bool     `xml:"bareMetal"`
	Burst     bool     `xml:"burstablePerformanceSupported"`
	TPM       string   `xml:"nitroTpmSupport"`
	NICs      int      `xml:"networkInfo>maximumNetworkInterfaces"`
	// Attachments is the number of volumes; where AttachmentLimit is "shared",
	// adapters after the first count too.
	Attachments     int    `xml:"ebsInfo>maximumEbsAttachments"`
	AttachmentLimit string `xml:"ebsInfo>attachmentLimitType"`
	// Accelerators are the names of GPUs, the only kind that is looked at.
	Accelerators []string `xml:"gpuInfo>gpus>item>name"`
}

// InstanceTypes lists those p asks for.
func (c *Client) InstanceTypes(ctx context.Context, p Params) (all []InstanceType, err error) {
	type page struct {
		Set  []InstanceType `xml:"instanceTypeSet>item"`
		Next string         `xml:"nextToken"`
	}
	err = pages(ctx, c, "DescribeInstanceTypes", p, func(g *page) string { all = append(all, g.Set...); return g.Next })
	return all, err
}

// Named is an entry of a list that is only chosen from.
type Named struct{ ID, Name, Note string }

// Subnets lists the region's.
func (c *Client) Subnets(ctx context.Context) (all []Named, err error) {
	type page struct {
		Set []struct {
			ID   string `xml:"subnetId"`
			Zone string `xml:"availabilityZone"`
			CIDR string `xml:"cidrBlock"`
			VPC  string `xml:"vpcId"`
			Tags []Tag  `xml:"tagSet>item"`
		} `xml:"subnetSet>item"`
		Next string `xml:"nextToken"`
	}
	err = pages(ctx, c, "DescribeSubnets", Params{}, func(g *page) string {
		for _, s := range g.Set {
			all = append(all, Named{s.ID, TagValue(s.Tags, "Name"), s.CIDR + " in " + s.Zone + " of " + s.VPC})
		}
		return g.Next
	})
	return all, err
}

// SecurityGroups lists the region's.
func (c *Client) SecurityGroups(ctx context.Context) (all []Named, err error) {
	type page struct {
		Set []struct {
			ID   string `xml:"groupId"`
			Name string `xml:"groupName"`
			VPC  string `xml:"vpcId"`
		} `xml:"securityGroupInfo>item"`
		Next string `xml:"nextToken"`
	}
	err = pages(ctx, c, "DescribeSecurityGroups", Params{}, func(g *page) string {
		for _, s := range g.Set {
			all = append(all, Named{s.ID, s.Name, s.Name + " of " + s.VPC})
		}
		return g.Next
	})
	return all, err
}

// KeyPairs lists the region's.
func (c *Client) KeyPairs(ctx context.Context) ([]string, error) {
	var out struct {
		Names []string `xml:"keySet>item>keyName"`
	}
	err := c.EC2(ctx, "DescribeKeyPairs", nil, &out)
	return out.Names, err
}

// Zones lists the region's availability zones that can be used.
func (c *Client) Zones(ctx context.Context) ([]string, error) {
	var out struct {
		Names []string `xml:"availabilityZoneInfo>item>zoneName"`
	}
	err := c.EC2(ctx, "DescribeAvailabilityZones", Params{}.Filter("state", "available"), &out)
	return out.Names, err
}

// InstanceStatus is the two checks EC2 makes of a running instance: ok,
// initializing, impaired, insufficient-data or not-applicable; empty while
// there is none.
func (c *Client) InstanceStatus(ctx context.Context, id string) (system, instance string, err error) {
	var out struct {
		Set []struct {
			System   string `xml:"systemStatus>status"`
			Instance string `xml:"instanceStatus>status"`
		} `xml:"instanceStatusSet>item"`
	}
	if err := c.EC2(ctx, "DescribeInstanceStatus", Params{"InstanceId.1": id}, &out); err != nil || len(out.Set) == 0 {
		return "", "", err
	}
	return out.Set[0].System, out.Set[0].Instance, nil
}

// ConsoleOutput is the last 64 KiB the guest wrote to its serial port.
func (c *Client) ConsoleOutput(ctx context.Context, id string) (string, error) {
	var out struct {
		Text string `xml:"output"`
	}
	if err := c.EC2(ctx, "GetConsoleOutput", Params{"InstanceId": id}, &out); err != nil {
		return "", err
	}
	b, err := base64.StdEncoding.DecodeString(out.Text)
	if err != nil {
		return "", fmt.Errorf("cannot read the console output of %s: %w", id, err)
	}
	return string(b), nil
}

// ID is the one identifier an operation that creates something answers.
func (c *Client) ID(ctx context.Context, action string, p Params) (string, error) {
	var out struct {
		Image    string `xml:"imageId"`
		Volume   string `xml:"volumeId"`
		Instance string `xml:"instancesSet>item>instanceId"`
	}
	if err := c.EC2(ctx, action, p, &out); err != nil {
		return "", err
	}
	for _, id := range []string{out.Instance, out.Volume, out.Image} {
		if id != "" {
			return id, nil
		}
	}
	return "", fmt.Errorf("cannot read the reply of %s: it names nothing", action)
}

// TagValue is the value of a tag, or "".
func TagValue(tags []Tag, key string) string {
	for _, t := range tags {
		if t.Key == key {
			return t.Value
		}
	}
	return ""
}

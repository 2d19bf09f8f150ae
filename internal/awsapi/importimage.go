package awsapi

import "context"

// DiskImport is what DescribeImportSnapshotTasks says of one.
type DiskImport struct {
	ID       string `xml:"importTaskId"`
	Status   string `xml:"snapshotTaskDetail>status"` // as an ImportTask's
	Message  string `xml:"snapshotTaskDetail>statusMessage"`
	Snapshot string `xml:"snapshotTaskDetail>snapshotId"` // once completed
	Tags     []Tag  `xml:"tagSet>item"`
}

// Over tells that nothing more happens to the task.
func (t *DiskImport) Over() bool { return t.Status == "completed" || t.Status == "deleted" }

// ImportSnapshot begins to make a snapshot of a disk's file in S3. It is idempotent by
// its ClientToken.
func (c *Client) ImportSnapshot(ctx context.Context, p Params) (DiskImport, error) {
	var t DiskImport
	err := c.EC2(ctx, "ImportSnapshot", p, &t)
	return t, err
}

// DiskImports lists those of the last days, or the one p asks for.
func (c *Client) DiskImports(ctx context.Context, p Params) (all []DiskImport, err error) {
	type page struct {
		Set  []DiskImport `xml:"importSnapshotTaskSet>item"`
		Next string       `xml:"nextToken"`
	}
	err = pages(ctx, c, "DescribeImportSnapshotTasks", p, func(g *page) string { all = append(all, g.Set...); return g.Next })
	return all, err
}

// ImportTask is what DescribeImportImageTasks says of one.
type ImportTask struct {
	ID        string `xml:"importTaskId"`
	Status    string `xml:"status"` // active, updating, validating, validated, converting, completed, deleting, deleted
	Message   string `xml:"statusMessage"`
	Progress  string `xml:"progress"` // percent
	Image     string `xml:"imageId"`  // once completed
	Snapshots []struct {
		ID string `xml:"snapshotId"`
	} `xml:"snapshotDetailSet>item"`
	Tags []Tag `xml:"tagSet>item"`
}

// Over tells that nothing more happens to the task.
func (t *ImportTask) Over() bool { return t.Status == "completed" || t.Status == "deleted" }

// ImportImage begins to make an image of disks, converting the guest. It is
// idempotent by its ClientToken.
func (c *Client) ImportImage(ctx context.Context, p Params) (ImportTask, error) {
	var t ImportTask
	err := c.EC2(ctx, "ImportImage", p, &t)
	return t, err
}

// ImportTasks lists those of the last days, or the one p asks for.
func (c *Client) ImportTasks(ctx context.Context, p Params) (all []ImportTask, err error) {
	type page struct {
		Set  []ImportTask `xml:"importImageTaskSet>item"`
		Next string       `xml:"nextToken"`
	}
	err = pages(ctx, c, "DescribeImportImageTasks", p, func(g *page) string { all = append(all, g.Set...); return g.Next })
	return all, err
}

package awsapi

import "context"

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

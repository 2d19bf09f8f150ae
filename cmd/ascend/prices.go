package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ascend/internal/prices"
	"ascend/internal/vm"
)

func (a *app) pricesCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "prices", Short: "the prices that estimates are made from", Args: cobra.NoArgs,
		Long: `The prices that estimates are made from: tables of AWS and Azure that are built
in, with their date, and documents of the providers' own that replace them.`,
	}
	c.AddCommand(a.pricesShow(), a.pricesUpdate())
	return c
}

func (a *app) pricesShow() *cobra.Command {
	var region, system string
	c := &cobra.Command{
		Use:   "show [PLATFORM [SIZE …]]",
		Short: "say which prices are used, and what sizes cost",
		Example: `  ascend prices show
  ascend prices show aws m7i.large --region eu-west-1
  ascend prices show azure --region westeurope --os windows`,
		RunE: func(c *cobra.Command, args []string) error {
			b, err := a.prices("")
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return a.showBook(c, b)
			}
			p, err := vm.ParsePlatform(args[0])
			if err != nil {
				return usageError{err}
			}
			t := b.Table(p)
			if t == nil {
				return usageError{fmt.Errorf("there are prices of aws and azure, not of %s", p)}
			}
			if region == "" {
				region = map[vm.Platform]string{vm.AWS: "us-east-1", vm.Azure: "eastus"}[p]
			}
			if !slices.Contains(t.Regions, region) {
				return usageError{fmt.Errorf("no prices of the region %q; there are: %s", region, strings.Join(t.Regions, ", "))}
			}
			if system != string(prices.Linux) && system != string(prices.Windows) {
				return usageError{fmt.Errorf("--os is linux or windows, not %q", system)}
			}
			return a.showSizes(c, t, region, prices.OS(system), args[1:])
		},
	}
	c.Flags().StringVar(&region, "region", "", "`region` (default: us-east-1, eastus)")
	c.Flags().StringVar(&system, "os", "linux", "linux or windows")
	complete(c, "os", "linux", "windows")
	return c
}

type bookRow struct {
	What    string `json:"what"`
	Date    string `json:"date"`
	Sizes   int    `json:"sizes,omitempty"`
	Regions int    `json:"regions,omitempty"`
	Source  string `json:"source,omitempty"`
}

func (a *app) showBook(c *cobra.Command, b *prices.Book) error {
	list := []bookRow{
		{"machines of AWS", b.AWS.Date, len(b.AWS.Sizes), len(b.AWS.Regions), b.AWS.Source},
		{"machines of Azure", b.Azure.Date, len(b.Azure.Sizes), len(b.Azure.Regions), b.Azure.Source},
		{"storage", b.Storage.Date, 0, 0, "published list prices, curated"},
	}
	if b.Rates != nil {
		list = append(list, bookRow{"rate card in " + b.Rates.Currency, b.Rates.Date, 0, 0, "the configuration"})
	}
	if a.json {
		return printJSON(c, list)
	}
	rows := [][]string{{"PRICES", "DATE", "SIZES", "REGIONS", "SOURCE"}}
	for _, r := range list {
		rows = append(rows, []string{r.What, r.Date, count(r.Sizes), count(r.Regions), r.Source})
	}
	table(c.OutOrStdout(), rows)
	return nil
}

func count(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func (a *app) showSizes(c *cobra.Command, t *prices.Table, region string, system prices.OS, names []string) error {
	type row struct {
		Name    string `json:"name"`
		CPUs    int    `json:"cpus"`
		Memory  int64  `json:"memory"`
		Hourly  string `json:"hourly"`
		Monthly string `json:"monthly"`
	}
	list := []row{}
	for _, s := range t.Sizes {
		p, ok := t.Hourly(s.Name, region, system)
		if !ok || len(names) > 0 && !slices.Contains(names, s.Name) {
			continue
		}
		list = append(list, row{s.Name, s.CPUs, s.Memory, p.Exact(), (p * prices.Hours).String()})
	}
	for _, n := range names {
		if !slices.ContainsFunc(list, func(r row) bool { return r.Name == n }) {
			return fmt.Errorf("%s has no price of %s in %s with %s", t.Platform, n, region, system)
		}
	}
	if a.json {
		return printJSON(c, list)
	}
	rows := [][]string{{"SIZE", "CPUS", "MEMORY", t.Currency + "/HOUR", t.Currency + "/MONTH"}}
	for _, r := range list {
		rows = append(rows, []string{r.Name, fmt.Sprint(r.CPUs), vm.FormatSize(r.Memory), r.Hourly, r.Monthly})
	}
	table(c.OutOrStdout(), rows)
	a.note("prices of %s in %s, %s", t.Date, region, t.Source)
	return nil
}

// maxPages bounds how many pages of Azure's prices are followed.
const maxPages = 2000

func (a *app) pricesUpdate() *cobra.Command {
	var reset bool
	c := &cobra.Command{
		Use:   "update FILE|URL …",
		Short: "take over prices from documents of AWS Price List or Azure Retail Prices",
		Long: `Take over prices from documents of the AWS Price List (the answer of GetProducts,
or the offer file of a region) or of the Azure Retail Prices API, from files or
addresses. Only sizes that the built-in tables describe are priced: of others it is
not known what they fit. --reset goes back to the built-in prices.`,
		Example: `  aws pricing get-products --service-code AmazonEC2 --region us-east-1 > ec2.json
  ascend prices update ec2.json
  ascend prices update "https://prices.azure.com/api/retail/prices?\$filter=serviceName eq 'Virtual Machines' and armRegionName eq 'westeurope'"`,
		RunE: func(c *cobra.Command, args []string) error {
			if reset {
				return os.RemoveAll(a.pricesDir())
			}
			if len(args) == 0 {
				return usageError{errors.New("name a file or an address")}
			}
			for _, from := range args {
				if err := a.updatePrices(c.Context(), from); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&reset, "reset", false, "go back to the built-in prices")
	return c
}

func (a *app) updatePrices(ctx context.Context, from string) error {
	fresh, err := readPrices(ctx, from)
	if err != nil {
		return err
	}
	book, err := prices.Open(a.pricesDir())
	if err != nil {
		return err
	}
	t := fresh.Apply(book.Table(fresh.Platform))
	if err := prices.Save(a.pricesDir(), t, book.Fresh(fresh)); err != nil {
		return err
	}
	a.note("%s: %d prices of sizes and %d of storage, of %s; %d are of sizes that are not known here", fresh.Platform, fresh.Sizes, fresh.Disks, t.Date, fresh.Unknown)
	return nil
}

// readPrices reads a document and, of Azure, the pages that follow it, from the
// same host only.
func readPrices(ctx context.Context, from string) (*prices.Fresh, error) {
	var all *prices.Fresh
	for page := 0; from != "" && page < maxPages; page++ {
		r, err := openDocument(ctx, from)
		if err != nil {
			return nil, err
		}
		f, err := prices.Parse(r)
		r.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		next := f.Next
		if all == nil {
			all = f
		} else if err := all.Merge(f); err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		if from, err = nextPage(from, next); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// nextPage is the address of the page after one; "" after the last, or where the
// document was a file.
func nextPage(from, next string) (string, error) {
	if !isAddress(from) || next == "" {
		return "", nil
	}
	a, err1 := url.Parse(from)
	b, err2 := url.Parse(next)
	if err1 != nil || err2 != nil || b.Hostname() != a.Hostname() || b.Scheme != a.Scheme {
		return "", fmt.Errorf("cannot read prices: %s names a next page on another host: %.200q", from, next)
	}
	return next, nil
}

func isAddress(s string) bool {
	return strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://")
}

func openDocument(ctx context.Context, from string) (io.ReadCloser, error) {
	if !isAddress(from) {
		f, err := os.Open(from)
		if err != nil {
			return nil, fmt.Errorf("cannot read prices: %w", err)
		}
		return f, nil
	}
	// Spaces, as in Azure's filters, are what people paste.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.ReplaceAll(from, " ", "%20"), nil)
	if err != nil {
		return nil, fmt.Errorf("cannot read prices: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot read prices: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("cannot read prices: %s answers %s", req.URL.Host, res.Status)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<30))
	if err != nil {
		return nil, fmt.Errorf("cannot read prices: %w", err)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

package prices

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"ascend/internal/vm"
)

// Fresh is what a provider's document says.
type Fresh struct {
	Platform vm.Platform
	Date     string
	Next     string // address of the next page, of Azure
	Sizes    int    // prices of machine sizes that were taken over
	Disks    int    // prices of storage that were taken over
	Unknown  int    // sizes that the table does not describe

	hourly  []freshPrice
	Storage *Storage
}

type freshPrice struct {
	size, region string
	os           OS
	price        Micro
}

// maxDocument bounds a document: the offer file of one region is about 300 MB.
const maxDocument = 1 << 30

// Parse reads a document of the AWS Price List (the answer of GetProducts, whose
// products are JSON texts inside JSON, or the offer file of a region) or of the
// Azure Retail Prices API. Which, it tells from the document.
func Parse(r io.Reader) (*Fresh, error) {
	var doc struct {
		PriceList       []json.RawMessage
		Items           []azureItem
		NextPageLink    string
		PublicationDate string                     `json:"publicationDate"`
		Products        map[string]json.RawMessage `json:"products"`
		Terms           struct {
			OnDemand map[string]map[string]awsTerm
		} `json:"terms"`
	}
	if err := json.NewDecoder(io.LimitReader(r, maxDocument)).Decode(&doc); err != nil {
		return nil, fmt.Errorf("cannot read prices: %w", err)
	}
	f := &Fresh{Storage: &Storage{rows: map[storageKey]Micro{}}}
	switch {
	case len(doc.PriceList) > 0:
		f.Platform = vm.AWS
		for i, raw := range doc.PriceList {
			var text string
			if json.Unmarshal(raw, &text) != nil {
				text = string(raw)
			}
			var e struct {
				Product         json.RawMessage
				PublicationDate string
				Terms           struct{ OnDemand map[string]awsTerm }
			}
			if err := json.Unmarshal([]byte(text), &e); err != nil {
				return nil, fmt.Errorf("cannot read prices: product %d: %w", i, err)
			}
			f.Date = max(f.Date, day(e.PublicationDate))
			f.awsProduct(e.Product, e.Terms.OnDemand)
		}
	case len(doc.Products) > 0:
		f.Platform, f.Date = vm.AWS, day(doc.PublicationDate)
		for sku, p := range doc.Products {
			f.awsProduct(p, doc.Terms.OnDemand[sku])
		}
	case len(doc.Items) > 0:
		f.Platform, f.Next = vm.Azure, doc.NextPageLink
		for _, it := range doc.Items {
			f.azureItem(it)
		}
	default:
		return nil, errors.New("cannot read prices: neither an AWS Price List document (PriceList, products) nor one of Azure Retail Prices (Items)")
	}
	if len(f.hourly) == 0 && len(f.Storage.rows) == 0 && f.Next == "" {
		return nil, errors.New("cannot read prices: the document holds no on-demand price of a machine or a disk")
	}
	f.Storage.Date = f.Date
	return f, nil
}

func day(s string) string {
	if len(s) > 10 {
		return s[:10]
	}
	return s
}

type awsTerm struct {
	PriceDimensions map[string]struct {
		Unit         string            `json:"unit"`
		BeginRange   string            `json:"beginRange"`
		PricePerUnit map[string]string `json:"pricePerUnit"`
	} `json:"priceDimensions"`
}

// awsProduct takes shared on-demand machines without bundled software, and EBS.
func (f *Fresh) awsProduct(raw json.RawMessage, terms map[string]awsTerm) {
	var p struct {
		ProductFamily string            `json:"productFamily"`
		Attributes    map[string]string `json:"attributes"`
	}
	if json.Unmarshal(raw, &p) != nil {
		return
	}
	a := p.Attributes
	var price Micro
	for _, t := range terms {
		for _, d := range t.PriceDimensions {
			if v, err := strconv.ParseFloat(d.PricePerUnit["USD"], 64); err == nil && v > 0 && v < 1e6 && (d.BeginRange == "" || d.BeginRange == "0") {
				price = Micro(math.Round(v * 1e6))
			}
		}
	}
	region := a["regionCode"]
	if price == 0 || region == "" {
		return
	}
	class := a["volumeApiName"]
	switch p.ProductFamily {
	case "Compute Instance", "Compute Instance (bare metal)":
		os := map[string]OS{"Linux": Linux, "Windows": Windows}[a["operatingSystem"]]
		shared := a["tenancy"] == "Shared" && (a["preInstalledSw"] == "NA" || a["preInstalledSw"] == "") &&
			(a["capacitystatus"] == "Used" || a["capacitystatus"] == "") && (a["marketoption"] == "OnDemand" || a["marketoption"] == "")
		if os != "" && shared && (os != Windows || a["licenseModel"] != "Bring your own license") && a["instanceType"] != "" {
			f.hourly = append(f.hourly, freshPrice{a["instanceType"], region, os, price})
		}
	case "Storage":
		if class != "" {
			f.Storage.rows[storageKey{vm.AWS, region, class, "per"}] = price
		}
	case "System Operation":
		if class != "" && strings.Contains(a["usagetype"], "IOPS") && !strings.Contains(a["usagetype"], "tier") {
			f.Storage.rows[storageKey{vm.AWS, region, class, "iops"}] = price
		}
	case "Provisioned Throughput":
		if class != "" { // priced by GiB/s
			f.Storage.rows[storageKey{vm.AWS, region, class, "throughput"}] = price / 1024
		}
	case "Storage Snapshot":
		if strings.HasSuffix(a["usagetype"], "EBS:SnapshotUsage") {
			f.Storage.rows[storageKey{vm.AWS, region, "snapshot", "per"}] = price
		}
	}
}

type azureItem struct {
	CurrencyCode       string  `json:"currencyCode"`
	RetailPrice        float64 `json:"retailPrice"`
	ArmRegionName      string  `json:"armRegionName"`
	ArmSkuName         string  `json:"armSkuName"`
	SkuName            string  `json:"skuName"`
	MeterName          string  `json:"meterName"`
	ProductName        string  `json:"productName"`
	ServiceName        string  `json:"serviceName"`
	UnitOfMeasure      string  `json:"unitOfMeasure"`
	Type               string  `json:"type"`
	EffectiveStartDate string  `json:"effectiveStartDate"`
}

// azureTiers are the GiB of the tiers of managed disks, by the number in their
// names (Azure documentation, "Azure managed disk types").
var azureTiers = map[string]int{"1": 4, "2": 8, "3": 16, "4": 32, "6": 64, "10": 128, "15": 256, "20": 512, "30": 1024, "40": 2048, "50": 4096, "60": 8192, "70": 16384, "80": 32767}

var azureClasses = map[string]string{"Premium SSD Managed Disks": "Premium_LRS", "Standard SSD Managed Disks": "StandardSSD_LRS", "Standard HDD Managed Disks": "Standard_LRS"}

// azureItem takes pay-as-you-go machines and locally redundant disks. The
// Windows price is that of the product whose name ends in "Windows".
func (f *Fresh) azureItem(it azureItem) {
	if it.CurrencyCode != "USD" && it.CurrencyCode != "" || it.Type != "Consumption" || it.RetailPrice <= 0 || it.RetailPrice > 1e6 || it.ArmRegionName == "" {
		return
	}
	price := Micro(math.Round(it.RetailPrice * 1e6))
	switch it.ServiceName {
	case "Virtual Machines":
		for _, no := range []string{"Spot", "Low Priority"} {
			if strings.Contains(it.SkuName, no) || strings.Contains(it.MeterName, no) {
				return
			}
		}
		if it.UnitOfMeasure != "1 Hour" || strings.Contains(it.ProductName, "CloudServices") || strings.Contains(it.ProductName, "Dedicated Host") {
			return
		}
		os := Linux
		if strings.HasSuffix(it.ProductName, " Windows") {
			os = Windows
		}
		f.hourly = append(f.hourly, freshPrice{it.ArmSkuName, it.ArmRegionName, os, price})
	case "Storage":
		class := azureClasses[it.ProductName]
		tier, lrs := strings.CutSuffix(it.SkuName, " LRS")
		if class == "" || !lrs || it.UnitOfMeasure != "1/Month" || len(tier) < 2 || !strings.HasSuffix(it.MeterName, "Disk") && !strings.HasSuffix(it.MeterName, "Disks") {
			return
		}
		if gib := azureTiers[tier[1:]]; gib > 0 {
			f.Storage.rows[storageKey{vm.Azure, it.ArmRegionName, class, strconv.Itoa(gib)}] = price
		}
	default:
		return
	}
	f.Date = max(f.Date, day(it.EffectiveStartDate))
}

// Apply makes a table with the fresh prices in it and counts them. Regions that
// the table lacks are added; sizes that it does not describe are left out, for
// nothing is known of what they fit.
func (f *Fresh) Apply(old *Table) *Table {
	regions := slices.Clone(old.Regions)
	for _, p := range f.hourly {
		if _, ok := old.index[p.size]; ok && !slices.Contains(regions, p.region) {
			regions = append(regions, p.region)
		}
	}
	slices.Sort(regions)
	t := NewTable(old.Platform, max(old.Date, f.Date), old.Source, regions)
	for i, s := range old.Sizes {
		by := map[OS]map[string]Micro{Linux: {}, Windows: {}}
		for os, m := range by {
			for j, r := range old.Regions {
				m[r] = old.price[os][i][j]
			}
		}
		t.Add(s, by[Linux], by[Windows])
	}
	f.Sizes, f.Unknown, f.Disks = 0, 0, len(f.Storage.rows)
	for _, p := range f.hourly {
		i, ok := t.index[p.size]
		if !ok {
			f.Unknown++
			continue
		}
		t.price[p.os][i][slices.Index(t.Regions, p.region)] = p.price
		f.Sizes++
	}
	return t
}

// Merge takes over what a further page says.
func (f *Fresh) Merge(o *Fresh) error {
	if f.Platform != o.Platform {
		return fmt.Errorf("cannot read prices: one page is of %s and another of %s", f.Platform, o.Platform)
	}
	f.hourly = append(f.hourly, o.hourly...)
	f.Storage.Merge(o.Storage)
	f.Date, f.Next = max(f.Date, o.Date), o.Next
	return nil
}

package prices

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/vm"
)

// TestBuiltin compares built-in prices with those of another source: karpenter's
// table has m7i.large in us-east-1 at 0.1008 USD, and both providers' pages the
// others.
func TestBuiltin(t *testing.T) {
	b := Builtin()
	for _, c := range []struct {
		table        *Table
		size, region string
		os           OS
		want         Micro
	}{
		{b.AWS, "m7i.large", "us-east-1", Linux, 100_800}, {b.AWS, "m7i.large", "us-east-1", Windows, 192_800}, {b.AWS, "m5.large", "us-east-1", Linux, 96_000},
		{b.AWS, "t2.micro", "us-east-1", Linux, 11_600}, {b.Azure, "Standard_B2s", "eastus", Linux, 41_600}, {b.Azure, "Standard_B2s", "eastus", Windows, 49_600},
		{b.Azure, "Standard_D4s_v6", "westeurope", Linux, 242_000}, {b.Azure, "Standard_D4s_v6", "westeurope", Windows, 426_000},
	} {
		if got, ok := c.table.Hourly(c.size, c.region, c.os); !ok || got != c.want {
			t.Errorf("%s in %s with %s: %s", c.size, c.region, c.os, got.Exact())
		}
	}
	for _, c := range []struct{ size, region string }{{"m7i.large", "moon-1"}, {"m99.large", "us-east-1"}, {"m7i.large", "af-south-1"}} {
		if got, ok := b.AWS.Hourly(c.size, c.region, Linux); ok {
			t.Errorf("%+v costs %s", c, got)
		}
	}
	for _, table := range []*Table{b.AWS, b.Azure} {
		if len(table.Sizes) < 800 || len(table.Regions) < 30 || table.Date != "2025-05-28" || !strings.Contains(table.Source, "MIT") {
			t.Errorf("%s: %d sizes, %d regions, %s, %s", table.Platform, len(table.Sizes), len(table.Regions), table.Date, table.Source)
		}
		for _, s := range table.Sizes {
			if s.CPUs < 1 || s.Memory < 256*vm.MiB || len(s.Arch) == 0 || len(s.Firmware) == 0 || s.MaxDisks < 1 || s.MaxNICs < 1 {
				t.Errorf("%+v", s)
			}
			for _, r := range table.Regions {
				l, ok1 := table.Hourly(s.Name, r, Linux)
				w, ok2 := table.Hourly(s.Name, r, Windows)
				if ok1 && ok2 && w < l && table.Platform == vm.AWS || l < 0 || w < 0 {
					t.Errorf("%s in %s: %s with Windows and %s without", s.Name, r, w, l)
				}
			}
		}
		// The same table gives the same bytes, and they are those of the file.
		var out bytes.Buffer
		if err := table.Write(&out); err != nil {
			t.Fatal(err)
		}
		again, err := Read(&out)
		if err != nil || fmt.Sprint(again.Sizes) != fmt.Sprint(table.Sizes) || fmt.Sprint(again.price) != fmt.Sprint(table.price) {
			t.Errorf("%s: what was written is not what is read: %v", table.Platform, err)
		}
	}
	if n := len(awsData) + len(azureData); n > 300<<10 {
		t.Errorf("the tables take %d bytes", n)
	}
}

func TestMicro(t *testing.T) {
	for m, want := range map[Micro][2]string{0: {"0.00", "0.00"}, 12: {"0.000012", "0.000012"}, 12_288: {"0.01", "0.012288"}, 1_234_567: {"1.23", "1.234567"}, 250_000: {"0.25", "0.25"}, 3_000_000: {"3.00", "3.00"}} {
		if m.String() != want[0] || m.Exact() != want[1] {
			t.Errorf("%d: %s %s", m, m, m.Exact())
		}
	}
}

func TestStorage(t *testing.T) {
	s := Builtin().Storage
	for _, c := range []struct {
		p                vm.Platform
		region, class    string
		gib              int64
		iops, throughput int
		want             Micro
		used             string
		ok               bool
	}{
		{vm.AWS, "us-east-1", "gp3", 100, 0, 0, 8_000_000, "us-east-1", true},
		{vm.AWS, "us-east-1", "gp3", 100, 3000, 125, 8_000_000, "us-east-1", true},
		{vm.AWS, "us-east-1", "gp3", 100, 3001, 126, 8_045_000, "us-east-1", true},
		{vm.AWS, "ap-east-1", "gp3", 100, 0, 0, 8_000_000, "us-east-1", true},
		{vm.AWS, "us-east-1", "io2", 100, 70000, 0, 12_500_000 + 32000*65_000 + 32000*45_500 + 6000*31_850, "us-east-1", true},
		{vm.Azure, "eastus", "Premium_LRS", 128, 0, 0, 19_710_000, "eastus", true},
		{vm.Azure, "eastus", "Premium_LRS", 129, 0, 0, 38_020_000, "eastus", true},
		{vm.Azure, "eastus", "Premium_LRS", 32768, 0, 0, 0, "", false},
		{vm.Azure, "eastus", "StandardSSD_ZRS", 10, 0, 0, 0, "", false},
	} {
		got, used, ok := s.Monthly(c.p, c.region, c.class, c.gib*vm.GiB, c.iops, c.throughput)
		if got != c.want || used != c.used || ok != c.ok {
			t.Errorf("%+v: %d %s %v", c, got, used, ok)
		}
	}
	if got, _, _ := s.Monthly(vm.AWS, "us-east-1", "gp3", 1, 0, 0); got != 80_000 {
		t.Errorf("a byte is a GiB: %s", got)
	}
}

// awsDocument is an answer of GetProducts, products as texts, and azureDocument
// one of the Retail Prices API, as the providers document them.
func awsDocument(t *testing.T) []byte {
	product := func(attributes map[string]string, family, price string) string {
		b, err := json.Marshal(map[string]any{
			"product": map[string]any{"productFamily": family, "attributes": attributes, "sku": "S"}, "serviceCode": "AmazonEC2", "publicationDate": "2026-03-04T05:06:07Z",
			"terms": map[string]any{"OnDemand": map[string]any{"S.T": map[string]any{"priceDimensions": map[string]any{"S.T.D": map[string]any{"unit": "Hrs", "beginRange": "0", "pricePerUnit": map[string]string{"USD": price}}}}},
				"Reserved": map[string]any{}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	ec2 := func(size, os, tenancy, software string) map[string]string {
		return map[string]string{"instanceType": size, "operatingSystem": os, "tenancy": tenancy, "preInstalledSw": software, "capacitystatus": "Used", "regionCode": "eu-west-1", "licenseModel": "No License required"}
	}
	b, err := json.Marshal(map[string]any{"FormatVersion": "aws_v1", "PriceList": []string{
		product(ec2("m7i.large", "Linux", "Shared", "NA"), "Compute Instance", "0.1230000000"),
		product(ec2("m7i.large", "Linux", "Dedicated", "NA"), "Compute Instance", "9"),
		product(ec2("m7i.large", "Linux", "Shared", "SQL Std"), "Compute Instance", "9"),
		product(ec2("m7i.large", "RHEL", "Shared", "NA"), "Compute Instance", "9"),
		product(ec2("m7i.large", "Windows", "Shared", "NA"), "Compute Instance", "0.2220000000"),
		product(ec2("z99.large", "Linux", "Shared", "NA"), "Compute Instance", "9"),
		product(map[string]string{"volumeApiName": "gp3", "regionCode": "eu-west-1", "usagetype": "EU-EBS:VolumeUsage.gp3"}, "Storage", "0.0910000000"),
		product(map[string]string{"volumeApiName": "gp3", "regionCode": "eu-west-1", "usagetype": "EU-EBS:VolumeP-Throughput.gp3"}, "Provisioned Throughput", "46.0800000000"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const azureDocument = `{"BillingCurrency":"USD","NextPageLink":"https://prices.azure.com/next","Items":[
{"currencyCode":"USD","retailPrice":0.3,"armRegionName":"westeurope","armSkuName":"Standard_D4s_v6","skuName":"D4s v6","meterName":"D4s v6","productName":"Virtual Machines Dsv6 Series","serviceName":"Virtual Machines","unitOfMeasure":"1 Hour","type":"Consumption","effectiveStartDate":"2026-02-01T00:00:00Z"},
{"currencyCode":"USD","retailPrice":0.5,"armRegionName":"westeurope","armSkuName":"Standard_D4s_v6","skuName":"D4s v6","meterName":"D4s v6","productName":"Virtual Machines Dsv6 Series Windows","serviceName":"Virtual Machines","unitOfMeasure":"1 Hour","type":"Consumption","effectiveStartDate":"2026-02-01T00:00:00Z"},
{"currencyCode":"USD","retailPrice":0.01,"armRegionName":"westeurope","armSkuName":"Standard_D4s_v6","skuName":"D4s v6 Spot","meterName":"D4s v6 Spot","productName":"Virtual Machines Dsv6 Series","serviceName":"Virtual Machines","unitOfMeasure":"1 Hour","type":"Consumption"},
{"currencyCode":"USD","retailPrice":0.01,"armRegionName":"westeurope","armSkuName":"Standard_D4s_v6","skuName":"D4s v6 Low Priority","meterName":"D4s v6 Low Priority","productName":"Virtual Machines Dsv6 Series","serviceName":"Virtual Machines","unitOfMeasure":"1 Hour","type":"Consumption"},
{"currencyCode":"USD","retailPrice":1000,"armRegionName":"westeurope","armSkuName":"Standard_D4s_v6","skuName":"D4s v6","meterName":"D4s v6","productName":"Virtual Machines Dsv6 Series","serviceName":"Virtual Machines","unitOfMeasure":"1 Hour","type":"Reservation"},
{"currencyCode":"USD","retailPrice":22.5,"armRegionName":"westeurope","armSkuName":"Premium_SSD_Managed_Disk_P10","skuName":"P10 LRS","meterName":"P10 LRS Disk","productName":"Premium SSD Managed Disks","serviceName":"Storage","unitOfMeasure":"1/Month","type":"Consumption"}
]}`

func TestUpdate(t *testing.T) {
	dir := t.TempDir()
	for _, doc := range [][]byte{awsDocument(t), []byte(azureDocument)} {
		f, err := Parse(bytes.NewReader(doc))
		if err != nil {
			t.Fatal(err)
		}
		b, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		table := f.Apply(b.Table(f.Platform))
		if f.Platform == vm.AWS && (f.Sizes != 2 || f.Unknown != 1 || f.Disks != 2 || f.Date != "2026-03-04") || f.Platform == vm.Azure && (f.Sizes != 2 || f.Unknown != 0 || f.Disks != 1 || f.Next == "") {
			t.Errorf("%+v", f)
		}
		if err := Save(dir, table, b.Fresh(f)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		table        *Table
		size, region string
		os           OS
		want         Micro
	}{
		{b.AWS, "m7i.large", "eu-west-1", Linux, 123_000}, {b.AWS, "m7i.large", "eu-west-1", Windows, 222_000}, {b.AWS, "m7i.large", "us-east-1", Linux, 100_800},
		{b.Azure, "Standard_D4s_v6", "westeurope", Linux, 300_000}, {b.Azure, "Standard_D4s_v6", "westeurope", Windows, 500_000}, {b.Azure, "Standard_D4s_v6", "eastus", Linux, 202_000},
	} {
		if got, _ := c.table.Hourly(c.size, c.region, c.os); got != c.want {
			t.Errorf("%+v: %s", c, got.Exact())
		}
	}
	if b.AWS.Date != "2026-03-04" || b.Azure.Date != "2026-02-01" {
		t.Errorf("%s %s", b.AWS.Date, b.Azure.Date)
	}
	if m, used, _ := b.Storage.Monthly(vm.AWS, "eu-west-1", "gp3", 100*vm.GiB, 3000, 135); m != 9_100_000+450_000 || used != "eu-west-1" {
		t.Errorf("%s at %s", m, used)
	}
	if m, used, _ := b.Storage.Monthly(vm.Azure, "westeurope", "Premium_LRS", 100*vm.GiB, 0, 0); m != 22_500_000 || used != "westeurope" {
		t.Errorf("%s at %s", m, used)
	}
	if Builtin().AWS.Date != "2025-05-28" {
		t.Error("the built-in prices were changed")
	}
	// A broken file is an error that names it, not silence.
	if err := os.WriteFile(filepath.Join(dir, "aws.tsv.gz"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "aws.tsv.gz") {
		t.Errorf("%v", err)
	}
}

func TestParseHostile(t *testing.T) {
	for _, s := range []string{"", "{}", "[]", `{"PriceList":["{"]}`, `{"PriceList":[1]}`, `{"Items":[{}]}`, `{"products":{"a":1}}`} {
		if _, err := Parse(strings.NewReader(s)); err == nil {
			t.Errorf("%q is a price list", s)
		}
	}
}

func TestRateCard(t *testing.T) {
	c, err := ParseRateCard([]byte("currency: EUR\ncpu: 2\nmemory: 0.5\nwindows: 10\nmachine: 1\nstorage: {default: 0.1, fast: 0.2}\n"))
	if err != nil {
		t.Fatal(err)
	}
	m := &vm.Machine{CPU: vm.CPU{Sockets: 2, CoresPerSocket: 2}, Memory: 8 * vm.GiB, Guest: vm.GuestOS{Family: vm.Windows}}
	if got := c.Compute(m); got != 23_000_000 {
		t.Errorf("%s", got)
	}
	if got, ok := c.Disk("fast", 10*vm.GiB); !ok || got != 2_000_000 {
		t.Errorf("%s", got)
	}
	if got, ok := c.Disk("other", 10*vm.GiB); !ok || got != 1_000_000 {
		t.Errorf("%s", got)
	}
	for s, want := range map[string]string{"cpu: 1": "currency", "currency: EUR\ncpu: -1": "cpu", "currency: EUR\n\ncpus: 1": "[3:1]", "currency: EUR\nstorage: {a: -1}": "storage a"} {
		if _, err := ParseRateCard([]byte(s)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(awsData)
	f.Add([]byte("x"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = Read(bytes.NewReader(b)) })
}

// FuzzTable feeds lines past the compression.
func FuzzTable(f *testing.F) {
	f.Add("s\t2\t4096\tamd64\tbios\t3\t2\tn\t1,2\t=3")
	f.Add("s\t2\t4096\tamd64\tbios\t3\t2\tn\t1,2\tx,")
	f.Fuzz(func(t *testing.T, s string) {
		table := NewTable(vm.AWS, "", "", []string{"a", "b"})
		if table.addLine(strings.Split(s, "\t")) != nil {
			return
		}
		var out bytes.Buffer
		if err := table.Write(&out); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(s, "\n\r,") && !strings.Contains(s, "\t") {
			return
		}
		if _, err := Read(&out); err != nil && !strings.ContainsAny(s, "\n\r") {
			t.Errorf("%q is written and not read: %v", s, err)
		}
	})
}

func FuzzDocuments(f *testing.F) {
	f.Add([]byte(azureDocument))
	f.Add([]byte(`{"PriceList":["{\"product\":{\"productFamily\":\"Storage\",\"attributes\":{\"volumeApiName\":\"gp3\",\"regionCode\":\"r\"}},\"terms\":{}}"]}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if p, err := Parse(bytes.NewReader(b)); err == nil {
			p.Apply(Builtin().Table(p.Platform))
		}
	})
}

// Command distil makes the price tables that are built into the program from
// the data files of github.com/cristim/ec2-instances-info (MIT licence) and a
// document of EC2's DescribeInstanceTypes.
//
//	dir=$(go mod download -json github.com/cristim/ec2-instances-info@v0.0.0-20250528091325-32acf84f42eb | jq -r .Dir)
//	go run ./internal/prices/distil -data "$dir/data" -types instance_types.json.gz -date 2025-05-28 -out internal/prices/data
//
// The module embeds 135 MB and is never imported. The types document may be the
// answer of "aws ec2 describe-instance-types", or a JSON object of such entries
// by name, gzip or not; of a type that is not in it no boot mode and no limit is
// known, and it is left out.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"ascend/internal/prices"
)

func main() {
	data := flag.String("data", "", "`folder` with instances.json and azure-instances.json")
	types := flag.String("types", "", "`file` of DescribeInstanceTypes")
	date := flag.String("date", "", "the prices' date, as 2025-05-28")
	out := flag.String("out", "internal/prices/data", "`folder` of the tables")
	flag.Parse()
	if *data == "" || *types == "" || *date == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*data, *types, *date, *out); err != nil {
		fmt.Fprintln(os.Stderr, "distil:", err)
		os.Exit(1)
	}
}

func run(data, types, date, out string) error {
	aws, err := awsTable(filepath.Join(data, "instances.json"), types, date)
	if err != nil {
		return err
	}
	azure, err := azureTable(filepath.Join(data, "azure-instances.json"), date)
	if err != nil {
		return err
	}
	return errors.Join(write(filepath.Join(out, "aws.tsv.gz"), aws), write(filepath.Join(out, "azure.tsv.gz"), azure))
}

func write(name string, t *prices.Table) error {
	var b bytes.Buffer
	if err := t.Write(&b); err != nil {
		return err
	}
	fmt.Printf("%s: %d sizes, %d regions, %d bytes\n", name, len(t.Sizes), len(t.Regions), b.Len())
	return os.WriteFile(name, b.Bytes(), 0o644)
}

// load decodes a JSON file, compressed or not.
func load(name string, v any) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if len(b) > 2 && b[0] == 0x1f && b[1] == 0x8b {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return err
		}
		if err := json.NewDecoder(z).Decode(v); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

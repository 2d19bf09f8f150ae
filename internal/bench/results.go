package main

import (
	"encoding/json"
	"os"
	"runtime"
	"time"
)

// results is a run's figures for programs to read; rows of a table against
// another tool have theirs and ratios, the others only ours.
type results struct {
	Date       string  `json:"date"`
	Processors int     `json:"processors"`
	System     string  `json:"system"`
	Data       int64   `json:"data"` // bytes of the corpus
	Tables     []table `json:"tables"`
}

type table struct {
	Title string  `json:"title"`
	Than  string  `json:"than,omitempty"` // what it is measured against
	Rows  []entry `json:"rows"`
}

type entry struct {
	Name   string     `json:"name"`
	Ours   measured   `json:"ours"`
	Theirs *measured  `json:"theirs,omitempty"`
	Rounds int        `json:"rounds,omitempty"`
	Ratio  *measured  `json:"ratio,omitempty"` // theirs by ours: above 1, ours needs less
	Extra  []quantity `json:"extra,omitempty"`
}

// measured is medians: seconds, and MiB.
type measured struct {
	Wall   float64 `json:"wall"`
	CPU    float64 `json:"cpu"`
	Memory float64 `json:"memory"`
	Staged float64 `json:"staged"`
}

type quantity struct {
	What  string  `json:"what"`
	Value float64 `json:"value"`
}

func (f figure) measured() measured { return measured{f.wall, f.cpu, f.rss, f.staged} }

// book collects what the parts print.
var book = results{Date: time.Now().UTC().Format(time.RFC3339), Processors: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH}

func (r *results) begin(title, than string) {
	r.Tables = append(r.Tables, table{Title: title, Than: than})
}

func (r *results) add(e entry) {
	t := &r.Tables[len(r.Tables)-1]
	t.Rows = append(t.Rows, e)
}

// write writes the book to a file, "" for none.
func (r *results) write(file string) error {
	if file == "" {
		return nil
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644) //nolint:gosec // figures are for everybody
}

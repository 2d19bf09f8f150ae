package api

import (
	"context"
	"time"

	"ascend/internal/server/records"
)

// PageIn is how much of a list is wanted.
type PageIn struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50"`
	Cursor string `query:"cursor" maxLength:"300" doc:"next of the page before"`
}

// Page is a part of a list.
type Page[T any] struct {
	Items []T    `json:"items" nullable:"false"`
	Next  string `json:"next,omitempty" doc:"the cursor of the next page; absent at the end"`
}

// List is the answer that holds a page.
type List[T any] struct {
	Body Page[T]
}

func listOf[T any](items []T, next string) *List[T] {
	if items == nil {
		items = []T{}
	}
	return &List[T]{Page[T]{items, next}}
}

// One is the answer that holds one thing.
type One[T any] struct {
	ETag string `header:"ETag"`
	Body T
}

// Created is the answer to what was made.
type Created[T any] struct {
	Location string `header:"Location"`
	ETag     string `header:"ETag"`
	Body     T
}

// ID names one thing.
type ID struct {
	ID string `path:"id" minLength:"1" maxLength:"128"`
}

// Name is the id of what an admin names: short, and the same in URLs and on
// command lines.
type Name = string

// Span is a time from and to.
type Span struct {
	Since time.Time `query:"since" doc:"not before"`
	Until time.Time `query:"until" doc:"not after"`
}

// page lists a page of documents as something else.
func page[T, V any](ctx context.Context, t records.Table[T], ref string, in PageIn, desc bool, f func(records.Doc[T]) V) (*List[V], error) {
	docs, err := t.List(ctx, ref, records.Page{After: in.Cursor, Limit: in.Limit + 1, Desc: desc})
	if err != nil {
		return nil, err
	}
	next := ""
	if len(docs) > in.Limit {
		docs = docs[:in.Limit]
		next = docs[in.Limit-1].ID
	}
	out := make([]V, 0, len(docs))
	for _, d := range docs {
		out = append(out, f(d))
	}
	return listOf(out, next), nil
}

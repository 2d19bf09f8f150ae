// Package webui holds the web application as it was built (make web), so that the
// program serves it from within itself.
package webui

import (
	"embed"
	"io/fs"
)

// dist is what the build made; absent says how to make it, where it was not.
//
//go:embed all:dist absent
var files embed.FS

// Files is the application, or a page that says that it was not built in.
func Files() fs.FS {
	name := "dist"
	if _, err := fs.Stat(files, "dist/index.html"); err != nil {
		name = "absent"
	}
	sub, err := fs.Sub(files, name)
	if err != nil {
		panic(err) // both are embedded
	}
	return sub
}

// Built tells whether the application was built in.
func Built() bool {
	_, err := fs.Stat(files, "dist/index.html")
	return err == nil
}

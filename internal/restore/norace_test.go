//go:build !race

package restore

const raced = false

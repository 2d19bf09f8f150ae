// Package transfer moves the bytes of computed files to where they go: ranges
// in parallel or an ordered stream, with back-pressure by bytes in flight,
// holes left out, a bandwidth cap, a digest of the disk taken in passing, a
// journal of what has landed that survives kill -9, and progress in allocated
// bytes.
package transfer

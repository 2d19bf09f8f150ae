//go:build !linux

package cloudstack

const openNoFollow, openExclusive = 0, 0

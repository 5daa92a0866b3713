//go:build !linux

package x86

// hostMemory returns what the host has and what of it is free to use, in
// bytes. Without code for the host a modest machine is assumed; the cap on
// arenas keeps well below it.
func hostMemory() (total, available uint64) { return 4 << 30, 4 << 30 }

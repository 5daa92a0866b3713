//go:build !linux && !race

package x86

// arenaCap is the largest machine, in bytes, on hosts for which there is no
// mapping code: the Go heap has to hold all of it.
const arenaCap = 1 << 30

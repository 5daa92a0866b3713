//go:build race

package x86

// arenaCap is the largest machine, in bytes, under the race detector, which
// keeps several bytes of its own for each byte of the Go heap.
const arenaCap = 256 << 20

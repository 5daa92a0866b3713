//go:build race

package matrix

// Race is set under the race detector, which has nothing to see where one goroutine runs a machine
// in a deterministic regime, and makes it ten times as slow. Searches with several
// workers are looked at in kernel/explore.
const Race = true

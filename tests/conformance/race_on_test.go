//go:build race

package conformance

// race is set under the race detector, which has nothing to see where one goroutine runs a machine.
const race = true

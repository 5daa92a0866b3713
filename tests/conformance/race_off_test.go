//go:build !race

package conformance

// race is set under the race detector.
const race = false

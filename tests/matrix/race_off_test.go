//go:build !race

package matrix

// Race is set under the race detector.
const Race = false

//go:build !race

package policy

// Race is set in race-detector builds.
const Race = false

//go:build race

package spec

// race shortens what the race detector has nothing to say about.
const race = true

//go:build race

package scenarios

// race is set under the race detector, where searches are short.
const race = true

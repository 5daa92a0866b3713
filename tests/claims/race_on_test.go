//go:build race

package claims

// underRace is set under the race detector, which has nothing to see where one task runs at a time.
const underRace = true

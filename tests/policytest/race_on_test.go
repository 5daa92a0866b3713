//go:build race

package policytest

// underRace is set under the race detector, where everything takes ten times as long.
const underRace = true

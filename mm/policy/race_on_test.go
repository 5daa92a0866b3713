//go:build race

package policy

// Race is set in race-detector builds. Searches over schedules run on one goroutine at a
// time: the detector has nothing to see there and makes them ten times as slow, so such
// builds search a fraction.
const Race = true

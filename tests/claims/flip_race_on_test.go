//go:build race

package claims

// raceBuild is set under the race detector, where searches of one goroutine are ten times as
// slow and show it nothing: such builds flip a few verdicts only.
const raceBuild = true

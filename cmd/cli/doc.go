// Package cli is the cowlab command, importable: a program of ten lines that calls
//
//	os.Exit(cli.Main(append(policy.All(), mine{})))
//
// has every verb for its own policy.
//
// # Exit codes
//
//	0  it ran
//	1  the result differs from what was expected (matrix -expect, replay)
//	2  bad usage
//	3  it could not run, or was interrupted
//	4  a policy loops or blocks in Go: what Go executes is told
package cli

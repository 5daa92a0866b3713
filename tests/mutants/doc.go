// Package mutants measures whether the checkers and the search notice mistakes: each
// [Mutant] is the emulated kernel less one line (a flush, a lock, a second look, a reference, a
// barrier), and a program of a few system calls in which that shows under some schedules.
//
// A mutant is found when a schedule ends otherwise than well: the program saw wrong bytes,
// an invariant did not hold, the kernel hit a BUG, nothing could happen any more, something
// leaked. The kernel itself must come through the same schedules unharmed.
//
//	mm.Break, policies        the mistakes of the kernel
//	catalog.go, catalog_*.go  the mutants and their programs
//	target.go                 one schedule
//	table.go                  the portfolio against plain random, and the table
//
// The table is made by
//
//	go test ./tests/mutants -run Table -v -args -table
//
// which searches with both, at most so many schedules for each of several seeds;
// docs/mutants.md has it as measured.
package mutants

// Package hygiene tests the source of this module rather than what it does.
//
// The house plan has rules that the compiler cannot check: which room may
// import which, where atomics and unsafe may be used, how long a file may be.
// A rule that nobody checks is broken within a month, so each is a function over
// the parsed files of the repository, run by go test like any other test. Nothing
// is built and nothing is downloaded.
//
// A rule can only be trusted if it can fail: each carries fake sources that
// offend against it and fake sources that do not, and a test of its own.
//
// # Rooms
//
// A room imports only rooms further right; kernel/trace may be imported by
// all and imports none.
//
//	cmd/cowlab -> cmd/cli -> tests/* -> kernel -> fs -> mm -> blk -> mm/page -> kernel/lock -> kernel/sched -> arch/x86
//	                            |                       ^
//	                            +-> mm/policy ----------+
//	                            +-> kernel/explore -----------------------------> kernel/lock ...
//
// examples/* stand beside cmd/cowlab: programs of third parties, which import what such a
// program would.
//
// The table rooms in rules_test.go is the same as data. A new directory has to
// be entered there, which is the moment to think about its place. Test files may import what they
// like, short of the commands.
package hygiene

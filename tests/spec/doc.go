// Package spec says what memory is, apart from how a kernel makes it, and looks for programs
// in which a policy makes it something else.
//
// Three things are compared: random programs ([Generate]), a model of what they mean
// ([NewModel]), and the emulated kernel under a policy, schedule by schedule
// ([Program.Target]).
//
// # Programs
//
// A program is a scenario of package scenarios: threads, children, devices, stores, loads, direct
// I/O that waits and that does not, drivers' pins and DMA, vmsplice, mprotect, madvise,
// mremap, munmap, a debugger, reclaim; allocations that fail. So what is found is a file
// that `cowlab litmus` runs, draws and shrinks. Each value is stored once, so that a byte which is
// wrong says where it comes from.
//
// # The model
//
// The model has no pages and no references. A process is a map from names to bytes; fork copies
// them; a device writes into the memory of the process that asked for it, wherever that is, at
// some moment between the submission and the completion. Operations are events, and what
// happens before what is a partial order:
//
//	in a column        as written
//	fork C             before what C does        wait C    after it
//	set e              before await e            @1        before @1 and behind it are apart
//	io_read            its transfer comes after it, and before io_wait
//	vmsplice p         before the pipe_read that gets it
//
// A byte that is read at an event may hold what a write puts there that is not ordered with the
// read, or one that comes before it and that no other is certain to have replaced since. With no race
// about a byte that is one value, and the kernel must agree; with a race it is the set of
// allowed ones, and the kernel must stay in it:
//
//	P0          | P1              | C child   ;
//	A[0] = 1    | io_read A at 0  | r = A[0]  ;     A[0] is 1 or the disk's at the end,
//	fork C      |                 |           ;     C's is 0, 1 or the disk's, and stays that
//
// A copy (fork, a transfer) writes whatever its source may hold, so that sets flow through a
// program until nothing changes. Where two threads race about whether memory is there at all, the
// model is [Model.Vague] and predicts nothing; that nothing breaks or leaks is asked all the same.
//
// Where a call may fail, because an allocation does, what it would have written may be there or
// not.
//
// What the model does not say: whether the bytes that fork copies are of one instant (torn copies
// are the matrix's business), and in which order racing writes are seen by two readers.
//
// # The comparison
//
// [Model.Judge] compares a final state with the model and names what is wrong, in the words
// of package workload where it has them:
//
//	lost-read      what a device wrote is not where it was asked for
//	leak-to-disk   what another process stored reached the disk, leak-to-child a pin or pipe
//	child-changed  a device's bytes reached another process
//	shared-store   one process sees another's store, with no device
//	lost-store     an older value is back
//	stale-write    an older value reached the disk, stale-pin a device that reads later
//	bug, leak, deadlock, livelock, oom   as everywhere
//
// Each has what a policy must promise so that it cannot be (mm.Guarantee): a lost read of
// io_read wants Forward and AIO, with reclaim in the program UnderSwap too. What a policy does
// not promise is counted, with "~" before it. What it promises and does not keep is a hole.
// What is lost may go to the disk and come back elsewhere: that is no second loss, if the run was
// seen to bring it and its final state shows the first one (disk.go).
// Holes that are known stand in [Known], each with its section of docs/findings.md; a hole
// that is not there fails the tests. A hole is recognised by policy, verdict and kinds of operations,
// and where these would let others pass, by what the run that shows it did to a pinned page:
// copied it, took it over, shared it, brought it back from swap.
//
// # The search
//
// [Search] runs programs under all policies and makes each hole small: the fewest operations
// ([Minimise] models every candidate anew), then the fewest switches. `go test ./tests/spec` runs a
// few programs; for as long as one likes:
//
//	go test ./tests/spec -run 'TestSearch$' -timeout 0 -args -spec 60m -spec-seed 1 -spec-out /tmp/holes
//
// A failure prints the command that repeats it, of this form:
//
//	go test ./tests/spec -run 'TestProgram$' -v -args -spec-seed 17 -spec-policy pg_gup
//
// `cowlab litmus spec-17` runs the same program as a scenario, and tokens of random programs
// replay.
package spec

// Package bench times the emulated machine: it is the third column of the
// rows of package speed, and a set of Go benchmarks.
//
// # Machines that live long
//
// Booting and prefaulting is not what a row is about, so a row runs on a machine
// that stays: one [kernel.Machine] for each number of CPUs, booted when the
// first row needs it and shut down by the cleanup that [Attach] returns. A
// batch is one process on it:
//
//	harness        machine (parallel regime, memory prefaulted)
//	  |  batch(n)     |
//	  +-------------->| init starts: maps, touches       not timed
//	  |               |   t0 = host clock
//	  |               |   n units
//	  |               |   d = host clock - t0            the sample
//	  |               | unmaps, waits, exits             not timed
//	  |<--------------+ d
//
// The clock is the host's and is read inside the machine, around the part that
// counts. Virtual time plays no role here: the parallel regime only estimates it.
//
//	machine  CPUs  memory   rows
//	uni      1     64 MiB   two threads that share a CPU
//	duo      2     512 MiB  nearly everything: native is not a uniprocessor either,
//	                        and an mmu_gather that frees at once would flatter
//	quad     4     64 MiB   the flush of three other CPUs on fewer cores
//	disk     2     64 MiB   direct reads, from a RAM disk
//
// # What a row does
//
// The same as native/*.c of package speed, from the same state; see its package
// comment. Where that leaves a choice:
//
//   - scale-fault and scale-gup use two processes, so that what they share is the
//     machine's (allocator, LRU lists) and not one mmap_sem.
//   - gup-fast takes 240 pages at a call, as native does, of n different ones.
//   - direct-1m goes without the device: the time of the driver's own copy is
//     measured apart and taken off.
//   - fork and exit are slopes between n and n/10 pages, as native's are.
//
// # Go benchmarks
//
// The benchmarks of this package run the same batches by b.Loop:
//
//	go test -bench . ./tests/bench
//	go test -bench 'Fork/policy=pg_gup' ./tests/bench
//
// They are for comparing two versions of the source with each other, by
// benchstat. For a verdict against native or floor use the rows.
//
// # On a busy host
//
// The rows with two CPUs need two cores to themselves. Interleaving cancels a
// slow neighbour, but not one that has the second core: then scale-* shows 1 and
// a flush waits for the host's scheduler. Look at the floor of the row first.
//
// # Allocations
//
// The tests assert that loads, stores, faults, copies and gup-fast allocate
// nothing on the Go heap, and that what a fork allocates does not grow with its
// pages. Nothing here asserts a time.
package bench

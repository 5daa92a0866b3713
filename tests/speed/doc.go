// Package speed measures the emulated machine against the two things that can
// judge it: the host's own kernel doing the same, and the memory itself.
//
// # Three columns
//
//	native    the host kernel does the operation for a small C program
//	          (native/*.c, compiled when the measuring starts)
//	floor     a bare Go loop that does only the memory operations which
//	          cannot be avoided, on the same number of pages
//	emulated  cowlab does it
//
// Native tells what a kernel costs on this machine, traps and interrupts
// included. In a virtual machine those are several times dearer than on bare
// metal, so being as fast as native is the easy bar. The floor is the honest
// one: nobody copies a page faster than the memory allows.
//
// # One row
//
// An [Op] is one row: its name, what one unit of it is, how many units make a
// batch, and the sides. [Catalog] returns every row with native and floor
// filled in; whoever owns a machine adds the emulated sides with [Attach]:
//
//	floors, err := speed.NewFloors(speed.FloorOptions{})
//	ops := speed.Catalog(floors)
//	err = speed.Attach(ops, "fork-page", func(n int) time.Duration { ... })
//	probe, err := speed.BuildProbe(ctx, "")  // an error: native stays empty
//	report, err := speed.Measure(ctx, ops, speed.Options{Probe: probe})
//	report.WriteText(os.Stdout)
//
// The emulated function does n units and returns the time of the part that
// counts, so that it can set up and tidy without being charged.
//
// # How a row is measured
//
// Neighbours on a shared host move a figure by 20 to 50 per cent, and they move
// for seconds at a time. So the sides take turns, a batch of some milliseconds
// each, forwards and then backwards (native floor emulated, emulated floor
// native, ...): a drift hits all sides alike and cancels in the ratio.
//
//	round 1   N F E        ratios  E1/N1  E1/F1
//	round 2   E F N                E2/N2  E2/F2
//	round 3   N F E                E3/N3  E3/F3
//	...
//
// The figure of a goal is the median of the rounds' ratios. Its interval is made
// of two order statistics of the same ratios, which assumes nothing about their
// distribution: the k-th smallest and the k-th largest enclose the median with
// a probability that only the binomial distribution decides ([Median]). Twenty
// rounds give the sixth and the fifteenth and 95.9 per cent.
//
// # What the emulated side has to do
//
// The same as native/*.c, n units at a time, from the same state:
//
//	load-hit, store-hit  n accesses of 8 bytes, each HitStride after the last,
//	                     modulo HitSpan, everything in the TLB
//	copy-1m              n writes of the same MiB to the same place
//	fault-minor          a fresh region of n pages, one byte written in each
//	cow-copy             n touched pages, a living child; the parent writes
//	cow-reuse            n touched pages, a child that is gone; the parent writes
//	fork-fixed           n forks of a small process; the child leaves at once
//	fork-page            one fork of n present, dirty, writable pages less one of
//	                     a tenth, over the difference, times n
//	exit-page            the same difference for the exit of a process with n
//	                     touched pages of its own
//	munmap-page          one munmap of n touched pages
//	mprotect-page        one mprotect to read-only of n dirty pages
//	mremap-page          one move of n pages by no multiple of 2 MiB
//	gup-fast, gup-slow   n present pages taken; putting them is not timed
//	direct-1m            n/256 reads, the CPU's part without the device's copy
//	tlb-flush-2          n flushes of one page, the other CPU running user code
//	switch               n round trips, two switches each
//	scale-*              n units in all by two CPUs; Base does n by one
//	schedules            n schedules of forkscrew's small form on one host thread
//	schedules-2          n schedules in all on two; Base does n on one
//
// # Goals
//
// A [Goal] has two columns of [Rule]s, what the foundation must reach and the
// final goal. All rules of a column must hold. A rule compares the emulated
// side with native, with the floor, with a base (one CPU instead of two), or
// with a number. "Met" is judged by the median; a [Verdict] also says whether
// the whole interval agrees, and a row whose emulated side does not exist, or
// whose native side could not run, is not met and says why.
//
// # Keeping the floor honest
//
//   - memory is mapped and written once before anything is timed: the first
//     touch of a fresh page costs more than what is measured;
//   - the batch has as many pages as the native one, so both leave the caches
//     in the same way;
//   - frames come in the same order, sequential or shuffled ([Order]);
//   - locked operations stay locked: fork's floor for each pte is one locked
//     clear, two locked adds and two stores;
//   - nothing that the emulator needs beyond the hardware's minimum is
//     granted: no schedule points, no counters, no lists, no lock order.
//
// The locked operations are all in floor_atomic.go.
//
// # What stays empty
//
// A native side is left out where there is nothing to compare with (schedules per
// second), where no C compiler is found, and where measuring it would change the
// host: swapping needs a swap area. The host's own is used if there is one;
// otherwise [Probe].SwapFile has to be asked for, which makes one for the run. A
// floor is left out where no single loop is the minimum. The row's note says which.
package speed

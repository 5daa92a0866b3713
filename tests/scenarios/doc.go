// Package scenarios runs small programs whose interleavings matter, written as text files in
// the shape of litmus tests: a machine, its memory, a column of operations for each thread,
// and a question about the state in which a run can end.
//
// # A whole scenario
//
//	cowlab S1
//	"a pin for writing, a fork, a store, then the device writes: is that lost?"
//
//	map A 1 page private
//	init A = 1
//
//	 P0                 | C child | D device          ;
//	 pin h A write fast |         |                   ;
//	 fork C             |         |                   ;
//	 A[0] = 2           |         |                   ;
//	 @1                 |         | @1                ;
//	                    |         | dma h[512] = 0x64 ;
//
//	never P0:A[512] != 0x64
//	show samepage(P0:A, h), C:A[512]
//	expect stock        always
//	expect pg_gup       never
//	expect pg_dontcow   never
//	expect directio_sem always
//
// Each column is a sequence; a row means nothing but what it looks like. Between columns
// nothing is ordered, except by fork and by meeting points. The command searches schedules and
// counts final states, under every policy:
//
//	$ cowlab litmus S1 -policies stock
//	Test S1 under stock
//	Histogram (1 states)
//	100     *>P0:A[512]=0x1; samepage(P0:A, h)=0; C:A[512]=0x64;
//	No
//	Witnesses
//	Positive: 100, Negative: 0
//	Condition never P0:A[512] != 0x64
//	Observation S1 Always 100 0
//	...
//
// "*>" stands before states in which the condition holds, ":>" before others; each state has a
// token that replays a schedule to it. Whoever knows herd and litmus7 has seen all this before,
// but for the last column: memory that is copied on write, pinned, and written by devices.
//
// # Searching one
//
// What cowlab litmus does is sample, or with -preemptions K run every schedule with at most K. A
// scenario can also be searched as workloads are, by its name or file; "scenario:" stands before a
// name that a workload has too:
//
//	cowlab explore S7 -strategy dpor         one schedule of each equivalence class
//	cowlab explore S7 -strategy dfs -preemptions 2
//	cowlab explore mine.litmus -tso 1 -fail 1 -races 1
//	cowlab why S7 -policy pg_gup             how near to going wrong it came, and what closed it
//	cowlab replay TOKEN -min                 fewer context switches, then fewer operations
//	cowlab litmus S7 -shrink -policies stock,pg_gup
//
// What a search adds to the machine is its [Tuning], whatever the file says: store buffers,
// allocations that may fail at any moment, the checker of the kernel's data races. Under dfs and dpor
// columns start and end together as behind a spinlock, each on a CPU of its own, so that no
// sleep and no wake-up multiplies the schedules. Files that hold disks, or look at the machine's state in a column, are not for dpor
// ([Scenario.Reducible]). For why a run is wrong in which the condition of "never" or "sometimes"
// holds, or that of "always" does not, or that comes to no natural end ([Scenario.Wrong]).
//
// A token says which scenario and how it was tuned, has a digest of the text but for comments and expect lines, and which operations
// -min left out ([Scenario.ForToken]). They are left out as long as something tells that what is left means
// anything: a policy under which the condition never holds, or schedules in which it does not
// ([Scenario.Shrinking]).
//
// # The file
//
// Comments are (* ... *); those before the first line are the scenario's story. Numbers are
// decimal or 0x..., with K and M; errors of system calls are -EIO and so on. Only the settings,
// machine to search, may stand in another order than here:
//
//	cowlab NAME
//	"one line that says what it asks"
//	machine cpus=2 memory=4M disk=4K swap=64K    each may be missing; no disk or swap then
//	machine huge=2 ksm tso                       pages of 2 MiB in the pool, for which memory is added;
//	                                             KSM; store buffers
//	machine reclaim=1                            so many pages may be reclaimed at any moment
//	map A 2 pages private|shared [huge] [ro]     mappings of the first process; "private file" maps a file
//	pipe p
//	init A[0:512] = 1                            bytes at the beginning; also disk[0:512] = 1
//	error read|write disk[0:512]                 sectors that the disk cannot do
//	fail do_wp_page 1                            the first allocation of that name fails ("any": of all
//	                                             names), of those after the threads have begun
//	search 300                                   how many schedules it takes to see what happens
//	P0 | P1 | C child | T in C | D device ;      the columns, then the rows, each with a ';'
//	never|sometimes|always CONDITION
//	show TERM, TERM                              what states show besides
//	expect POLICY never|sometimes|always [VERDICT...]
//
// A scenario has at most 8 columns, 64 rows, 16 mappings and 128 pages; a machine at most 8 CPUs,
// 64M of memory, 1M of disk and 1M of swap. What needs more is a Go test (package vmtest).
//
// A machine with "tso" has the store buffers of x86: when a store can be seen is one more choice of the
// search. Pages of 2 MiB are asked for by "huge"; name a byte of them, not the whole.
//
// A machine with "reclaim" has a task, on a CPU of its own, that reclaims pages when the search says so;
// it has a swap disk, whether or not there is a size. What may be reclaimed are pages that are there when the columns begin.
//
// Memory that init does not name is not touched: that matters to get_user_pages. The pagevecs
// are empty when the columns begin.
//
// # Columns
//
// A plain column is a thread of the first process. One that is "child" is the first thread of
// a process that another column forks; "T in C" is another thread of that process, which
// starts with it. A "device" belongs to no process: it does DMA through pins, and outlives
// everybody. A process lives until all columns are through, and its memory can be asked for;
// one that exits, or dies of SIGSEGV, has no memory any more. What a column that ended early
// would have done for others, meeting points and events, counts as done.
//
// # Places
//
// A is a mapping as a whole, A[0] a byte, A[0:512] bytes, the last one not included. h[0] is a
// byte of a pin. Elsewhere than in a column's own operations a place says whose memory it is
// by a column of that process: C:A[0].
//
// # Operations
//
// Those with a result can give it to a register, as in n = pread A at 0; an error is minus its
// number then. Without a register a call that fails breaks the run: "broken" in its state.
//
//	A[0] = 1                store; also A[0:512] = 1
//	r = A[0]                load; r is "mixed" if the bytes are not all the same
//	dma h[0] = 1            the device writes to pinned memory
//	r = dma h[0]            and reads it
//	r = peek C:A[0]         a debugger reads another process's memory
//	poke C:A[0] = 1         and writes it
//	r = refs(A)             a function of the machine's state, at this moment
//	@1                      wait until all columns that have @1 are here
//
//	fork NAME               make a child, which does what the column NAME says
//	vfork NAME              fork, but the child borrows the memory; waits until it exits
//	wait NAME               wait until the child NAME, which must exit, has ended
//	exit [NUM]              end the process now; otherwise it lives until the end of the run
//	set NAME                let an event happen
//	await NAME              wait until the event has happened
//	pause NUM               let NUM steps of the others fit in, about
//
//	pread PLACE at NUM      read the disk from offset NUM into memory, O_DIRECT
//	pwrite PLACE at NUM     write memory to the disk, O_DIRECT
//	io_read PLACE at NUM    io_submit a read
//	io_write PLACE at NUM   io_submit a write
//	io_wait [NUM]           io_getevents for NUM requests, else for all of the column's
//	hold disk               from here on disks do nothing, unless nobody else can do anything
//	release disk            disks go on
//
//	pin NAME PLACE read|write [fast|umem] [get|pin|longterm]
//	                        register memory with a driver, for a device that reads or writes it;
//	                        the pages are called NAME
//	unpin NAME              give a registration back
//	vmsplice NAME PLACE     put memory into a pipe by reference
//	pipe_read NAME NUM      read NUM bytes from a pipe
//
//	mmap NAME NUM page|pages private|shared [ro]
//	                        map memory that the process has not got yet
//	munmap PLACE            unmap
//	mprotect PLACE none|r|rw
//	                        change the protection
//	mremap NAME             move a mapping to another address
//	madvise PLACE dontfork|dofork|dontcow|dontneed|pageout|mergeable
//	                        give advice
//	mlock PLACE             lock in memory
//	munlock PLACE           take mlock back
//	swapout PLACE           reclaim a page until its pte is a swap entry, at most four times
//	reclaim                 reclaim the inactive lists once
//	ksm NUM                 make NUM passes over mergeable memory; a page that the second
//	                        one finds unchanged is merged
//	fence                   wait until this CPU's stores can be seen by all (mfence)
//	drain                   empty the pagevecs of all CPUs (lru_add_drain_all); no other column may be
//	                        at work meanwhile
//
// # Conditions
//
// Terms are numbers, registers (P0:r), bytes (P0:A[0], disk[0:512]) as they are at the end,
// verdicts (bug, leak, deadlock, livelock, oom, refused, broken: how the run ended), and functions:
//
//	refs(P0:A)              references to the page (page_count)
//	mapcount(P0:A)          page-table entries that map the page
//	swapcount(P0:A)         users of the page's swap entry, the swap cache among them; 0 without one
//	present(P0:A)           1 if the page is mapped
//	writable(P0:A)          1 if it is mapped and the pte has the write bit
//	swapped(P0:A)           1 if the pte is a swap entry
//	samepage(P0:A, C:A)     1 if both are the same page, in memory or in swap; a pin counts as its page
//	counter(pgfault)        how much a counter of the machine, named as /proc/vmstat has it, grew
//	                        since the threads began
//	segv(P0)                1 if that column ended by SIGSEGV or SIGBUS
//
// They are compared with = != < <= > >= and joined by /\, \/ and ~. What is unknown ("?" in a
// state: a register that was not written, memory of a process that has ended) compares as
// false, with != too. Bytes that are not all the same are unequal to every number.
//
// An expect line is not an opinion: tests run it, and the command exits with 1 if something
// else is observed. A policy that has no line is held to the condition itself.
package scenarios

// Package lock has the locks of the emulated kernel and the checker of their order.
//
//	SpinLock    spinlock_t      waits by spinning, disables preemption
//	RWSem       rw_semaphore    sleeps; readers or one writer, first come first served
//	Mutex       struct mutex    sleeps; one owner
//	BitWait     PG_locked etc.  sleeps; a bit of a shared word, queues in a hash table
//	WaitQueue   wait_queue_head_t
//	Completion  struct completion
//	SeqCount    seqcount_t
//	RCU         classic: a read side is a region without preemption
//
// Every lock passes a schedule point before it is taken and before it is released,
// with the lock as its object, so a search over schedules sees each order in which
// two CPUs can take it.
//
// # Order
//
// The order in which locks may be nested is written once, in order.txt, as a
// partial order between classes. In race-detector builds, in the free regime, and
// where asked for, every acquisition is checked against everything its task holds:
// a violation is found whether or not this very schedule deadlocks. The same check
// knows which classes interrupt handlers take: such a lock must never be taken with
// interrupts enabled, or its holder could be interrupted by somebody who spins on it.
package lock

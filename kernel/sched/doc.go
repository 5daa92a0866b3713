// Package sched runs the emulated machine: its CPUs, its tasks, its time.
//
// # Tasks, CPUs, coroutines
//
// A task (a user thread with its kernel stack, or a kernel thread) is a Go
// coroutine. A CPU executes one coroutine at a time; each CPU also owns an idle
// task. Coroutines are flat: a task never resumes another task, it yields to
// whoever runs the CPU and says who is next.
//
//	             resume                      yield (switch, or another CPU's turn)
//	CPU loop ------------> task coroutine -------------------------------------> CPU loop
//	                          |
//	                          |  x86.CPU.Point before every visible operation
//	                          v
//	                       slow path: interrupts, preemption, the regime's choice
//
// The kernel code is the same in all regimes; what differs is who runs the
// loop and what the slow path of the schedule point does:
//
//	Parallel  one goroutine per CPU, real atomics; the slow path takes
//	          interrupts, lets due device events happen and reschedules.
//	Timed     one goroutine; the CPU with the least virtual clock runs next.
//	          Every published cost comes from here: it is equal each time.
//	Free      one goroutine; a Strategy chooses among all CPUs that can run and
//	          all device events that are pending, at every point.
//
// # Waiting
//
// In the deterministic regimes a CPU that spins is disabled until the object it
// spins on is written (CPU.Wrote) or an interrupt arrives for it. When nobody
// is enabled, nothing will ever happen again: the machine is quiet if no task
// is left, and deadlocked otherwise. In the parallel regime the same is found by looking
// at the states of all CPUs, which tell each other when they spin: see standstill.go.
//
// # Time
//
// Each CPU has a clock in cycles that every operation advances. Device events
// and timers are due at a virtual time. In the Parallel regime machine time is that of the
// slowest busy CPU, but never far behind the fastest: a CPU that the host does not run
// for a while finds its clock put forward, as a guest finds time stolen. In the Free regime they may happen at
// any later step, whatever their time: a sleep promises no order.
//
// # Endings
//
// A schedule is cut by unwinding every live coroutine with a sentinel panic,
// so kernel code must not use deferred unlocks, and a point never yields while
// its machine is dying.
package sched

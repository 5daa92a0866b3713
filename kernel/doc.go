// Package kernel is the emulated machine as a program sees it: processes and threads,
// system calls, signals, and accesses to memory.
//
//	m, err := kernel.Boot(kernel.Options{CPUs: 2, Memory: 16 << 20})
//	out := m.Run(func(t *kernel.Thread) {           // init
//		addr := t.MustMmap(4096)                // a system call
//		t.Store64(addr, 42)                     // an instruction; it faults the page in
//		pid, err := t.Fork(func(c *kernel.Thread) {
//			c.Load64(addr)                  // 42, from the page both share
//			c.Store64(addr, 1)              // copy on write
//		})
//		t.Wait(pid)
//	})
//	m.Shutdown()
//
// # From a Go function to a task
//
//	Machine --- Process ---+--- Thread ----- sched.Task, a coroutine that runs
//	   |           |       +--- Thread       the user function, and the kernel
//	   |           |                         inside its system calls and faults
//	   |           +--- mm.MM (shared by the threads, and with a vfork's parent)
//	   |           +--- files, signal dispositions, children
//	   +--- CPUs, memory, disks
//
// A user function is the program of a thread. It is in user mode except inside the
// methods of its Thread:
//
//	user mode        | t.Load64      TLB hit: stays in user mode
//	                 |               page fault: enter, mm.DoPageFault, leave
//	                 | t.Mmap        enter (cost, counter, event), mm.SysMmap,
//	                 |               leave (reschedule, signals)
//	                 v
//	          takeSignals            at every access, and when a call leaves:
//	                                 handlers run, a killed thread unwinds
//
// Between two accesses nothing of the machine can be observed, so Go statements cost
// no time: see Thread.Compute. They are invisible to the machine and may use Go data, but
// must not block.
//
// # Life and death
//
//	Start, Run ---> exec ---+
//	Fork, Vfork ------------+--> running --+-- function returns, Exit ------+
//	                                       +-- signal without a handler ----+
//	                                       |                                v
//	                                       +-- out of memory -------> every thread unwinds
//	                                                                        |
//	       reaped  <--- Wait, or nobody cares --- zombie <--- exit_mm, exit_files, exit_notify
//
// A thread that ends before its function has returned (Exit, a signal, the end of the
// process) unwinds it with a panic of a type of its own, which is caught below the
// function. Deferred functions run, but their accesses and system calls do nothing
// except unwind them too: in C, nothing of a killed thread runs.
//
// A process that Start or Run made has no parent; when it ends, the Outcome has its
// status. Processes whose parents end are the machine's, which reaps them.
//
// # Go variables and memory
//
// Fork's child runs a closure. Go variables are shared between parent and child,
// emulated memory is not. In the deterministic regimes only one task runs at a time
// and a switch happens at schedule points only, so tests may use variables to tell
// what happened. In the parallel regime the usual rules of Go apply: order accesses by
// Wait or Join, or by the emulated program's own locks (Mutex, Barrier), which the race
// detector knows too.
//
// # What a run comes to
//
// Machine.Run returns an Outcome: why the machine stopped (everything ended, deadlock,
// an oops, ...), how processes ended, assertions, processes killed for want of memory.
// Machine.Check and Machine.Leaks then say whether anything is amiss.
//
// # Locks
//
//	tasklist < sighand     births, deaths, adoptions; signals of one process
//	futex                  one for each hash bucket; a word's ptl is below it
//	files                  a process's table of descriptors
//
// # Not like Linux
//
// There are no process groups, sessions, job control, credentials or namespaces. exec
// only happens at the birth of what Start makes. wait4 ends with EINTR whenever a
// handler ran: no system call is restarted. Signals carry no stack: a handler is a
// call on top of the interrupted function. A system call's arguments that would be
// structures in user memory (iovec, iocb, timespec, path names) are Go values.
package kernel

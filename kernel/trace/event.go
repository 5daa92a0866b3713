package trace

// EventKind says what happened and what the three integers of an event mean.
type EventKind uint16

// The kinds. The comment names the arguments a, b and c; those that are absent
// are zero. A begin is closed by the end of the same task.
const (
	EvNone          EventKind = iota
	EvSyscallEnter            // number, first argument, second argument
	EvSyscallExit             // number, result (signed)
	EvFaultEnter              // address, error code
	EvFaultExit               // address, error code, result
	EvForkBegin               // parent's address space, child's address space
	EvForkEnd                 // parent's address space, child's address space, error (signed)
	EvForkPTE                 // address, pfn, action (ForkShared...)
	EvCOWCopy                 // address, old pfn, new pfn
	EvCOWReuse                // address, pfn, reference count
	EvGUPFastBegin            // address, pages wanted, write
	EvGUPFastEnd              // address, pages taken (signed)
	EvGUPSlowBegin            // address, pages wanted, write
	EvGUPSlowEnd              // address, pages taken (signed)
	EvPageGet                 // pfn, count after, map count
	EvPagePut                 // pfn, count after, map count
	EvPageAlloc               // pfn, order, gfp flags
	EvPageFree                // pfn, order
	EvPageCopyBegin           // destination pfn, source pfn
	EvPageCopyEnd             // destination pfn, source pfn
	EvPin                     // pfn, pages, kind (PinGet...): get_user_pages took references
	EvUnpin                   // pfn, pages, kind: they were dropped
	EvPTESet                  // address, old entry, new entry; fork's are EvForkPTE, those of munmap EvZap
	EvTLBFlush                // address or TLBAll, reason, entries dropped
	EvIPISend                 // target CPU, vector, flow (0: the next take of the vector there)
	EvIPITake                 // vector, sender CPU, flow (0: see EvIPISend)
	EvIPIAck                  // sender CPU, vector, flow (0: none)
	EvIRQEnter                // vector
	EvIRQExit                 // vector
	EvBioSubmit               // flow, sector, bytes (| BioWrite)
	EvBioComplete             // flow, sector, bytes (| BioWrite | BioError)
	EvDMA                     // pfn, offset, direction (DMAToMemory, DMAFromMemory)
	EvSchedSwitch             // previous task, next task (0: idle), state of the previous
	EvSchedWake               // task, target CPU
	EvLockWait                // lock, how (LockSpin, LockRead, LockWrite)
	EvLockGot                 // lock, error (signed)
	EvTaskStart               // task, parent task
	EvTaskExit                // task, exit code
	EvSignal                  // target task, signal number, code
	EvReclaimBegin            // order, gfp flags
	EvReclaimEnd              // pages reclaimed, pages scanned
	EvSwapIn                  // pfn, swap entry, address
	EvSwapOut                 // pfn, swap entry
	EvZap                     // address, pages removed
	EvMprotect                // address, pages changed
	EvMremap                  // old address, pages moved, new address
	EvKSM                     // pfn, merged-into pfn, address
	EvKSMBreak                // address, pfn
	EvMMUNotify               // start, end, which method (MMUInvalidatePage and so on)
	EvMark                    // code, two numbers of the program's own
	EvOops                    // number of the assertion that failed, from 1; 0 for the one that stops the machine
	EvUnmap                   // address, pfn, swap entry (0: a file's page): reclaim took a mapping away
	EvKswapdWake              // order
	EvOOMKill                 // process, score, pages mapped
	NumEventKinds
)

// TLBAll is the address of an [EvTLBFlush] that drops everything.
const TLBAll = ^uint64(0)

// The methods of an [EvMMUNotify].
const (
	MMUInvalidatePage = iota
	MMURangeStart
	MMURangeEnd
	MMUClearFlushYoung
	MMUChangePTE
)

// The reasons of an [EvTLBFlush], in the words of Linux (v6.x)
// include/trace/events/tlb.h; 2.6.29 had no such event.
const (
	FlushOnTaskSwitch = iota
	FlushRemoteShootdown
	FlushLocalShootdown
	FlushLocalMMShootdown
	FlushRemoteSend
)

// What an [EvForkPTE] did with the pte.
const (
	ForkShared      = iota // both map the page as they did
	ForkWrprotected        // both map it read-only now
	ForkCopied             // the child has a copy
	ForkSwapped            // a swap entry was duplicated
	ForkSkipped            // nothing was copied
	ForkRetried            // locks were dropped; the pte comes again
)

// The kinds of an [EvPin], in the order of mm.PinKind.
const (
	PinGet      = iota // a plain reference, as all are in 2.6.29 (FOLL_GET)
	PinPin             // FOLL_PIN
	PinLongterm        // FOLL_PIN|FOLL_LONGTERM
)

// How an [EvLockWait] wants the lock: the flags of Linux' (v6.x)
// include/trace/events/lock.h:contention_begin.
const (
	LockSpin  = 1 << iota // it waits spinning
	LockRead              // for reading
	LockWrite             // for writing
)

// The directions of an [EvDMA].
const (
	DMAToMemory   = 0
	DMAFromMemory = 1
)

// Flags in the byte count of bio events.
const (
	BioWrite = 1 << 63 // the device is written
	BioError = 1 << 62 // the request failed
)

// DeviceCPU is the CPU number of events that devices recorded.
const DeviceCPU = 0xffff

// Event is one record. It has no pointers.
type Event struct {
	// Time is the clock of the CPU, in cycles.
	Time uint64
	// Seq numbers the events of a CPU, or of the whole machine ([Options.Serial]), from 0.
	Seq uint64
	// Task is the task that ran, 0 for idle and devices.
	Task uint64
	// A, B and C are what the kind says.
	A, B, C uint64
	// Kind says what happened.
	Kind EventKind
	// CPU is the number of the CPU, or DeviceCPU.
	CPU uint16
}

// CPU is one CPU's counters and events. The zero value counts and records nothing.
// Only whoever runs the CPU writes it; no locks, no atomics.
type CPU struct {
	_ [64]byte // the owner before us must not share our first line

	// Task is the task that runs on the CPU, 0 for idle. Owner.
	Task uint64

	on   bool    // events are recorded; owner, or anybody while stopped
	id   uint16  // number of the CPU or DeviceCPU; immutable
	seq  *uint64 // next sequence number; own or, in serial traces, shared; owner
	own  uint64  // own sequence number; owner
	n    uint64  // events recorded since Reset; owner
	mask uint64  // len(ring)-1; immutable
	ring []Event // power of two, nil until first enabled; owner

	words [NumCounters]uint64 // owner; read racily by sums

	_ [64]byte
}

// Inc counts one.
func (c *CPU) Inc(k Counter) { c.words[k]++ }

// Add counts n.
func (c *CPU) Add(k Counter, n uint64) { c.words[k] += n }

// Sub takes n from a gauge.
func (c *CPU) Sub(k Counter, n uint64) { c.words[k] -= n }

// Dec takes one from a gauge.
func (c *CPU) Dec(k Counter) { c.words[k]-- }

// Value returns this CPU's share of a counter.
func (c *CPU) Value(k Counter) uint64 { return c.words[k] }

// On reports whether events are recorded, for callers whose arguments are
// costly to compute.
func (c *CPU) On() bool { return c.on }

// Event records an event at clock now. When events are off it is one branch.
func (c *CPU) Event(kind EventKind, now uint64, a, b, d uint64) {
	if c.on {
		c.record(kind, now, a, b, d)
	}
}

//go:noinline
func (c *CPU) record(kind EventKind, now uint64, a, b, d uint64) {
	e := &c.ring[c.n&c.mask]
	e.Time, e.Seq, e.Task = now, *c.seq, c.Task
	e.A, e.B, e.C = a, b, d
	e.Kind, e.CPU = kind, c.id
	c.n++
	*c.seq++
}

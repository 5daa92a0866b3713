package x86

// Op names a visible operation: something another CPU, a device or the
// hardware walker could observe or disturb. Every schedule point carries one.
type Op uint8

// The operations. Comments say what the object of the operation is.
const (
	OpNone      Op = iota // nothing; never passed to Point
	OpLoad                // user load; object: frame sector
	OpStore               // user store; object: frame sector
	OpPTERead             // read of a page-table entry; object: entry
	OpPTEWrite            // plain store of a page-table entry; object: entry
	OpPTERMW              // locked read-modify-write of an entry; object: entry
	OpRead                // read of a shared word; object: the word
	OpWrite               // plain write of a shared word; object: the word
	OpRMW                 // locked read-modify-write whose result matters; object: the word
	OpAdd                 // locked add whose result is not used: two of them commute
	OpLock                // exclusive lock acquisition; object: the lock
	OpReadLock            // shared lock acquisition: two of them commute
	OpUnlock              // release of either kind; object: the lock
	OpIPI                 // interrupt sent; object: the target CPU
	OpIPIAck              // interrupt acknowledged; object: what the sender waits on
	OpIRQ                 // interrupt taken; object: the CPU itself
	OpWait                // about to wait; object: what for
	OpWake                // wake-up sent; object: wait queue or task
	OpDMARead             // a device reads memory; object: frame sector
	OpDMAWrite            // a device writes memory; object: frame sector
	OpCopyRead            // the kernel reads a frame while copying it; object: frame sector
	OpCopyWrite           // the kernel writes a frame while copying or clearing; object: frame sector
	OpFence               // full memory barrier; no object
	OpFlushTLB            // local TLB flush; object: the CPU itself
	OpSwitch              // context switch; object: the CPU itself
	OpEvent               // a device or timer step
	OpYield               // nothing shared: a place where the regime may step in
	OpAlloc               // memory is asked for, where a search may make that fail; object: the injector
	OpFail                // memory that is asked for next is not to be had; object: the injector
	OpReclaim             // reclaim begins with a page; object: the page
	NumOps
)

var opNames = [NumOps]string{
	"none", "load", "store", "pte read", "pte write", "pte rmw", "read", "write", "rmw", "add",
	"lock", "read lock", "unlock", "ipi", "ipi ack", "irq", "wait", "wake", "dma read", "dma write",
	"copy read", "copy write", "fence", "flush tlb", "switch", "event", "yield", "alloc", "fail", "reclaim",
}

// String returns the operation's name as diagrams and divergence reports print it.
func (o Op) String() string {
	if o < NumOps {
		return opNames[o]
	}
	return "op?"
}

// Writes reports whether the operation changes its object.
func (o Op) Writes() bool {
	switch o {
	case OpNone, OpLoad, OpPTERead, OpRead, OpDMARead, OpCopyRead, OpFence, OpYield, OpWait, OpAlloc:
		return false
	}
	return true
}

// Locked reports whether the operation is a bus-locked one on x86; it is what
// the "atomics" cost column counts.
func (o Op) Locked() bool {
	switch o {
	case OpPTERMW, OpRMW, OpAdd, OpLock, OpReadLock:
		return true
	}
	return false
}

// Class says what kind of thing an ObjID names. Classes whose operations
// commute are kept apart, so that a search can tell dependent steps from
// independent ones without knowing anything of memory management.
type Class uint8

// The object classes.
const (
	ClassNone   Class = iota
	ClassFrame        // one 512-byte sector of a physical frame: pfn<<3 | sector
	ClassPage         // struct Page of a pfn: pfn<<3 | PageWord
	ClassPTE          // a page-table entry: see PTEObj
	ClassLock         // a lock, numbered at creation
	ClassCPU          // a CPU's interrupt word
	ClassTask         // a task's state word
	ClassWait         // a wait queue
	ClassWord         // any other shared word, numbered at creation
	ClassDev          // a device request
	ClassTimer        // a timer
	ClassBuffer       // a store buffer, and the stores in it: see BufferObj
	ClassInject       // who makes allocations fail
)

// ObjID names the object of an operation: its class in the top byte, and
// below it a number that means the same thing in every run of a program
// (never a host address).
type ObjID uint64

// Obj makes an ObjID from a class and a number of at most 56 bits.
func Obj(c Class, id uint64) ObjID { return ObjID(c)<<56 | ObjID(id&(1<<56-1)) }

// Class returns the class of the object.
func (o ObjID) Class() Class { return Class(o >> 56) }

// ID returns the number of the object within its class.
func (o ObjID) ID() uint64 { return uint64(o) & (1<<56 - 1) }

// FrameObj names the 512-byte sector of a frame that holds byte offset off.
func FrameObj(pfn PFN, off uint64) ObjID {
	return ObjID(ClassFrame)<<56 | ObjID(uint64(pfn)<<3|(off>>9)&7)
}

// BufferObj names the store buffer of a CPU, and with n from 1 on the nth store that went
// into it.
func BufferObj(cpu int, n uint64) ObjID { return Obj(ClassBuffer, n<<8|uint64(cpu)) }

// PageWord tells the words of a struct Page apart: taking a reference does
// not conflict with setting a flag.
type PageWord uint8

// The words of struct Page that have points of their own.
const (
	PageRef PageWord = iota
	PageMap
	PageFlags
	PageFields
	PagePolicy
)

// PageObj names one word of the struct Page of pfn.
func PageObj(pfn PFN, w PageWord) ObjID {
	return ObjID(ClassPage)<<56 | ObjID(uint64(pfn)<<3|uint64(w))
}

// PTEObj names the page-table entry of address space mm that translates va at
// the given level (0 is the last level): 18 bits of address space number, 2 of
// level and 36 that number the level's entries in address order, so that all
// addresses an entry translates give the same name and neighbouring entries
// neighbouring names (eight of them share a cache line).
func PTEObj(mm uint32, level int, va uint64) ObjID {
	return ObjID(ClassPTE)<<56 | ObjID(uint64(mm&(1<<18-1))<<38|uint64(level&3)<<36|
		va&(1<<48-1)>>(PageShift+IndexBits*uint(level&3)))
}

// SplitPTEObj is the inverse of PTEObj. va is the first address that the entry
// translates, in canonical lower-half form.
func SplitPTEObj(o ObjID) (mm uint32, level int, va uint64) {
	id := o.ID()
	level = int(id>>36) & 3
	return uint32(id >> 38), level, (id & (1<<36 - 1)) << (PageShift + IndexBits*uint(level))
}

// Point is the schedule point that stands before every visible operation.
//
// It charges the operation's cycles and compares the CPU's clock with its
// limit: one addition and one comparison, small enough to be inlined. The
// limit is the earliest moment at which anything but straight execution can be
// due. It is zero whenever somebody wants the CPU's attention, and always zero
// in the deterministic regimes, where the slow path is the scheduler.
func (c *CPU) Point(op Op, obj ObjID) {
	c.now += c.opCost[op]
	if c.now >= c.limit.Load() {
		c.slowPoint(op, obj)
	}
}

// slowPoint is apart so that Point stays within the compiler's inlining budget.
//
//go:noinline
func (c *CPU) slowPoint(op Op, obj ObjID) { c.hook.Point(c, op, obj) }

// Charge adds cycles of private work to the CPU's clock. It is not a point.
func (c *CPU) Charge(cycles uint64) { c.now += cycles }

// Wrote tells the regime that obj changed in a way somebody may be waiting
// for: a lock was released, an interrupt acknowledged, a flag cleared.
// In the parallel regime waiters poll, and this does nothing.
func (c *CPU) Wrote(obj ObjID) {
	if c.Det {
		c.hook.Wrote(c, obj)
	}
}

// Hook is how the scheduler sits above the processor.
type Hook interface {
	// Point is the slow path of CPU.Point. It may run other CPUs, deliver
	// interrupts, let device time pass; it returns when c may go on.
	Point(c *CPU, op Op, obj ObjID)
	// Wrote makes every CPU that waits for obj runnable. Deterministic regimes only.
	Wrote(c *CPU, obj ObjID)
	// SpinWait lets time pass until obj may have been written or the CPU has
	// an interrupt to take. The caller re-tests its condition afterwards.
	SpinWait(c *CPU, obj ObjID, spins int)
	// Interrupts delivers what is pending, interrupts being enabled.
	Interrupts(c *CPU)
	// Kick makes target notice its pending interrupts even if it sleeps.
	Kick(target *CPU)
}

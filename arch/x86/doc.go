// Package x86 is the emulated processor and its memory: what a kernel finds
// under its feet, and nothing of the kernel.
//
// # Physical memory
//
// A [Memory] is one flat stretch of frames of 4 KiB, numbered by [PFN], and an
// array with one record per frame for the kernel's struct Page. Both are zero
// at first and take host memory only where they are touched, so a machine of
// 64 GiB starts at once. A [Host] keeps the memory of finished machines, cleaned,
// for the next ones. Emulated page tables, user data, page cache and device
// buffers all live in these frames; there is no other copy of anything. A
// device that writes to a frame after the kernel gave it away hits whatever it
// is now.
//
// # Translation
//
// Addresses are translated by tables of 512 eight-byte entries on four levels:
//
//	47      39 38      30 29      21 20      12 11         0
//	+---------+----------+----------+----------+------------+
//	|   PGD   |   PUD    |   PMD    |   PTE    |   offset   |
//	+---------+----------+----------+----------+------------+
//	     |         |          |          |
//	     v         v          v          v
//	CR3 -> table --> table ---> table ---> table ---> frame + offset
//	                              |
//	                              +-- PSE set: 2 MiB frame + low 21 bits
//
// A [PTE] is the value of an entry, a [PTERef] the place of one. The kernel
// builds and changes tables through PTERefs; the hardware ([CPU.Walk]) reads the
// same words, sets the accessed and dirty bits behind the kernel's back, and
// caches the result in the CPU's [TLB].
//
// # The TLB, and why it is here
//
// The life of a translation on one CPU:
//
//	          load                       store
//	absent ----------> cached, read ----------> cached, read and write
//	  ^     walk, A=1       |      walk, D=1           |
//	  |                     |                          |
//	  +---------------------+--------------------------+
//	     FlushTLBOne, FlushTLBAll, LoadCR3 on this CPU, a fault, eviction
//
// Nothing the kernel writes to an entry is on the list of what moves a
// translation back. After the kernel write-protects an entry, a CPU in the right
// hand state goes on storing through its TLB, with no walk and no fault, until
// it executes a flush; and only the CPU itself can do that, in an interrupt
// handler if another one asks. Many of the races between fork, copy-on-write
// and direct I/O live in that interval. A test that wants to see one looks at
// [CPU.Lookup]; in the timed regime the counter EmuStaleTLBStore
// says how often it happened.
//
// An instruction is atomic with respect to interrupts: [CPU.Load] and
// [CPU.Store] take interrupts before they touch memory or afterwards, never
// between the translation and the access, and a walk is not interrupted either.
//
// # Time and schedule points
//
// A [CPU] has a clock in cycles. Before each operation that another CPU or a
// device could observe it passes a point ([CPU.Point]) that names the operation
// ([Op]) and its object ([ObjID]): the place where time is charged, interrupts
// are taken, and, in the deterministic regimes, the scheduler decides who acts
// next. The scheduler is seen only as a [Hook]. Prices are in [CostModel], each
// with its source.
//
// Shared words of the kernel are [Word32] and [Word64], the only atomics outside
// this package and the scheduler. User memory is moved by plain host
// instructions: an aligned access of at most eight bytes is not torn, and that
// is all that is promised, as on the real thing.
//
// Stores are visible at once, unless the machine has store buffers
// ([CPU.UseStoreBuffer]): then those of [Word32.Store], [Word64.Store], [PTERef.Set],
// [SpinWord.Release] and scalar user stores wait in one until a locked operation, a
// fence, an interrupt or a context switch empties it, or the scheduler lets the oldest go.
//
// # What is left out
//
// Segments, rings below user and kernel, instruction fetch (NX is kept in
// entries and ignored), global pages, page attributes, 1 GiB pages, and
// spurious faults: a store whose cached translation is read-only walks again
// where a processor may fault on what it has cached. Emulated TLBs are larger
// than real ones and lose entries only to flushes and to other pages with the
// same index, which makes staleness likelier.
//
// # Builds
//
// On Linux frames are mapped memory; elsewhere, and under the race detector,
// they are Go memory with a cap on the machine's size (a [SizeError] names it).
// Moves of emulated memory are hidden from the detector, because races there are
// what the machine models; page-table words are shown to it, because races there
// are mistakes of the kernel.
package x86

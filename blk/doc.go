// Package blk is the block layer: bios, request queues, the emulated devices
// that serve them by DMA, and the interrupts that say so.
//
// # From a bio to an interrupt
//
// A [Bio] asks for one contiguous range of sectors, to or from a list of pieces
// of pages. [System.SubmitBio] hands it to its device's queue, where it becomes a
// request or is merged with one that is waiting. Requests stay behind the plug
// until somebody unplugs ([System.Unplug]), so that a burst is merged before
// any of it is served:
//
//	task on CPU 1            queue (noop, first in first out)         device
//	-------------            --------------------------------         ------
//	SubmitBio  8..15  ---->  [8..15]          plugged
//	SubmitBio 16..23  ---->  [8..23]          back merge
//	SubmitBio  0..7   ---->  [0..23]          front merge
//	Unplug            ---->  -                                 ---->  chunk 0, 1, .. 23
//	  goes on                                                         |
//	  interrupt <-----------  done list of CPU 1, VecBlock  <---------+
//	    EndIO(8..15), EndIO(16..23), ... interrupts off
//
// Up to the device's queue depth of requests are served at once, in any order.
// The interrupt goes to the CPU that submitted the request's first bio.
//
// # DMA is a step of its own
//
// A device has no CPU and passes no schedule points. What it does are events
// of the machine ([sched.Event]), and how fine they are depends on the regime:
//
//	Free      each 512-byte chunk is an event, and so is the end of the request.
//	          Within a request they are in order; between requests, and against
//	          the CPUs, they come in any order.
//	Timed     the same chunks, spaced over the time that the latency model says.
//	Parallel  one event moves a whole request.
//
// A chunk hits the physical frame that was named when the bio was built. The
// device does not know page tables, and it does not know whether the frame
// still belongs to whom it belonged then: a frame that was freed under a
// request is written all the same. That is the point of the emulator.
//
// # Backing
//
// [RAMDisk] keeps sectors in host memory, [Image] in a file of the host that
// other programs can read afterwards. An [Injector] makes sectors fail.
//
// # Locks
//
// A queue's lock is irq-safe and orders the elevator's list and the device's
// clock. The done list of a CPU is the hardware's: a host-level lock that no point is
// passed under.
//
// After Linux 2.6.29 block/blk-core.c, blk-merge.c, elevator.c, noop-iosched.c and
// fs/bio.c. Not modelled: barriers, the unplug timer (every submitter unplugs),
// partitions, I/O contexts and accounting by task.
package blk

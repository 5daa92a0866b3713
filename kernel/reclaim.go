package kernel

import (
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// Reclaim as a choice of a search; see mm.System.OfferReclaim.

// reclaimSwap is the swap disk of a machine with Options.ReclaimEvents that was given none.
const reclaimSwap = "reclaim-swap"

// addReclaimer gives the options of a machine what Options.ReclaimEvents needs: a CPU behind the others
// and, if none of the disks is one, a disk to swap to, whose interrupts that CPU takes.
func (o *Options) addReclaimer() {
	for i := range o.Disks {
		if o.Disks[i].Swap {
			o.CPUs++
			return
		}
	}
	o.Disks = append(o.Disks[:len(o.Disks):len(o.Disks)], Disk{
		Name: reclaimSwap, Size: (OfferedReclaims + 1) * mm.MinSwap, Swap: true, Affinity: 1 << o.CPUs,
	})
	o.CPUs++
}

// OfferedReclaims bounds Options.ReclaimEvents.
const OfferedReclaims = 3

// OfferReclaim lets the search choose from here on when which of the pages is reclaimed that are
// on a list now: see Options.ReclaimEvents, without which it does nothing. It is called from
// within the running machine, where the race begins.
func (m *Machine) OfferReclaim() { m.forReclaim(m.sys.OfferReclaim) }

// AwaitReclaim waits until nothing is being reclaimed that the search has chosen: before a look that
// ends what is searched. It is called from within the running machine.
func (m *Machine) AwaitReclaim() { m.forReclaim(m.sys.AwaitReclaim) }

// forReclaim calls fn as kernel code of the task that acts.
func (m *Machine) forReclaim(fn func(*sched.Task)) {
	if m.opts.ReclaimEvents == 0 {
		return
	}
	t := m.sched.Acting()
	user := t.User
	t.User = false
	fn(t)
	t.User = user
}

// withSwap has the first thread turn swap on before it begins, on a machine that got its disk
// from addReclaimer.
func (m *Machine) withSwap(fn func(*Thread)) func(*Thread) {
	if m.opts.ReclaimEvents == 0 || m.Disk(reclaimSwap) == nil {
		return fn
	}
	return func(t *Thread) {
		if err := t.Swapon("/dev/"+reclaimSwap, 0); err != nil {
			panic("kernel: swapon of the disk for reclaim: " + err.Error())
		}
		fn(t)
	}
}

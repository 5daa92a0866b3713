package bench

import (
	"time"
	"unsafe"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/tests/speed"
)

// Attach gives the rows of speed.Catalog their emulated sides. Machines are booted
// from hosts when a row first runs; cleanup shuts them down.
//
// The sides take turns on the same machines: run the rows one after the other, as
// speed.Measure does. If Measure left a batch behind (its note says so), the
// process should end without cleanup.
func Attach(ops []speed.Op, hosts *kernel.Hosts) (cleanup func(), err error) {
	l := newLab(hosts, duoMemory, true /* prefault */, nil)
	return l.close, l.attach(ops)
}

// attach makes the lab's batches the emulated sides of the rows.
func (l *lab) attach(ops []speed.Op) error {
	sides := map[string]func(n int) time.Duration{
		"load-hit":       l.on(&l.duo, loadHit),
		"store-hit":      l.on(&l.duo, storeHit),
		"copy-1m":        l.on(&l.duo, copyMiB),
		"walk":           l.on(&l.duo, walk),
		"fault-minor":    l.on(&l.duo, faultMinor),
		"populate":       l.on(&l.duo, populate),
		"cow-copy":       l.on(&l.duo, cowCopy),
		"cow-reuse":      l.on(&l.duo, cowReuse),
		"fork-fixed":     l.on(&l.duo, forkFixed),
		"fork-page":      l.on(&l.duo, forkPage),
		"exit-page":      l.on(&l.duo, exitPage),
		"munmap-page":    l.on(&l.duo, munmap),
		"mprotect-page":  l.on(&l.duo, mprotect),
		"mremap-page":    l.on(&l.duo, mremap),
		"gup-fast":       l.on(&l.duo, gupFast),
		"gup-slow":       l.on(&l.duo, gupSlow),
		"direct-1m":      l.on(&l.disk, direct1M),
		"direct-4k":      l.on(&l.disk, direct(pageSize)),
		"tlb-flush-2":    l.on(&l.duo, tlbFlush),
		"tlb-flush-4":    l.on(&l.quad, tlbFlush),
		"switch":         l.on(&l.uni, futexPingPong),
		"swap-out":       l.on(&l.swap, swapOut),
		"swap-in":        l.on(&l.swap, swapIn),
		"swap-in-random": l.on(&l.swap, swapInRandom),
		"schedules":      l.search(1),
		"schedules-2":    l.search(2),
		"scale-fault":    l.on(&l.duo, faultTogether(2)),
		"scale-gup":      l.on(&l.duo, gupTogether(2)),
	}
	base := map[string]func(n int) time.Duration{
		"scale-fault": l.on(&l.duo, faultTogether(1)),
		"scale-gup":   l.on(&l.duo, gupTogether(1)),
		"schedules-2": l.search(1),
	}
	values := map[string]func() (float64, error){
		"struct-page": func() (float64, error) { return float64(unsafe.Sizeof(page.Page{})), nil },
		"host-memory": hostMemory,
	}
	for name, fn := range sides {
		if err := speed.Attach(ops, name, fn); err != nil {
			return err
		}
	}
	for name, fn := range base {
		if err := speed.AttachBase(ops, name, fn); err != nil {
			return err
		}
	}
	for _, name := range []string{"schedules", "schedules-2"} {
		if err := speed.AttachSaid(ops, name, l.saidOfSchedules); err != nil {
			return err
		}
	}
	for name, fn := range values {
		if err := speed.AttachValue(ops, name, fn); err != nil {
			return err
		}
	}
	return nil
}

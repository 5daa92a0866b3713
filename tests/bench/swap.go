package bench

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// The swap area of the lab's machine for swap, a RAM disk without delays: what is
// timed is the work of the CPU.
const (
	swapName  = "swap"
	swapBytes = 128 << 20
)

// swapOut writes n dirty pages of a process to the swap area.
func swapOut(t *kernel.Thread, n int) time.Duration {
	addr := swappable(t, n)
	d := pageout(t, addr, n)
	must(t.Munmap(addr, size(n)), "munmap")
	return d
}

// swapIn brings n pages back in the order of their addresses.
func swapIn(t *kernel.Thread, n int) time.Duration {
	return swapBack(t, n, func(i int) int { return i })
}

// swapInRandom brings them back in another order: what read-ahead brings is of less use.
func swapInRandom(t *kernel.Thread, n int) time.Duration {
	return swapBack(t, n, func(i int) int { return scatter(i, n) })
}

// scatter is a permutation of 0 to n-1 whose neighbours lie far apart, the same as the
// probe's: steps of about 0.618 n, made coprime with n.
func scatter(i, n int) int {
	step := max(1, n*618/1000)
	for gcd(step, n) != 1 {
		step++
	}
	return int(uint64(i) * uint64(step) % uint64(n))
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func swapBack(t *kernel.Thread, n int, order func(i int) int) time.Duration {
	addr := swappable(t, n)
	pageout(t, addr, n)
	// What is written waits at the old end of the inactive list: a fault now would find
	// it in the swap cache.
	kernelMode(t, func(task *sched.Task) { mm.SystemOf(task).DropClean(task) })
	before := t.Machine().Trace().Sum(trace.PSwpIn)
	start := time.Now()
	for i := range n {
		t.Store8(addr+size(order(i)), 2)
	}
	d := time.Since(start)
	if got := t.Machine().Trace().Sum(trace.PSwpIn) - before; got < uint64(n)*9/10 {
		must(fmt.Errorf("only %d of %d pages came from the area", got, n), "swap in")
	}
	must(t.Munmap(addr, size(n)), "munmap")
	return d
}

// swappable returns n dirty pages, with a swap area in use.
func swappable(t *kernel.Thread, n int) uint64 {
	if err := t.Swapon("/dev/"+swapName, 0); !errors.Is(err, unix.EBUSY) {
		must(err, "swapon")
	}
	return region(t, n)
}

// pageout sends the pages out and waits for the last interrupts of the device.
func pageout(t *kernel.Thread, addr uint64, n int) time.Duration {
	before := t.Machine().Trace().Sum(trace.PSwpOut)
	start := time.Now()
	must(t.Madvise(addr, size(n), mm.MadvPageout), "madvise")
	kernelMode(t, func(task *sched.Task) { task.SleepFor(1_000_000) })
	d := time.Since(start)
	if got := t.Machine().Trace().Sum(trace.PSwpOut) - before; got < uint64(n)*9/10 {
		must(fmt.Errorf("only %d of %d pages went", got, n), "swap out")
	}
	return d
}

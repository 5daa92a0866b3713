package bench

import (
	"time"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// leave is a child that ends at once.
func leave(*kernel.Thread) {}

// wait reaps a child.
func wait(t *kernel.Thread, pid int) {
	_, status, err := t.Wait(pid)
	must(err, "wait")
	if status != 0 {
		t.Abort()
	}
}

// timedFork returns the time of one fork as the parent sees it.
func timedFork(t *kernel.Thread) time.Duration {
	start := time.Now()
	pid, err := t.Fork(leave)
	d := time.Since(start)
	must(err, "fork")
	wait(t, pid)
	return d
}

// forkFixed does n forks of a small process.
func forkFixed(t *kernel.Thread, n int) (d time.Duration) {
	region(t, 4)
	for range n {
		d += timedFork(t)
	}
	return d
}

// slope scales the difference between n and few units to n.
func slope(all, some time.Duration, n, few int) time.Duration {
	return time.Duration(float64(all-some) / float64(n-few) * float64(n))
}

// forkPage returns what n pages add to a fork: the difference between one that
// copies all of them and one that copies a tenth, the others being hidden from
// it. All are writable and dirty before each.
func forkPage(t *kernel.Thread, n int) time.Duration {
	few := n / 10
	addr := region(t, n)
	all := timedFork(t)
	must(t.Madvise(addr+size(few), size(n-few), mm.MadvDontFork), "madvise")
	touch(t, addr, n)
	some := timedFork(t)
	return slope(all, some, n, few)
}

// exitPage returns what n pages of its own add to the end of a process, from its
// last instruction to the parent's return from wait.
func exitPage(t *kernel.Thread, n int) time.Duration {
	few := n / 10
	return slope(exitTime(t, n), exitTime(t, few), n, few)
}

func exitTime(t *kernel.Thread, n int) time.Duration {
	var start time.Time // the child's; the wait is between its store and our load
	pid, err := t.Fork(func(c *kernel.Thread) {
		region(c, n)
		start = time.Now()
	})
	must(err, "fork")
	wait(t, pid)
	return time.Since(start)
}

// cowCopy writes to n pages that a child shares.
func cowCopy(t *kernel.Thread, n int) time.Duration {
	gate := t.MustMmapShared(pageSize)
	addr := region(t, n)
	pid, err := t.Fork(func(c *kernel.Thread) { sleepOn(c, gate) })
	must(err, "fork")
	start := time.Now()
	touch(t, addr, n)
	d := time.Since(start)
	release(t, gate)
	wait(t, pid)
	return d
}

// cowReuse writes to n pages that a child, now gone, has shared.
func cowReuse(t *kernel.Thread, n int) time.Duration {
	addr := region(t, n)
	timedFork(t)
	start := time.Now()
	touch(t, addr, n)
	return time.Since(start)
}

// sleepOn waits until release of the word at gate, which processes share.
func sleepOn(t *kernel.Thread, gate uint64) {
	for t.Load32(gate) == 0 {
		_ = t.FutexWait(gate, 0, 0, kernel.FutexShared) // EAGAIN: released meanwhile
	}
}

func release(t *kernel.Thread, gate uint64) {
	t.Store32(gate, 1)
	_, err := t.FutexWake(gate, 64, kernel.FutexShared)
	must(err, "futex")
}

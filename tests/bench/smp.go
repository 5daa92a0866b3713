package bench

import (
	"time"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// tlbFlush does n flushes of one page while every other CPU runs user code in
// the same memory.
func tlbFlush(t *kernel.Thread, n int) (d time.Duration) {
	// Words: stop, ready, and a line for each spinner.
	const stop, ready, lines = 0, 64, 128
	base := t.MustMmap(2 * pageSize)
	victim := base + pageSize
	t.Store64(base, 0)
	t.Store64(victim, 0)
	others := t.Machine().Options().CPUs - 1
	spinners := make([]*kernel.Thread, others)
	for i := range spinners {
		spinners[i] = t.Go("spinner", func(s *kernel.Thread) {
			s.Add32(base+ready, 1)
			for s.Load64(base+stop) == 0 {
				s.Load64(victim)
			}
		})
	}
	for int(t.Load32(base+ready)) < others {
	}
	var v *mm.VMA
	t.MM().EachVMA(victim, func(o *mm.VMA) bool { v = o; return false })
	kernelMode(t, func(task *sched.Task) {
		s := mm.SystemOf(task)
		start := time.Now()
		for range n {
			s.FlushTLBPage(task, v, victim)
		}
		d = time.Since(start)
	})
	t.Store64(base+stop, 1)
	for _, s := range spinners {
		must(t.Join(s), "join")
	}
	return d
}

// futexPingPong does n round trips between two threads: wake the other one and
// wait for it.
func futexPingPong(t *kernel.Thread, n int) time.Duration {
	turn := t.MustMmap(pageSize)
	t.Store32(turn, 0)
	partner := t.Go("partner", func(p *kernel.Thread) {
		for range n + 1 {
			waitFor(p, turn, 1)
			handTo(p, turn, 0)
		}
	})
	trip := func() {
		handTo(t, turn, 1)
		waitFor(t, turn, 0)
	}
	trip()
	start := time.Now()
	for range n {
		trip()
	}
	d := time.Since(start)
	must(t.Join(partner), "join")
	return d
}

func handTo(t *kernel.Thread, turn uint64, who uint32) {
	t.Store32(turn, who)
	_, err := t.FutexWake(turn, 1, 0)
	must(err, "futex")
}

func waitFor(t *kernel.Thread, turn uint64, who uint32) {
	for t.Load32(turn) != who {
		_ = t.FutexWait(turn, 1-who, 0, 0) // EAGAIN: it is our turn
	}
}

// together runs work in a process of its own on each of cpus CPUs and returns
// the time from the first one's start to the last one's end. Work, number i of
// them, gets ready and calls meet; what it does from there to done is timed. They get
// ready in turn, so that each one's pages lie together: where two CPUs took their frames
// at the same time, the host's prefetcher has them contend for neighbouring struct pages.
func together(t *kernel.Thread, cpus int, work func(c *kernel.Thread, i int, meet, done func())) time.Duration {
	gate := t.MustMmapShared(pageSize)
	t.Store32(gate, 0)
	start, end := make([]time.Time, cpus), make([]time.Time, cpus)
	pids := make([]int, cpus)
	for i := range pids {
		var err error
		pids[i], err = t.Fork(func(c *kernel.Thread) {
			for int(c.Load32(gate)) < i { // the one before is not ready
			}
			work(c, i, func() {
				c.Add32(gate, 1)
				for int(c.Load32(gate)) < cpus {
				}
				start[i] = time.Now()
			}, func() { end[i] = time.Now() })
		})
		must(err, "fork")
	}
	for _, pid := range pids {
		wait(t, pid)
	}
	first, last := start[0], end[0]
	for i := range pids {
		if start[i].Before(first) {
			first = start[i]
		}
		if end[i].After(last) {
			last = end[i]
		}
	}
	return last.Sub(first)
}

// faultTogether touches n pages by cpus processes, each its share.
func faultTogether(cpus int) batch {
	return func(t *kernel.Thread, n int) time.Duration {
		share := n / cpus
		return together(t, cpus, func(c *kernel.Thread, _ int, meet, done func()) {
			addr := c.MustMmap(size(share))
			meet()
			touch(c, addr, share)
			done()
		})
	}
}

// gupTogether takes n references by cpus processes, each on pages of its own. The
// room for the pages is theirs from batch to batch, and holds one pass over them, as the
// floor's does: what it allocates would have the garbage collector at work meanwhile, and
// what it streams the memory bus, on the cores that are measured.
func gupTogether(cpus int) batch {
	const span = 8192 // pages of each
	room := make([][]*page.Page, cpus)
	for i := range room {
		room[i] = pageSlice(span)
	}
	return func(t *kernel.Thread, n int) time.Duration {
		share := n / cpus
		return together(t, cpus, func(c *kernel.Thread, i int, meet, done func()) {
			own := min(span, share)
			addr := region(c, own)
			meet()
			kernelMode(c, func(task *sched.Task) {
				for at := 0; at < share; at += own {
					pinAll(task, addr, room[i][:min(own, share-at)], fastCall, takeFast)
				}
				done()
				s := mm.SystemOf(task)
				for at := 0; at < share; at += own {
					s.PutUserPages(task, room[i][:min(own, share-at)], mm.PinGet)
				}
			})
		})
	}
}

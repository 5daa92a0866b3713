package claims

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// costs are the claims about what something costs.
func costs() []Claim {
	var all []Claim
	for _, group := range [][]Claim{pinCosts(), crowdCosts(), forkCosts(), flagCosts(), cowCosts()} {
		all = append(all, group...)
	}
	return all
}

// request is how many pages one call of get_user_pages asks for: DIO_PAGES, what direct I/O
// of 2.6.29 takes at a time.
const request = 64

// region maps n pages and stores to each.
func region(t *kernel.Thread, n int) uint64 {
	addr := t.MustMmap(uint64(n) << x86.PageShift)
	touch(t, addr, n)
	return addr
}

func touch(t *kernel.Thread, addr uint64, n int) {
	for i := range n {
		t.Store64(addr+uint64(i)<<x86.PageShift, 1)
	}
}

// must ends the experiment if a system call failed that should not.
func must(err error, what string) {
	if err != nil {
		panic(fmt.Errorf("%s: %w", what, err))
	}
}

// pinner takes and drops references of the current process's pages, as a driver does,
// with nothing around it that costs.
type pinner struct {
	slow  bool // get_user_pages under mmap_sem, not get_user_pages_fast
	write bool
	pages []*page.Page
}

// pin takes the pages from addr on: as many as p.pages has room for.
func (p *pinner) pin(task *sched.Task, addr uint64) {
	n := len(p.pages)
	got, err := 0, error(nil)
	if !p.slow {
		got, err = mm.GetUserPagesFast(task, addr, n, p.write, mm.PinGet, p.pages)
	} else {
		flags := mm.GUPFlags(0)
		if p.write {
			flags = mm.GUPWrite
		}
		m := mm.CurrentMM(task)
		m.MmapSem.DownRead(task)
		got, err = mm.GetUserPages(task, m, addr, n, flags, mm.PinGet, p.pages)
		m.MmapSem.UpRead(task)
	}
	must(err, "get_user_pages")
	if got != n {
		panic(fmt.Errorf("get_user_pages: %d pages of %d", got, n))
	}
}

func (p *pinner) unpin(task *sched.Task) { mm.SystemOf(task).PutUserPages(task, p.pages, mm.PinGet) }

// inKernel runs fn as a system call.
func inKernel(t *kernel.Thread, fn func(task *sched.Task)) {
	_ = t.Kernel(func(task *sched.Task) error { fn(task); return nil })
}

// waitUntil lets the time pass until the clock shows ns: asleep, and awake at the end, so
// that those who wait for the same moment begin together.
func waitUntil(t *kernel.Thread, ns uint64) {
	const awake = 200_000
	now := t.ClockGettime()
	if now > ns {
		panic(fmt.Errorf("set-up lasted until %d ns, beyond %d", now, ns))
	}
	if now+awake < ns {
		_ = t.Nanosleep(ns - awake - now)
		now = t.ClockGettime()
	}
	if now < ns {
		t.Compute(ns - now)
	}
}

// crowd measures work that n threads of a process do at the same time, each on a CPU of
// its own. get is each one's set-up and returns its work. The cost's time is the mean of
// the threads' own. They set up one after the other: all at once would mostly wait for
// mmap_sem.
func (l *Lab) crowd(pol string, m Machine, n int, get func(t *kernel.Thread, i int) (work func())) Cost {
	const turn = 2_000_000
	start := uint64(n+1) * turn
	m.Options.CPUs = max(n, 1)
	var sum uint64
	one := func(t *kernel.Thread, work func()) {
		from := t.ClockGettime()
		work()
		sum += t.ClockGettime() - from
	}
	c := l.Count(pol, m, func(t *kernel.Thread, measure func(func())) {
		var others []*kernel.Thread
		for i := 1; i < n; i++ {
			others = append(others, t.Go("worker", func(t *kernel.Thread) {
				waitUntil(t, uint64(i+1)*turn)
				work := get(t, i)
				waitUntil(t, start)
				one(t, work)
			}))
		}
		work := get(t, 0)
		waitUntil(t, start)
		measure(func() {
			one(t, work)
			for _, o := range others {
				must(t.Join(o), "join")
			}
		})
	})
	c.NS = sum / uint64(max(n, 1))
	return c
}

// say is evidence in words.
func say(format string, args ...any) Evidence { return Evidence{Text: fmt.Sprintf(format, args...)} }

// per divides, for a figure by page or by request.
func per[T uint64 | int](total uint64, n T) float64 { return float64(total) / float64(n) }

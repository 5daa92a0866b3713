package claims

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// pinCosts are the claims about one request to get_user_pages.
func pinCosts() []Claim {
	return []Claim{
		{
			ID: "C2", Who: "Torvalds", Lines: "404-407, 729-731",
			Says: "with two atomics a page, gup-fast is hardly faster than the slow path",
			Ran:  "64 fresh pages taken for writing and put: pg_gup's fast path against stock's slow one, 1 to 16 threads of a process at once",
			Settle: func(l *Lab) Result {
				return l.twoAtomics()
			},
		},
		{
			ID: "C3", Who: "Arcangeli, Torvalds", Lines: "641-645, 736-738, 858",
			Says: "the second pin finds PG_gup set and pays one atomic only; or pages are always new, and it pays two",
			Ran:  "atomics of pg_gup's pins of 64 pages beyond stock's: a buffer used again, one mapped and filled afresh, one mapped afresh and not touched",
			Settle: func(l *Lab) Result {
				return l.secondPin()
			},
		},
		{
			ID: "C6", Who: "Piggin", Lines: "5246-5250",
			Says: "on a huge page PG_gup costs up to 63 atomics and 64 barriers more for each request of 64 pages, and touches the cache lines of 63 or 64 pages behind the head",
			Ran:  "a pin of 64 small pages of one huge page, stock and pg_gup, first and again, and behind the same pin by another CPU",
			Settle: func(l *Lab) Result {
				return l.hugeRequest()
			},
		},
		{
			ID: "C11", Who: "Piggin", Lines: "3304",
			Says: "the test for PG_dontcow in the patch's second version shuts file pages out of gup-fast",
			Ran:  "fast pins of 64 shared (shmem) pages that are mapped and writable, first and again",
			Settle: func(l *Lab) Result {
				return l.filePages()
			},
		},
		{
			ID: "C20", Who: "KOSAKI, Molnar", Lines: "8973-8976, 9028",
			Says: "directio_sem's second version makes gup-fast faster, by a branch less",
			Ran:  "64 fast pins of one writable page and of 64, directio_sem against stock, with a cycle taken off for the branch; then pins for reading of pages that fork left read-only",
			Settle: func(l *Lab) Result {
				return l.branchLess()
			},
		},
	}
}

// pinTimes says which pin of a buffer is asked for.
type pinTimes int

const (
	firstPin pinTimes = iota // of pages that were stored to, and never pinned
	nextPin                  // of pages that were pinned before
)

// pinning is a program that pins rounds buffers of n pages, and drops them unmeasured.
func pinning(p pinner, n, rounds int, which pinTimes) Program {
	return func(t *kernel.Thread, measure func(func())) {
		work, done := pinWork(t, p, n, rounds, which)
		measure(work)
		done()
	}
}

// pinWork sets pinning up for a thread: work pins, done drops.
func pinWork(t *kernel.Thread, p pinner, n, rounds int, which pinTimes) (work, done func()) {
	buf := region(t, n*rounds)
	ps := make([]pinner, rounds)
	for i := range ps {
		ps[i] = p
		ps[i].pages = make([]*page.Page, n)
	}
	work = func() {
		inKernel(t, func(task *sched.Task) {
			for i := range ps {
				ps[i].pin(task, buf+uint64(i*n)<<x86.PageShift)
			}
		})
	}
	done = func() {
		inKernel(t, func(task *sched.Task) {
			for i := range ps {
				ps[i].unpin(task)
			}
		})
	}
	if which == nextPin {
		work()
		done()
	}
	return work, done
}

func (l *Lab) twoAtomics() Result {
	const rounds, hardly = 2, 0.8
	run := func(pol string, slow bool, which pinTimes, cpus int, m *x86.CostModel) Cost {
		var dones []func()
		return l.crowd(pol, Machine{Model: m}, cpus, func(t *kernel.Thread, i int) func() {
			work, done := pinWork(t, pinner{slow: slow, write: true}, request, rounds, which)
			dones = append(dones, done)
			return func() { work(); done() }
		})
	}
	v, on := Confirmed, ""
	var evidence []Evidence
	var verdicts [2]Verdict
	for i, cpus := range []int{1, 16} {
		c := l.Compare(
			func(m *x86.CostModel) Cost { return run("pg_gup", false, firstPin, cpus, m) },
			func(m *x86.CostModel) Cost { return run("stock", true, nextPin, cpus, m) })
		verdicts[i], on = c.Judge(hardly, true)
		evidence = append(evidence, c.Evidence(fmt.Sprintf("time of pg_gup's fast path, first pin, over stock's slow path, %d CPUs", cpus)))
	}
	if v = verdicts[0]; v != verdicts[1] {
		v, on = Depends, fmt.Sprintf("how many CPUs pin at once: %s for 1, %s for 16", verdicts[0], verdicts[1])
	}
	for _, cpus := range []int{1, 2, 4, 8, 16} {
		say1 := func(what, pol string, slow bool, which pinTimes) {
			c := run(pol, slow, which, cpus, nil)
			n := cpus * rounds * request
			evidence = append(evidence, say("%2d CPUs, %s: %.0f ns, %.2f atomics, %.2f barriers, %.2f line transfers a page (taken and put)", cpus, what,
				per(c.NS, rounds*request), per(c.Of(trace.EmuAtomics), n), per(c.Of(trace.EmuFences), n), per(c.Of(trace.EmuLineTransfers), n)))
		}
		say1("stock, fast", "stock", false, nextPin)
		say1("pg_gup, fast, first pin", "pg_gup", false, firstPin)
		say1("pg_gup, fast, next pin", "pg_gup", false, nextPin)
		say1("stock, slow", "stock", true, nextPin)
	}
	return Result{Verdict: v, On: on, Evidence: evidence}
}

func (l *Lab) secondPin() Result {
	const rounds = 4
	extra := func(prog Program) (atomics float64, fast uint64, e string) {
		a, b := l.Count("pg_gup", Machine{}, prog), l.Count("stock", Machine{}, prog)
		n := rounds * request
		fast = a.Of(trace.EmuGUPFastPages)
		return per(a.Of(trace.EmuAtomics), n) - per(b.Of(trace.EmuAtomics), n), fast,
			fmt.Sprintf("%.2f atomics a page against stock's %.2f; %d of %d pages the fast way, stock %d", per(a.Of(trace.EmuAtomics), n),
				per(b.Of(trace.EmuAtomics), n), fast, n, b.Of(trace.EmuGUPFastPages))
	}
	p := pinner{write: true}
	again, _, e1 := extra(pinning(p, request, rounds, nextPin))
	fresh, _, e2 := extra(pinning(p, request, rounds, firstPin))
	_, fast, e3 := extra(func(t *kernel.Thread, measure func(func())) {
		buf := t.MustMmap(rounds * request << x86.PageShift)
		p := pinner{write: true, pages: make([]*page.Page, rounds*request)}
		measure(func() { inKernel(t, func(task *sched.Task) { p.pin(task, buf) }) })
		inKernel(t, p.unpin)
	})
	r := Result{Verdict: Refuted, Evidence: []Evidence{
		say("used again: %s", e1), say("new and filled: %s", e2), say("new and not touched: %s", e3),
	}}
	const none = 0.05
	switch {
	case again < none && fresh < none:
		r.Verdict = Confirmed
	case again < none:
		r.Verdict = Depends
		r.On = fmt.Sprintf("the buffer: %.2f atomics a page more than stock if it is new and filled, %.2f if it is used again; one that is new and untouched takes the fast path for %d pages", fresh, again, fast)
	}
	return r
}

func (l *Lab) hugeRequest() Result {
	m := Machine{Options: kernel.Options{HugePages: 2, Memory: 16 << 20}}
	prog := func(which pinTimes) Program {
		return func(t *kernel.Thread, measure func(func())) {
			buf := t.MustMmapHuge(1, mm.HugePage2M, mm.MapPrivate)
			t.Store64(buf, 1)
			p := pinner{write: true, pages: make([]*page.Page, request)}
			if which == nextPin {
				inKernel(t, func(task *sched.Task) { p.pin(task, buf); p.unpin(task) })
			}
			measure(func() { inKernel(t, func(task *sched.Task) { p.pin(task, buf) }) })
			inKernel(t, p.unpin)
		}
	}
	count := func(pol string, which pinTimes) (atomics, fences uint64) {
		c := l.Count(pol, m, prog(which))
		return c.Of(trace.EmuAtomics), c.Of(trace.EmuFences)
	}
	sa, sf := count("stock", nextPin)
	fa, ff := count("pg_gup", firstPin)
	na, nf := count("pg_gup", nextPin)
	st, pg, small := l.linesOf("stock", true), l.linesOf("pg_gup", true), l.linesOf("pg_gup", false)
	r := Result{
		Verdict: If(na-sa == request-1, ff-sf == request, nf-sf == request),
		Evidence: []Evidence{
			say("stock: %d atomics, %d barriers", sa, sf),
			say("pg_gup, first request: %d and %d", fa, ff),
			say("pg_gup, next request: %d and %d", na, nf),
			say("cache lines fetched from another CPU that has made the same request: %d under stock, %d under pg_gup; %d if the pages are small ones", st, pg, small),
		},
	}
	if r.Verdict == Confirmed && pg-st < request-1 {
		r.Verdict = Depends
		r.On = "what is counted: atomics and barriers are as was said, and the first request to a huge page pays one atomic more, for the mark; " +
			"but the patch's loop works on the head page alone, and the cache lines of the other struct pages are not touched"
	}
	return r
}

// linesOf counts the cache lines that a request fetches from another CPU, which has made the same
// one and dropped it: of a huge page or of small ones.
func (l *Lab) linesOf(pol string, huge bool) uint64 {
	const turn = 20_000_000
	o := kernel.Options{CPUs: 2, HugePages: 2, Memory: 16 << 20}
	return l.Count(pol, Machine{Options: o}, func(t *kernel.Thread, measure func(func())) {
		var buf uint64
		if huge {
			buf = t.MustMmapHuge(1, mm.HugePage2M, mm.MapPrivate)
			t.Store64(buf, 1)
		} else {
			buf = region(t, request)
		}
		p := pinner{write: true, pages: make([]*page.Page, request)}
		other := t.Go("other", func(t *kernel.Thread) {
			inKernel(t, func(task *sched.Task) { p.pin(task, buf); p.unpin(task) })
		})
		t.Compute(turn) // not asleep: each keeps its CPU
		measure(func() { inKernel(t, func(task *sched.Task) { p.pin(task, buf) }) })
		inKernel(t, p.unpin)
		must(t.Join(other), "join")
	}).Of(trace.EmuLineTransfers)
}

func (l *Lab) filePages() Result {
	fast := func(pol string, which pinTimes, readOnly bool) uint64 {
		return l.Count(pol, Machine{}, func(t *kernel.Thread, measure func(func())) {
			buf := t.MustMmapShared(request << x86.PageShift)
			touch(t, buf, request)
			if readOnly {
				must(t.Mprotect(buf, request<<x86.PageShift, mm.ProtRead), "mprotect")
			}
			p := pinner{pages: make([]*page.Page, request)}
			if which == nextPin {
				inKernel(t, func(task *sched.Task) { p.pin(task, buf); p.unpin(task) })
			}
			measure(func() { inKernel(t, func(task *sched.Task) { p.pin(task, buf) }) })
			inKernel(t, p.unpin)
		}).Of(trace.EmuGUPFastPages)
	}
	var evidence []Evidence
	first, next := map[string]uint64{}, map[string]uint64{}
	for _, pol := range []string{"stock", "pg_dontcow_v2", "pg_dontcow", "directio_sem"} {
		first[pol], next[pol] = fast(pol, firstPin, false), fast(pol, nextPin, false)
		evidence = append(evidence, say("%s, of %d pages the fast way: %d writable ones, %d once they have been pinned; %d read-only ones", pol, request,
			first[pol], next[pol], fast(pol, firstPin, true)))
	}
	const v2 = "pg_dontcow_v2"
	r := Result{Verdict: If(first["stock"] == request, first[v2] == 0, next[v2] == 0), Evidence: evidence}
	if r.Verdict == Refuted && first[v2] == 0 {
		r.Verdict = Depends
		r.On = "whether the page was pinned before: the slow path marks file pages too, and from then on gup-fast takes them"
	}
	return r
}

func (l *Lab) branchLess() Result {
	const calls = 64
	run := func(pol string, n int, m *x86.CostModel) Cost {
		return l.Count(pol, Machine{Model: m}, pinning(pinner{write: true}, n, calls, nextPin))
	}
	// The cost model has no price for a branch that is predicted. A cycle a call is generous.
	branch := func(n int) Compared {
		return l.Compare(func(m *x86.CostModel) Cost {
			c := run("directio_sem", n, m)
			if m == nil {
				m = x86.DefaultCost()
			}
			c.NS -= min(c.NS, m.CyclesToNS(calls))
			return c
		}, func(m *x86.CostModel) Cost { return run("stock", n, m) })
	}
	one, many := branch(1), branch(request)
	const measurable = 0.95 // less is lost in the noise of a real machine, even without the system call around
	v, on := one.Judge(measurable, false)
	if v == Refuted {
		on = fmt.Sprintf("faster is what would show, which is 5%% and more; that a branch less is a cycle less is taken for granted and makes a call %.1f%% faster", 100*(1-one.Ratio))
	}
	shared := func(pol string) Cost {
		return l.Count(pol, Machine{}, func(t *kernel.Thread, measure func(func())) {
			buf := region(t, request)
			child, err := t.Fork(func(c *kernel.Thread) { c.Usleep(10_000) })
			must(err, "fork")
			p := pinner{pages: make([]*page.Page, request)}
			measure(func() { inKernel(t, func(task *sched.Task) { p.pin(task, buf) }) })
			inKernel(t, p.unpin)
			_, _, err = t.Wait(child)
			must(err, "wait")
		})
	}
	ds, st := shared("directio_sem"), shared("stock")
	return Result{Verdict: v, On: on, Evidence: []Evidence{
		one.Evidence("time of a pin of one page, directio_sem over stock"),
		many.Evidence("time of a pin of 64 pages, directio_sem over stock"),
		say("64 pages for reading that fork left read-only: stock %d ns, directio_sem %d ns and %d copies", st.NS, ds.NS, ds.Of(trace.EmuCOWCopy)),
	}}
}

package claims

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// forkCosts are the claims about what fork pays.
func forkCosts() []Claim {
	return []Claim{
		{
			ID: "C4", Who: "Arcangeli", Lines: "681",
			Says: "what PG_gup costs fork cannot be measured with a fork microbenchmark",
			Ran:  "fork of 4 and of 1024 written pages with no pins at all, and fork with exit and wait, pg_gup against stock",
			Settle: func(l *Lab) Result {
				return l.forkWithoutPins()
			},
		},
		{
			ID: "C5", Who: "Arcangeli", Lines: "3498-3501, 3587-3591",
			Says: "without PG_gup the references of a pagevec would cause copies at fork that nobody needs",
			Ran:  "fork of 8 pages that were just written and sit in a pagevec, none pinned: pg_gup, and pg_gup with every page marked",
			Settle: func(l *Lab) Result {
				return l.pagevecCopies()
			},
		},
		{
			ID: "C10", Who: "Arcangeli", Lines: "2136",
			Says: "VM_DONTCOW copies a whole vma at fork for a single pinned page",
			Ran:  "fork of a vma of 4096 pages of which one is pinned: copies and time under vm_dontcow, pg_gup and stock",
			Settle: func(l *Lab) Result {
				return l.wholeVMA()
			},
		},
		{
			ID: "C21", Who: "Arcangeli", Lines: "947",
			Says: "with a lock held over direct I/O fork waits for the I/O",
			Ran:  "fork begun 0 to 900 µs after a direct read of a device that takes 1 ms, by another thread and asynchronous: rows with a lock against rows with a flag",
			Settle: func(l *Lab) Result {
				return l.forkBehindIO()
			},
		},
		{
			ID: "C39", Who: "Arcangeli", Lines: "541-548, 619",
			Says: "to clear and flush every writable pte in fork would flood the machine with interrupts",
			Ran:  "interrupts of one fork of 16 and of 256 written pages, with a thread of the process on each of three other CPUs, which leave these pages alone or use one: ksm_fork against pg_gup",
			Settle: func(l *Lab) Result {
				return l.forkFlushes()
			},
		},
	}
}

// forkOnly measures a fork, and not what the child does then.
func forkOnly(t *kernel.Thread, measure func(func())) {
	var pid int
	measure(func() {
		var err error
		pid, err = t.Fork(func(c *kernel.Thread) { c.Exit(0) })
		must(err, "fork")
	})
	_, _, err := t.Wait(pid)
	must(err, "wait")
}

func (l *Lab) forkWithoutPins() Result {
	const measurable = 1.02
	compare := func(n int, whole bool) Compared {
		prog := func(t *kernel.Thread, measure func(func())) {
			region(t, n)
			if !whole {
				forkOnly(t, measure)
				return
			}
			measure(func() { forkOnly(t, func(fn func()) { fn() }) })
		}
		side := func(pol string) func(m *x86.CostModel) Cost {
			return func(m *x86.CostModel) Cost { return l.Count(pol, Machine{Model: m}, prog) }
		}
		return l.Compare(side("pg_gup"), side("stock"))
	}
	r := Result{}
	var first, last Verdict
	for i, c := range []struct {
		n     int
		whole bool
		what  string
	}{
		{4, true, "4 pages, fork, exit and wait"}, {4, false, "4 pages, fork alone"},
		{1024, true, "1024 pages, fork, exit and wait"}, {1024, false, "1024 pages, fork alone"},
	} {
		got := compare(c.n, c.whole)
		v, _ := got.Judge(measurable, false)
		r.Evidence = append(r.Evidence, got.Evidence("time, pg_gup over stock, "+c.what))
		if i == 0 {
			first = v
		}
		last = v
	}
	r.Verdict = first
	if first != last {
		r.Verdict = Depends
		r.On = fmt.Sprintf("the process (measurable means 2%% and more): of 4 pages, with the child's exit, %s; fork alone of 1024 pages, %s: a barrier for each writable page", first, last)
	}
	return r
}

// alwaysMarked is pg_gup with every anonymous page marked when fork comes to it, at no
// cost: the patch as it would be without its flag.
type alwaysMarked struct{ mm.Policy }

func (a alwaysMarked) Name() string { return a.Policy.Name() + " without the flag" }

func (a alwaysMarked) ForkPTE(f *mm.Fork) mm.ForkNext {
	if pg := f.Src.Sys.NormalPage(f.SrcVMA, f.PTE); pg != nil && pg.Anon() {
		pg.PokeSet(page.Policy0)
	}
	return a.Policy.ForkPTE(f)
}

func (l *Lab) pagevecCopies() Result {
	const n = 8 // a pagevec holds 14
	run := func(pol mm.Policy, drain bool) uint64 {
		return l.CountUnder(pol, Machine{}, func(t *kernel.Thread, measure func(func())) {
			inKernel(t, func(task *sched.Task) { mm.SystemOf(task).Pages.LRUAddDrain(task) })
			region(t, n)
			if drain {
				inKernel(t, func(task *sched.Task) { mm.SystemOf(task).Pages.LRUAddDrain(task) })
			}
			forkOnly(t, measure)
		}).Of(trace.EmuForkCopies)
	}
	with := l.Policy("pg_gup")
	without := alwaysMarked{with}
	flag, none, drained := run(with, false), run(without, false), run(without, true)
	return Result{Verdict: If(flag == 0, none > 0, drained == 0),
		On: "the copies themselves fill the pagevec, which then empties: no more than seven for each CPU", Evidence: []Evidence{
			say("pg_gup: %d copies for %d pages in a pagevec", flag, n),
			say("without the flag: %d copies", none),
			say("without the flag, the pagevec emptied before the fork: %d copies", drained),
		}}
}

func (l *Lab) wholeVMA() Result {
	const n = 4096
	run := func(pol string) Cost {
		return l.Count(pol, Machine{Options: kernel.Options{Memory: 64 << 20}}, func(t *kernel.Thread, measure func(func())) {
			buf := region(t, n)
			p := pinner{slow: true, write: true, pages: make([]*page.Page, 1)}
			inKernel(t, func(task *sched.Task) { p.pin(task, buf) })
			forkOnly(t, measure)
			inKernel(t, p.unpin)
		})
	}
	var evidence []Evidence
	copies := map[string]uint64{}
	for _, pol := range []string{"vm_dontcow", "pg_gup", "stock"} {
		c := run(pol)
		copies[pol] = c.Of(trace.EmuPageCopies)
		evidence = append(evidence, say("%s: %d pages copied (%d KiB), fork takes %d µs", pol, copies[pol], copies[pol]*4, c.NS/1000))
	}
	return Result{Verdict: If(copies["vm_dontcow"] >= n, copies["pg_gup"] < n/2), Evidence: evidence}
}

// latencies are fork's times in the presence of I/O, in order.
type latencies []uint64

func (s latencies) String() string {
	return fmt.Sprintf("%d to %d µs, median %d", s[0]/1000, s[len(s)-1]/1000, s[len(s)/2]/1000)
}

// behindIO measures fork at ten moments of a direct read that takes a millisecond.
func (l *Lab) behindIO(pol string, aio bool) latencies {
	var all latencies
	m := Machine{Options: kernel.Options{
		CPUs: 2, Memory: 8 << 20,
		Disks: []kernel.Disk{{Name: "vda", Size: 1 << 16, Latency: &blk.Latency{Name: "1ms", BaseNS: 1_000_000}}},
	}}
	for after := uint64(0); after < 1000; after += 100 {
		c := l.Count(pol, m, func(t *kernel.Thread, measure func(func())) {
			const start = 2_000_000
			buf := region(t, 2)
			fd, err := t.Open("/dev/vda", fs.ORdonly|fs.ODirect)
			must(err, "open")
			var done func()
			if aio {
				ctx, err := t.IoSetup(1)
				must(err, "io_setup")
				waitUntil(t, start)
				_, err = t.IoSubmit(ctx, []kernel.IOCB{{Op: kernel.IOCBCmdPread, FD: fd, Buf: buf, Len: x86.PageSize}})
				must(err, "io_submit")
				done = func() {
					_, err := t.IoGetevents(ctx, 1, 1, -1)
					must(err, "io_getevents")
					must(t.IoDestroy(ctx), "io_destroy")
				}
			} else {
				reader := t.Go("reader", func(t *kernel.Thread) {
					waitUntil(t, start)
					_, err := t.Pread(fd, buf, x86.PageSize, 0)
					must(err, "pread")
				})
				done = func() { must(t.Join(reader), "join") }
			}
			waitUntil(t, start+50_000+after*1000) // 50 µs: the request is under way
			forkOnly(t, measure)
			done()
		})
		all = append(all, c.NS)
	}
	slices.Sort(all)
	return all
}

func (l *Lab) forkBehindIO() Result {
	const waits, does = 400_000, 100_000 // medians, in ns
	locks := []string{"directio_sem_v1", "directio_sem", "mmap_sem_dio", "fork_lock", "kosaki_v3"}
	flags := []string{"stock", "pg_gup_v1", "pg_gup", "pg_dontcow_v2", "pg_dontcow"}
	r := Result{}
	lockWaits, flagWaits := true, false
	var passes []string // locks that let fork pass asynchronous I/O
	for _, pol := range append(slices.Clone(locks), flags...) {
		by, aio := l.behindIO(pol, false), l.behindIO(pol, true)
		r.Evidence = append(r.Evidence, say("%s: fork takes %v behind another thread's read, %v behind an asynchronous one", pol, by, aio))
		if slices.Contains(locks, pol) {
			lockWaits = lockWaits && by[len(by)/2] > waits
			if aio[len(aio)/2] < waits {
				passes = append(passes, pol)
			}
		} else {
			flagWaits = flagWaits || max(by[len(by)/2], aio[len(aio)/2]) > does
		}
	}
	r.Verdict = If(lockWaits, !flagWaits)
	if r.Verdict == Confirmed && len(passes) > 0 {
		r.On = fmt.Sprintf("asynchronous reads: fork does not wait for them under %s, which do not hold their lock until completion", strings.Join(passes, " and "))
	}
	return r
}

func (l *Lab) forkFlushes() Result {
	run := func(pol string, n int, use bool) (ipis uint64, ns uint64) {
		c := l.Count(pol, Machine{Options: kernel.Options{CPUs: 4}}, func(t *kernel.Thread, measure func(func())) {
			buf := region(t, n)
			over := false
			var others []*kernel.Thread
			for range 3 {
				others = append(others, t.Go("spinner", func(t *kernel.Thread) {
					for !over {
						if use {
							t.Load64(buf)
						}
						t.Compute(1000)
					}
				}))
			}
			waitUntil(t, 2_000_000)
			inKernel(t, func(task *sched.Task) { mm.SystemOf(task).Pages.LRUAddDrain(task) })
			forkOnly(t, measure)
			over = true
			for _, o := range others {
				must(t.Join(o), "join")
			}
		})
		return c.Of(trace.EmuIPISent), c.NS
	}
	const few, many = 16, 256
	r := Result{}
	ipis := map[string][2]uint64{}
	for _, pol := range []string{"stock", "pg_gup", "ksm_fork"} {
		a, _ := run(pol, few, false)
		b, ns := run(pol, many, false)
		used, _ := run(pol, many, true)
		ipis[pol] = [2]uint64{a, b}
		r.Evidence = append(r.Evidence, say("%s: %d interrupts for %d pages, %d for %d, fork takes %d µs then; %d if the threads use a page of them", pol, a, few, b, many, ns/1000, used))
	}
	grows := func(pol string) uint64 { return ipis[pol][1] - min(ipis[pol][0], ipis[pol][1]) }
	r.Verdict = If(grows("ksm_fork") >= many-few, grows("pg_gup") < (many-few)/4)
	if r.Verdict == Confirmed {
		r.On = "a thread that uses a page that is being cleared faults, sleeps on mmap_sem until fork is done, and takes no more interrupts"
	}
	return r
}

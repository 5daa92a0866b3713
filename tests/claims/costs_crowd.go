package claims

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// crowdCosts are the claims about several threads at once.
func crowdCosts() []Claim {
	return []Claim{
		{
			ID: "C22", Who: "Piggin", Lines: "6191",
			Says: "the cache line of a lock that is held over direct I/O is shared by all threads, and hurts them",
			Ran:  "direct reads of a sector by 1 to 16 threads, each on a CPU and a disk of its own that takes no time: directio_sem against stock",
			Settle: func(l *Lab) Result {
				return l.lockLine()
			},
		},
		{
			ID: "C23", Who: "KOSAKI", Lines: "6011-6024",
			Says: "not to take mmap_sem is what gup-fast is for, more than an atomic less",
			Ran:  "pins of 4 pages under stock, fast and slow, alone and with a thread that keeps mapping, touching and unmapping",
			Settle: func(l *Lab) Result {
				return l.mapperBeside()
			},
		},
	}
}

func (l *Lab) lockLine() Result {
	const reads, hurts = 8, 1.05
	instant := blk.Instant()
	run := func(pol string, cpus int, m *x86.CostModel) Cost {
		o := kernel.Options{}
		for i := range cpus {
			o.Disks = append(o.Disks, kernel.Disk{Name: fmt.Sprintf("vd%c", 'a'+i), Size: 1 << 16, Latency: &instant})
		}
		return l.crowd(pol, Machine{Model: m, Options: o}, cpus, func(t *kernel.Thread, i int) func() {
			buf := region(t, 1)
			fd, err := t.Open(fmt.Sprintf("/dev/vd%c", 'a'+i), fs.ORdonly|fs.ODirect)
			must(err, "open")
			return func() {
				for range reads {
					_, err := t.Pread(fd, buf, x86.SectorSize, 0)
					must(err, "pread")
				}
			}
		})
	}
	var evidence []Evidence
	for _, cpus := range []int{1, 2, 4, 8, 16} {
		a, b := run("directio_sem", cpus, nil), run("stock", cpus, nil)
		n := cpus * reads
		evidence = append(evidence, say("%2d CPUs: %.2f line transfers and %.0f ns a read under directio_sem, %.2f and %.0f under stock", cpus,
			per(a.Of(trace.EmuLineTransfers), n), per(a.NS, reads), per(b.Of(trace.EmuLineTransfers), n), per(b.NS, reads)))
	}
	var verdicts [2]Verdict
	on := ""
	for i, cpus := range []int{1, 16} {
		c := l.Compare(func(m *x86.CostModel) Cost { return run("directio_sem", cpus, m) }, func(m *x86.CostModel) Cost { return run("stock", cpus, m) })
		verdicts[i], on = c.Judge(hurts, true)
		evidence = append(evidence, c.Evidence(fmt.Sprintf("time of a read, directio_sem over stock, %d CPUs", cpus)))
	}
	v := verdicts[1] // the claim is about many threads
	if v == Confirmed {
		on = "by more than 5% of a read whose device takes no time, with 16 threads"
		switch verdicts[0] {
		case Confirmed:
			on += ", and with one"
		case Refuted:
			on += "; with one it does not"
		default:
			on += "; with one it is about that, which the cost model cannot tell"
		}
	}
	return Result{Verdict: v, On: on, Evidence: evidence}
}

func (l *Lab) mapperBeside() Result {
	const pins, pages = 32, 4
	run := func(slow, mapper bool, m *x86.CostModel) Cost {
		cpus := 1
		if mapper {
			cpus = 2
		}
		return l.Count("stock", Machine{Model: m, Options: kernel.Options{CPUs: 2}}, func(t *kernel.Thread, measure func(func())) {
			buf := region(t, pages)
			over := false
			var other *kernel.Thread
			if cpus == 2 {
				other = t.Go("mapper", func(t *kernel.Thread) {
					for !over {
						addr := region(t, 4)
						must(t.Munmap(addr, 4<<x86.PageShift), "munmap")
					}
				})
				waitUntil(t, 1_000_000)
			}
			p := pinner{slow: slow, write: true, pages: make([]*page.Page, pages)}
			measure(func() {
				for range pins {
					inKernel(t, func(task *sched.Task) { p.pin(task, buf); p.unpin(task) })
				}
			})
			over = true
			if other != nil {
				must(t.Join(other), "join")
			}
		})
	}
	// How many times as long each takes with the mapper, in thousandths.
	slowdown := func(slow bool) func(m *x86.CostModel) Cost {
		return func(m *x86.CostModel) Cost {
			return Cost{NS: 1000 * run(slow, true, m).NS / run(slow, false, m).NS}
		}
	}
	const more = 2
	c := l.Compare(slowdown(true), slowdown(false))
	v, on := c.Judge(more, true)
	return Result{Verdict: v, On: on, Evidence: []Evidence{
		c.Evidence("what the mapper makes of a slow pin's time, over what it makes of a fast one's"),
		say("a pin of %d pages alone: fast %.0f ns, slow %.0f ns; beside the mapper: fast %.0f ns, slow %.0f ns", pages,
			per(run(false, false, nil).NS, pins), per(run(true, false, nil).NS, pins), per(run(false, true, nil).NS, pins), per(run(true, true, nil).NS, pins)),
	}}
}

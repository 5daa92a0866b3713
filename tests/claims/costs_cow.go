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

// cowCosts are the claims about faults and copies outside fork.
func cowCosts() []Claim {
	return []Claim{
		{
			ID: "C19", Who: "Torvalds", Lines: "9082",
			Says: "directio_sem's second version breaks COW on every page of a forked image that is written with O_DIRECT",
			Ran:  "a child that writes an image of 64 pages, shared with its parent, by O_DIRECT: copies under every policy",
			Settle: func(l *Lab) Result {
				return l.snapshotCopies()
			},
		},
		{
			ID: "C24", Who: "Arcangeli", Lines: "671, 682",
			Says: "a directed COW makes the write fault slow when the list of the anon_vma is long",
			Ran:  "the first owner's store to a shared page with 1 to 1000 children, directed_cow and stock",
			Settle: func(l *Lab) Result {
				return l.longList()
			},
		},
		{
			ID: "C26", Who: "KOSAKI, Piggin", Lines: "9336, 9447",
			Says: "PG_dontcow copies pages for access_process_vm without need",
			Ran:  "a debugger that peeks at 16 pages its child shares with it: copies",
			Settle: func(l *Lab) Result {
				return l.peekCopies()
			},
		},
	}
}

// copiers lists the policies by how many copies they made, as "none: a, b".
func copiers(of map[uint64][]string) []Evidence {
	var ns []uint64
	for n := range of {
		ns = append(ns, n)
	}
	slices.Sort(ns)
	var out []Evidence
	for _, n := range ns {
		out = append(out, say("%d copies: %s", n, strings.Join(of[n], ", ")))
	}
	return out
}

func (l *Lab) snapshotCopies() Result {
	const n = 64
	instant := blk.Instant()
	m := Machine{Options: kernel.Options{Disks: []kernel.Disk{{Name: "vda", Size: n << x86.PageShift, Latency: &instant}}}}
	copies := func(pol string) uint64 {
		return l.Count(pol, m, func(t *kernel.Thread, measure func(func())) {
			image := region(t, n)
			fd, err := t.Open("/dev/vda", fs.ORdwr|fs.ODirect)
			must(err, "open")
			measure(func() {
				pid, err := t.Fork(func(c *kernel.Thread) {
					for done := 0; done < n<<x86.PageShift; {
						k, err := c.Pwrite(fd, image+uint64(done), n<<x86.PageShift-done, int64(done))
						must(err, "pwrite")
						done += k
					}
					c.Exit(0)
				})
				must(err, "fork")
				_, _, err = t.Wait(pid)
				must(err, "wait")
			})
		}).Of(trace.EmuPageCopies)
	}
	of := map[uint64][]string{}
	by := map[string]uint64{}
	for _, p := range l.o.Policies {
		k := copies(p.Name())
		by[p.Name()] = k
		of[k] = append(of[k], p.Name())
	}
	r := Result{Verdict: If(by["directio_sem"] >= n, by["stock"] == 0), Evidence: copiers(of)}
	if others := len(of[by["directio_sem"]]) - 1; r.Verdict == Confirmed && others > 0 {
		r.On = fmt.Sprintf("it is not alone: %d more policies, which break COW for a read pin, copy as much", others)
	}
	return r
}

func (l *Lab) longList() Result {
	store := func(pol string, children int, m *x86.CostModel) Cost {
		return l.Count(pol, Machine{Model: m, Options: kernel.Options{Memory: 64 << 20}}, func(t *kernel.Thread, measure func(func())) {
			buf, gate := region(t, 1), t.MustMmapShared(x86.PageSize)
			t.Store32(gate, 0)
			for range children {
				_, err := t.Fork(func(c *kernel.Thread) {
					for c.Load32(gate) == 0 {
						_ = c.FutexWait(gate, 0, 0, kernel.FutexShared)
					}
					c.Exit(0)
				})
				must(err, "fork")
			}
			t.Usleep(1000)
			measure(func() { t.Store64(buf, 2) })
			t.Store32(gate, 1)
			_, err := t.FutexWake(gate, children, kernel.FutexShared)
			must(err, "futex")
			for range children {
				_, _, err := t.Wait(-1)
				must(err, "wait")
			}
		})
	}
	const many, slow = 300, 10
	r := Result{}
	for _, n := range []int{1, 10, 100, 1000} {
		r.Evidence = append(r.Evidence, say("%d children: the store takes %d ns under directed_cow, %d under stock", n,
			store("directed_cow", n, nil).NS, store("stock", n, nil).NS))
	}
	c := l.Compare(func(m *x86.CostModel) Cost { return store("directed_cow", many, m) }, func(m *x86.CostModel) Cost { return store("stock", many, m) })
	r.Verdict, r.On = c.Judge(slow, true)
	r.Evidence = append(r.Evidence, c.Evidence("time of the store, directed_cow over stock, 300 children"))
	return r
}

func (l *Lab) peekCopies() Result {
	const n = 16
	copies := func(pol string) uint64 {
		return l.Count(pol, Machine{}, func(t *kernel.Thread, measure func(func())) {
			buf, gate := region(t, n), t.MustMmapShared(x86.PageSize)
			t.Store32(gate, 0)
			pid, err := t.Fork(func(c *kernel.Thread) {
				for c.Load32(gate) == 0 {
					_ = c.FutexWait(gate, 0, 0, kernel.FutexShared)
				}
				c.Exit(0)
			})
			must(err, "fork")
			t.Usleep(1000)
			measure(func() {
				for i := range uint64(n) {
					_, err := t.PtracePeek(pid, buf+i<<x86.PageShift)
					must(err, "peek")
				}
			})
			t.Store32(gate, 1)
			_, err = t.FutexWake(gate, 1, kernel.FutexShared)
			must(err, "futex")
			_, _, err = t.Wait(pid)
			must(err, "wait")
		}).Of(trace.EmuPageCopies)
	}
	of := map[uint64][]string{}
	by := map[string]uint64{}
	for _, pol := range []string{"stock", "pg_gup_v1", "pg_gup", "vm_dontcow", "pg_dontcow_v2", "pg_dontcow", "directio_sem"} {
		by[pol] = copies(pol)
		of[by[pol]] = append(of[by[pol]], pol)
	}
	r := Result{Verdict: If(by["pg_dontcow"] > 0, by["stock"] == 0), Evidence: copiers(of)}
	if r.Verdict == Confirmed && by["pg_dontcow_v2"] == 0 {
		r.On = fmt.Sprintf("so does pg_gup, %d; the patch's second version knew who only looks, and copied nothing", by["pg_gup"])
	}
	return r
}

// flagCosts are the claims about how long a mark lasts.
func flagCosts() []Claim {
	return []Claim{{
		ID: "C34", Who: "Piggin, Arcangeli", Lines: "2205, 5233, 683",
		Says: "a mark that stays has no false positives (Piggin); a mark with a count copies only what is in flight (Arcangeli)",
		Ran:  "16 small pages, and 2 huge ones, are pinned and dropped, and their process forks twice, writing in between: copies",
		Settle: func(l *Lab) Result {
			return l.longAfter()
		},
	}}
}

func (l *Lab) longAfter() Result {
	const n = 16
	small := func(pol string) uint64 {
		return l.Count(pol, Machine{}, func(t *kernel.Thread, measure func(func())) {
			buf := region(t, n)
			p := pinner{slow: true, write: true, pages: make([]*page.Page, n)}
			inKernel(t, func(task *sched.Task) { p.pin(task, buf); p.unpin(task); mm.SystemOf(task).Pages.LRUAddDrain(task) })
			measure(func() {
				for range 2 {
					forkOnly(t, func(fn func()) { fn() })
					touch(t, buf, n)
				}
			})
		}).Of(trace.EmuForkCopies)
	}
	huge := func(pol string) (uint64, error) {
		m := Machine{Options: kernel.Options{HugePages: 6, Memory: 24 << 20}}
		c, err := l.TryCount(l.Policy(pol), m, func(t *kernel.Thread, measure func(func())) {
			buf := t.MustMmapHuge(2, mm.HugePage2M, mm.MapPrivate)
			p := pinner{slow: true, write: true, pages: make([]*page.Page, 2<<9)}
			for i := range uint64(2) {
				t.Store64(buf+i*mm.HugePage2M, 1)
			}
			inKernel(t, func(task *sched.Task) { p.pin(task, buf); p.unpin(task) })
			measure(func() {
				for range 2 {
					forkOnly(t, func(fn func()) { fn() })
					for i := range uint64(2) {
						t.Store64(buf+i*mm.HugePage2M, 1)
					}
				}
			})
		})
		return c.Of(trace.EmuHugeCopy), err
	}
	r := Result{}
	type copies struct {
		small, huge uint64
		err         error // of the run with huge pages
	}
	of := map[string]copies{}
	for _, pol := range []string{"stock", "pg_gup", "vm_dontcow", "pg_dontcow_v2", "pg_dontcow"} {
		c := copies{small: small(pol)}
		c.huge, c.err = huge(pol)
		of[pol] = c
		text := fmt.Sprintf("%d of 2 huge ones", c.huge)
		if c.err != nil {
			what, _, _ := strings.Cut(c.err.Error(), "\n")
			text = "huge ones are not to be counted: " + what
		}
		r.Evidence = append(r.Evidence, say("%s: %d copies of %d small pages, %s, in two forks after the I/O", pol, c.small, n, text))
	}
	stays, counts := of["pg_dontcow"].small == 0, of["pg_gup"].small == 0
	countsHuge := of["pg_gup"].err == nil && of["stock"].err == nil && of["pg_gup"].huge == of["stock"].huge
	r.Verdict = If(stays, counts, countsHuge)
	if r.Verdict == Refuted && (stays || counts || countsHuge) {
		r.Verdict = Depends
		r.On = fmt.Sprintf("who and which page: no false positives with a mark that stays: %s; only what is in flight with a count, small pages: %s, huge pages: %s", If(stays), If(counts), If(countsHuge))
	}
	return r
}

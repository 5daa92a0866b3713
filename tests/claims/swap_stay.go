package claims

import (
	"fmt"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

// stays are the claims about what stays as it is: the write bit, and the count of mappings.
func stays() []Claim {
	return []Claim{
		{
			ID: "C36", Who: "Torvalds", Lines: "8017",
			Says:   "without fork a writable private page stays writable; only swap breaks that",
			Ran:    "what takes the write bit of a pte that nobody shares: reclaim and a load, mprotect to read-only and back, KSM, mlock, mremap, a pin for reading; with a pin for writing and without, under stock; and what a store then does under wp_page_count",
			Settle: settleC36,
		},
		{
			ID: "C37", Who: "Arcangeli", Lines: "3547, 4815",
			Says:   "mapcount is 1 whenever fork write-protects a writable anonymous pte, so the page-table lock is enough",
			Ran:    "an assertion in fork, under stock and pg_gup: on pins, forks of forks, reclaim, mprotect; and on forks in which one allocation after the other fails",
			Settle: settleC37,
		},
	}
}

// readOnly is what C36 looks for: a pte without its write bit.
const readOnly workload.Verdict = "read-only"

func settleC36(l *Lab) Result {
	var res Result
	var takes, loses []string
	// The programs have one thread and depend on the disk alone: few schedules will do.
	inStep := effort{schedules: min(20, l.o.Schedules), first: true}
	for _, w := range ways() {
		alone := l.ask(readOnly, "stock", w.experiment(false).name, inStep)
		pinned := l.ask(readOnly, "stock", w.experiment(true).name, inStep)
		count := l.ask(workload.LostRead, "wp_page_count", w.experiment(true).name, inStep)
		if alone.Found(readOnly) || pinned.Found(readOnly) {
			takes = append(takes, w.name)
		}
		if count.Found(workload.LostRead) {
			loses = append(loses, w.name)
		}
		res.Evidence = append(res.Evidence, Evidences(alone, pinned, count)...)
	}
	swap, others := false, 0
	for _, t := range takes {
		if t == "swap" {
			swap = true
		} else {
			others++
		}
	}
	res.Verdict = Settle(Exists(swap), Fact(others == 0))
	res.On = "the write bit is taken by " + strings.Join(takes, ", ")
	if len(loses) > 0 {
		res.On += "; with a pin, a rule that asks page_count then loses the page by " + strings.Join(loses, ", ")
	}
	return res
}

func settleC37(l *Lab) Result {
	var res Result
	always, failing := true, true
	for _, pol := range []string{"stock", "pg_gup"} {
		for _, w := range [...][2]string{{"pin_fork", ""}, {"fork_twice", "aio=1"}, {"mprotect_pin", "child=1"}, {"swap_pin", "fork=1,race=1"}} {
			r := l.Search(workload.Bug, pol+watched, w[0], w[1])
			always = always && !r.Found(workload.Bug)
			res.Evidence = append(res.Evidence, held(r))
		}
		r := l.Ask(workload.Bug, pol+watched, "claim-c37-nomem")
		failing = failing && !r.Found(workload.Bug)
		res.Evidence = append(res.Evidence, held(r))
		if w := r.witness(workload.Bug); w != nil {
			res.Evidence = append(res.Evidence, Evidence{Text: pol + ": " + w.Detail})
		}
	}
	res.Verdict = If(always, failing)
	if always && !failing {
		res.Verdict = Depends
		res.On = "whether an allocation fails: the patch's fork then leaves the map count that copy_one_pte has taken"
	}
	return res
}

// held is the evidence of a search for the assertion alone: what else the program shows
// under that row is not asked.
func held(r *Race) Evidence {
	if r.Found(workload.Bug) {
		return r.Evidence()
	}
	return Evidence{Text: fmt.Sprintf("%s: it held in %s", r.Name(), r.bound())}
}

// way is something that a process can do to its memory besides forking.
type way struct {
	name string
	do   func(t *kernel.Thread, p *play, buf uint64) (now uint64)
}

func ways() []way {
	stays := func(err func(t *kernel.Thread, buf uint64) error) func(*kernel.Thread, *play, uint64) uint64 {
		return func(t *kernel.Thread, p *play, buf uint64) uint64 {
			p.must(err(t, buf), "call")
			return buf
		}
	}
	return []way{
		{"swap", func(t *kernel.Thread, p *play, buf uint64) uint64 {
			pageOut(t, p, buf)
			_ = t.Load64(buf)
			return buf
		}},
		{"mprotect", stays(func(t *kernel.Thread, buf uint64) error {
			if err := t.Mprotect(buf, x86.PageSize, mm.ProtRead); err != nil {
				return err
			}
			return t.Mprotect(buf, x86.PageSize, mm.ProtRead|mm.ProtWrite)
		})},
		{"KSM", stays(func(t *kernel.Thread, buf uint64) error {
			other := t.MustMmap(x86.PageSize)
			t.Store64(other, 1) // the same as buf's page
			for _, a := range []uint64{buf, other} {
				if err := t.Madvise(a, x86.PageSize, mm.MadvMergeable); err != nil {
					return err
				}
			}
			return t.KSMScan(2)
		})},
		{"mlock", stays(func(t *kernel.Thread, buf uint64) error {
			if err := t.Mlock(buf, x86.PageSize); err != nil {
				return err
			}
			return t.Munlock(buf, x86.PageSize)
		})},
		{"mremap", func(t *kernel.Thread, p *play, buf uint64) uint64 {
			to := t.MustMmap(x86.PageSize)
			now, err := t.Mremap(buf, x86.PageSize, x86.PageSize, mm.MremapMayMove|mm.MremapFixed, to)
			p.must(err, "mremap")
			return now
		}},
		{"pin", stays(func(t *kernel.Thread, buf uint64) error {
			r, err := t.RegisterMemory(buf, x86.PageSize, kernel.RegisterOptions{})
			if err != nil {
				return err
			}
			return t.UnregisterMemory(r)
		})},
	}
}

// experiment is a page that nobody shares, the way, and a look at the pte; with a pin, a store
// and the device's write besides.
func (w way) experiment(pinned bool) experiment {
	e := experiment{name: "claim-c36-" + w.name, options: kernel.Options{Disks: []kernel.Disk{swapDisk()}, KSM: w.name == "KSM"}}
	if pinned {
		e.name += "-pinned"
	}
	e.run = func(t *kernel.Thread, p *play) {
		if !p.must(t.Swapon("/dev/swap", 0), "swapon") {
			return
		}
		buf := t.MustMmap(x86.PageSize)
		t.Store64(buf, 1)
		var reg *kernel.Registration
		if pinned {
			var err error
			if reg, err = t.RegisterMemory(buf, x86.PageSize, kernel.RegisterOptions{Write: true, Fast: true}); !p.must(err, "register") {
				return
			}
		}
		p.begin()
		buf = w.do(t, p, buf)
		pte := t.MM().PeekPTE(buf)
		lost := false
		if pinned {
			t.Store64(buf, 2)
			p.must(t.DeviceWrite(reg, x86.SectorSize, []byte{0x64}), "device write")
			lost = t.Load8(buf+x86.SectorSize) != 0x64
			p.must(t.UnregisterMemory(reg), "unregister")
		}
		p.see(workload.LostRead, lost, "the process does not see what the device wrote")
		p.see(readOnly, pte.Present() && !pte.Write(), "the pte has lost its write bit")
	}
	return e
}

// stayExperiments are their programs.
func stayExperiments() []experiment {
	out := []experiment{{name: "claim-c37-nomem", run: forkFails}}
	for _, w := range ways() {
		out = append(out, w.experiment(false), w.experiment(true))
	}
	return out
}

// forkFails forks over and over with a pinned page, and each time another allocation
// fails, until none does.
func forkFails(t *kernel.Thread, p *play) {
	pages := t.MM().Sys.Pages
	buf := t.MustMmap(2 * x86.PageSize)
	t.Store64(buf, 1)
	t.Store64(buf+x86.PageSize, 1)
	reg, err := t.RegisterMemory(buf, x86.PageSize, kernel.RegisterOptions{Write: true})
	if !p.must(err, "register") {
		return
	}
	p.begin()
	for nth := 1; ; nth++ {
		pages.FailAt("", nth)
		pid, err := t.Fork(func(*kernel.Thread) {})
		pages.FailNever()
		if err == nil {
			_, _, err = t.Wait(pid)
			p.must(err, "wait")
			break
		}
		t.Store64(buf, uint64(nth))
		t.Store64(buf+x86.PageSize, uint64(nth))
	}
	p.must(t.UnregisterMemory(reg), "unregister")
}

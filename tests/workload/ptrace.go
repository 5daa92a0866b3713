package workload

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel"
)

// ptracePeek is a debugger that looks at a process while it runs, and now and then
// writes to it. access_process_vm takes a page for a moment only, so nothing can be lost
// under any policy; what differs is what a look costs: a policy that breaks COW for
// every user of get_user_pages copies pages that nobody is going to write (thread
// lines 5826, 9336, 9447). emu_cow_copy counts them.
func ptracePeek() *Workload {
	return withHuge(&Workload{
		Name:  "ptrace_peek",
		Title: "a debugger peeks and pokes at a forked process that counts, and shares its memory",
		Group: OtherUsers,
		Lines: "5826, 9336, 9447",
		Params: []Param{
			{Name: "peeks", Usage: "how often the debugger looks", Default: 2000, Small: 2, Min: 1, Max: 1 << 24, Amount: true},
			{Name: "pages", Usage: "shared pages that it looks at besides", Default: 64, Small: 1, Min: 1, Max: 1 << 12, Amount: true},
		},
		Memory: func(v Values) uint64 { return uint64(v["pages"])*3<<x86.PageShift + 4<<20 },
		CPUs:   2, SmallCPUs: 2,
		Latency:   blk.FastDevice,
		DiskBytes: func(Values) int64 { return x86.SectorSize },
		Main:      ptraceMain,
	}, onePage, "huge=1")
}

func ptraceMain(t *kernel.Thread, r *Run) {
	pages := uint64(r.Values["pages"])
	size := pages << x86.PageShift
	buf := t.MustMmap(size)             // shared by fork, and only looked at
	own := r.mapBuffer(t, x86.PageSize) // the tracee counts here
	counter, poked := own, own+8
	for i := range pages {
		t.Store64(buf+i<<x86.PageShift, i)
	}
	t.Store64(counter, 0)
	t.Store64(poked, 0)
	over := t.MustMmapShared(x86.PageSize)
	const done = 1<<40 + 0xdd
	r.begin()
	pid, err := t.Fork(func(c *kernel.Thread) {
		for n := int64(1); n <= 4*r.Values["peeks"] && c.Load64(poked) != done; n++ {
			c.Store64(counter, uint64(n))
		}
		awaitWord(c, over)
		r.compareWord(WrongCopy, "poked word", 8, done&0xff, c.Load64(poked)&0xff)
		for i := range pages {
			r.compareWord(ChildChanged, "tracee's page", i<<x86.PageShift, i, c.Load64(buf+i<<x86.PageShift))
		}
		c.Exit(0)
	})
	if r.failed(err, "fork") {
		return
	}
	last := uint64(0)
	for i := range uint64(r.Values["peeks"]) {
		at := i % pages
		v, err := t.PtracePeek(pid, buf+at<<x86.PageShift)
		if r.failed(err, "peek") {
			break
		}
		r.compareWord(LeakToChild, "peek", at<<x86.PageShift, at, v)
		v, err = t.PtracePeek(pid, counter)
		if r.failed(err, "peek") {
			break
		}
		if v < last {
			r.find(Finding{Verdict: WrongCopy, Where: "tracee's counter", Want: -1, Got: -1, Note: "the debugger saw it run backwards"})
		}
		last = v
		r.failed(t.PtracePoke(pid, poked, i+1), "poke")
		v, err = t.PtracePeek(pid, poked)
		r.failed(err, "peek")
		r.compareWord(WrongCopy, "poked word", 8, i+1, v)
	}
	r.failed(t.PtracePoke(pid, poked, done), "poke")
	setWord(t, over)
	_, _, err = t.Wait(pid)
	r.failed(err, "wait")
	r.compareWord(ChildChanged, "debugger's own page", 8, 0, t.Load64(poked))
	r.compareWord(ChildChanged, "debugger's own page", 0, 0, t.Load64(counter))
	r.failed(t.Munmap(buf, size), "munmap")
	r.unmapBuffer(t, own, x86.PageSize)
	r.failed(t.Munmap(over, x86.PageSize), "munmap")
}

// compareWord is compare for a number whose lowest byte says enough.
func (r *Run) compareWord(v Verdict, where string, off, want, got uint64) {
	if want != got {
		r.find(Finding{Verdict: v, Where: where, Offset: int64(off), Want: int(want & 0xff), Got: int(got & 0xff)})
	}
}

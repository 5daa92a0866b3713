package scenarios

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// line is where columns wait at the start and at the end of a bare run, running on the spot.
// A nil line is none.
type line struct {
	start, finished x86.ObjID
	open, over      bool // protected by whoever acts: the regime is deterministic
}

func newLine(m *sched.Machine) *line {
	return &line{start: m.NewObj(x86.ClassWord), finished: m.NewObj(x86.ClassWord)}
}

// wait waits at the start.
func (l *line) wait(t *sched.Task) {
	for n := 1; l != nil && !l.open; n++ {
		t.C.SpinWait(l.start, n)
	}
}

// pass starts everybody.
func (l *line) pass(t *sched.Task) {
	l.open = true
	t.C.Wrote(l.start)
}

// finish waits until all are through. It reports false if another column waits for this
// CPU, a child perhaps that fork put where somebody slept: the caller must sleep then.
func (l *line) finish(t *sched.Task) bool {
	for n := 1; l != nil && !l.over; n++ {
		if t.Crowded() {
			return false
		}
		t.C.SpinWait(l.finished, n)
	}
	return l != nil
}

// end tells that they are.
func (l *line) end(t *sched.Task) {
	if l != nil {
		l.over = true
		t.C.Wrote(l.finished)
	}
}

// memory is a digest of what the processes have where the scenario has mappings, under names
// that mean the same in every schedule: which of the pages are the same, what is in them,
// what their entries allow.
func (r *runner) memory() uint64 {
	var h explore.StateHash
	var same explore.Canon
	done := map[*procState]bool{}
	for _, c := range r.s.Columns {
		if c.proc == nil || done[r.procs[c.proc.name]] {
			continue
		}
		p := r.procs[c.proc.name]
		done[p] = true
		if p.space == nil || p.gone {
			h.PutString(c.Name.Text, "gone")
			continue
		}
		for _, name := range keys(p.addrs) {
			for i := range r.pages(name) {
				what := fmt.Sprintf("%s:%s page %d", c.Name.Text, name, i)
				e := p.space.PeekPTE(p.addrs[name] + uint64(i)<<x86.PageShift)
				switch {
				case e.Present():
					h.PutUint(what+" is", same.Number(uint64(e.PFN())))
					h.PutString(what+" allows", fmt.Sprint(e.Write(), e.Dirty()))
					h.Put(what+" holds", r.m.Sched().Mem().Bytes(e.PFN()))
				case e.IsSwap():
					h.PutUint(what+" is swapped out as", same.Number(uint64(e)))
				}
			}
		}
	}
	return h.Sum()
}

// pages is how many pages a mapping has at first; 1 for one that is made later.
func (r *runner) pages(name string) int64 {
	for i := range r.s.Maps {
		if m := &r.s.Maps[i]; m.Name.Text == name {
			return m.Pages
		}
	}
	return 1
}

package scenarios

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// procOf returns the process of a column.
func (r *runner) procOf(column string) *procState {
	for _, c := range r.s.Columns {
		if c.Name.Text == column && c.proc != nil {
			return r.procs[c.proc.name]
		}
	}
	return nil
}

// terms returns what a state shows: the terms of the condition and those asked for, each
// once.
func (s *Scenario) terms() []*Term {
	var out []*Term
	seen := map[string]bool{}
	add := func(t *Term) {
		if t.Number != nil || slices.Contains(verdictWords, t.Func) || seen[t.String()] {
			return
		}
		seen[t.String()] = true
		out = append(out, t)
	}
	eachTerm(s.Cond.Expr, add)
	for _, t := range s.Show {
		add(t)
	}
	return out
}

// look finds the values of all terms. Nothing else happens meanwhile.
func (r *runner) look(t *kernel.Thread) {
	vals := map[string]value{}
	for _, x := range r.s.terms() {
		switch {
		case x.Reg != "":
			for c, st := range r.cols {
				if c.Name.Text == x.Column {
					vals[x.String()] = st.regs[x.Reg]
				}
			}
		case x.Func != "":
			vals[x.String()] = r.sample(x, nil)
		}
	}
	r.vals = vals
	if r.line != nil {
		r.digest = r.memory()
	}
	for _, p := range r.born {
		if p.gone {
			continue
		}
		_ = t.Kernel(func(task *sched.Task) error {
			p.looking.CompleteAll(task)
			p.looked.Wait(task)
			return nil
		})
	}
	r.seen = true
}

// lookAtMemory loads, on a process's own thread, the bytes that terms ask of it.
func (r *runner) lookAtMemory(t *kernel.Thread, p *procState) {
	for _, x := range r.s.terms() {
		if x.Place == nil || x.Place.Column == "" || r.procOf(x.Place.Column) != p {
			continue
		}
		addr, mapped := p.addrs[x.Place.Name]
		if !mapped {
			continue
		}
		if v, err := loadBytes(t, addr+uint64(x.Place.Off), uint64(x.Place.Len)); err == nil {
			r.vals[x.String()] = v
		}
	}
}

// sample finds the value of a function at this moment, without a step of the machine.
// own is whose memory a place without a column is.
func (r *runner) sample(x *Term, own *procState) value {
	switch x.Func {
	case "counter":
		c, _ := trace.CounterByName(x.Word.Text)
		return number(r.counterNow(c))
	case "segv":
		for c, st := range r.cols {
			if c.Name.Text == x.Word.Text {
				return truth(st.segv)
			}
		}
	}
	var found [2]spot
	for i, p := range x.Args {
		found[i] = r.spot(p, own)
		if !found[i].ok {
			return value{}
		}
	}
	a, sys := found[0], r.m.MM()
	switch x.Func {
	case "refs":
		if a.page == nil {
			return value{}
		}
		return number(int64(r.m.Pages().Head(a.page).Count.Peek()))
	case "mapcount":
		if a.page == nil {
			return value{}
		}
		return number(int64(a.page.MapCount.Peek()))
	case "swapcount":
		if a.entry == 0 {
			return number(0)
		}
		return number(int64(sys.PeekSwapCount(a.entry.Swap())))
	case "present":
		return truth(a.pte.Present())
	case "writable":
		return truth(a.pte.Present() && a.pte.Write())
	case "swapped":
		return truth(a.pte.IsSwap())
	case "samepage":
		b := found[1]
		head := r.m.Pages().Head // of a huge page the table knows the first, a pin any
		same := a.page != nil && b.page != nil && head(a.page) == head(b.page) || a.entry != 0 && a.entry == b.entry
		return truth(same)
	}
	return value{}
}

// spot is a page that a place names.
type spot struct {
	ok    bool
	pte   x86.PTE    // 0 for a pin
	page  *page.Page // nil if it is not in memory, or not known to be
	entry x86.PTE    // of swap; 0 without one
}

// spot finds the first page of a place.
func (r *runner) spot(p *Place, own *procState) spot {
	pages := r.m.Pages()
	s := spot{ok: true}
	if pin := r.pins[p.Name]; pin != nil && p.Column == "" {
		s.page = pin.reg.Pages()[(pin.off+uint64(p.Off))>>x86.PageShift]
	} else {
		proc := own
		if p.Column != "" {
			proc = r.procOf(p.Column)
		}
		if proc == nil || proc.space == nil || proc.gone {
			return spot{}
		}
		addr, mapped := proc.addrs[p.Name]
		if !mapped {
			return spot{}
		}
		s.pte = proc.space.PeekPTE(addr + uint64(p.Off))
		if s.pte == 0 {
			s.pte, _ = proc.space.PeekHugePTE(addr + uint64(p.Off)) // zero, if there is no huge page either
		}
		switch {
		case s.pte.Present():
			s.page = pages.Page(s.pte.PFN())
		case s.pte.IsSwap():
			s.entry = s.pte
		}
	}
	if s.page != nil && s.page.Has(page.SwapCache) {
		s.entry = x86.PTE(s.page.Private)
	}
	return s
}

// state is how a run ended.
type state struct {
	vals map[string]value
	// verdicts are what it ended with beside: words of verdictWords.
	verdicts []string
}

// holds evaluates a condition. What is unknown compares as false.
func (st *state) holds(e Expr) bool {
	switch e := e.(type) {
	case *And:
		return st.holds(e.X) && st.holds(e.Y)
	case *Or:
		return st.holds(e.X) || st.holds(e.Y)
	case *Not:
		return !st.holds(e.X)
	case *Compare:
		x := st.value(e.X)
		if e.Op == "" {
			return x.known && (x.mixed || x.n != 0)
		}
		return compare(x, st.value(e.Y), e.Op)
	}
	return false
}

func (st *state) value(t *Term) value {
	switch {
	case t.Number != nil:
		return number(t.Number.N)
	case slices.Contains(verdictWords, t.Func):
		return truth(slices.Contains(st.verdicts, t.Func))
	}
	return st.vals[t.String()]
}

// compare compares values; bytes that differ among themselves are unequal to all.
func compare(x, y value, op string) bool {
	if !x.known || !y.known {
		return false
	}
	if x.mixed || y.mixed {
		return op == "!="
	}
	switch op {
	case "=":
		return x.n == y.n
	case "!=":
		return x.n != y.n
	case "<":
		return x.n < y.n
	case "<=":
		return x.n <= y.n
	case ">":
		return x.n > y.n
	}
	return x.n >= y.n
}

// text writes the state as herd does: "P0:A[0]=0x1; P0:r=0;".
func (st *state) text(s *Scenario) string {
	var parts []string
	if st.vals != nil {
		for _, t := range s.terms() {
			parts = append(parts, t.String()+"="+st.vals[t.String()].text(t)+";")
		}
	}
	for _, v := range st.verdicts {
		parts = append(parts, v+";")
	}
	if parts == nil {
		return "end;"
	}
	return strings.Join(parts, " ")
}

func (v value) text(t *Term) string {
	switch {
	case !v.known:
		return "?"
	case v.mixed:
		return "mixed"
	case v.n >= 0 && t.Func == "":
		return fmt.Sprintf("%#x", v.n)
	}
	return numberText(v.n)
}

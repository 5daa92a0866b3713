package matrix

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/tests/workload"
)

// Story is a captured run of a workload, cut down to what tells its verdict.
//
// A run of the small form has a thousand steps, of which the diagram rule of package
// explore (objects that more than one side touches) still leaves hundreds: page tables
// of neighbours, reference counts of the bio, the end of the processes. A reader
// wants to follow one page: who pinned it, how fork write-protected it, who copied it,
// where the device then wrote. So one page is chosen, the one whose contents went two
// ways, and the steps shown are those on it, on its copies, and on the page-table
// entries that map them, from the first pin or fork to the last look at the bytes.
//
// The legend says in a line or two which page is followed; it is empty if none was found,
// and explore's own rule chose the steps.
type Story struct{ *explore.Story }

// Tell runs the schedule once, keeps its steps and chooses which to show: those steps
// have Shown set.
func Tell(t *explore.Target, s explore.Spec) *Story { return TellLike(t, s, nil) }

// TellLike is Tell for a run that is to be compared with another one: it follows the page
// that was mapped at the same address first.
func TellLike(t *explore.Target, s explore.Spec, like *explore.Story) *Story {
	st := &Story{Story: explore.Capture(*t, s, CaptureOptions())}
	if abrupt(st.Verdict) {
		return st // not about a page's contents: explore's rule knows about waiting
	}
	focus := uint64(0)
	if like != nil {
		focus = like.Focus
	}
	if p := newPlot(st.Steps, focus); p != nil {
		p.mark()
		st.Legend, st.Focus = p.legend(), p.address()
		p.rename()
	}
	return st
}

// abrupt reports whether a verdict is one of a machine that did not come to rest. That of a
// scenario is a state, with such words among others: ":>P0:r=0x1; bug;".
func abrupt(verdict string) bool {
	words := strings.FieldsFunc(verdict, func(r rune) bool { return strings.ContainsRune("*:>; ", r) })
	return slices.ContainsFunc(words, func(w string) bool {
		switch workload.Verdict(w) {
		case workload.Deadlock, workload.Livelock, workload.Bug:
			return true
		}
		return false
	})
}

// Diagram draws the story. Zero fields of o are chosen to fit: a column of at least 44
// characters for each lane.
func (s *Story) Diagram(o explore.DiagramOptions) string { return s.Story.Diagram(s.fit(o)) }

// HTML writes the story as one page; see explore.Story. Zero fields of o are chosen to fit.
func (s *Story) HTML(w io.Writer, o explore.DiagramOptions) error { return s.Story.HTML(w, s.fit(o)) }

// fit chooses the zero fields of o.
func (s *Story) fit(o explore.DiagramOptions) explore.DiagramOptions {
	if o.Width == 0 {
		lanes := map[int]bool{}
		for i := range s.Steps {
			if st := &s.Steps[i]; st.Shown {
				lanes[st.CPU] = true
			}
		}
		o.Width = max(96, 6+44*len(lanes))
	}
	if o.MaxRows == 0 {
		o.MaxRows = 44
	}
	return o
}

// entry is a page-table entry as diagrams describe it.
func entry(text string) (pfn uint64, ok bool) {
	_, err := fmt.Sscanf(text, "page %d ", &pfn)
	return pfn, err == nil
}

// plot is the search for the page that a story is about.
type plot struct {
	steps  []explore.Step
	page   uint64          // the page that is followed
	copies map[uint64]bool // pages it was copied to
	vas    map[uint64]bool // where it was mapped
	reads  bool            // devices read it, rather than write
	first  int             // window of steps to be shown
	last   int
}

// frame is what a run did with one frame.
type frame struct {
	dma    []int           // steps of devices
	writes bool            // devices wrote it
	copied int             // step of its first copy, or -1
	spaces map[uint32]bool // address spaces that mapped it
}

// newPlot chooses the page; nil if no device touched memory. It is the page that was mapped
// at focus first, if that is not 0 and there is one.
func newPlot(steps []explore.Step, focus uint64) *plot {
	frames := map[uint64]*frame{}
	asked := uint64(0) // the page at focus
	var order []uint64
	at := func(pfn uint64) *frame {
		f := frames[pfn]
		if f == nil {
			f = &frame{copied: -1, spaces: map[uint32]bool{}}
			frames[pfn] = f
			order = append(order, pfn)
		}
		return f
	}
	for i := range steps {
		s := &steps[i]
		switch s.ObjID.Class() {
		case x86.ClassFrame:
			f := at(s.ObjID.ID() >> 3)
			switch s.OpID {
			case x86.OpDMAWrite, x86.OpDMARead:
				f.dma = append(f.dma, i)
				f.writes = f.writes || s.OpID == x86.OpDMAWrite
			case x86.OpCopyRead:
				if f.copied < 0 {
					f.copied = i
				}
			}
		case x86.ClassPTE:
			if mm, level, va := x86.SplitPTEObj(s.ObjID); level == x86.LevelPTE {
				if pfn, ok := entry(s.After); ok {
					at(pfn).spaces[mm] = true
					if asked == 0 && va == focus && focus != 0 {
						asked = pfn
					}
				}
			}
		}
	}
	p := &plot{steps: steps, copies: map[uint64]bool{}, vas: map[uint64]bool{}}
	best := 0
	for _, pfn := range order {
		if n := frames[pfn].interest(); n > best {
			best, p.page, p.reads = n, pfn, !frames[pfn].writes
		}
	}
	if asked != 0 {
		best, p.page, p.reads = 1, asked, !frames[asked].writes
	}
	if best == 0 {
		return nil
	}
	p.follow()
	p.window()
	return p
}

// interest says how likely the frame is the one that went wrong.
func (f *frame) interest() int {
	if len(f.dma) == 0 {
		return 0
	}
	n := 1
	if len(f.spaces) > 1 {
		n += 2 // fork shared it
	}
	if f.copied >= 0 && f.copied < f.dma[len(f.dma)-1] {
		n += 4 // it was copied before the device was done with it
	}
	return n
}

// follow finds the copies of the page and the addresses it is mapped at.
func (p *plot) follow() {
	copier := map[int]bool{} // tasks that have just read it for a copy
	for i := range p.steps {
		s := &p.steps[i]
		switch s.ObjID.Class() {
		case x86.ClassFrame:
			pfn := s.ObjID.ID() >> 3
			switch {
			case s.OpID == x86.OpCopyRead:
				copier[s.TaskID] = pfn == p.page
			case s.OpID == x86.OpCopyWrite && copier[s.TaskID]:
				p.copies[pfn] = true
				copier[s.TaskID] = false
			}
		case x86.ClassPTE:
			pfn, ok := entry(s.After)
			if !ok {
				pfn, ok = entry(s.Before)
			}
			if _, level, va := x86.SplitPTEObj(s.ObjID); ok && level == x86.LevelPTE && pfn == p.page {
				p.vas[va] = true
			}
		}
	}
}

// window finds where the story begins, with the first pin or fork that meets the page,
// and where it ends: with the last look at the bytes by a device or a program.
func (p *plot) window() {
	p.first, p.last = -1, len(p.steps)-1
	for i := range p.steps {
		s := &p.steps[i]
		if p.first < 0 && (pinning(s) || forking(s)) && p.concerns(s) {
			p.first = i
		}
		if s.ObjID.Class() == x86.ClassFrame && p.ours(s.ObjID.ID()>>3) && p.first >= 0 {
			switch s.OpID {
			case x86.OpDMARead, x86.OpDMAWrite, x86.OpLoad:
				p.last = i
			}
		}
	}
	p.first = max(p.first, 0)
}

// ours reports whether a frame is the page or a copy of it.
func (p *plot) ours(pfn uint64) bool { return pfn == p.page || p.copies[pfn] }

// concerns reports whether a step is on the page, a copy, or an entry that maps them.
func (p *plot) concerns(s *explore.Step) bool {
	switch s.ObjID.Class() {
	case x86.ClassFrame:
		return p.ours(s.ObjID.ID() >> 3)
	case x86.ClassPage:
		return s.ObjID.ID()>>3 == p.page
	case x86.ClassPTE:
		return p.maps(s)
	}
	return false
}

// maps reports whether a step is on an entry that maps the page or a copy of it, or
// did or is about to.
func (p *plot) maps(s *explore.Step) bool {
	_, level, va := x86.SplitPTEObj(s.ObjID)
	if level != x86.LevelPTE || !p.vas[va] {
		return false
	}
	before, wasPage := entry(s.Before)
	after, isPage := entry(s.After)
	return wasPage && p.ours(before) || isPage && p.ours(after)
}

// in reports whether one of the functions is on the stack of the step.
func in(s *explore.Step, funcs ...string) bool {
	return !s.IRQ && slices.ContainsFunc(s.Stack, func(f string) bool { return slices.Contains(funcs, f) })
}

func pinning(s *explore.Step) bool {
	return in(s, "gup_pte_range", "gup_pgd_range", "gup_huge_pmd", "follow_page", "__get_user_pages", "get_user_pages_fast")
}

func forking(s *explore.Step) bool { return in(s, "copy_one_pte", "copy_pte_range", "dup_mm") }

func breaking(s *explore.Step) bool { return in(s, "do_wp_page") }

// flushState is how far a task has got with making a restricted entry known.
type flushState int

const (
	flushNone flushState = iota
	flushDue
	flushBegun // the own TLB is flushed, others may follow
)

// mark sets Shown.
func (p *plot) mark() {
	undone := p.undone()
	flush := map[int]flushState{} // of tasks that have restricted an entry
	owed := 0                     // interrupts sent for that and not yet acknowledged
	dead := false                 // the page is free
	for i := range p.steps {
		s := &p.steps[i]
		s.Shown = false
		if i < p.first || i > p.last || s.Sched {
			continue
		}
		switch s.ObjID.Class() {
		case x86.ClassPTE:
			s.Shown = p.maps(s) && p.showPTE(s)
			if s.Shown && (s.OpID == x86.OpPTERMW || forking(s)) {
				flush[s.TaskID] = flushDue
			}
		case x86.ClassPage:
			s.Shown = p.concerns(s) && !dead && !undone[i] && showPage(s)
			dead = dead || p.concerns(s) && x86.PageWord(s.ObjID.ID()&7) == x86.PageRef && s.After == "0"
		case x86.ClassFrame:
			s.Shown = p.showFrame(s, dead)
		case x86.ClassCPU:
			state := flush[s.TaskID]
			switch {
			case s.IRQ || state == flushNone:
			case s.OpID == x86.OpIPI:
				s.Shown = true
				owed++
			case s.OpID == x86.OpFlushTLB && state == flushDue:
				s.Shown = true
				flush[s.TaskID] = flushBegun
			case s.OpID == x86.OpFlushTLB:
				delete(flush, s.TaskID) // that is the next one
			}
		default:
			if s.OpID == x86.OpIPIAck && owed > 0 {
				s.Shown = true
				owed--
			}
		}
		if s.User {
			delete(flush, s.TaskID)
		}
	}
}

// showPTE: what changes an entry of the page, what replaces the page, and what pins
// by it.
func (p *plot) showPTE(s *explore.Step) bool {
	if s.OpID == x86.OpPTERead {
		return s.Func == "gup_pte_range" || s.Func == "follow_page"
	}
	if s.Before == s.After {
		return false // the walker found accessed and dirty as they were
	}
	before, _ := entry(s.Before)
	after, _ := entry(s.After)
	return before == p.page || after == p.page || breaking(s)
}

// showPage: references and mappings as they change, the decision to re-use, and a
// policy's own marks.
func showPage(s *explore.Step) bool {
	if in(s, "exit_mmap") {
		return false // its entry going says it
	}
	switch x86.PageWord(s.ObjID.ID() & 7) {
	case x86.PageRef:
		return s.OpID.Writes() || forking(s) || breaking(s) || pinning(s)
	case x86.PageMap:
		return s.OpID.Writes() || forking(s) || breaking(s)
	case x86.PagePolicy:
		return true
	case x86.PageFlags:
		if policyBits(s.Before) != policyBits(s.After) {
			return true
		}
		return policyBits(s.After) != "" && s.OpID == x86.OpRead && (forking(s) || breaking(s) || pinning(s))
	}
	return false
}

// policyBits are the flags of a page that belong to policies.
func policyBits(flags string) string {
	var out []string
	for _, f := range strings.Split(flags, "|") {
		if strings.HasPrefix(f, "policy") {
			out = append(out, f)
		}
	}
	return strings.Join(out, "|")
}

// showFrame: copies, devices, and the program's own loads and stores.
func (p *plot) showFrame(s *explore.Step, dead bool) bool {
	pfn := s.ObjID.ID() >> 3
	switch s.OpID {
	case x86.OpDMARead, x86.OpDMAWrite:
		return p.ours(pfn)
	case x86.OpCopyRead:
		return pfn == p.page && !dead
	case x86.OpCopyWrite:
		return p.copies[pfn]
	case x86.OpLoad, x86.OpStore:
		return p.copies[pfn] || pfn == p.page && !dead
	}
	return false
}

// undone finds references that are taken and dropped again with nothing on the count
// in between: direct I/O does so for every block, a COW for the time of its copy.
// Those of get_user_pages stay, they are the story.
func (p *plot) undone() map[int]bool {
	out := map[int]bool{}
	count := x86.PageObj(x86.PFN(p.page), x86.PageRef)
	prev := -1
	for i := range p.steps {
		s := &p.steps[i]
		if s.ObjID != count {
			continue
		}
		if prev >= 0 {
			a := &p.steps[prev]
			if a.OpID == x86.OpAdd && !pinning(a) && !forking(a) && a.TaskID == s.TaskID && a.IRQ == s.IRQ && a.Before == s.After {
				out[prev], out[i] = true, true
				prev = -1
				continue
			}
		}
		prev = i
	}
	return out
}

// legend says what is what.
func (p *plot) legend() string {
	what := "what the device writes to"
	if p.reads {
		what = "what the device reads"
	}
	b := fmt.Sprintf("Page %d is %s", p.page, what)
	var copies []uint64
	for pfn := range p.copies {
		copies = append(copies, pfn)
	}
	slices.Sort(copies)
	for i, pfn := range copies {
		if i > 0 {
			b += fmt.Sprintf(", page %d another", pfn)
		} else {
			b += fmt.Sprintf(", page %d a copy of it", pfn)
		}
	}
	spaces := p.spaces()
	b += fmt.Sprintf("; it is mapped at %#x.", p.address())
	if len(spaces) > 1 {
		b += fmt.Sprintf("\nmm %d is the parent's address space, mm %d the child's.", spaces[0], spaces[1])
	}
	return b
}

// spaces lists the address spaces whose entries are shown, oldest first.
func (p *plot) spaces() []uint32 {
	var out []uint32
	for i := range p.steps {
		s := &p.steps[i]
		if mm, _, _ := x86.SplitPTEObj(s.ObjID); s.Shown && s.ObjID.Class() == x86.ClassPTE && !slices.Contains(out, mm) {
			out = append(out, mm)
		}
	}
	slices.Sort(out)
	return out
}

func (p *plot) address() uint64 {
	low := ^uint64(0)
	for va := range p.vas {
		low = min(low, va)
	}
	return low
}

// rename shortens what the steps shown are called: the legend has the address.
func (p *plot) rename() {
	for i := range p.steps {
		s := &p.steps[i]
		if !s.Shown || s.ObjID.Class() != x86.ClassPTE {
			continue
		}
		mm, _, va := x86.SplitPTEObj(s.ObjID)
		s.Op = strings.TrimPrefix(s.Op, "pte ")
		if va == p.address() {
			s.Object = fmt.Sprintf("pte of mm %d", mm)
		}
	}
}

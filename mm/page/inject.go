package page

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// injector makes chosen allocations fail and counts them by site. It exists
// only on machines that asked for it.
type injector struct {
	lock  x86.RawSpin
	sites map[string]*siteInfo // protected by lock

	// Failures that a search over schedules chooses; see OfferFailures.
	offered bool      // immutable
	only    string    // site that they are for; "" is any; immutable
	armed   int       // failures that have not met an allocation yet; protected by whoever acts
	obj     x86.ObjID // immutable
}

// OfferFailures makes n failures choices of a search: "an allocation fails" is an event that the strategy
// may let happen between any two steps, and the next allocation of the given site, or of
// any if it is empty, then fails. Each allocation has a schedule point here, so that two of one step
// can be told apart. It must be called while nothing runs; free regime only.
func (m *Map) OfferFailures(site string, n int) {
	m.CountSites()
	in := m.inj
	in.offered, in.only, in.obj = true, site, x86.Obj(x86.ClassInject, 1)
	m.mach.Offer(in, n, 1)
}

// Fire implements sched.Event.
func (in *injector) Fire(*sched.Machine, *trace.CPU) { in.armed++ }

// Op implements sched.Event.
func (in *injector) Op() x86.Op { return x86.OpFail }

// Obj implements sched.Event.
func (in *injector) Obj() x86.ObjID { return in.obj }

// Name implements sched.Event.
func (in *injector) Name() string { return "injector" }

// chosen reports whether a failure that the search has chosen meets this allocation.
func (in *injector) chosen(t *sched.Task, site string) bool {
	t.C.Point(x86.OpAlloc, in.obj)
	if in.armed == 0 || in.only != "" && in.only != site {
		return false
	}
	t.C.Touch(in.obj, x86.AccWrite)
	in.armed--
	return true
}

type siteInfo struct {
	calls int          // allocations asked for
	fail  map[int]bool // which of them are to fail, from 1
	from  int          // all from this one on fail; 0 is none
}

// CountSites starts counting allocations by site, for SiteCounts. It must be
// called while nothing runs. Counting costs a map look-up per allocation.
func (m *Map) CountSites() {
	if m.inj == nil {
		m.inj = &injector{sites: map[string]*siteInfo{}}
	}
}

// FailAt makes the nth allocation (from 1) that site asks for from now on fail,
// or all from then on if nth is negative (-1 is all). Site "" counts the
// allocations of all sites. GFPNoFail allocations are counted and succeed. It
// must be called while nothing runs.
func (m *Map) FailAt(site string, nth int) {
	m.CountSites()
	s := m.inj.site(site)
	if nth < 0 {
		s.from = s.calls - nth
		return
	}
	s.fail[s.calls+nth] = true
}

// FailNever takes all FailAt back. Counts stay.
func (m *Map) FailNever() {
	if m.inj == nil {
		return
	}
	for _, s := range m.inj.sites {
		s.fail, s.from = map[int]bool{}, 0
	}
}

// SiteCounts returns how many allocations each site has asked for, with the sum
// under "". Nil unless CountSites or FailAt was called.
func (m *Map) SiteCounts() map[string]int {
	if m.inj == nil {
		return nil
	}
	m.inj.lock.Lock()
	out := make(map[string]int, len(m.inj.sites))
	for name, s := range m.inj.sites {
		out[name] = s.calls
	}
	m.inj.lock.Unlock()
	return out
}

func (in *injector) site(name string) *siteInfo {
	s := in.sites[name]
	if s == nil {
		s = &siteInfo{fail: map[int]bool{}}
		in.sites[name] = s
	}
	return s
}

// fails counts an allocation and reports whether it is to fail. may is false for one that
// cannot fail.
func (in *injector) fails(t *sched.Task, site string, may bool) bool {
	chosen := in.offered && may && in.chosen(t, site)
	in.lock.Lock()
	a, b := in.site(site).hit(), in.site("").hit()
	in.lock.Unlock()
	return may && (a || b || chosen)
}

func (s *siteInfo) hit() bool {
	s.calls++
	return s.fail[s.calls] || s.from > 0 && s.calls >= s.from
}

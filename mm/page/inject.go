package page

import "github.com/cowlab/cowlab/arch/x86"

// injector makes chosen allocations fail and counts them by site. It exists
// only on machines that asked for it.
type injector struct {
	lock  x86.RawSpin
	sites map[string]*siteInfo // protected by lock
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

// fails counts an allocation and reports whether it is to fail.
func (in *injector) fails(site string) bool {
	in.lock.Lock()
	a, b := in.site(site).hit(), in.site("").hit()
	in.lock.Unlock()
	return a || b
}

func (s *siteInfo) hit() bool {
	s.calls++
	return s.fail[s.calls] || s.from > 0 && s.calls >= s.from
}

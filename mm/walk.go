package mm

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// FindVMA returns the first VMA of m that ends above addr (find_vma), nil if there is
// none: it need not contain addr.
//
// Preconditions:
//   - mmap_sem is held
func (m *MM) FindVMA(t *sched.Task, addr uint64) *VMA { return m.findVMA(t, addr) }

// RacyProt is v.Prot for fn of RmapWalk, which does not hold mmap_sem: mprotect may be about to change
// it, and then changes the entries afterwards, under their locks.
//
//go:norace
func (v *VMA) RacyProt() x86.PTE { return v.Prot }

// RmapWalk calls fn for every place where an anonymous page may be mapped: a VMA and
// the address in it. Whether the entry there does map the page is for fn to see, under
// the entry's ptl. It ends when fn returns false. It does nothing for a page that is no
// longer mapped.
//
// Preconditions:
//   - the caller has a reference on p, and holds no ptl
//   - fn does not sleep: the anon_vma's lock is held
func (s *System) RmapWalk(t *sched.Task, p *page.Page, fn func(v *VMA, addr uint64) bool) {
	a := s.pageLockAnonVMA(t, p)
	if a == nil {
		return
	}
	t.C.Trace.Inc(trace.EmuRmapWalks)
	t.ReadOf(a, "anon_vma.list")
	for v := a.head; v != nil; v = v.anonNext {
		if addr, ok := vmaAddress(p.Index, v); ok && !fn(v, addr) {
			break
		}
	}
	pageUnlockAnonVMA(t, a)
}

package mm

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm/page"
)

// followHugetlbPage is get_user_pages for up to n small pages from g.Addr on in g.VMA,
// which is of huge pages; it stores them from pages[i] on and moves g.Addr. i is how many
// there are already. Linux 2.6.29 mm/hugetlb.c:follow_hugetlb_page.
//
// Each small page is a reference of its own on the head. Where nothing is mapped, a read
// of a private mapping gets the zero page; and, as in 2.6.29, so does all that follows in
// the same call, mapped or not, because the variable that says so is never cleared.
//
// Preconditions:
//   - mmap_sem is held, for reading at least
func (s *System) followHugetlbPage(g *GUP, n int, pages []*page.Page, i int) (got int, err error) {
	t, v, mm := g.T, g.VMA, g.MM
	h := v.hstate()
	write := g.Flags&GUPWrite != 0 || g.Foll&FollWrite != 0
	zero := false
	if !write && v.Flags&VMShared == 0 && s.ZeroPage(t) == nil { // it must be there under the lock
		return 0, unix.ENOMEM
	}
	ptl := &mm.PageTableLock
	ptl.Lock(t)
	for got < n && g.Addr < v.End {
		ref, ok := mm.hugePTEOffset(t.C, g.Addr&h.mask(), h)
		e := x86.PTE(0)
		if ok {
			e = ref.Load(t.C)
		}
		if ok && e.None() && !write && v.Flags&VMShared == 0 {
			zero = true
		}
		if !ok || e.None() && !zero || write && !e.Write() {
			ptl.Unlock(t)
			if s.hugetlbFault(t, v, g.Addr, write, false)&VMFaultError != 0 {
				return got, unix.EFAULT
			}
			ptl.Lock(t)
			continue
		}
		k := int((v.End - g.Addr) >> x86.PageShift)
		k = min(k, n-got, int((h.size-g.Addr&(h.size-1))>>x86.PageShift))
		done, ok := k, true
		if pages != nil {
			done, ok = s.takeHuge(g, e, zero, pages[i+got:i+got+k])
		}
		got += done
		g.Addr += uint64(done) << x86.PageShift
		if !ok {
			// The policy wants a fault first.
			unshare := g.Foll&FollUnshare != 0
			g.Foll &^= FollUnshare
			ptl.Unlock(t)
			if s.hugetlbFault(t, v, g.Addr, !unshare && g.Foll&FollWrite != 0, unshare)&VMFaultError != 0 {
				return got, unix.EFAULT
			}
			ptl.Lock(t)
		}
	}
	ptl.Unlock(t)
	return got, nil
}

// takeHuge takes a reference for each of the small pages from g.Addr on that e maps: the
// loop same_page of follow_hugetlb_page. It returns how many it took, and false if the
// policy wants a fault before the next one.
//
// Preconditions:
//   - page_table_lock is held
func (s *System) takeHuge(g *GUP, e x86.PTE, zero bool, pages []*page.Page) (int, bool) {
	if zero {
		z := s.ZeroPage(g.T)
		for j := range pages {
			pages[j] = z
			s.takePin(g.T, z, g.Kind)
		}
		return len(pages), true
	}
	head := s.Pages.Page(e.PFN())
	first := int(g.Addr&(g.VMA.hstate().size-1)) >> x86.PageShift
	for j := range pages {
		next := FollowTake
		if s.hooks&HookFollowHuge != 0 {
			next = s.policy.FollowHuge(g, e, head)
		}
		if next == FollowFault {
			return j, false
		}
		pages[j] = s.Pages.Subpage(head, first+j)
		if next == FollowTake {
			s.takePin(g.T, pages[j], g.Kind)
		}
	}
	return len(pages), true
}

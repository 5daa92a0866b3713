package mm

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// Reservations: whoever maps huge pages is promised, at mmap, that there will be a page for
// each fault. Linux 2.6.29 mm/hugetlb.c.
//
//	shared    the file remembers which of its pages were ever promised; that stays
//	          after they have been made, until the file is truncated
//	private   the mapping remembers which of its promises have been used up. Only the
//	          process that called mmap has any: fork clears the child's (HPAGE_RESV_OWNER)
//
// resv_huge_pages of the pool is the sum of the promises that nobody has used yet.

// region is a stretch of huge pages of a file, by index, to exclusive (file_region).
type region struct{ from, to uint64 }

// regionList holds regions that neither overlap nor touch, in order. Linux makes room for
// a new one ahead of time, with an empty region, so that recording it cannot fail;
// here it cannot anyway.
type regionList []region

// add puts [from, to) in, joining what it overlaps or touches (region_add).
func (l *regionList) add(from, to uint64) {
	s := *l
	i := 0
	for i < len(s) && from > s[i].to {
		i++
	}
	j := i
	for ; j < len(s) && s[j].from <= to; j++ {
		from, to = min(from, s[j].from), max(to, s[j].to)
	}
	if i == j {
		s = append(s, region{})
		copy(s[i+1:], s[i:])
		s[i] = region{from, to}
	} else {
		s[i] = region{from, to}
		s = append(s[:i+1], s[j:]...)
	}
	*l = s
}

// missing returns how many pages of [from, to) are not in (region_chg).
func (l regionList) missing(from, to uint64) uint64 { return to - from - l.count(from, to) }

// truncate takes out everything from end on and returns how many pages that were
// (region_truncate).
func (l *regionList) truncate(end uint64) (n uint64) {
	s := *l
	for k := len(s) - 1; k >= 0 && s[k].to > end; k-- {
		if s[k].from < end {
			n += s[k].to - end
			s[k].to = end
			break
		}
		n += s[k].to - s[k].from
		s = s[:k]
	}
	*l = s
	return n
}

// remove takes one page out.
func (l *regionList) remove(idx uint64) {
	for i, r := range *l {
		if idx < r.from || idx >= r.to {
			continue
		}
		var parts []region
		if r.from < idx {
			parts = append(parts, region{r.from, idx})
		}
		if idx+1 < r.to {
			parts = append(parts, region{idx + 1, r.to})
		}
		*l = slices.Replace(*l, i, i+1, parts...)
		return
	}
}

// count returns how many pages of [from, to) are in (region_count).
func (l regionList) count(from, to uint64) (n uint64) {
	for _, r := range l {
		if a, b := max(r.from, from), min(r.to, to); a < b {
			n += b - a
		}
	}
	return n
}

// resvMap remembers which promises of a private mapping have been used up (resv_map). The
// VMAs that the mapping has been split into share it. Protected by mmap_sem for
// writing, or for reading together with the instantiation mutex.
type resvMap struct {
	refs    int
	regions regionList
}

// vmaResv is what a VMA of huge pages keeps in vm_private_data. Protected as resvMap.
type vmaResv struct {
	m *resvMap // nil for shared mappings and for those of a child
	// owner is HPAGE_RESV_OWNER: the process called mmap itself. unmapped is
	// HPAGE_RESV_UNMAPPED: a page has been taken away for the owner's sake, so that
	// faults must fail.
	owner, unmapped bool
}

// hstate returns the pool of a VMA's pages, nil if they are not huge (hstate_vma).
func (v *VMA) hstate() *hstate {
	if v.Flags&VMHugetlb == 0 {
		return nil
	}
	return v.Mapping.huge.h
}

// KernelPageSize returns the size of the pages behind a VMA (vma_kernel_pagesize).
func (v *VMA) KernelPageSize() uint64 {
	if v.Flags&VMHugetlb != 0 {
		return v.hstate().size
	}
	return x86.PageSize
}

// hugecacheOffset returns the index of addr in the file in huge pages
// (vma_hugecache_offset).
func (v *VMA) hugecacheOffset(h *hstate, addr uint64) uint64 {
	return (addr-v.Start)>>(h.order+x86.PageShift) + v.PgOff>>h.order
}

// hasReserves reports whether a fault in v may use up a reservation (vma_has_reserves).
func (v *VMA) hasReserves() bool { return v.Flags&VMMayShare != 0 || v.resv.owner }

// decrementResv uses up one promise (decrement_hugepage_resv_vma). The caller holds
// hugetlb_lock.
func (h *hstate) decrementResv(v *VMA) {
	if v.Flags&VMNoReserve == 0 && v.hasReserves() {
		h.resv--
	}
}

// strayed notes that resv_huge_pages and the promises that it is the sum of have moved apart by
// n. 2.6.29 does not ask whether there is a promise to use up: the copy of a shared page
// uses one that is long used, and a mapping with MAP_NORESERVE leaves alone the one that
// another mapping of the file has. So the sum is no invariant, but with this added it is.
func (h *hstate) strayed(n int64) {
	h.astrayLock.Lock()
	h.astray += n
	h.astrayLock.Unlock()
}

// resetResv clears the reservations of a VMA that fork has just made
// (reset_vma_resv_huge_pages).
func (v *VMA) resetResv() {
	if v.Flags&VMMayShare == 0 {
		v.resv = vmaResv{}
	}
}

// needsReservation makes room for the record that the page at addr has been made, if it is
// not there yet (vma_needs_reservation, region_chg). False if there is no memory for that.
func (s *System) needsReservation(t *sched.Task, v *VMA, h *hstate, addr uint64) bool {
	idx, missing := v.hugecacheOffset(h, addr), uint64(0)
	switch {
	case v.Flags&VMMayShare != 0:
		i := v.Mapping.huge
		i.resvLock.Lock()
		missing = i.regions.missing(idx, idx+1)
		i.resvLock.Unlock()
	case v.resv.owner:
		missing = v.resv.m.regions.missing(idx, idx+1)
	}
	return missing == 0 || !s.Pages.FailSite(t, siteRegion)
}

// siteRegion names the allocation of a struct file_region, for page.Map.FailAt.
const siteRegion = "file_region"

// restoreReservation takes back what allocHugePage recorded for the page of a shared mapping
// that does not get into the page cache, as later kernels do (restore_reserve_on_error). In 2.6.29
// the promise is gone, and the next fault uses up somebody else's.
func (s *System) restoreReservation(t *sched.Task, v *VMA, h *hstate, idx uint64) {
	if v.Flags&VMNoReserve == 0 {
		s.huge.lock.LockIRQ(t)
		h.resv++
		s.huge.lock.UnlockIRQ(t)
		return
	}
	i := v.Mapping.huge
	i.resvLock.Lock()
	i.regions.remove(idx)
	i.resvLock.Unlock()
}

// commitReservation records that the page at addr has been made (vma_commit_reservation).
// used says that resv_huge_pages was decremented for it.
func (v *VMA) commitReservation(h *hstate, addr uint64, used bool) {
	idx, promised := v.hugecacheOffset(h, addr), false
	switch {
	case v.Flags&VMMayShare != 0:
		i := v.Mapping.huge
		i.resvLock.Lock()
		promised = i.regions.count(idx, idx+1) != 0 && i.made.count(idx, idx+1) == 0
		i.regions.add(idx, idx+1)
		i.resvLock.Unlock()
	case v.resv.owner:
		promised = v.resv.m.regions.count(idx, idx+1) == 0
		v.resv.m.regions.add(idx, idx+1)
	}
	switch {
	case used && !promised:
		h.strayed(1)
	case promised && !used:
		h.strayed(-1)
	}
}

// allocHugePage returns a page for a fault at addr of v, with one reference and with
// whatever its last user left in it. avoidReserve leaves promises alone, those of v
// too. Linux 2.6.29 mm/hugetlb.c:alloc_huge_page, without quotas. It is VMFaultOOM if
// the pool has none to give. That there is no memory for the record is not seen there (the
// answer of vma_needs_reservation is kept in an unsigned number) and the list of regions
// corrupted; here that cannot fail at this place.
//
// Preconditions:
//   - the instantiation mutex is held, or mmap_sem for writing; no spinlock is
func (s *System) allocHugePage(t *sched.Task, v *VMA, addr uint64, avoidReserve bool) (*page.Page, VMFault) {
	h := v.hstate()
	if s.Pages.FailSite(t, "alloc_huge_page") {
		return nil, VMFaultOOM
	}
	s.huge.lock.LockIRQ(t)
	resv := h.resv
	p := s.dequeueHugePageVMA(h, v, avoidReserve)
	used := h.resv != resv
	s.huge.lock.UnlockIRQ(t)
	if p == nil {
		if p = s.allocBuddyHugePage(t, h); p == nil {
			return nil, VMFaultOOM
		}
	}
	s.Pages.SetRefs(t, p, 1)
	p.Private = v.Mapping.handle()
	v.commitReservation(h, addr, used)
	return p, 0
}

// acctMemory promises delta more pages, or takes so many promises back
// (hugetlb_acct_memory). The error is ENOMEM.
func (s *System) acctMemory(t *sched.Task, h *hstate, delta int64) (err error) {
	s.huge.lock.LockIRQ(t)
	switch {
	case delta > 0:
		err = s.gatherSurplusPages(t, h, uint64(delta))
		if err == nil && uint64(delta) > uint64(len(h.free)) { // cpuset_mems_nr
			s.returnUnusedSurplusPages(t, h, uint64(delta))
			err = unix.ENOMEM
		}
	case delta < 0:
		s.returnUnusedSurplusPages(t, h, uint64(-delta))
	}
	s.huge.lock.UnlockIRQ(t)
	return err
}

// reservePages promises the pages [from, to) of the file to v, which is about to map them
// (hugetlb_reserve_pages). A shared mapping needs those that nobody was ever promised; a
// private one needs all, even if it is read-only now, because mprotect may change
// that. The error is ENOMEM.
//
// Preconditions:
//   - mmap_sem is held for writing, and the inode's mutex
func (i *HugeInode) reservePages(t *sched.Task, v *VMA, from, to uint64) error {
	if v.Flags&VMNoReserve != 0 {
		return nil
	}
	need := to - from
	if v.Flags&VMMayShare != 0 {
		i.resvLock.Lock()
		need = i.regions.missing(from, to)
		i.resvLock.Unlock()
		if need != 0 && i.as.Sys.Pages.FailSite(t, siteRegion) {
			return unix.ENOMEM
		}
	} else {
		if i.as.Sys.Pages.FailSite(t, "resv_map") {
			return unix.ENOMEM
		}
		v.resv = vmaResv{m: &resvMap{refs: 1}, owner: true}
	}
	if err := i.as.Sys.acctMemory(t, i.h, int64(need)); err != nil {
		return err
	}
	if v.Flags&VMMayShare != 0 {
		i.resvLock.Lock()
		// A fault of another mapping may have made one of the pages since they were counted.
		i.h.strayed(int64(i.regions.missing(from, to)) - int64(need))
		i.regions.add(from, to)
		i.resvLock.Unlock()
	}
	return nil
}

// unreservePages takes back what the file was promised from a page on, freed of which had
// been made (hugetlb_unreserve_pages).
func (i *HugeInode) unreservePages(t *sched.Task, offset, freed uint64) {
	i.resvLock.Lock()
	n := i.regions.truncate(offset)
	i.resvLock.Unlock()
	_ = i.as.Sys.acctMemory(t, i.h, int64(freed)-int64(n))
}

// setMade notes that the file's page idx is in the page cache, or no longer. The page is locked.
func (i *HugeInode) setMade(idx uint64, made bool) {
	i.resvLock.Lock()
	if made {
		i.made.add(idx, idx+1)
	} else {
		i.made.remove(idx)
	}
	i.resvLock.Unlock()
}

// openResv is hugetlb_vm_op_open: a VMA is a part of another one now.
func (v *VMA) openResv() {
	if v.resv.m != nil {
		v.resv.m.refs++
	}
}

// closeResv is hugetlb_vm_op_close: what was promised to the VMA and not used goes back.
func (v *VMA) closeResv(t *sched.Task, s *System, h *hstate) {
	m := v.resv.m
	if m == nil {
		return
	}
	from, to := v.hugecacheOffset(h, v.Start), v.hugecacheOffset(h, v.End)
	unused := m.regions.missing(from, to)
	m.refs--
	if unused != 0 {
		_ = s.acctMemory(t, h, -int64(unused))
	}
}

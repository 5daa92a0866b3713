package mm

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// mmapHuge maps n anonymous huge pages of 2 MiB.
func (r *pinRig) mmapHuge(t *sched.Task, mm *MM, n int, flags MapFlags) uint64 {
	addr, err := SysMmap(t, mm, MmapRequest{Len: uint64(n) * HugePage2M, Prot: protRW, Flags: flags | MapAnonymous | MapHugetlb}, 0)
	require.NoError(r.t, err)
	return addr
}

// TestForceHooksCountsNoHugePages: ForceHooks sends decisions through the methods, and does not
// make 2.6.29 a kernel that counts the mappings of huge pages.
func TestForceHooksCountsNoHugePages(t *testing.T) {
	r := newPinRig(t, pinOptions{cpus: 1, regime: sched.Timed, bytes: 8 << 20, force: true})
	require.Equal(t, 1, r.s.BootHugePages(HugePage2M, 1))
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmapHuge(k, mm, 1, MapPrivate)
		r.store(k, addr, 1)
		ref, ok := mm.hugePTEOffset(k.C, addr, &r.s.huge.hstates[0])
		require.True(t, ok)
		require.Zero(t, r.s.Pages.Page(ref.Peek().PFN()).MapCount.Peek())
		r.sound()
	})
}

// Each invariant of huge pages is broken by hand, and noticed.
func TestCheckNoticesHugePages(t *testing.T) {
	r := newPinRig(t, pinOptions{cpus: 1, regime: sched.Timed, bytes: 16 << 20})
	r.s.Pages.UseLedger(true)
	require.Equal(t, 3, r.s.BootHugePages(HugePage2M, 3))
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmapHuge(k, mm, 2, MapPrivate)
		r.store(k, addr, 1)
		r.sound()
		h := &r.s.huge.hstates[0]
		ref, ok := mm.hugePTEOffset(k.C, addr, h)
		require.True(t, ok)
		e := ref.Peek()
		head := r.s.Pages.Page(e.PFN())

		flush := func() { r.s.FlushTLBMM(k, mm) }
		ref.Poke(e.WrProtect())
		r.wrong(func() { ref.Poke(e) }, "but the page is not writable")
		ref.Poke(x86.MkPTE(e.PFN()+1, e.Flags()))
		r.wrong(func() { ref.Poke(e) }, "there is no such page")
		flush()
		ref.Poke(x86.MkPTE(h.free[0], e.Flags()))
		r.wrong(func() { ref.Poke(e) }, "is in the pool and in use")

		next, ok := mm.hugePTEOffset(k.C, addr+HugePage2M, h)
		require.True(t, ok)
		next.Poke(e)
		r.wrong(func() { next.Poke(0) }, "2 huge entries map it")
		beyond, ok := mm.hugePTEOffset(k.C, addr-HugePage2M, h)
		require.True(t, ok)
		r.s.Pages.GetAs(k, head, page.RefMap)
		beyond.Poke(e)
		r.wrong(func() { beyond.Poke(0) }, "no VMA of such pages is there")
		r.s.Pages.PutAs(k, head, page.RefMap)

		head.MapCount.Poke(1)
		r.wrong(func() { head.MapCount.Poke(0) }, "a huge page has no map count")
		h.resv += 3
		r.wrong(func() { h.resv -= 3 }, "pool of 2048 KiB pages")
		free := r.s.Pages.Page(h.free[0])
		free.Count.Poke(1)
		r.wrong(func() { free.Count.Poke(0) }, "is in the pool and in use")
	})
}

// At rest every page of the pool is free or in use, and every reference has a holder.
func TestCheckRestNoticesLostHugePages(t *testing.T) {
	r := newPinRig(t, pinOptions{cpus: 1, regime: sched.Timed, bytes: 16 << 20})
	r.s.Pages.UseLedger(true)
	require.Equal(t, 3, r.s.BootHugePages(HugePage2M, 3))
	h := &r.s.huge.hstates[0]
	lost := h.free[0]
	h.free = h.free[1:]
	require.ErrorContains(t, r.s.CheckRest()[0], "3 exist and 0 are in use")
	h.free = append(h.free, lost)
	require.Empty(t, r.s.CheckRest())
	h.resv++ // of whom?
	require.ErrorContains(t, r.s.CheckRest()[0], "1 are promised, but files are promised 0 and mappings 0")
	h.resv--
	r.run(func(k *sched.Task, mm *MM) {
		addr := r.mmapHuge(k, mm, 1, MapPrivate)
		r.store(k, addr, 1)
		e, _ := mm.PeekHugePTE(addr)
		head := r.s.Pages.Page(e.PFN())
		r.s.Pages.Get(k, head)
		require.NoError(t, SysMunmap(k, mm, addr, HugePage2M))
		require.Contains(t, r.s.Leaks()[0]+r.s.Leaks()[1], "address space")
		found := false
		for _, l := range r.s.Pages.Leaks() {
			found = found || l.PFN == e.PFN()
		}
		require.True(t, found, "a page that somebody still has is a leak, a free one is not")
		r.s.Pages.Put(k, head)
	})
}

// The hooks, all on, do what stock does inline.
func TestHugeThroughHooks(t *testing.T) {
	bothWays(t, func(t *testing.T, o pinOptions) {
		o.bytes = 16 << 20
		r := newPinRig(t, o)
		require.Equal(t, 4, r.s.BootHugePages(HugePage2M, 4))
		r.run(func(k *sched.Task, mm *MM) {
			addr := r.mmapHuge(k, mm, 2, MapPrivate)
			r.store(k, addr+4096, 1)
			var pages [3]*page.Page
			n, err := GetUserPagesFast(k, addr, 3, true, PinGet, pages[:])
			require.NoError(t, err)
			require.Equal(t, 3, n)
			e, _ := mm.PeekHugePTE(addr)
			require.Equal(t, 4, r.s.Pages.Refs(k, r.s.Pages.Page(e.PFN())))
			r.s.PutUserPages(k, pages[:], PinGet)
			n, err = slow(k, mm, addr+HugePage2M-4096, 2, GUPWrite, pages[:])
			require.NoError(t, err)
			require.Equal(t, 2, n)
			r.s.PutUserPages(k, pages[:2], PinGet)
			_, err = slow(k, mm, addr+2*HugePage2M, 1, 0, pages[:])
			require.Equal(t, unix.EFAULT, err)
			r.fork(k, mm, 0, func(k *sched.Task, _ *MM) {
				r.store(k, addr+4096, 2)
				require.Equal(t, uint64(2), r.load(k, addr+4096))
			})
			e, _ = mm.PeekHugePTE(addr)
			require.False(t, e.Write())
			require.Equal(t, uint64(1), r.load(k, addr+4096))
			r.store(k, addr+4096, 3)
			require.Equal(t, uint64(3), r.load(k, addr+4096))
			r.sound()
		})
	})
}

func TestRegionList(t *testing.T) {
	var l regionList
	l.add(5, 7)
	l.add(1, 2)
	l.add(10, 12)
	require.Equal(t, regionList{{1, 2}, {5, 7}, {10, 12}}, l)
	require.EqualValues(t, 7, l.missing(0, 12))
	l.add(2, 3) // touches
	l.add(6, 10)
	require.Equal(t, regionList{{1, 3}, {5, 12}}, l)
	require.Zero(t, l.missing(6, 12))
	require.EqualValues(t, 2, l.missing(3, 12))
	l.add(0, 20)
	require.Equal(t, regionList{{0, 20}}, l)
	require.EqualValues(t, 13, l.truncate(7))
	l.add(9, 11)
	require.EqualValues(t, 2, l.truncate(7))
	require.Zero(t, l.truncate(7))
	require.Equal(t, regionList{{0, 7}}, l)
	require.EqualValues(t, 7, l.truncate(0))
	require.Empty(t, l)
}

// A failing allocation of a surplus page takes back what was made for the same promise.
func TestGatherSurplusFails(t *testing.T) {
	r := newPinRig(t, pinOptions{cpus: 1, regime: sched.Timed, bytes: 24 << 20})
	require.Equal(t, 1, r.s.BootHugePages(HugePage2M, 1))
	r.s.Pages.FailAt("alloc_buddy_huge_page", 3)
	r.run(func(k *sched.Task, mm *MM) {
		require.NoError(t, r.s.SetNrOvercommitHugepages(k, 0, 10))
		_, err := SysMmap(k, mm, MmapRequest{Len: 4 * HugePage2M, Prot: protRW, Flags: MapPrivate | MapAnonymous | MapHugetlb}, 0)
		require.Equal(t, unix.ENOMEM, err)
		p := r.s.HugePools()[0]
		require.Equal(t, HugePool{Size: HugePage2M, Total: 1, Free: 1, Max: 1, Overcommit: 10}, p)
		r.mmapHuge(k, mm, 4, MapPrivate)
		require.EqualValues(t, 3, r.s.HugePools()[0].Surplus)
		_, err = r.s.SetNrHugepages(k, 12345, 1)
		require.Equal(t, unix.EINVAL, err)
	})
}

package mutants

import (
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

const swapDev = "/dev/swap"

func withSwap(o kernel.Options) kernel.Options {
	o.Disks = []kernel.Disk{{Name: "swap", Size: 64 << 10, Swap: true}}
	return o
}

// pageout asks for the page to be reclaimed, twice: the first look finds it used.
func pageout(t *kernel.Thread, addr uint64) {
	for range 3 {
		_ = t.Madvise(addr, pageSize, mm.MadvPageout)
	}
}

// swappedOut maps a page, stores 7 in it and has it swapped out.
func swappedOut(t *kernel.Thread, r *Run) uint64 {
	r.must(t.Swapon(swapDev, 0))
	a := t.MustMmap(pageSize)
	t.Store64(a, 7)
	pageout(t, a)
	return a
}

// swapMutants are mistakes of reclaim, swap and KSM.
func swapMutants() []*Mutant {
	return []*Mutant{
		{
			Name: "fork does not count swap entries", Where: "copy_one_pte", Break: mm.BreakForkSwapDup,
			Options: withSwap(kernel.Options{}),
			Program: func(t *kernel.Thread, r *Run) {
				a := swappedOut(t, r)
				r.Begin()
				p := t.Go("pager", func(p *kernel.Thread) { pageout(p, a) })
				child(t, r, func(c *kernel.Thread) {
					if v := c.Load64(a); v != 7 {
						r.Bad("the child finds %d", v)
					}
				}, func() {})
				r.must(t.Join(p))
				if v := t.Load64(a); v != 7 {
					r.Bad("the parent finds %d", v)
				}
			},
		},
		{
			Name: "reclaim does not count the entry it leaves", Where: "try_to_unmap_one", Break: mm.BreakUnmapSwapDup,
			Options: withSwap(kernel.Options{}),
			Program: swapOutAndIn,
		},
		{
			Name: "a fault does not give its entry back", Where: "do_swap_page", Break: mm.BreakSwapFree,
			Options: withSwap(kernel.Options{}),
			Program: swapOutAndIn,
		},
		{
			Name: "reclaim loses the dirty bit", Where: "try_to_unmap_one", Break: mm.BreakUnmapDirty,
			Options: withSwap(kernel.Options{}),
			Program: func(t *kernel.Thread, r *Run) {
				r.must(t.Swapon(swapDev, 0))
				a := t.MustMmap(pageSize)
				t.Store64(a, 7)
				r.Begin()
				for i := range uint64(4) {
					if v := t.Load64(a); v != 7+i {
						r.Bad("found %d, stored %d", v, 7+i)
					}
					t.Store64(a, 8+i) // perhaps while the page is still being written
					pageout(t, a)
				}
			},
		},
		{
			Name: "do_swap_page does not look again", Where: "do_swap_page", Break: mm.BreakSwapRecheck,
			Options: withSwap(kernel.Options{}),
			Program: func(t *kernel.Thread, r *Run) {
				a := swappedOut(t, r)
				r.Begin()
				w := t.Go("other", func(w *kernel.Thread) { w.Store64(a+8, 1) })
				t.Store64(a+16, 2)
				r.must(t.Join(w))
				if x, y, z := t.Load64(a), t.Load64(a+8), t.Load64(a+16); x != 7 || y != 1 || z != 2 {
					r.Bad("stored 7, 1 and 2, found %d, %d and %d", x, y, z)
				}
			},
		},
		{
			Name: "reclaim counts the references before it has the lock", Where: "__remove_mapping", Break: mm.BreakFreeze,
			Options: withSwap(kernel.Options{}),
			Program: func(t *kernel.Thread, r *Run) {
				a := swappedOut(t, r)
				r.Begin()
				look := func(t *kernel.Thread) {
					for range 3 {
						if v := t.Load64(a); v != 7 {
							r.Bad("found %d, stored 7", v)
						}
						pageout(t, a)
					}
				}
				p := t.Go("other", look)
				look(t)
				r.must(t.Join(p))
			},
		},
		{
			Name: "rmap without the anon_vma's lock", Where: "page_lock_anon_vma", Break: mm.BreakAnonLock,
			Options: withSwap(kernel.Options{}),
			Program: func(t *kernel.Thread, r *Run) {
				r.must(t.Swapon(swapDev, 0))
				a := t.MustMmap(pageSize)
				t.Store64(a, 7)
				pageout(t, a)
				t.Load64(a)
				drain(t, r)
				r.Begin()
				p := t.Go("pager", func(p *kernel.Thread) { pageout(p, a) })
				child(t, r, func(c *kernel.Thread) { r.must(c.Munmap(a, pageSize)) }, func() {})
				r.must(t.Join(p))
				if v := t.Load64(a); v != 7 {
					r.Bad("found %d, stored 7", v)
				}
			},
		},
		{
			Name: "KSM compares the counts before the flush", Where: "write_protect_page", Break: mm.BreakKSMCount,
			Options: kernel.Options{KSM: true},
			Program: func(t *kernel.Thread, r *Run) {
				a := t.MustMmap(2 * pageSize)
				r.must(t.Madvise(a, 2*pageSize, mm.MadvMergeable))
				t.Store64(a, 7)
				t.Store64(a+pageSize, 7)
				r.must(t.KSMScan(1)) // now the checksums are known
				r.Begin()
				var g *kernel.Registration
				d := t.Go("driver", func(d *kernel.Thread) {
					var err error
					g, err = d.RegisterMemory(a, pageSize, kernel.RegisterOptions{Write: true, Fast: true})
					r.must(err)
				})
				r.must(t.KSMScan(1))
				r.must(t.Join(d))
				if g == nil {
					return
				}
				r.must(t.DeviceWrite(g, 64, []byte{5}))
				if v := t.Load8(a + 64); v != 5 {
					r.Bad("the device wrote 5, found %d", v)
				}
				r.must(t.UnregisterMemory(g))
			},
		},
	}
}

// swapOutAndIn stores, is paged out by another thread, and looks.
func swapOutAndIn(t *kernel.Thread, r *Run) {
	r.must(t.Swapon(swapDev, 0))
	a := t.MustMmap(pageSize)
	r.Begin()
	p := t.Go("pager", func(p *kernel.Thread) { pageout(p, a); pageout(p, a) })
	for i := range uint64(4) {
		t.Store64(a, 7+i)
		if v := t.Load64(a); v != 7+i {
			r.Bad("found %d, stored %d", v, 7+i)
		}
	}
	r.must(t.Join(p))
	pageout(t, a)
	if v := t.Load64(a); v != 10 {
		r.Bad("found %d, stored 10", v)
	}
}

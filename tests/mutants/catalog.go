package mutants

import (
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

const pageSize = 4096

// All lists the mutants.
func All() []*Mutant {
	var all []*Mutant
	all = append(all, forkMutants()...)
	all = append(all, swapMutants()...)
	all = append(all, pinMutants()...)
	all = append(all, lockMutants()...)
	return all
}

// Lookup returns the mutant with the given name, nil if there is none.
func Lookup(name string) *Mutant {
	for _, m := range All() {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// child forks, runs fn in the child, and goes on in meanwhile; then it waits.
func child(t *kernel.Thread, r *Run, fn func(c *kernel.Thread), meanwhile func()) {
	pid, err := t.Fork(fn)
	r.must(err)
	if err != nil {
		return
	}
	meanwhile()
	_, _, err = t.Wait(pid)
	r.must(err)
}

// drain empties the CPU's pagevecs, whose references would keep pages.
func drain(t *kernel.Thread, r *Run) {
	b := t.MustMmap(pageSize)
	r.must(t.Madvise(b, pageSize, mm.MadvDontNeed))
}

// zapUnderStores throws a page away that another CPU keeps storing to.
func zapUnderStores(t *kernel.Thread, r *Run) {
	a := t.MustMmap(pageSize)
	t.Store64(a, 1)
	r.Begin()
	w := t.Go("writer", func(w *kernel.Thread) {
		for v := range uint64(4) {
			w.Store64(a, 2+v)
		}
	})
	r.must(t.Madvise(a, pageSize, mm.MadvDontNeed))
	r.must(t.Join(w))
}

// forkMutants are mistakes of fork, copy-on-write and munmap.
func forkMutants() []*Mutant {
	return []*Mutant{
		{
			Name: "fork without its flush", Where: "dup_mmap", Break: mm.BreakForkFlush,
			Program: func(t *kernel.Thread, r *Run) {
				a := t.MustMmap(pageSize)
				t.Store64(a, 1)
				r.Begin()
				w := t.Go("writer", func(w *kernel.Thread) {
					for v := range uint64(4) {
						w.Store64(a, 2+v)
					}
				})
				child(t, r, func(c *kernel.Thread) {
					if v, w := c.Load64(a), c.Load64(a); v != w {
						r.Bad("the child's word was %d and is %d", v, w)
					}
				}, func() {})
				r.must(t.Join(w))
			},
		},
		{
			Name: "munmap frees before it flushes", Where: "tlb_flush_mmu", Break: mm.BreakGatherFlush,
			Program: zapUnderStores,
		},
		{
			Name: "do_wp_page does not look again", Where: "do_wp_page", Break: mm.BreakWPRecheck,
			Program: func(t *kernel.Thread, r *Run) {
				a := t.MustMmap(pageSize)
				t.Store64(a, 1)
				child(t, r, func(c *kernel.Thread) {
					r.Begin()
					w := c.Go("writer", func(w *kernel.Thread) { w.Store64(a+8, 2) })
					c.Store64(a+16, 3)
					r.must(c.Join(w))
					if x, y := c.Load64(a+8), c.Load64(a+16); x != 2 || y != 3 {
						r.Bad("stored 2 and 3, found %d and %d", x, y)
					}
				}, func() {})
			},
		},
		{
			Name: "do_wp_page copies without a reference", Where: "do_wp_page", Break: mm.BreakWPHold,
			Options: kernel.Options{CPUs: 3},
			Program: func(t *kernel.Thread, r *Run) {
				a := t.MustMmap(2 * pageSize)
				t.Store64(a, 1)
				drain(t, r)
				r.Begin()
				pid, err := t.Fork(func(c *kernel.Thread) { c.Exit(0) }) // shares the page and lets go of it
				r.must(err)
				z := t.Go("zapper", func(z *kernel.Thread) { r.must(z.Madvise(a, pageSize, mm.MadvDontNeed)) })
				t.Store64(a+8, 2)
				r.must(t.Join(z))
				_, _, err = t.Wait(pid)
				r.must(err)
			},
		},
		{
			Name: "page_remove_rmap before the flush", Where: "do_wp_page", Break: mm.BreakWPEarlyRmap,
			Options: kernel.Options{CPUs: 3},
			Program: func(t *kernel.Thread, r *Run) {
				a := t.MustMmap(pageSize)
				t.Store64(a, 1)
				child(t, r, func(c *kernel.Thread) {
					c.Store64(a, 99)
				}, func() {
					r.Begin()
					rd := t.Go("reader", func(rd *kernel.Thread) {
						for range 4 {
							if v := rd.Load64(a); v == 99 {
								r.Bad("the reader sees the child's store")
							}
						}
					})
					t.Store64(a+8, 2)
					r.must(t.Join(rd))
				})
			},
		},
		{
			Name: "flush without the barrier before its interrupt", Where: "flush_tlb_others", Break: mm.BreakFlushBarrier,
			Options: kernel.Options{TSO: true},
			Program: zapUnderStores,
		},
		{
			Name: "hugetlb_cow does not look again", Where: "hugetlb_cow", Break: mm.BreakHugeRecheck,
			Options: kernel.Options{Memory: 32 << 20, HugePages: 5},
			Program: func(t *kernel.Thread, r *Run) {
				const path = fs.HugetlbfsDir + "/f"
				fd, err := t.Open(path, fs.ORdwr|fs.OCreat)
				r.must(err)
				s, err := t.Mmap(0, mm.HugePage2M, mm.ProtRead|mm.ProtWrite, mm.MapShared, fd, 0)
				r.must(err)
				t.Store64(s, 1) // now the file has the page
				r.must(t.Munmap(s, mm.HugePage2M))
				a, err := t.Mmap(0, mm.HugePage2M, mm.ProtRead|mm.ProtWrite, mm.MapPrivate, fd, 0)
				r.must(err)
				t.Load64(a)
				r.Begin()
				w := t.Go("truncater", func(w *kernel.Thread) { r.must(w.Ftruncate(fd, 0)) })
				_ = t.TryStore64(a, 1)
				r.must(t.Join(w))
				r.must(t.Munmap(a, mm.HugePage2M))
				r.must(t.Close(fd))
				r.must(t.Unlink(path))
			},
		},
	}
}

package mutants

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/mm/policy"
)

// pgGUP is row 2 with gup-fast's inner part written again, less a line.
type pgGUP struct {
	policy.PGGUP
	recheck bool // the second look at the pte
	plain   bool // the mark is set by a plain store, and no barrier follows
}

// FastTake implements mm.Policy.
func (p pgGUP) FastTake(f *mm.Fast, ref x86.PTERef, _ x86.PTE, pg *page.Page) bool {
	const mark = page.Policy0
	pages := f.MM.Sys.Pages
	pages.GetAs(f.T, pg, page.RefPin)
	switch {
	case !pg.Anon():
		return true
	case pages.TestFlag(f.T, pg, mark):
	case p.plain:
		pg.Flags.Store(f.T.C, x86.PageObj(pages.PFN(pg), x86.PageFlags), pg.Flags.Peek()|1<<mark)
	default:
		pages.SetFlag(f.T, pg, mark)
	}
	if !p.plain {
		f.T.C.Fence()
	}
	if p.recheck && ref.Load(f.T.C)&(f.Mask|x86.PteSpecial) != f.Mask|x86.PteRW {
		pages.PutAs(f.T, pg, page.RefPin)
		return false
	}
	return true
}

// pinMutants are mistakes of get_user_pages and its users.
func pinMutants() []*Mutant {
	return []*Mutant{
		{
			Name: "gup-fast with interrupts enabled", Where: "get_user_pages_fast", Break: mm.BreakGUPFastIRQ,
			Program: func(t *kernel.Thread, r *Run) {
				a := t.MustMmap(pageSize)
				t.Store64(a, 1)
				r.Begin()
				d := t.Go("driver", func(d *kernel.Thread) {
					g, err := d.RegisterMemory(a, pageSize, kernel.RegisterOptions{Write: true, Fast: true})
					if err == nil {
						r.must(d.DeviceWrite(g, 0, []byte{5}))
						r.must(d.UnregisterMemory(g))
					}
				})
				r.must(t.Madvise(a, pageSize, mm.MadvDontNeed))
				r.must(t.Join(d))
			},
		},
		{
			Name: "direct I/O without references on its bio's pages", Where: "dio_bio_add_page", Break: mm.BreakDIORef,
			Options: kernel.Options{Disks: []kernel.Disk{{Name: "vda", Size: 8192}}},
			Program: func(t *kernel.Thread, r *Run) {
				fd, err := t.Open("/dev/vda", fs.ORdwr|fs.ODirect)
				r.must(err)
				a := t.MustMmap(pageSize)
				t.Store64(a, 1)
				r.Begin()
				_, err = t.Pread(fd, a, 512, 0)
				r.must(err)
			},
		},
		{
			Name: "pg_gup without the second look", Where: "gup_pte_range", Policy: pgGUP{}, Whole: pgGUP{recheck: true},
			Program: pinAndFork,
		},
		{
			Name: "pg_gup with a plain store and no barrier", Where: "gup_pte_range",
			Policy: pgGUP{recheck: true, plain: true}, Whole: pgGUP{recheck: true},
			Options: kernel.Options{TSO: true},
			Program: pinAndFork,
		},
	}
}

// pinAndFork is claim C1: a driver pins a page while another thread forks and stores.
func pinAndFork(t *kernel.Thread, r *Run) {
	a := t.MustMmap(pageSize)
	t.Store64(a, 1)
	r.Begin()
	var g *kernel.Registration
	d := t.Go("driver", func(d *kernel.Thread) {
		var err error
		g, err = d.RegisterMemory(a, pageSize, kernel.RegisterOptions{Write: true, Fast: true})
		r.must(err)
	})
	child(t, r, func(c *kernel.Thread) { c.Exit(0) }, func() {
		t.Store64(a, 2)
		r.must(t.Join(d))
		if g == nil {
			return
		}
		r.must(t.DeviceWrite(g, 512, []byte{5}))
		if v := t.Load8(a + 512); v != 5 {
			r.Bad("the device wrote 5, found %d", v)
		}
		r.must(t.UnregisterMemory(g))
	})
}

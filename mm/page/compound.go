package page

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// Dtor numbers a destructor of compound pages. Numbers stand for functions
// because Pages hold no pointers.
type Dtor uint8

// The destructors.
const (
	DtorFree Dtor = iota // back to the allocator (free_compound_page)
	DtorHuge             // back to the huge page pool (free_huge_page)
	DtorUser0
	DtorUser1

	maxDtors = iota
)

// OnLastPut sets the function that is called when the last reference to a
// compound page with destructor d goes. It then owns the page, whose count is
// zero, and either keeps it (SetRefs makes it live again) or calls
// FreeCompound. It may run in interrupts. Nothing may be running.
func (m *Map) OnLastPut(d Dtor, fn func(t *sched.Task, head *Page)) { m.dtor[d] = fn }

// SetDtor names the destructor of a compound page (set_compound_page_dtor).
func (m *Map) SetDtor(head *Page, d Dtor) { head.dtor = uint8(d) }

// SetRefs gives a page without references n of them, without a point: for a
// pool that hands a page out again. Nobody else may see the page.
func (m *Map) SetRefs(t *sched.Task, p *Page, n int) {
	p.Count.Poke(int32(n))
	if m.led != nil {
		pfn := m.PFN(p)
		m.led.forget(pfn)
		m.led.take(t, pfn, RefTemp, n)
	}
}

// Recycle wipes what the last user of a huge page left on its head, as cleanFreed does
// for a page that goes back to the allocator: the mapping, and the flags and the word of
// policies. The pool calls it when the last reference has gone.
func (m *Map) Recycle(t *sched.Task, head *Page) {
	if head.Mapping != 0 || head.Count.Peek() != 0 || head.MapCount.Peek() != 0 {
		m.badPage(t, head, "huge page in use is freed")
	}
	for f := Policy0; f <= Policy3; f++ {
		head.PokeClear(f)
	}
	if head.Policy.Peek() != 0 {
		head.Policy.Poke(0)
	}
	head.Private = 0
}

// prepCompound links the pages of a block to its first (prep_compound_page).
// Nobody else may see the block.
func (m *Map) prepCompound(p *Page, order int) {
	head := uint32(m.PFN(p))
	p.dtor = uint8(DtorFree)
	p.PokeSet(Head)
	for i := uint32(1); i < 1<<order; i++ {
		q := m.page(head + i)
		q.head = head
		q.PokeSet(Tail)
	}
}

// freeCompound ends a compound page whose last reference has gone.
func (m *Map) freeCompound(t *sched.Task, head *Page) {
	if fn := m.dtor[head.dtor]; fn != nil {
		fn(t, head)
		return
	}
	m.FreeCompound(t, head)
}

// FreeCompound gives a compound page without references back to the allocator.
// A missing tail is an oops.
func (m *Map) FreeCompound(t *sched.Task, head *Page) {
	pfn, order := uint32(m.PFN(head)), int(head.order)
	if !head.Has(Head) {
		m.badPage(t, head, "not the head of a compound page")
	}
	for i := uint32(1); i < 1<<order; i++ {
		q := m.page(pfn + i)
		if !q.Has(Tail) || q.head != pfn {
			m.badPage(t, q, "compound page without its tail")
		}
		q.PokeClear(Tail)
		q.head = 0
	}
	head.PokeClear(Head)
	head.order, head.dtor = 0, 0
	m.freeBlock(t, head, order)
}

// Subpage returns page i of a compound page, given its head.
func (m *Map) Subpage(head *Page, i int) *Page { return m.Page(m.PFN(head) + x86.PFN(i)) }

package mm

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm/page"
)

// Sink is where Snapshot puts what it finds, as text in tables. Explorers implement it.
type Sink interface {
	// Panel begins a table: its short name for commands, its title, how many of its
	// columns name a row, its columns.
	Panel(id, title string, names int, columns ...string)
	// Row begins the row with the given key, by which rows are sorted: hi first. sum is a
	// digest of all that the row shows. If the result is false the row is as it was
	// before; else Cells must follow.
	Row(hi, lo, sum uint64) bool
	// Cells are the row's texts, one for each column.
	Cells(cells ...string)
}

// Snapshot puts the memory management's state into a sink: the entries of all page
// tables, the struct pages of what they map or of what has flags (page tables and
// kernel memory have none), every CPU's TLB with what the page tables say to it, and the
// contents of those pages. It passes no schedule point; the machine must stand still.
// It looks at every struct page, so it is for the small machines of searches.
func (s *System) Snapshot(to Sink) {
	s.snapshotTables(to)
	s.snapshotPages(to)
	s.snapshotTLBs(to)
	s.snapshotBytes(to)
}

func (s *System) snapshotTables(to Sink) {
	to.Panel("pt", "Page tables", 2, "mm", "address", "level", "leads to", "access", "flags")
	for _, m := range s.MMs() {
		if m.PGD != 0 {
			s.snapshotTable(to, m.ID, m.PGD, x86.LevelPGD, 0)
		}
	}
}

// snapshotTable puts the entries of a table and of those below it, each table's entry
// before what stands in it.
func (s *System) snapshotTable(to Sink, id uint32, table x86.PFN, level int, base uint64) {
	if !s.Mem.Valid(table) {
		return
	}
	for i := range x86.EntriesPerTable {
		e := x86.NewPTERef(s.Mem, table, i, 0).Peek()
		if e.None() {
			continue
		}
		va := base + uint64(i)*x86.LevelSize(level)
		leaf := level == x86.LevelPTE || e.Huge() || !e.HWPresent()
		if to.Row(uint64(id), va|uint64(x86.LevelPGD-level), uint64(e)) {
			to.Cells(fmt.Sprint("mm ", id), fmt.Sprintf("%#x", va), tableNames[level], leadsTo(e, leaf), access(e), entryFlags(e))
		}
		if !leaf {
			s.snapshotTable(to, id, e.PFN(), level-1, va)
		}
	}
}

// leadsTo is what an entry points to.
func leadsTo(e x86.PTE, leaf bool) string {
	switch {
	case e.None():
		return "none"
	case e.IsSwap():
		return fmt.Sprintf("swap slot %d:%d", e.Swap().Type, e.Swap().Offset)
	case e.IsFile():
		return fmt.Sprintf("file page %d", e.FileOffset())
	case leaf:
		return fmt.Sprint("page ", e.PFN())
	}
	return fmt.Sprint("table ", e.PFN())
}

// access is RW or RO.
func access(e x86.PTE) string {
	switch {
	case !e.Present():
		return "-"
	case e.ProtNone():
		return "none"
	case e.Write():
		return "RW"
	}
	return "RO"
}

// entryFlags lists an entry's other bits by their kernel names.
func entryFlags(e x86.PTE) string {
	if !e.Present() {
		return "-"
	}
	var f []string
	for _, b := range [...]struct {
		bit  x86.PTE
		name string
	}{{x86.PteUser, "user"}, {x86.PteAccessed, "accessed"}, {x86.PteDirty, "dirty"}, {x86.PtePSE, "pse"},
		{x86.PteGlobal, "global"}, {x86.PteSpecial, "special"}, {x86.PteNX, "nx"}} {
		if e&b.bit != 0 {
			f = append(f, b.name)
		}
	}
	if len(f) == 0 {
		return "-"
	}
	return strings.Join(f, " ")
}

// userPage reports whether a snapshot shows the page: page tables, which keep their lock
// in it, and kernel memory have no flags and are not mapped.
func userPage(p *page.Page) bool {
	const kernels = 1<<page.Reserved | 1<<page.Buddy | 1<<page.Slab
	return p.MapCount.Peek() > 0 || p.Flags.Peek() != 0 && p.Flags.Peek()&kernels == 0
}

// eachUserPage calls fn for the pages that a snapshot shows, by frame.
func (s *System) eachUserPage(fn func(pfn x86.PFN, p *page.Page)) {
	for pfn := range x86.PFN(s.Pages.Frames()) {
		if p := s.Pages.Page(pfn); userPage(p) {
			fn(pfn, p)
		}
	}
}

func (s *System) snapshotPages(to Sink) {
	to.Panel("page", "struct page", 1, "page", "_count", "_mapcount", "flags", "mapping", "policy", "held by")
	l := s.Pages.Ledger()
	s.eachUserPage(func(pfn x86.PFN, p *page.Page) {
		held := ""
		if l != nil {
			held = l.Holders(p)
		}
		var d digest
		d.put(p.Flags.Peek(), uint64(p.Count.Peek()), uint64(p.MapCount.Peek()), p.Mapping, p.Index, p.Policy.Peek(), xxhash.Sum64String(held))
		if !to.Row(0, uint64(pfn), d.sum) {
			return
		}
		word := "-"
		if w := p.Policy.Peek(); w != 0 {
			word = fmt.Sprintf("%#x", w)
		}
		to.Cells(fmt.Sprint("page ", pfn), fmt.Sprint(p.Count.Peek()), fmt.Sprint(p.MapCount.Peek()),
			strings.ReplaceAll(page.FlagNames(p.Flags.Peek()), "|", " "), mappingText(p), word, held)
	})
}

// mappingText says what a page belongs to, and where in it it is.
func mappingText(p *page.Page) string {
	switch {
	case p.Mapping == 0:
		return "-"
	case p.Anon():
		return fmt.Sprintf("anon_vma %d at %#x", p.Mapping>>1, p.Index)
	}
	return fmt.Sprintf("file %d at %#x", p.Mapping>>1, p.Index)
}

// digest sums up the words of a row.
type digest struct{ sum uint64 }

func (d *digest) put(words ...uint64) {
	for _, w := range words {
		d.sum = (d.sum ^ w) * 0x9e3779b97f4a7c15
		d.sum ^= d.sum >> 29
	}
}

func (s *System) snapshotTLBs(to Sink) {
	to.Panel("tlb", "TLBs", 2, "cpu", "address", "page", "access", "flags", "page table")
	var buf [64]x86.TLBEntryInfo
	for i := range s.M.CPUs() {
		c := s.M.CPU(i)
		m := s.mmByID(c.Space)
		for _, e := range c.AppendTLB(buf[:0]) {
			var now x86.PTE
			if m != nil && m.PGD != 0 && e.Size == x86.PageSize {
				now = m.PeekPTE(e.VA)
			}
			var d digest
			w := uint64(0)
			if e.Writable {
				w = 1
			}
			d.put(uint64(e.PFN), uint64(e.Flags), uint64(now), w, e.Size)
			if !to.Row(uint64(i), e.VA, d.sum) {
				continue
			}
			mode := "RO"
			if e.Flags.Write() {
				mode = "RW"
			}
			to.Cells(fmt.Sprint("CPU ", i), fmt.Sprintf("%#x", e.VA), fmt.Sprint("page ", e.PFN), mode, entryFlags(e.Flags|x86.PtePresent), agrees(e, now))
		}
	}
}

// agrees compares a translation with the entry it was made from, as it is now.
func agrees(e x86.TLBEntryInfo, now x86.PTE) string {
	switch {
	case e.Size != x86.PageSize:
		return ""
	case !now.Present():
		return "stale: entry is " + leadsTo(now, true)
	case now.PFN() != e.PFN:
		return fmt.Sprint("stale: entry is page ", now.PFN())
	case e.Flags.Write() && !now.Write():
		return "stale: entry is RO"
	}
	return "agrees"
}

// What a snapshot shows of a page's contents.
const (
	byteLine     = 16 // bytes in a line
	maxByteLines = 8  // lines of a page
)

func (s *System) snapshotBytes(to Sink) {
	to.Panel("bytes", "Bytes", 2, "page", "at", "bytes")
	s.eachUserPage(func(pfn x86.PFN, _ *page.Page) { snapshotFrame(to, pfn, s.Mem.Bytes(pfn)) })
}

// snapshotFrame puts a page's contents: lines that hold one byte only are put together.
func snapshotFrame(to Sink, pfn x86.PFN, b []byte) {
	lines := 0
	for from := 0; from < len(b); lines++ {
		end := from + byteLine
		same := uniform(b[from:end])
		if same && uniform(b[from:]) {
			end = len(b) // most of a huge page, at each step
		}
		for same && end < len(b) && b[end] == b[from] && uniform(b[end:end+byteLine]) {
			end += byteLine
		}
		if lines == maxByteLines-1 && end < len(b) {
			end = len(b)
			if to.Row(uint64(pfn), uint64(from), xxhash.Sum64(b[from:])) {
				to.Cells(fmt.Sprint("page ", pfn), fmt.Sprintf("%03x-%03x", from, end-1), fmt.Sprintf("other bytes, digest %08x", uint32(xxhash.Sum64(b[from:]))))
			}
			return
		}
		if to.Row(uint64(pfn), uint64(from), xxhash.Sum64(b[from:end])^uint64(end)) {
			text := fmt.Sprintf("% x", b[from:end])
			if same {
				text = fmt.Sprintf("%02x, %d times", b[from], end-from)
			}
			to.Cells(fmt.Sprint("page ", pfn), fmt.Sprintf("%03x-%03x", from, end-1), text)
		}
		from = end
	}
}

// uniform reports whether all bytes are equal.
func uniform(b []byte) bool { return bytes.Equal(b[1:], b[:len(b)-1]) }

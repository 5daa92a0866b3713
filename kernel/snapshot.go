package kernel

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// Snapshots are what a machine's memory management looks like at one moment, as
// plain data: for explorers, diagrams and tests. They are taken without schedule
// points, costs or locks, so a snapshot belongs to a machine that stands still: at
// rest, or in the deterministic regimes between two steps.

// Snapshot is the state of a machine's memory.
type Snapshot struct {
	// Spaces are the address spaces that exist, by number.
	Spaces []SpaceSnapshot
	// Pages are the struct pages in use, by frame: all of them on a machine of at
	// most SnapshotFrames frames, else those that some page table names.
	Pages []PageSnapshot
	// TLBs are the CPUs' translation caches, by CPU.
	TLBs [][]x86.TLBEntryInfo
}

// SnapshotFrames is the size of a machine, in frames, up to which a snapshot lists
// pages that no page table names. On larger ones looking at every struct page would
// cost the host memory that the machine never touched.
const SnapshotFrames = 16384

// SpaceSnapshot is an address space.
type SpaceSnapshot struct {
	ID    uint32
	PID   int     // of the process that it was made for, 0 if unknown
	PGD   x86.PFN // frame of the top-level table
	Users int     // mm_users
	Refs  int     // mm_count
	// CPUs has a bit for each CPU whose TLB may hold translations (cpu_vm_mask).
	CPUs uint64
	VMAs []VMASnapshot
	// Entries are the page-table entries of all levels that are not empty, by
	// address, each table before what it points to.
	Entries []EntrySnapshot
}

// VMASnapshot is a mapping.
type VMASnapshot struct {
	Start, End uint64
	Flags      mm.VMFlags
	PgOff      uint64
}

// EntrySnapshot is a page-table entry.
type EntrySnapshot struct {
	VA    uint64
	Level int // x86.LevelPTE to x86.LevelPGD
	Table x86.PFN
	Entry x86.PTE
}

// PageSnapshot is a struct page.
type PageSnapshot struct {
	PFN      x86.PFN
	Flags    uint64 // bits of page.Flag
	Count    int
	MapCount int
	Mapping  uint64
	Index    uint64
	Private  uint64
	Policy   uint64
}

// Snapshot takes a snapshot. into, if not nil, is re-used with its memory.
func (m *Machine) Snapshot(into *Snapshot) *Snapshot {
	s := into
	if s == nil {
		s = &Snapshot{}
	}
	spaces := m.sys.MMs()
	for len(s.Spaces) < len(spaces) {
		s.Spaces = append(s.Spaces, SpaceSnapshot{})
	}
	s.Spaces = s.Spaces[:len(spaces)]
	for i, space := range spaces {
		m.snapshotSpace(&s.Spaces[i], space)
	}
	m.snapshotPages(s)
	for len(s.TLBs) < m.sched.CPUs() {
		s.TLBs = append(s.TLBs, nil)
	}
	for i := range s.TLBs {
		s.TLBs[i] = m.sched.CPU(i).AppendTLB(s.TLBs[i][:0])
	}
	return s
}

func (m *Machine) snapshotSpace(s *SpaceSnapshot, space *mm.MM) {
	s.ID, s.PGD = space.ID, space.PGD
	s.PID = 0
	if p, ok := space.Owner.(*Process); ok {
		s.PID = p.pid
	}
	s.Users, s.Refs, s.CPUs = int(space.Users.Peek()), int(space.Refs.Peek()), space.CPUMask.Peek()
	s.VMAs = s.VMAs[:0]
	space.EachVMA(0, func(v *mm.VMA) bool {
		s.VMAs = append(s.VMAs, VMASnapshot{v.Start, v.End, v.Flags, v.PgOff})
		return true
	})
	s.Entries = m.appendTable(s.Entries[:0], space.PGD, x86.LevelPGD, 0)
}

// appendTable appends the entries of a table and of those below it.
func (m *Machine) appendTable(out []EntrySnapshot, table x86.PFN, level int, base uint64) []EntrySnapshot {
	if !m.mem.Valid(table) || table == 0 {
		return out
	}
	frame := m.mem.Bytes(table)
	for i := range x86.EntriesPerTable {
		e := x86.PTE(binary.NativeEndian.Uint64(frame[i*8:]))
		if e.None() {
			continue
		}
		va := base + uint64(i)*x86.LevelSize(level)
		out = append(out, EntrySnapshot{VA: va, Level: level, Table: table, Entry: e})
		if level > x86.LevelPTE && e.HWPresent() && !e.Huge() {
			out = m.appendTable(out, e.PFN(), level-1, va)
		}
	}
	return out
}

func (m *Machine) snapshotPages(s *Snapshot) {
	s.Pages = s.Pages[:0]
	if frames := m.pages.Frames(); frames <= SnapshotFrames {
		for pfn := range x86.PFN(frames) {
			s.appendPage(m.pages, pfn)
		}
		return
	}
	seen := map[x86.PFN]bool{}
	for i := range s.Spaces {
		for _, e := range s.Spaces[i].Entries {
			if pfn := e.Entry.PFN(); e.Entry.Present() && m.mem.Valid(pfn) && !seen[pfn] {
				seen[pfn] = true
				s.appendPage(m.pages, pfn)
			}
		}
	}
}

func (s *Snapshot) appendPage(pages *page.Map, pfn x86.PFN) {
	p := pages.Page(pfn)
	if p.Count.Peek() == 0 && p.MapCount.Peek() == 0 || p.Has(page.Reserved) {
		return
	}
	s.Pages = append(s.Pages, PageSnapshot{
		PFN: pfn, Flags: p.Flags.Peek(), Count: int(p.Count.Peek()), MapCount: int(p.MapCount.Peek()),
		Mapping: p.Mapping, Index: p.Index, Private: p.Private, Policy: p.Policy.Peek(),
	})
}

// Page returns the snapshot's page with that frame; nil if it has none.
func (s *Snapshot) Page(pfn x86.PFN) *PageSnapshot {
	for i := range s.Pages {
		if s.Pages[i].PFN == pfn {
			return &s.Pages[i]
		}
	}
	return nil
}

// Leaf returns the entry that translates va in the space of process pid, a huge page's too.
func (s *Snapshot) Leaf(pid int, va uint64) (x86.PTE, bool) {
	for i := range s.Spaces {
		if s.Spaces[i].PID != pid {
			continue
		}
		for _, e := range s.Spaces[i].Entries {
			if (e.Level == x86.LevelPTE || e.Entry.Huge()) && e.VA == va&^(x86.LevelSize(e.Level)-1) {
				return e.Entry, true
			}
		}
	}
	return 0, false
}

// StateHash digests what a search over schedules takes for the machine's state:
// page tables, struct pages, and the contents of the frames in use. Two states with
// the same hash look the same to user programs, as far as memory goes; what tasks
// are about to do is not part of it.
func (m *Machine) StateHash() uint64 {
	s := m.Snapshot(nil)
	d := xxhash.New()
	var b [8]byte
	put := func(words ...uint64) {
		for _, w := range words {
			binary.LittleEndian.PutUint64(b[:], w)
			_, _ = d.Write(b[:])
		}
	}
	for i := range s.Spaces {
		sp := &s.Spaces[i]
		put(uint64(sp.ID), uint64(sp.PID), sp.CPUs)
		for _, e := range sp.Entries {
			put(e.VA, uint64(e.Level), uint64(e.Entry))
		}
	}
	for i := range s.Pages {
		p := &s.Pages[i]
		put(uint64(p.PFN), p.Flags, uint64(p.Count), uint64(p.MapCount), p.Mapping, p.Index, p.Policy)
		for i := range x86.PFN(1) << m.pages.Page(p.PFN).Order() { // a huge page's contents are all its frames'
			_, _ = d.Write(m.mem.Bytes(p.PFN + i))
		}
	}
	for _, tlb := range s.TLBs {
		for _, e := range tlb {
			put(e.VA, uint64(e.PFN), uint64(e.Flags))
		}
	}
	return d.Sum64()
}

package spec

import (
	"math"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/scenarios"
)

// What is lost can travel. A direct write takes what memory holds, and if that is an old value, because
// a device's write to it was lost, the old value is on the disk; a direct read brings it to
// another place, where it passes for what was there before, and the read for lost:
//
//	P0                  | P1                    | C child ;
//	                    | pin h A write         |         ;
//	                    | fork C                |         ;
//	                    | A[0] = 2              |         ;     A parts from the driver's page
//	                    | dma h[512] = 3        |         ;     lost, if drivers' pins are not kept
//	                    | pwrite A[512:1K] at 0 |         ;     A[512] is as it was, and so is the disk
//	pread A[0:512] at 0 |                       |         ;     the same in A[0]: nothing else is lost
//
// The final state does not tell whether it was so or the read was lost. A run does: it is
// watched, if something can come back from the disk in its program. A read that brought the value has not lost
// it; what is wrong is what it found on the disk, and that is judged as if it were shown. It counts only if the
// final state shows the loss as well, in the memory that was written out or on the disk, and no promise excludes it:
// nothing is taken for the consequence of what the run does not show.

// traffic watches a run's transfers between memory and the disk, and passes everything on.
type traffic struct {
	inner sched.Observer // may be nil
	m     *sched.Machine // from the latest step
	disk  map[int64]put  // by offset: what is there, if a transfer has put it there
	read  map[int64][]carriage
	n     int // transfers of sectors
}

// put is the first byte of a sector that a direct write has written.
type put struct {
	val byte
	n   int // which transfer it was, counted from 1; 0 if none has written here
}

// carriage is a sector that a direct read has brought into memory: what it was, and when.
type carriage struct {
	put
	at int
}

// always is later than every transfer.
const always = math.MaxInt

// device is the disk's part of a sched.Event.
type device interface{ Sector() uint64 }

// Step implements sched.Observer.
func (tr *traffic) Step(step uint64, t *sched.Task, op x86.Op, obj x86.ObjID) {
	tr.m = t.M
	if tr.inner != nil {
		tr.inner.Step(step, t, op, obj)
	}
}

// Device implements sched.Observer.
func (tr *traffic) Device(step uint64, ev sched.Event) {
	if d, ok := ev.(device); ok && ev.Name() == scenarios.Disk && tr.m != nil {
		switch off := int64(d.Sector()) * x86.SectorSize; ev.Op() {
		case x86.OpDMARead:
			if b, _ := mm.OfMachine(tr.m).BytesOf(ev.Obj()); len(b) > 0 {
				tr.writes(off, b[0])
			}
		case x86.OpDMAWrite:
			tr.reads(off)
		}
	}
	if tr.inner != nil {
		tr.inner.Device(step, ev)
	}
}

// writes notes that a direct write puts a byte on the disk, reads that a direct read brings what is there.
func (tr *traffic) writes(off int64, v byte) {
	tr.n++
	tr.disk[off] = put{v, tr.n}
}

func (tr *traffic) reads(off int64) {
	tr.n++
	tr.read[off] = append(tr.read[off], carriage{tr.disk[off], tr.n})
}

// brought reports whether direct reads have brought a value from a place of the disk before a transfer, and nothing
// else: then each of them has. It must have been written there in the run; since is when.
func (tr *traffic) brought(v byte, off int64, before int) (since int, ok bool) {
	for _, c := range tr.read[off] {
		if c.at > before {
			continue
		}
		if c.put.n == 0 || c.val != v {
			return 0, false
		}
		if !ok {
			since, ok = c.put.n, true
		}
	}
	return since, ok
}

// until returns the transfer before which a value must have been brought so that a term shows it: of a byte of the disk the
// one that wrote it, of memory at the end any, 0 if that is not known. It is false if no transfer wrote the byte.
func (tr *traffic) until(t *Term, v byte) (by int, ok bool) {
	switch {
	case t.at != end:
		return 0, true
	case t.Kind != Disk:
		return always, true
	}
	last := tr.disk[t.cell.off]
	return last.n, last.n != 0 && last.val == v
}

// watch returns who watches a run.
func watch(inner sched.Observer) *traffic {
	return &traffic{inner: inner, disk: map[int64]put{}, read: map[int64][]carriage{}}
}

// returns reports whether a value can come back from the disk.
func (m *Model) returns() bool {
	in, out := map[cell]bool{}, map[cell]bool{}
	for _, w := range m.every {
		if w.from == nil {
			continue
		}
		in[*w.from] = w.from.name == "disk" || in[*w.from]
		out[w.to] = w.to.name == "disk" || out[w.to]
	}
	for c := range in {
		if in[c] && out[c] {
			return m.Vague == ""
		}
	}
	return false
}

// follow adds to what is wrong and promised what has to be promised besides, where the value has come by way
// of the disk.
func (m *Model) follow(found []*Finding, claims mm.Guarantee, tr *traffic) {
	lost := map[cell]byte{} // what no promise excludes, as the run shows it at its end
	for _, f := range found {
		if f.term != nil && f.term.at == end && !f.Promised(claims) {
			lost[f.term.cell] = f.got
		}
	}
	if len(lost) == 0 {
		return
	}
	for _, f := range found {
		if f.term == nil || !f.Promised(claims) {
			continue
		}
		if by, ok := tr.until(f.term, f.got); ok {
			f.Needs |= m.carried(f.got, f.term.at, f.term.cell, by, &way{traffic: tr, lost: lost, seen: map[*write]bool{}})
		}
	}
}

// way is the search for the way of a value.
type way struct {
	*traffic
	lost map[cell]byte
	seen map[*write]bool
}

// carried returns what has to be promised so that a value is not in a cell at an event, if direct reads have
// brought it there from a place of the disk where it should not have been, and the run shows where it had not been
// replaced before. by is a transfer before which they have brought it; 0 if that is not known, and only a read that
// comes before the event counts.
func (m *Model) carried(v byte, at int, c cell, by int, y *way) (g mm.Guarantee) {
	for _, w := range m.visible(at, c) {
		if w.from == nil || y.seen[w] {
			continue
		}
		limit := by
		switch {
		case w.from.name != "disk":
			if c.name != "disk" {
				limit = 0 // a fork: when is not watched
			}
			y.seen[w] = true
			g |= m.carried(v, w.at, *w.from, limit, y)
			continue
		case by == 0 && !m.before(w.at, at):
			continue
		case by == 0:
			limit = always
		}
		y.seen[w] = true
		t := &Term{Kind: Disk, at: w.at, Allowed: m.read(w.at, *w.from), cell: *w.from, needs: m.crowd(*w.from)}
		since, ok := y.brought(v, w.from.off, limit)
		if !ok || t.Allowed.Has(v) {
			continue
		}
		if m.left(v, t.cell, y.lost) {
			f := &Finding{}
			m.classify(f, t, v, true)
			g |= f.Needs
		}
		g |= m.carried(v, w.at, t.cell, since, y)
	}
	return g
}

// left reports whether the run shows that a value was not replaced in the memory that is written to a place of the
// disk, or is on the disk itself.
func (m *Model) left(v byte, d cell, lost map[cell]byte) bool {
	if was, ok := lost[d]; ok && was == v {
		return true
	}
	for _, w := range m.writes[d] {
		if w.from == nil {
			continue
		}
		if was, ok := lost[*w.from]; ok && was == v {
			return true
		}
	}
	return false
}

// crowd is what has to be promised of all that is written to a cell.
func (m *Model) crowd(c cell) (g mm.Guarantee) {
	for _, w := range m.writes[c] {
		g |= w.needs
	}
	return g
}

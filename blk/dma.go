package blk

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// noFailure is where a bio without a bad sector fails.
const noFailure = ^uint64(0)

// flight is the device's side of a request: where the next chunk goes. The
// request is the machine's event from start until it is on the done list, so at
// most one step of it is pending at any time.
type flight struct {
	bio  *Bio   // of the next chunk; nil when all have moved
	vec  int    // piece of the next chunk
	off  uint32 // offset of the next chunk within the piece
	at   uint64 // sector of the next chunk
	fail uint64 // sector at which bio fails, or noFailure

	// When the transfer starts and how long it takes, in ns of virtual time.
	begin, length uint64
	moved, total  uint64 // chunks

	bounce []byte // for backings that cannot be used in place; kept for re-use
}

// start gives a request to the device: its first event is scheduled.
//
// Preconditions:
//   - the queue lock is held
func (d *Device) start(r *request) {
	f := &r.flight
	f.total, f.moved = r.sectors, 0
	f.at = r.sector
	f.enter(r, r.bios)
	if !d.timed {
		d.sys.m.AddEvent(0, r)
		return
	}
	now := d.sys.m.Now()
	f.begin, f.length = d.clock.serve(now, r.dir, r.sector, r.sectors, d.sectors)
	f.schedule(r, d.sys.m, now)
}

// schedule adds the event of the next step.
func (f *flight) schedule(r *request, m *sched.Machine, now uint64) {
	if !r.dev.timed {
		m.AddEvent(0, r)
		return
	}
	at := f.begin + f.length
	if r.dev.step && f.bio != nil {
		at = f.begin + f.length*(f.at-r.sector+1)/f.total
	}
	m.AddEvent(at-min(at, now), r)
}

// enter begins with bio b, or with the first after it that has anything to move.
func (f *flight) enter(r *request, b *Bio) {
	for f.bio = b; f.bio != nil; f.bio = f.bio.link {
		f.vec, f.off = 0, 0
		f.fail = r.dev.Inject.check(f.bio.Dir, f.bio.Sector, f.bio.Sectors())
		if f.at < f.fail {
			return
		}
		f.bad()
	}
}

// bad marks the current bio as failed and skips what is left of it.
func (f *flight) bad() {
	f.bio.Err = unix.EIO
	f.at = f.bio.End()
}

// step moves on by n bytes, which do not go beyond the current piece.
func (f *flight) step(r *request, n uint32) {
	b := f.bio
	f.off += n
	f.at += uint64(n >> SectorShift)
	if f.off == b.Vec[f.vec].Len {
		f.vec++
		f.off = 0
	}
	switch {
	case f.vec == len(b.Vec):
		f.enter(r, b.link)
	case f.at >= f.fail:
		f.bad()
		f.enter(r, b.link)
	}
}

// Fire is one step of the device: a chunk (in the parallel regime everything),
// or the end of the request. It implements sched.Event.
func (r *request) Fire(m *sched.Machine, tr *trace.CPU) {
	f := &r.flight
	if !r.dev.step {
		for f.bio != nil {
			v := &f.bio.Vec[f.vec]
			n := v.Len - f.off
			if left := f.fail - f.at; left < uint64(n>>SectorShift) {
				n = uint32(left) << SectorShift
			}
			r.move(m, tr, n)
		}
		r.finish()
		return
	}
	if f.bio == nil {
		r.finish()
		return
	}
	r.move(m, tr, SectorSize)
	f.schedule(r, m, m.Now())
}

// Op says what the next step does. It implements sched.Event.
func (r *request) Op() x86.Op {
	switch {
	case r.bio == nil:
		return x86.OpEvent
	case r.dir == Write:
		return x86.OpDMARead
	}
	return x86.OpDMAWrite
}

// Obj names the sector of the frame that the next step touches, or the CPU that
// it interrupts. It implements sched.Event.
func (r *request) Obj() x86.ObjID {
	if r.bio == nil {
		return x86.CPUObj(r.cpu)
	}
	v := &r.bio.Vec[r.vec]
	return x86.FrameObj(v.pfn, uint64(v.Off+r.off))
}

// Name is the device's. It implements sched.Event.
func (r *request) Name() string { return r.dev.name }

// Sector returns the first sector of the next chunk, for diagrams.
func (r *request) Sector() uint64 { return r.at }

// move transfers n bytes between the backing and the frame that was named when
// the bio was built, whoever owns that frame now.
func (r *request) move(m *sched.Machine, tr *trace.CPU, n uint32) {
	f, d := &r.flight, r.dev
	b := f.bio
	v := &b.Vec[f.vec]
	off := v.Off + f.off
	dir := uint64(trace.DMAToMemory)
	if r.dir == Write {
		dir = trace.DMAFromMemory
	}
	if p := d.sys.pages.Page(v.pfn); p.Count.Peek() == 0 && !p.Has(pageTail) {
		tr.Add(trace.EmuDMAFreed, uint64(n>>SectorShift))
	}
	tr.Add(trace.EmuDMAChunks, uint64(n>>SectorShift))
	tr.Add(trace.EmuDMABytes, uint64(n))
	if tr.On() {
		tr.Event(trace.EvDMA, m.Cost().NSToCycles(m.Now()), uint64(v.pfn), uint64(off), dir)
	}
	if !r.transfer(d, v.pfn, uint64(off), n) {
		f.bad()
		f.enter(r, b.link)
		return
	}
	f.step(r, n)
}

// transfer does the move and reports whether the backing did its part.
func (r *request) transfer(d *Device, pfn x86.PFN, off uint64, n uint32) bool {
	f := &r.flight
	pos := int64(f.at) << SectorShift
	touched := x86.AccRead
	if r.dir == Write {
		touched = x86.AccWrite
	}
	for i := range uint64(n) >> SectorShift {
		d.sys.m.Touch(d.sectorObj(f.at+i), touched)
	}
	var buf []byte
	if d.mem != nil {
		buf = d.mem.slice(pos, int(n))
	} else {
		if cap(f.bounce) < int(n) {
			f.bounce = make([]byte, n)
		}
		buf = f.bounce[:n]
	}
	if r.dir == Write {
		d.sys.mem.DMARead(pfn, off, buf)
		return d.mem != nil || d.backing.WriteAt(buf, pos) == nil
	}
	if d.mem == nil && d.backing.ReadAt(buf, pos) != nil {
		return false
	}
	d.sys.mem.DMAWrite(pfn, off, buf)
	return true
}

// sectorObj names a sector of the device, which a search has to know about: two
// transfers to one sector do not commute.
func (d *Device) sectorObj(sector uint64) x86.ObjID {
	return x86.Obj(x86.ClassDev, 1<<55|d.q.plugObj.ID()<<36|sector)
}

// finish puts the request on the done list of its CPU and interrupts it.
func (r *request) finish() {
	s := r.dev.sys
	cpu := r.cpu
	c := &s.cpus[cpu]
	s.m.Touch(x86.CPUPartObj(cpu, x86.CPUDone), x86.AccWrite)
	c.doneLock.Lock()
	r.next = nil
	if c.doneTail != nil {
		c.doneTail.next = r
	} else {
		c.doneHead = r
	}
	c.doneTail = r
	c.doneLock.Unlock()
	s.m.CPU(cpu).Raise(x86.VecBlock)
}

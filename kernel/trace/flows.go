package trace

// What spans tracks: interrupts, requests in flight, pins. Each arrow has a
// number of its own; the flow ids of events, which need not be unique over time,
// only find the arrow's beginning.

// sent is an interrupt under way.
type sent struct {
	arrow  uint64
	flow   uint64 // of the event, 0 if it has none
	target int
	vector uint64
}

// bio is a request under way.
type bio struct {
	arrow uint64
	item  int // its slice
	lane  int
}

// lane is a track of requests in flight.
type lane struct {
	busy bool
	free micros // when its last request ended
}

func (p *perfetto) newArrow() uint64 {
	p.arrows++
	return p.arrows
}

// arrow puts down one end of an arrow, on the slice that stands there.
func (p *perfetto) arrow(phase rune, tid int, cat string, id uint64, now micros) {
	p.add(item{name: cat, cat: cat, phase: phase, start: now, tid: tid, arrow: id})
}

// ipiSend starts an arrow to the CPU that will take the interrupt.
func (p *perfetto) ipiSend(cpu int, e Event, now micros) {
	p.moment(cpu, e, now, "ipi send")
	s := sent{arrow: p.newArrow(), flow: e.C, target: int(e.A), vector: e.B}
	p.ipis = append(p.ipis, s)
	p.arrow('s', cpu, "ipi", s.arrow, now)
}

// ipiTake ends the arrows of the sends that it answers: the one with its flow
// id or, for sends without an id, all of its vector to this CPU, since a vector
// that is raised twice before it is taken is taken once.
func (p *perfetto) ipiTake(cpu int, e Event, now micros) {
	p.moment(cpu, e, now, "ipi take")
	keep := p.ipis[:0]
	for _, s := range p.ipis {
		if s.target == cpu && s.vector == e.A && (s.flow == 0 || s.flow == e.C) {
			p.arrow('f', cpu, "ipi", s.arrow, now)
		} else {
			keep = append(keep, s)
		}
	}
	p.ipis = keep
}

// bioSubmit opens a request on the lowest free lane and starts its arrow.
func (p *perfetto) bioSubmit(cpu int, e Event, now micros) {
	if old, ok := p.bios[e.A]; ok {
		p.bioDone(old, now) // its completion was lost
	}
	p.moment(cpu, e, now, "bio submit")
	b := bio{arrow: p.newArrow(), lane: -1}
	p.arrow('s', cpu, "bio", b.arrow, now)
	for i, l := range p.lanes {
		if !l.busy && l.free <= now {
			b.lane = i
			break
		}
	}
	if b.lane < 0 {
		b.lane = len(p.lanes)
		p.lanes = append(p.lanes, lane{})
	}
	p.lanes[b.lane].busy = true
	name := "bio read"
	if e.C&BioWrite != 0 {
		name = "bio write"
	}
	b.item = p.add(item{name: name, cat: "bio", phase: 'X', start: now, end: now,
		tid: p.laneTID(b.lane), args: p.args(e)})
	p.bios[e.A] = b
}

// bioComplete ends a request. The arrow ends where the completion was recorded:
// on a CPU, or at the end of the request's slice if a device recorded it.
func (p *perfetto) bioComplete(cpu int, e Event, now micros) {
	b, ok := p.bios[e.A]
	tid := cpu
	if cpu >= 0 {
		p.moment(cpu, e, now, "bio complete")
	} else if !ok {
		p.instant(p.deviceTID(), e, now, "unmatched")
	} else {
		tid = p.laneTID(b.lane)
		now = max(now, p.items[b.item].start)
	}
	if !ok {
		return
	}
	delete(p.bios, e.A)
	if e.C&BioError != 0 {
		p.items[b.item].args["error"] = true
	}
	p.arrow('f', tid, "bio", b.arrow, now)
	p.bioDone(b, now)
}

func (p *perfetto) bioDone(b bio, now micros) {
	it := &p.items[b.item]
	it.end = max(now, it.start)
	p.lanes[b.lane] = lane{free: it.end}
}

// laneTID is the track of a lane; they stand below the devices' own.
func (p *perfetto) laneTID(lane int) int { return p.deviceTID() + 1 + lane }

// pin draws pins and unpins: a curve of their number, and an arrow from each unpin's pin,
// which is the oldest of the frame that has none yet.
func (p *perfetto) pin(cpu int, e Event, now micros) {
	if e.Kind == EvPin {
		p.moment(cpu, e, now, "pin")
		id := p.newArrow()
		p.pins[e.A] = append(p.pins[e.A], id)
		p.arrow('s', cpu, "pin", id, now)
	} else {
		p.moment(cpu, e, now, "unpin")
		if ids := p.pins[e.A]; len(ids) > 0 {
			p.pins[e.A] = ids[1:]
			p.arrow('f', cpu, "pin", ids[0], now)
		}
	}
	p.countPins(e, now)
}

func (p *perfetto) countPins(e Event, now micros) {
	if e.Kind == EvPin {
		p.pinned += int64(e.B)
	} else {
		p.pinned -= int64(e.B)
	}
	p.add(item{name: "pinned pages", phase: 'C', start: now, args: map[string]any{"value": max(p.pinned, 0)}})
}

// device adds an event that a device recorded.
func (p *perfetto) device(e Event, now micros) {
	switch e.Kind {
	case EvBioComplete:
		p.bioComplete(-1, e, now)
	default:
		p.instant(p.deviceTID(), e, now, "device")
	}
}

package sched

// offerSeq is Actor.Seq of the first event that is on offer: behind all others, so that the
// default rule lets it happen last. The next ones follow.
const offerSeq = 1 << 41

// offerChain is its Actor.Chain.
const offerChain = 1<<62 | 1<<32

// offer is an event that a strategy may let happen, so many times.
type offer struct {
	ev   Event
	left int
	rare int // Actor.Rare
}

// Offer puts an event on offer: from now on it may happen between any two steps, n times.
// Unlike one that is added (AddEvent) it belongs to nobody, waits for nothing, and by the
// default rule happens when nobody else can do anything any more, which is when it
// changes nothing. It is for mishaps of which a schedule need not have any. Random strategies
// let it happen rarely: alike is how many events like it are on offer, itself included, of
// which together as many happen as would of a single one.
//
// An event that may happen stays so until it has: a search that leaves out schedules knows of
// nobody who keeps others from acting. Free regime only; for whoever acts.
func (m *Machine) Offer(ev Event, n, alike int) {
	m.offers = append(m.offers, offer{ev, n, MishapOdds * max(1, alike)})
}

// offered appends the events on offer to the actors.
func (m *Machine) offered(en []Actor) []Actor {
	for i := range m.offers {
		if o := &m.offers[i]; o.left > 0 {
			n := uint64(i)
			en = append(en, Actor{CPU: -1, Seq: offerSeq + n, Chain: offerChain + n, Op: o.ev.Op(), Obj: o.ev.Obj(), Rare: o.rare})
		}
	}
	return en
}

// accept lets the event of an actor that was on offer happen.
func (m *Machine) accept(a *Actor) {
	o := &m.offers[a.Seq-offerSeq]
	o.left--
	m.fire(pendingEvent{ev: o.ev})
}

// Acting returns the task on whose stack a deterministic machine executes: for code that is
// called from within the machine and has not been told.
func (m *Machine) Acting() *Task { return m.cpus[max(0, m.det1.last)].cur }

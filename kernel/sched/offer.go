package sched

// offerSeq is Actor.Seq of an event that is on offer: behind all others, so that the default
// rule lets it happen last.
const offerSeq = 1 << 41

// offerChain is its Actor.Chain.
const offerChain = 1<<62 | 1<<32

// offer is an event that a strategy may let happen, so many times.
type offer struct {
	ev   Event
	left int
}

// Offer puts an event on offer: from now on it may happen between any two steps, n times.
// Unlike one that is added (AddEvent) it belongs to nobody, waits for nothing, and by the
// default rule happens when nobody else can do anything any more, which is when it
// changes nothing. It is for mishaps of which a schedule need not have any.
//
// A machine has one. Free regime only, and while nothing runs.
func (m *Machine) Offer(ev Event, n int) { m.offer = offer{ev, n} }

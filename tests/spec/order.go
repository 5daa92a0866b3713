package spec

import "github.com/cowlab/cowlab/tests/scenarios"

// arrange makes the events of the program and their order: that of each column; a fork before
// what its child does, and that before a wait; set before await; whatever comes before a
// meeting point before what comes behind it; a transfer that was submitted behind its
// submission and before it is waited for.
func (m *Model) arrange() {
	m.events = make([]event, 2)
	type pair struct{ a, b int }
	var edges []pair
	last := map[*scenarios.Column]int{}  // the end of each column
	first := map[*scenarios.Column]int{} // its beginning
	var forks, waits, sets, awaits, splices, reads []int
	meets := map[int64]int{}
	add := func(c *scenarios.Column, op *scenarios.Op) int {
		m.events = append(m.events, event{c, op})
		return len(m.events) - 1
	}
	for _, c := range m.s.Columns {
		at := add(c, nil)
		edges = append(edges, pair{begin, at})
		first[c] = at
		var flight []int
		for _, op := range c.Rows {
			if op == nil {
				continue
			}
			var ev int
			if op.Verb == scenarios.OpBarrier {
				// All columns meet in one event.
				if meets[op.Value.N] == 0 {
					meets[op.Value.N] = add(nil, nil)
				}
				ev = meets[op.Value.N]
			} else {
				ev = add(c, op)
			}
			edges = append(edges, pair{at, ev})
			at = ev
			switch op.Verb {
			case "fork", "vfork":
				forks = append(forks, ev)
			case "wait":
				waits = append(waits, ev)
			case "set":
				sets = append(sets, ev)
			case "await":
				awaits = append(awaits, ev)
			case "vmsplice":
				splices = append(splices, ev)
			case "pipe_read":
				reads = append(reads, ev)
			case "io_read", "io_write":
				// The transfer is the event with an operation; the submission before it has none.
				m.events[ev].op = nil
				tr := add(c, op)
				edges = append(edges, pair{ev, tr})
				flight = append(flight, tr)
			case "io_wait":
				if len(op.Args) > 0 && len(flight) != int(op.Args[0].Num.N) {
					m.vague("which of the transfers io_wait has waited for is not modelled")
				}
				for _, tr := range flight {
					edges = append(edges, pair{tr, ev})
				}
				flight = nil
			}
		}
		over := add(c, nil)
		edges = append(edges, pair{at, over}, pair{over, end})
		for _, tr := range flight {
			edges = append(edges, pair{tr, over})
		}
		last[c] = over
	}
	for _, f := range forks {
		child := m.procs[m.events[f].op.Args[0].Word]
		child.parent = m.procOf(m.events[f].col)
		m.forks[child.name] = f
		for _, c := range child.columns {
			edges = append(edges, pair{f, first[c]})
		}
	}
	for _, w := range waits {
		for _, c := range m.procs[m.events[w].op.Args[0].Word].columns {
			edges = append(edges, pair{last[c], w})
		}
	}
	// Where two can do it, neither is known to.
	match := func(from, to []int) {
		for _, b := range to {
			var by []int
			for _, a := range from {
				if m.events[a].op.Args[0].Word == m.events[b].op.Args[0].Word {
					by = append(by, a)
				}
			}
			if len(by) == 1 {
				edges = append(edges, pair{by[0], b})
			}
		}
	}
	match(sets, awaits)
	match(splices, reads)
	m.order = newOrder(len(m.events))
	for _, e := range edges {
		m.order.edge(e.a, e.b)
	}
	m.order.close()
	for i := range m.events {
		if m.before(i, i) {
			m.stuck = true
			m.vague("some wait for each other")
		}
	}
	for i, r := range reads {
		n := 0
		for _, o := range reads[i+1:] {
			if m.events[o].op.Args[0].Word == m.events[r].op.Args[0].Word {
				m.stuck = true // one of them may get nothing
			}
		}
		for _, s := range splices {
			if m.events[s].op.Args[0].Word == m.events[r].op.Args[0].Word {
				n++
			}
		}
		if n != 1 || m.events[r].op.Args[1].Num.N != 1 {
			m.stuck = true
		}
	}
}

package trace

import (
	"cmp"
	"slices"
)

// DefaultRing is the number of events each CPU remembers by default.
const DefaultRing = 1 << 14

// Options configure a [Trace]. The zero value counts and records no events.
type Options struct {
	// Events starts the trace with recording on.
	Events bool
	// Ring is the number of events each CPU remembers, rounded up to a power
	// of two. 0 is DefaultRing.
	Ring int
	// Serial numbers events across CPUs and merges them in order of execution.
	// It is for machines that run one CPU at a time.
	Serial bool
}

// Trace is the counters and events of one machine.
type Trace struct {
	cpus   []*CPU // by CPU number, the device last; immutable
	serial bool   // Options.Serial; immutable
	seq    uint64 // sequence number of serial traces; the CPU that runs
	size   int    // ring size; immutable
}

// New makes the trace of a machine with ncpu CPUs.
func New(ncpu int, o Options) *Trace {
	if ncpu < 0 || ncpu >= DeviceCPU {
		panic("trace: number of CPUs out of range")
	}
	t := &Trace{serial: o.Serial, size: ringSize(o.Ring)}
	for i := range ncpu + 1 {
		c := &CPU{id: uint16(i)}
		if i == ncpu {
			c.id = DeviceCPU
		}
		c.seq = &c.own
		if o.Serial {
			c.seq = &t.seq
		}
		t.cpus = append(t.cpus, c)
	}
	t.Enable(o.Events)
	return t
}

// ringSize rounds n up to a power of two.
func ringSize(n int) int {
	if n <= 0 {
		n = DefaultRing
	}
	size := 1
	for size < n {
		size <<= 1
	}
	return size
}

// CPU returns the part of CPU i.
func (t *Trace) CPU(i int) *CPU { return t.cpus[:len(t.cpus)-1][i] }

// Device returns the part that device events write. Its owner is whoever
// runs device events.
func (t *Trace) Device() *CPU { return t.cpus[len(t.cpus)-1] }

// CPUs returns the number of CPUs, the device not counted.
func (t *Trace) CPUs() int { return len(t.cpus) - 1 }

// Enable turns recording on or off. The machine must be stopped.
func (t *Trace) Enable(on bool) {
	for _, c := range t.cpus {
		if on && c.ring == nil {
			c.ring = make([]Event, t.size)
			c.mask = uint64(t.size - 1)
		}
		c.on = on
	}
}

// Reset zeroes counters and forgets events. The machine must be stopped.
func (t *Trace) Reset() {
	t.seq = 0
	for _, c := range t.cpus {
		clear(c.words[:])
		c.n, c.own, c.Task = 0, 0, 0
	}
}

// Sum returns a counter's total over all CPUs and devices. A gauge's total is
// a signed number that is never below zero when the machine is at rest.
// While the machine runs, a sum is approximate, as it is in Linux.
//
//go:norace
func (t *Trace) Sum(k Counter) uint64 {
	var sum uint64
	for _, c := range t.cpus {
		sum += c.words[k]
	}
	return sum
}

// Gauge returns a counter's total as a signed number.
func (t *Trace) Gauge(k Counter) int64 { return int64(t.Sum(k)) }

// Snapshot returns all totals, indexed by Counter.
func (t *Trace) Snapshot() []uint64 {
	s := make([]uint64, NumCounters)
	for i := range s {
		s[i] = t.Sum(Counter(i))
	}
	return s
}

// Dropped returns how many events the rings have forgotten.
func (t *Trace) Dropped() uint64 {
	var n uint64
	for _, c := range t.cpus {
		n += c.Dropped()
	}
	return n
}

// Dropped returns how many events this CPU's ring has forgotten.
func (c *CPU) Dropped() uint64 {
	if size := uint64(len(c.ring)); c.n > size {
		return c.n - size
	}
	return 0
}

// Events returns a copy of what the rings remember, merged by (time, CPU,
// sequence) or, if the trace is serial, in order of execution.
func (t *Trace) Events() []Event {
	n := 0
	for _, c := range t.cpus {
		n += int(c.n - c.Dropped())
	}
	out := make([]Event, 0, n)
	for _, c := range t.cpus {
		for i := c.Dropped(); i < c.n; i++ {
			out = append(out, c.ring[i&c.mask])
		}
	}
	if t.serial {
		slices.SortFunc(out, func(a, b Event) int { return cmp.Compare(a.Seq, b.Seq) })
	} else {
		slices.SortFunc(out, func(a, b Event) int {
			return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.CPU, b.CPU), cmp.Compare(a.Seq, b.Seq))
		})
	}
	return out
}

// Tail returns the last n events of the merge, for an oops report.
func (t *Trace) Tail(n int) []Event {
	all := t.Events()
	return all[max(0, len(all)-n):]
}

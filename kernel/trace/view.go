package trace

import "math/bits"

// View says how events are shown.
type View struct {
	// Names turns integers into names.
	Names Namer
	// Hz is the number of cycles in a second. 0 is 1e9: a cycle is a nanosecond.
	Hz uint64
	// Steps shows the order of execution instead of time: the n-th event
	// stands at n microseconds. It is for serial traces of machines whose
	// CPUs' clocks do not agree.
	Steps bool
	// CPUs is the number of CPUs. 0 is as many as the events show.
	CPUs int
	// Dropped is [Trace.Dropped], to be reported where the format has a place for it.
	Dropped uint64
}

// ns returns the moment of an event in nanoseconds.
func (v *View) ns(e Event) uint64 {
	if v.Steps {
		return e.Seq * 1000
	}
	if v.Hz == 0 || v.Hz == 1e9 {
		return e.Time
	}
	hi, lo := bits.Mul64(e.Time, 1e9)
	if hi >= v.Hz {
		return ^uint64(0)
	}
	q, _ := bits.Div64(hi, lo, v.Hz)
	return q
}

// cpus returns the number of CPUs to show.
func (v *View) cpus(events []Event) int {
	n := v.CPUs
	for i := range events {
		if e := &events[i]; e.CPU != DeviceCPU && int(e.CPU) >= n {
			n = int(e.CPU) + 1
		}
	}
	return n
}

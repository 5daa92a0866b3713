package x86

// Access is how a step touches an object, as far as the order of two steps is
// concerned.
type Access uint8

// The accesses. Two reads commute, two additions commute (neither looks at what
// the other left); every other pair on one object does not.
const (
	AccRead  Access = iota // looks at the object
	AccAdd                 // changes it in a way that commutes with its like
	AccWrite               // anything else
)

// String returns the access in one word.
func (a Access) String() string { return [...]string{"read", "add", "write"}[a] }

// Conflicts reports whether the order of two accesses to one object can matter.
func (a Access) Conflicts(b Access) bool { return a == AccWrite || b == AccWrite || a != b }

// Touch is an access of a step to an object.
type Touch struct {
	Obj ObjID
	How Access
}

// Footprint collects what a step touches beside the operation that its point
// names: the state that a wake-up changes on its way, a flag that is looked at
// without a point. A machine has one, because in the deterministic regimes only
// one actor steps at a time.
type Footprint struct {
	// Touches has each object at most twice.
	Touches []Touch
	// Interrupted is set when the step took an interrupt, so that the operation at
	// whose point it stood did not happen.
	Interrupted bool
	// Buffered is the object of a store that went into the CPU's store buffer: it is
	// written when the store leaves the buffer, which is another step.
	Buffered ObjID
	// Drained is set when stores left a buffer in a step of their own CPU, together.
	Drained bool
	// Watched is set when the observer was told of the step. Void is set when it has stopped
	// the machine then, for what the watched step before left behind: the step has not begun.
	Watched, Void bool
	// Over is set when the machine has come to rest: the last step is over, and what is touched
	// then, by whoever gives the machine something new to do, belongs to no step.
	Over bool
}

// Reset empties the footprint for the next step.
func (f *Footprint) Reset() {
	*f = Footprint{Touches: f.Touches[:0]}
}

// Add enters an access.
func (f *Footprint) Add(obj ObjID, how Access) {
	if f.Over {
		return
	}
	for i := range f.Touches {
		if t := &f.Touches[i]; t.Obj == obj && (t.How == how || t.How == AccWrite) {
			return
		}
	}
	f.Touches = append(f.Touches, Touch{obj, how})
}

// Touch tells a search over schedules that the current step accesses an object
// that its point does not name. It is no point and costs nothing; outside of
// searches it does nothing.
//
// Whatever is shared and is read or written without a point of its own must be
// touched, or a search with partial-order reduction would take two steps for
// independent that are not.
func (c *CPU) Touch(obj ObjID, how Access) {
	if c.Foot != nil {
		c.Foot.Add(obj, how)
	}
}

// CPUPart tells the parts of a CPU's state that others can see apart.
type CPUPart uint8

// The parts.
const (
	CPUPending   CPUPart = iota // raised vectors: the object of CPUObj
	CPUQueue                    // tasks that wait to run
	CPUIdle                     // whether the idle task runs
	CPUAvailable                // whether it has nothing to do
	CPUSpare                    // whether it has a task that another could take
	CPUTimers                   // timers that have expired
	CPUDone                     // block requests that are done
	CPURCU                      // callbacks that wait for a grace period: one list for all CPUs
)

// CPUPartObj names a part of a CPU's state.
func CPUPartObj(id int, p CPUPart) ObjID { return Obj(ClassCPU, uint64(p)<<16|uint64(id)) }

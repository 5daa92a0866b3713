package scenarios

// What generated scenarios need: to be changed, and to be read by a model.

// The verbs of operations that are not written as a word and its arguments.
const (
	OpStore    = opStore    // Op.Place = Op.Value
	OpLoad     = opLoad     // Op.Dst = Op.Place
	OpDMAWrite = opDMAWrite // dma Op.Place = Op.Value
	OpDMARead  = opDMARead  // Op.Dst = dma Op.Place
	OpPeek     = opPeek     // Op.Dst = peek Op.Place
	OpPoke     = opPoke     // poke Op.Place = Op.Value
	OpSample   = opSample   // Op.Dst = Op.Term
	OpBarrier  = opBarrier  // @Op.Value
)

// Disk is what the disk is called that scenarios do their I/O with, as its events name it.
const Disk = diskName

// With returns a copy of the scenario that a function has changed; nil if that is no
// scenario any more. Rows that have become empty, and what was expected of policies, are
// left out.
func (s *Scenario) With(change func(*Scenario)) *Scenario { return s.without(change) }

// Cuts lists what can be left out of a scenario, for With: whole columns with what forks
// them, meeting points, single operations.
func (s *Scenario) Cuts() []func(*Scenario) { return s.cuts() }

// Has reports whether a word is among the arguments of an operation.
func (op *Op) Has(word string) bool { return op.has(word) }

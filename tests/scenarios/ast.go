package scenarios

import "github.com/cowlab/cowlab/arch/x86"

// Scenario is a parsed scenario. Parse makes one, Print writes it back.
type Scenario struct {
	// Name is how the command and tokens call it, Doc says in a line what it asks, Story
	// are the comments at its head.
	Name, Doc, Story string
	// Machine describes the computer.
	Machine Machine
	// Maps are the mappings of the first process, Pipes its pipes.
	Maps  []Map
	Pipes []Name
	// Inits are the bytes that memory and disk hold when the threads begin; what is not
	// named holds zeros, memory among it is not touched.
	Inits []Init
	// Search is how many schedules it takes to see what happens; zero means DefaultSchedules.
	Search uint64
	// Faults are the sectors that the disk cannot read or write.
	Faults []Fault
	// Fails are allocations of memory that fail.
	Fails []AllocFail
	// Columns are the threads and devices.
	Columns []*Column
	// Cond is the question that the scenario asks.
	Cond Cond
	// Show are terms that states show beside those of the condition.
	Show []*Term
	// Expects are what was found, for each policy that is named.
	Expects []Expect

	file string
	path string // of the host's file; empty if it ships
	tune Tuning
	// whole is the scenario that cuts were made of, nil if none were; left are their numbers,
	// each among the cuts of what the one before it left.
	whole *Scenario
	left  []int
}

// DefaultSchedules is how many schedules of a scenario are searched if it does not say.
const DefaultSchedules = 100

// Name is a word and where it stands.
type Name struct {
	Text string
	Pos  Pos
}

// Machine describes the computer that a scenario runs on.
type Machine struct {
	// CPUs is the number of processors; zero means one for each column, two to four.
	CPUs int64
	// Memory is its size in bytes; zero means 4 MiB.
	Memory int64
	// Disk is the size of the disk in bytes, zero means none; Swap that of the swap area.
	Disk, Swap int64
	// Huge is how many pages of 2 MiB the pool of hugetlbfs has; they are not part of Memory.
	Huge int64
	// Reclaim is how many pages may be reclaimed, at any moment, beside what the columns do.
	Reclaim int64
	// KSM makes it a kernel that can merge equal pages, TSO gives each CPU a store buffer.
	KSM, TSO bool
}

// Map is a mapping.
type Map struct {
	Name Name
	// Pages is its length: in pages of 2 MiB if Huge is set.
	Pages int64
	Huge  bool
	// Shared is set for memory that children share, ReadOnly for memory without PROT_WRITE,
	// File for a private mapping of a file.
	Shared, ReadOnly, File bool
}

// pageBytes is the size of the mapping's pages.
func (m *Map) pageBytes() int64 {
	if m.Huge {
		return x86.PMDSize
	}
	return x86.PageSize
}

// Init says what a place holds at the beginning.
type Init struct {
	Place *Place
	Value Number
}

// Fault is a range of the disk whose transfers fail with EIO.
type Fault struct {
	Write bool
	Place *Place
}

// AllocFail is an allocation that fails: the Nth, from 1, that a site asks for once the
// threads have begun. The site is one of kernel.Machine.AllocSites, or "any".
type AllocFail struct {
	Site Name
	Nth  Number
}

// Number is a number as it was written.
type Number struct {
	Text string
	N    int64
	Pos  Pos
}

// Place is a range of bytes: of a mapping (A[0], C:A[512:1K], A), of a pin (h[0]), of the
// disk.
type Place struct {
	Pos Pos
	// Column names the process by one of its columns; empty for the column's own.
	Column string
	// Name is a mapping's, a pin's, or "disk".
	Name string
	// Off and Len are the bytes; End is Off+Len.
	Off, Len int64
	// form is how it was written.
	form placeForm
}

type placeForm uint8

const (
	whole  placeForm = iota // A
	single                  // A[1]
	slice                   // A[1:2], A[1:], A[:2]
)

// Role is what a column is.
type Role uint8

// The roles.
const (
	Thread Role = iota // of the first process
	Child              // the first thread of a process that somebody forks
	Within             // a further thread of such a process
	Device             // it belongs to no process and outlives all
)

// Column is a thread or a device with its operations.
type Column struct {
	Name Name
	Role Role
	// In is the child that a Within column is a thread of.
	In Name
	// Rows are the operations, nil where the table has an empty cell.
	Rows []*Op

	proc  *proc // the process; nil for a device
	forks *Op   // what starts a Child
}

// proc is a process of a scenario.
type proc struct {
	name    string // its first column's
	columns []*Column
	parent  *proc
	vfork   bool
}

// Op is an operation.
type Op struct {
	Pos Pos
	// Dst is the register that takes the result; empty for none.
	Dst Name
	// Verb is its name in the table of verbs, or one of opStore, opLoad, opDMAWrite,
	// opDMARead, opPeek, opPoke, opSample.
	Verb string
	// Args are what follows a verb.
	Args []Arg
	// Place is the memory of the others, Value what they store, Term what opSample samples.
	Place *Place
	Value Number
	Term  *Term

	verb *verb
}

// The operations that are not written as a verb and its arguments.
const (
	opStore    = "store"     // A[0] = 1
	opLoad     = "load"      // r = A[0]
	opDMAWrite = "dma write" // dma h[0] = 1
	opDMARead  = "dma read"  // r = dma h[0]
	opPeek     = "peek"      // r = peek C:A[0]
	opPoke     = "poke"      // poke C:A[0] = 1
	opSample   = "sample"    // r = refs(A)
	opBarrier  = "@"         // @1
)

// Arg is an argument of a verb: exactly one of its fields counts, by the verb's pattern.
type Arg struct {
	Pos   Pos
	Word  string // a name, or one of the verb's words
	Num   Number
	Place *Place
}

// Quant is how often a condition is to hold.
type Quant string

// The quantifiers.
const (
	Never     Quant = "never"
	Sometimes Quant = "sometimes"
	Always    Quant = "always"
)

// Cond is a question about the state in which a run ended.
type Cond struct {
	Quant Quant
	Pos   Pos
	Expr  Expr
}

// Expr is an expression of a condition: *And, *Or, *Not or *Compare.
type Expr interface{ exprString(prec int) string }

// And and Or hold if both, or either, hold. Not holds if X does not.
type And struct{ X, Y Expr }
type Or struct{ X, Y Expr }
type Not struct{ X Expr }

// Compare compares terms. Without an operator it asks that X is not zero.
type Compare struct {
	X  *Term
	Op string // = != < <= > >=, or empty
	Y  *Term
}

// Term is a number, a register (P0:r), bytes (P0:A[0], disk[0]), a function of places
// (refs(P0:A)), or a verdict (bug).
type Term struct {
	Pos    Pos
	Number *Number
	// Column and Reg are a register.
	Column, Reg string
	Place       *Place
	// Func is one of the functions, Args its places or Word its word.
	Func string
	Args []*Place
	Word Name
}

// Expect is what is known of a policy.
type Expect struct {
	Policy Name
	Quant  Quant
	// Also are verdicts that some of its schedules end with.
	Also []Name
}

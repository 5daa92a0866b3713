package workload

import (
	"fmt"
	"slices"
	"strings"
)

// Verdict is what a run, or all runs of a cell together, showed.
type Verdict string

// The verdicts.
const (
	Safe         Verdict = "safe"          // nothing wrong was seen
	LostRead     Verdict = "lost-read"     // a read from disk did not arrive where it was asked for
	ChildChanged Verdict = "child-changed" // the child's memory changed after fork other than by its own stores
	LeakToDisk   Verdict = "leak-to-disk"  // another process's stores reached a file
	LeakToChild  Verdict = "leak-to-child" // a pin disclosed another process's later stores
	TornSnapshot Verdict = "torn-snapshot" // the child's page is not one instant of the parent's
	WrongCopy    Verdict = "wrong-copy"    // a pin lost its page though nobody shares it
	Livelock     Verdict = "livelock"
	Deadlock     Verdict = "deadlock"
	Leak         Verdict = "leak" // references, map counts or frames left behind
	Bug          Verdict = "bug"  // an assertion fired
	OOM          Verdict = "oom"
	Refused      Verdict = "refused"     // the policy turned down a request that Stock serves
	NotCovered   Verdict = "not-covered" // the policy does not promise what was broken
)

// gravity lists the verdicts, the gravest first.
var gravity = [...]Verdict{
	LostRead, LeakToDisk, LeakToChild, ChildChanged, TornSnapshot, WrongCopy,
	Bug, Deadlock, Livelock, OOM, Leak, Refused, NotCovered, Safe,
}

// Verdicts returns all verdicts, the gravest first.
func Verdicts() []Verdict { return slices.Clone(gravity[:]) }

// Graver reports whether v is worse than w.
func (v Verdict) Graver(w Verdict) bool {
	return slices.Index(gravity[:], v) < slices.Index(gravity[:], w)
}

// Corrupts reports whether v means that somebody's bytes were wrong.
func (v Verdict) Corrupts() bool {
	return slices.Index(gravity[:], v) <= slices.Index(gravity[:], WrongCopy)
}

// Finding is one thing that went wrong, with its evidence.
type Finding struct {
	Verdict Verdict `json:"verdict"`
	// Where says which file, or which memory.
	Where string `json:"where,omitempty"`
	// Offset is where in it, in bytes.
	Offset int64 `json:"offset"`
	// Want and Got are the bytes expected and found there; -1 where that makes no sense.
	Want int `json:"want"`
	Got  int `json:"got"`
	// Note says more in words.
	Note string `json:"note,omitempty"`
}

// String returns the finding in one line.
func (f Finding) String() string {
	var b strings.Builder
	if f.Where != "" {
		fmt.Fprintf(&b, "%s offset %#x", f.Where, f.Offset)
	}
	if f.Got >= 0 {
		fmt.Fprintf(&b, ": want %#02x, found %#02x", f.Want, f.Got)
	}
	if f.Note != "" {
		if b.Len() > 0 {
			b.WriteString("; ")
		}
		b.WriteString(f.Note)
	}
	return b.String()
}

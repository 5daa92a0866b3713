package explore

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/cowlab/cowlab/kernel/sched"
)

// recordingHead is the first line of a recording's file.
const recordingHead = "# cowlab recording 1: decision, actor, operation, object"

// maxDecisions bounds what a file may ask for.
const maxDecisions = 1 << 22

// Write writes the recording as text, one decision on a line: who made the step, its
// operation, its object.
func (r *Recording) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, recordingHead)
	for i := range r.Decisions {
		d := &r.Decisions[i]
		fmt.Fprintf(b, "%d %s %s %#x\n", i, actorWord(d.Actor), quoteWord(d.Op.String()), uint64(d.Obj))
	}
	return b.Flush()
}

// ParseRecording reads what Write has written. The error names the line.
func ParseRecording(r io.Reader) (*Recording, error) {
	rec := &Recording{}
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line := sc.Text()
		if n == 1 {
			if line != recordingHead {
				return nil, fmt.Errorf("recording: the first line is %s, must be %q", quoted(line), recordingHead)
			}
			continue
		}
		d, err := parseDecision(line, len(rec.Decisions))
		if err == nil && len(rec.Decisions) == maxDecisions {
			err = fmt.Errorf("more than %d decisions", maxDecisions)
		}
		if err != nil {
			return nil, fmt.Errorf("recording: line %d: %w", n, err)
		}
		rec.Decisions = append(rec.Decisions, d)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("recording: %w", err)
	}
	if len(rec.Decisions) == 0 {
		return nil, fmt.Errorf("recording: it is empty")
	}
	return rec, nil
}

func parseDecision(line string, at int) (d Decision, err error) {
	var f [4]string
	for i := range f {
		if f[i], line, err = cutWord(line); err != nil {
			return d, err
		}
	}
	if line != "" || f[0] != strconv.Itoa(at) {
		return d, fmt.Errorf("decision %d, in four words, was expected", at)
	}
	if d.Actor, err = parseActor(f[1]); err != nil {
		return d, err
	}
	if d.Op, err = parseOp(f[2]); err != nil {
		return d, err
	}
	return d, parseObj(f[3], &d.Obj)
}

// Continued is a strategy that follows another one for a number of decisions and then
// goes on by a second one. Both begin when the run does; the second is not asked before.
type Continued struct {
	first, then sched.Strategy
	upto, n     uint64
}

// NewContinued returns a strategy that makes upto decisions by first and the rest by then.
func NewContinued(first sched.Strategy, upto uint64, then sched.Strategy) *Continued {
	return &Continued{first: first, then: then, upto: upto}
}

// Begin implements sched.Strategy.
func (c *Continued) Begin(cpus int) {
	c.n = 0
	c.first.Begin(cpus)
	c.then.Begin(cpus)
}

// Pick implements sched.Strategy.
func (c *Continued) Pick(ch *sched.Choice) int {
	c.n++
	if c.n <= c.upto {
		return c.first.Pick(ch)
	}
	return c.then.Pick(ch)
}

// ParseStrategy reads a strategy as people write it: "default", "random/SEED" or
// "pct/SEED", "pct4/SEED" for another depth than 3. length is the expected number of
// points, for PCT. Seeds are decimal, or hexadecimal with 0x.
func ParseStrategy(text string, length uint64) (Spec, error) {
	name, seed, given := strings.Cut(text, "/")
	s := Spec{Kind: KindSwitches}
	if name == "default" && !given {
		return s, nil
	}
	depth, pct := strings.CutPrefix(name, "pct")
	switch {
	case name == "random":
		s.Kind = KindRandom
	case pct:
		s.Kind, s.Depth, s.Length = KindPCT, 3, length
		if depth != "" {
			n, err := strconv.Atoi(depth)
			if err != nil || n < 1 || n > MaxDepth {
				return s, fmt.Errorf("strategy %s: the depth of PCT must be 1 to %d", quoted(text), MaxDepth)
			}
			s.Depth = n
		}
	default:
		return s, fmt.Errorf("unknown strategy %s; known are default, random/SEED, pct/SEED, pct1/SEED to pct%d/SEED", quoted(text), MaxDepth)
	}
	if given {
		n, err := strconv.ParseUint(seed, 0, 64)
		if err != nil {
			return s, fmt.Errorf("strategy %s: the seed %s is not a number", quoted(text), quoted(seed))
		}
		s.Seed = n
	}
	return s, nil
}

package explore

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
)

// SwitchFile is a schedule as a text file that survives changes of the program: which
// target, and its switches as marks.
//
//	# cowlab switches 1
//	target forkscrew
//	param a 512
//	policy stock
//	verdict lost-read
//	switch at=11 stop=cpu0 op="pte read" obj="pte 1:0x10000" id=0x300004000000010 nth=1 rank=1 kind=1 func=gup_pte_range go=cpu1 ...
//
// Blank lines and lines that begin with '#' are for people. A switch says: when the
// actor stop is about to make op to the object for the nth time, go acts instead. at, func
// and the names of objects are for people too; gop, gobj, gid and gfunc say what go then did.
type SwitchFile struct {
	Target string
	Params []Param
	Policy string
	// Verdict is what the run showed; empty if it is not known.
	Verdict string
	Marks   []Mark
}

// switchHead is the first line of a switch file.
const switchHead = "# cowlab switches 1"

// maxMarks bounds what a file may ask for.
const maxMarks = 1 << 16

// Write writes the file.
func (f *SwitchFile) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, switchHead)
	b.WriteString(`# A line is a context switch that would not happen by itself: when STOP is about to do OP
# to OBJ for the NTH time, GO acts instead. cowlab replay FILE looks for these places by
# what happens there, not by their numbers (at).
`)
	fmt.Fprintf(b, "target %s\n", quoteWord(f.Target))
	for _, p := range f.Params {
		fmt.Fprintf(b, "param %s %s\n", quoteWord(p.Key), quoteWord(p.Value))
	}
	fmt.Fprintf(b, "policy %s\n", quoteWord(f.Policy))
	if f.Verdict != "" {
		fmt.Fprintf(b, "verdict %s\n", quoteWord(f.Verdict))
	}
	for i := range f.Marks {
		m := &f.Marks[i]
		fmt.Fprintf(b, "switch at=%d stop=%s op=%s obj=%s id=%#x nth=%d rank=%d kind=%d func=%s go=%s gop=%s gobj=%s gid=%#x gfunc=%s\n",
			m.At, actorWord(m.Stop), quoteWord(m.Before.Op.String()), quoteWord(m.Before.Name), uint64(m.Before.Obj), m.Nth, m.Rank, m.Kind, quoteWord(m.Before.Func),
			actorWord(m.Go), quoteWord(m.With.Op.String()), quoteWord(m.With.Name), uint64(m.With.Obj), quoteWord(m.With.Func))
	}
	return b.Flush()
}

// Token names the run of the file's switches at the given places.
func (f *SwitchFile) Token(s Spec) Token {
	return Token{Target: f.Target, Params: f.Params, Policy: f.Policy, Spec: s}
}

// IsSwitchFile reports whether text looks like a switch file.
func IsSwitchFile(text string) bool { return strings.HasPrefix(text, switchHead) }

// ParseSwitchFile reads a switch file. The error names the line and says what is wrong.
func ParseSwitchFile(r io.Reader) (*SwitchFile, error) {
	f := &SwitchFile{}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<16)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if n == 1 && line != switchHead {
			return nil, fmt.Errorf("switches: the first line is %s, must be %q", quoted(line), switchHead)
		}
		if line == "" || line[0] == '#' {
			continue
		}
		if err := f.line(line); err != nil {
			return nil, fmt.Errorf("switches: line %d: %w", n, err)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("switches: %w", err)
	}
	switch {
	case f.Target == "":
		return nil, fmt.Errorf("switches: no target line")
	case f.Policy == "":
		return nil, fmt.Errorf("switches: no policy line")
	}
	return f, nil
}

func (f *SwitchFile) line(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	var dst *string
	switch word {
	case "switch":
		m, err := parseMark(rest)
		if err == nil && len(f.Marks) == maxMarks {
			err = fmt.Errorf("more than %d switches", maxMarks)
		}
		f.Marks = append(f.Marks, m)
		return err
	case "param":
		key, rest, err := cutWord(rest)
		if err != nil {
			return err
		}
		value, _, err := cutWord(rest)
		f.Params = append(f.Params, Param{key, value})
		return err
	case "target":
		dst = &f.Target
	case "policy":
		dst = &f.Policy
	case "verdict":
		dst = &f.Verdict
	default:
		return fmt.Errorf("it begins with %s, must be target, param, policy, verdict or switch", quoted(word))
	}
	s, rest, err := cutWord(rest)
	if err != nil {
		return err
	}
	if *dst != "" || rest != "" {
		return fmt.Errorf("one %s, in one word, was expected", word)
	}
	*dst = s
	return nil
}

// parseMark reads what follows the word switch.
func parseMark(text string) (m Mark, err error) {
	seen := map[string]bool{}
	for text != "" {
		key, rest, ok := strings.Cut(text, "=")
		if !ok {
			return m, fmt.Errorf("%s is not of the form key=value", quoted(text))
		}
		var v string
		if v, text, err = cutWord(rest); err != nil {
			return m, err
		}
		if seen[key] {
			return m, fmt.Errorf("%s is given twice", quoted(key))
		}
		seen[key] = true
		if err := m.set(key, v); err != nil {
			return m, fmt.Errorf("%s: %w", key, err)
		}
	}
	for _, key := range []string{"stop", "op", "id", "nth", "go"} {
		if !seen[key] {
			return m, fmt.Errorf("a switch without %s=", key)
		}
	}
	return m, nil
}

// set sets the field that the file calls key.
func (m *Mark) set(key, v string) (err error) {
	count := func(dst *int) {
		if *dst, err = strconv.Atoi(v); err == nil && *dst < 1 {
			err = fmt.Errorf("%d, must be at least 1", *dst)
		}
	}
	switch key {
	case "at":
		m.At, err = strconv.ParseUint(v, 10, 64)
	case "stop":
		m.Stop, err = parseActor(v)
	case "go":
		m.Go, err = parseActor(v)
	case "op":
		m.Before.Op, err = parseOp(v)
	case "gop":
		m.With.Op, err = parseOp(v)
	case "id":
		err = parseObj(v, &m.Before.Obj)
	case "gid":
		err = parseObj(v, &m.With.Obj)
	case "nth":
		count(&m.Nth)
	case "rank":
		count(&m.Rank)
	case "kind":
		count(&m.Kind)
	case "obj":
		m.Before.Name = v
	case "gobj":
		m.With.Name = v
	case "func":
		m.Before.Func = v
	case "gfunc":
		m.With.Func = v
	default:
		err = fmt.Errorf("unknown; known are at, stop, op, obj, id, nth, rank, kind, func, go, gop, gobj, gid, gfunc")
	}
	return err
}

func parseObj(v string, o *x86.ObjID) error {
	n, err := strconv.ParseUint(v, 0, 64)
	if err != nil {
		return fmt.Errorf("%s is no object: expected a number of 64 bits, as 0x4001c0000000092", quoted(v))
	}
	*o = x86.ObjID(n)
	return nil
}

func parseOp(v string) (x86.Op, error) {
	for op := x86.OpNone; op < x86.NumOps; op++ {
		if op.String() == v {
			return op, nil
		}
	}
	return 0, fmt.Errorf("unknown operation %s", quoted(v))
}

// actorWord is an actor in one word.
func actorWord(a ActorID) string { return strings.ReplaceAll(a.String(), " ", "") }

func parseActor(v string) (ActorID, error) {
	num, event := strings.CutPrefix(v, "event")
	if !event {
		var cpu bool
		if num, cpu = strings.CutPrefix(v, "cpu"); !cpu {
			return 0, fmt.Errorf("%s is no actor; cpu0 and event3 are", quoted(v))
		}
	}
	n, err := strconv.ParseUint(num, 10, 48) // store buffers have large numbers: sched.DrainSeq
	if err != nil {
		return 0, fmt.Errorf("%s is no actor; cpu0 and event3 are", quoted(v))
	}
	if event {
		return EventActor(n), nil
	}
	return CPUActor(int(n)), nil
}

// quoteWord puts text in quotes if it is not a word.
func quoteWord(s string) string {
	if s == "" || strings.ContainsAny(s, " \"\\=#") || strconv.Quote(s) != `"`+s+`"` {
		return strconv.Quote(s)
	}
	return s
}

// cutWord cuts a word, which may be in quotes, off the beginning.
func cutWord(s string) (word, rest string, err error) {
	if strings.HasPrefix(s, `"`) {
		q, err := strconv.QuotedPrefix(s)
		if err != nil {
			return "", "", fmt.Errorf("%s: quotes that do not end", quoted(s))
		}
		word, err = strconv.Unquote(q)
		return word, strings.TrimLeft(s[len(q):], " "), err
	}
	word, rest, _ = strings.Cut(s, " ")
	return word, strings.TrimLeft(rest, " "), nil
}

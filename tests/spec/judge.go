package spec

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/scenarios"
)

// Verdict is what a run of a program shows against its model. Those that package workload has too
// mean the same there.
type Verdict string

// The verdicts.
const (
	Safe         Verdict = explore.Safe
	LostRead     Verdict = "lost-read"     // what a device wrote is not where it was asked for
	LeakToDisk   Verdict = "leak-to-disk"  // what another process stored reached the disk
	LeakToChild  Verdict = "leak-to-child" // a pin or a pipe showed what another process stored
	ChildChanged Verdict = "child-changed" // a device's bytes reached the memory of another process
	LostStore    Verdict = "lost-store"    // an older value is back
	Shared       Verdict = "shared-store"  // a store of one process is seen by another
	StalePin     Verdict = "stale-pin"     // a device read through a pin what its owner had overwritten
	StaleWrite   Verdict = "stale-write"   // an older value reached the disk
	ShortCall    Verdict = "short-call"    // a call did less than it was asked for
	Bug          Verdict = "bug"
	Leak         Verdict = "leak"
	Deadlock     Verdict = "deadlock"
	Livelock     Verdict = "livelock"
	OOM          Verdict = "oom"
	Refused      Verdict = "refused" // the policy turns such requests down
)

// Finding is a disagreement between a run and the model.
type Finding struct {
	Verdict Verdict
	// Term is where, if it is about a byte, Got what was there and Allowed what might be.
	Term    string
	Got     string
	Allowed Set
	// Detail is what an assertion said, without its numbers.
	Detail string
	// Needs is what a policy has to promise for this not to happen.
	Needs mm.Guarantee

	term *Term // as Term; nil if Got is no byte
	got  byte  // as Got
}

// Promised reports whether a policy with these claims promises that this does not happen.
func (f *Finding) Promised(claims mm.Guarantee) bool { return claims&f.Needs == f.Needs }

// key is the finding in one string: what is kept when it is made smaller.
func (f *Finding) key() string {
	if f.Detail != "" {
		return string(f.Verdict) + ": " + f.Detail
	}
	return string(f.Verdict)
}

// String tells the finding in a line.
func (f *Finding) String() string {
	if f.Term == "" {
		return f.key()
	}
	return string(f.Verdict) + ": " + f.Term + " is " + f.Got + ", allowed " + f.Allowed.String()
}

// gravity orders verdicts about bytes: the first that holds is what a run is called.
var gravity = []Verdict{LostRead, LeakToDisk, LeakToChild, Shared, LostStore, ChildChanged, StaleWrite, ShortCall, StalePin}

// Judge compares a run's final state with the model: the gravest of what is wrong and
// promised, else the gravest of what is wrong. Nil means that nothing is, or that the run says nothing
// because a call failed that the program cannot do without.
func (m *Model) Judge(o explore.Observation, claims mm.Guarantee) *Finding {
	return m.judge(o.Verdict, o.Detail, claims, nil)
}

// judge is Judge of a run whose transfers have been watched, if tr is not nil.
func (m *Model) judge(verdict, detail string, claims mm.Guarantee, tr *traffic) *Finding {
	state := scenarios.StateOf(verdict)
	ends := map[string]bool{}
	for _, e := range scenarios.Endings(state) {
		ends[e] = true
	}
	for _, v := range []Verdict{Bug, Livelock, Deadlock} {
		if ends[string(v)] && (v != Deadlock || !m.stuck && (m.Vague == "" || len(m.splice) == 0)) {
			return &Finding{Verdict: v, Detail: plain(detail)}
		}
	}
	if ends["oom"] && !m.fails {
		return &Finding{Verdict: OOM, Detail: plain(detail)}
	}
	var worst *Finding
	// A process that is killed inside a driver's registration takes what is registered with it.
	if ends["leak"] && (len(m.pins) == 0 || m.Vague == "" && !ends["oom"]) {
		worst = &Finding{Verdict: Leak, Detail: plain(detail)}
	}
	switch {
	case ends["refused"] && worst == nil:
		return &Finding{Verdict: Refused, Needs: mm.Nobody}
	case ends["oom"], ends["broken"], ends["refused"], ends["deadlock"], m.Vague != "":
		return worst
	}
	got := values(state)
	if n := got[refusals]; n != "" && n != "0" && worst == nil {
		return &Finding{Verdict: Refused, Needs: mm.Nobody}
	}
	var found []*Finding
	for _, t := range m.Terms {
		f := m.compare(t, got[t.Text])
		if f == nil {
			continue
		}
		if m.huge && f.Needs != 0 {
			f.Needs |= mm.Hugetlb
		}
		found = append(found, f)
	}
	if tr != nil {
		m.follow(found, claims, tr)
	}
	for _, f := range found {
		if worst == nil || f.Promised(claims) && !worst.Promised(claims) ||
			f.Promised(claims) == worst.Promised(claims) && rank(f.Verdict) < rank(worst.Verdict) {
			worst = f
		}
	}
	return worst
}

func rank(v Verdict) int {
	for i, g := range gravity {
		if g == v {
			return i
		}
	}
	return len(gravity)
}

// compare compares one term; nil if it agrees, or is not known.
func (m *Model) compare(t *Term, got string) *Finding {
	if got == "" || got == "?" || strings.HasPrefix(got, "-") {
		return nil // no value, or an error, which the program has asked for
	}
	f := &Finding{Term: t.Text, Got: got, Allowed: t.Allowed}
	n, err := strconv.ParseInt(got, 0, 64)
	if t.Kind == Count {
		if err == nil && n == t.Count {
			return nil
		}
		f.Verdict = ShortCall
		return f
	}
	if err == nil && n >= 0 && n < 256 && t.Allowed.Has(byte(n)) {
		return nil
	}
	if err == nil {
		f.term, f.got = t, byte(n)
	}
	m.classify(f, t, byte(n), err == nil)
	return f
}

// classify says what is wrong by where the value comes from.
func (m *Model) classify(f *Finding, t *Term, got byte, known bool) {
	old := known && m.ever(t.cell).Has(got)
	f.Needs = t.needs
	needs, arrives, stored := m.sources(t.at, t.cell, map[*write]bool{})
	switch {
	case t.Kind == Disk && (old || m.ownedBy(got, t)):
		// An older value: the transfer did not write what was in memory. If a device had put
		// that there, memory may have lost it before.
		f.Verdict, f.Needs = StaleWrite, needs|m.written(got, known)
		if !old && !m.stale(got, t) || known && m.crossed(got, t) {
			f.Needs |= t.needs // a later value, perhaps through a page that another process is writing out
		}
	case t.Kind == Disk:
		f.Verdict = LeakToDisk
		f.Needs |= m.written(got, known)
	case t.Kind == Device && old, t.Kind == Pipe && old:
		f.Verdict, f.Needs = StalePin, mm.Nobody
	case t.Kind == Device, t.Kind == Pipe:
		f.Verdict = LeakToChild
		f.Needs |= m.written(got, known)
	case known && m.brought(got, t.cell) && t.proc != "" && !m.arrives(got, t.proc):
		// What a device wrote for another process. The child may have inherited it; that it is
		// there now, in the place of something newer, is the device's doing.
		f.Verdict = ChildChanged
		f.Needs, _ = m.delivered(only(got))
		if arrives {
			f.Needs |= m.leaks() // it may have come from the disk, where it should not have been
		}
	case known && t.proc != "" && m.aimed(got, t.cell) != 0:
		// The same with a value that is not the device's own: it has been to the disk and back.
		f.Verdict, f.Needs = ChildChanged, m.aimed(got, t.cell)|m.leaks()
	case old && arrives:
		// Either that is lost, or a store that races with it, and may come later.
		f.Verdict, f.Needs = LostRead, needs
		if known && m.washed(got, t.cell) {
			f.Needs |= m.leaks() // or the disk had what it should not have had
		}
	case old:
		f.Verdict, f.Needs = LostStore, 0
	case arrives && (!stored || known && m.washed(got, t.cell)):
		// Another's store, read from the disk: it has leaked there before.
		f.Verdict, f.Needs = LeakToDisk, m.leaks()
	default:
		f.Verdict, f.Needs = Shared, 0
	}
}

// written returns what must be promised so that a value is not where it does not belong, if a
// device has written it: the transfer that shows it may have done no wrong.
func (m *Model) written(v byte, known bool) mm.Guarantee {
	if !known || v != 0 && !m.origin[v].device {
		return 0
	}
	g, _ := m.delivered(only(v))
	return g
}

// leaks returns what must be promised of all transfers together, if one is read back.
func (m *Model) leaks() (g mm.Guarantee) {
	for _, w := range m.every {
		if w.device {
			g |= w.needs
		}
	}
	return g
}

// washed reports whether a value can have come to a byte of memory by way of the disk: what is read into the
// byte is where something is written from memory into whose place another process stores the value.
func (m *Model) washed(v byte, c cell) bool {
	for _, in := range m.writes[c] {
		if !in.device || in.from == nil || in.from.name != "disk" {
			continue
		}
		for _, out := range m.writes[*in.from] {
			if out.from == nil {
				continue
			}
			for _, o := range m.every {
				if !o.device && o.from == nil && o.val.Has(v) && o.to.name == out.from.name && o.to.off == out.from.off && o.to.proc != out.from.proc {
					return true
				}
			}
		}
	}
	return false
}

// ownedBy reports whether a value was ever in the memory that is written to a place of the disk.
func (m *Model) ownedBy(v byte, t *Term) bool {
	for _, w := range m.writes[t.cell] {
		if w.from != nil && m.ever(*w.from).Has(v) {
			return true
		}
	}
	return false
}

// stale reports whether a value was in memory before a transfer from there to a place of the disk.
func (m *Model) stale(v byte, t *Term) bool {
	for _, w := range m.writes[t.cell] {
		if w.from == nil {
			continue
		}
		for _, o := range m.every {
			if o.to == *w.from && o.val.Has(v) && m.before(o.at, w.at) {
				return true
			}
		}
	}
	return false
}

// crossed reports whether a transfer of another process brings a value to memory that has the name
// of what is written to a place of the disk.
func (m *Model) crossed(v byte, t *Term) bool {
	for _, w := range m.writes[t.cell] {
		if w.from != nil && m.aimed(v, *w.from) != 0 {
			return true
		}
	}
	return false
}

// brought reports whether a value comes from a device: it is one's own, or it is zero, of which there are
// many, and nobody else has put one into this byte of memory.
func (m *Model) brought(v byte, c cell) bool {
	if v != 0 {
		return m.origin[v].device
	}
	device := false
	for _, w := range m.every {
		if w.to.name == c.name && w.to.off == c.off && w.val.Has(0) {
			if w.from == nil && !w.device {
				return false
			}
			device = device || w.device
		}
	}
	return device
}

// aimed returns what has to be promised of the transfers that bring a value to a byte of this name in
// another process; 0 if there are none.
func (m *Model) aimed(v byte, c cell) (g mm.Guarantee) {
	for _, w := range m.every {
		if w.device && w.to.proc != c.proc && w.to.name == c.name && w.to.off == c.off && w.val.Has(v) {
			g |= w.needs
		}
	}
	return g
}

// arrives reports whether a device writes a value into the memory of a process.
func (m *Model) arrives(v byte, proc string) bool {
	for _, w := range m.every {
		if w.device && w.to.proc == proc && w.val.Has(v) {
			return true
		}
	}
	return false
}

// delivered returns what a policy has to promise so that devices' values arrive; false if one
// of the values is no device's.
func (m *Model) delivered(vals Set) (g mm.Guarantee, ok bool) {
	for _, v := range vals.Values() {
		if v != 0 && !m.origin[v].device {
			return 0, false
		}
		for _, w := range m.every {
			if w.device && w.to.name != "disk" && w.val.Has(v) {
				g |= w.needs
			}
		}
	}
	return g, vals.Len() > 0
}

// values reads a state, as in "P0:A[0]=0x1; P0:r=mixed; leak;".
func values(state string) map[string]string {
	out := map[string]string{}
	for _, part := range strings.Split(state, ";") {
		if name, v, ok := strings.Cut(strings.TrimSpace(part), "="); ok {
			out[name] = v
		}
	}
	return out
}

var numbers = regexp.MustCompile(`0x[0-9a-f]+|[0-9]+`)

// plain makes one string of an assertion in all runs: its first line without numbers.
func plain(detail string) string {
	line, _, _ := strings.Cut(detail, "\n")
	if head, _, ok := strings.Cut(line, " (task"); ok {
		line = head
	}
	line = numbers.ReplaceAllString(line, "#")
	switch {
	case strings.HasPrefix(line, "pfn #"):
		return "a page"
	case strings.HasPrefix(line, "BUG: invariant, "):
		if _, what, ok := strings.Cut(line, ": mm: "); ok {
			line = "invariant: " + what
		}
	}
	if len(line) > 60 {
		line = line[:60]
	}
	return strings.TrimSpace(line)
}

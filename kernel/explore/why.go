package explore

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
)

// WhyOptions say how to look for a nearest miss.
type WhyOptions struct {
	// Tell captures a run and sets Shown of the steps that tell its verdict. like, if
	// not nil, is a story that the new one is to be compared with: it should follow the
	// same thing. Nil captures without names and shows what Capture does.
	Tell func(t *Target, s Spec, like *Story) *Story
	// Schedules bounds the search for a witness; zero means 2,000.
	Schedules uint64
	// Seed selects the schedules of the searches.
	Seed uint64
	// Runs bounds the minimising of the witness; zero means 600.
	Runs int
	// Workers is for the searches; see Options.
	Workers int
}

// NearMiss says what stopped a schedule that goes wrong elsewhere.
//
// It is made like this. A witness is looked for in the unsafe program (stock, as a rule)
// and minimised; its switches are then made in the safe program, at the places where the
// same things happen, and devices and timers act in the same order. That run is the nearest miss: the race was there, and something
// stood in its way. Where switches cannot be made, or the policy is not seen to decide, the
// run is compared with forty other schedules of the safe program, and the one is taken
// that goes along with the witness farthest.
//
// It explains one schedule. It does not prove that there is no other.
type NearMiss struct {
	// Witness is the run that goes wrong, Near the one that does not.
	Witness, Near *Story
	// Switches are those of the witness, Found how many of them Near makes, and Lost
	// why it does not make all.
	Switches, Found int
	Lost            *LostMark
	// Searched is set if Near is not the witness' schedule but one of a search.
	Searched bool
	// Critical is the number of steps of the witness that changed what the story
	// follows, and Matched how many of them Near makes too, in that order, from the first on.
	Critical, Matched int
	// Missing is the first critical step of the witness that Near does not make; nil if
	// it makes all.
	Missing *Step
	// Closed is the operation of the policy in Near that made the difference: its wait
	// for a lock, or the first of its reads between the last step that a task makes in
	// both runs and the one at which its path leaves that of the witness. Nil if no
	// method of the policy is seen there.
	Closed *Step
	// Wrote is the step that last wrote what Closed read, the policy's own before others,
	// or the one that took the lock.
	Wrote *Step
	// Instead is what the task did then, and Path what it did in the witness; nil if it
	// did nothing more that is shown.
	Instead, Path *Step
}

// Unsafe is the error of Why if the program that was to be safe is not.
type Unsafe struct{ Story *Story }

// Error describes the finding.
func (u *Unsafe) Error() string {
	return fmt.Sprintf("%s under %s is not safe: %s: %s", u.Story.Target, u.Story.Policy, u.Story.Verdict, u.Story.Token)
}

// NoWitness is the error of Why if the unsafe program shows nothing either.
type NoWitness struct {
	Target, Policy string
	Schedules      uint64
}

// Error says how far was searched.
func (n *NoWitness) Error() string {
	return fmt.Sprintf("%s under %s shows nothing in %d schedules: there is nothing for a policy to prevent, as far as was searched", n.Target, n.Policy, n.Schedules)
}

// fallbackSchedules is how many schedules are tried where switches cannot be made.
const fallbackSchedules = 40

// Why looks for the nearest miss of a safe program: see NearMiss.
func Why(ctx context.Context, unsafe, safe Target, o WhyOptions) (*NearMiss, error) {
	if o.Schedules == 0 {
		o.Schedules = 2000
	}
	if o.Runs == 0 {
		o.Runs = 600
	}
	if o.Tell == nil {
		o.Tell = func(t *Target, s Spec, _ *Story) *Story { return Capture(*t, s, CaptureOptions{}) }
	}
	rep, err := Search(ctx, unsafe, Options{Schedules: o.Schedules, Seed: o.Seed, Workers: o.Workers, StopAtFirst: true})
	if err != nil {
		return nil, err
	}
	bad := rep.FirstBad()
	if bad == nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &NoWitness{unsafe.Name, unsafe.Policy, rep.Schedules}
	}
	unsafe.Smaller = nil // both are to do the same
	least, err := Shrink(ctx, unsafe, bad.Spec, ShrinkOptions{Runs: o.Runs})
	if err != nil {
		return nil, err
	}
	return WhyNot(ctx, unsafe, least.Spec, safe, o)
}

// WhyNot is Why for a witness that is known.
func WhyNot(ctx context.Context, unsafe Target, witness Spec, safe Target, o WhyOptions) (*NearMiss, error) {
	n := &NearMiss{Witness: o.Tell(&unsafe, witness, nil)}
	if n.Witness.Verdict == Safe {
		return nil, fmt.Errorf("explore: the schedule shows nothing under %s: there is no witness", unsafe.Policy)
	}
	marks := Marks(unsafe, witness, CaptureOptions{})
	_, rec := Record(unsafe, witness.Strategy())
	var events []Decision
	for _, d := range rec.Decisions {
		if d.Actor.CPU() < 0 {
			events = append(events, d)
		}
	}
	f := followInOrder(safe, marks, events, nil)
	n.Switches, n.Found, n.Lost = len(marks), len(f.Found), f.Lost
	n.Near = o.Tell(&safe, f.Spec, n.Witness)
	if n.Near.Verdict != Safe {
		return nil, &Unsafe{n.Near}
	}
	want := effects(n.Witness)
	n.Critical, n.Matched = len(want), matched(want, effects(n.Near))
	n.findCloser()
	if n.Lost != nil || n.Closed == nil {
		if err := n.search(ctx, &safe, uint64(len(f.Recording.Decisions)), want, &o); err != nil {
			return nil, err
		}
	}
	if n.Matched < len(want) {
		n.Missing = want[n.Matched].step
	}
	return n, nil
}

// search looks for a schedule of the safe program that goes along with the witness
// farther, or in which the policy is seen to decide.
func (n *NearMiss) search(ctx context.Context, safe *Target, length uint64, want []effect, o *WhyOptions) error {
	so := Options{Seed: o.Seed, PCTDepth: 3, Mode: Portfolio}
	for i := range uint64(fallbackSchedules) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		other := *n
		other.Near = o.Tell(safe, so.spec(i+Probes, length), n.Witness)
		if other.Near.Verdict != Safe {
			return &Unsafe{other.Near}
		}
		other.Matched, other.Searched = matched(want, effects(other.Near)), true
		other.findCloser()
		if better := n.Closed == nil && other.Closed != nil; better || (other.Closed != nil || n.Closed == nil) && other.Matched > n.Matched {
			*n = other
		}
	}
	return nil
}

// effect is a step that changed what a story follows, under a name that means the same
// in another run: pages are called by the order in which they appear.
type effect struct {
	step *Step
	key  string
}

// letters names frames by the order in which they appear.
type letters map[uint64]string

func (l letters) of(pfn uint64) string {
	if l[pfn] == "" {
		l[pfn] = fmt.Sprintf("page #%d", len(l)+1)
	}
	return l[pfn]
}

// inText replaces the numbers of pages, and leaves A and D of an entry out.
func (l letters) inText(text string) string {
	words := strings.Fields(text)
	var out []string
	for i := 0; i < len(words); i++ {
		var pfn uint64
		if _, err := fmt.Sscanf(strings.Join(words[i:min(i+2, len(words))], " "), "page %d", &pfn); err == nil {
			out = append(out, l.of(pfn))
			i++
		} else if strings.Trim(words[i], "AD") != "" {
			out = append(out, words[i])
		}
	}
	return strings.Join(out, " ")
}

// object is an object under a name that means the same in another run.
func (l letters) object(o x86.ObjID) string {
	switch o.Class() {
	case x86.ClassFrame:
		return l.of(o.ID() >> 3)
	case x86.ClassPage:
		return fmt.Sprintf("%s word %d", l.of(o.ID()>>3), o.ID()&7)
	case x86.ClassPTE, x86.ClassCPU:
		return fmt.Sprintf("%#x", uint64(o))
	}
	return fmt.Sprint("class ", o.Class())
}

// effects lists what shown steps did to page-table entries and to memory.
func effects(s *Story) []effect {
	l := letters{}
	var out []effect
	for i := range s.Steps {
		st := &s.Steps[i]
		if !st.Shown || st.Sched || st.OpID == x86.OpIPIAck { // a flush slot is nobody's data, and another one in another run
			continue
		}
		key := ""
		switch st.ObjID.Class() {
		case x86.ClassPTE:
			if before, after := l.inText(st.Before), l.inText(st.After); before != after {
				key = l.object(st.ObjID) + " " + after
			}
		case x86.ClassFrame:
			if st.OpID != x86.OpLoad && st.OpID != x86.OpCopyRead {
				key = st.OpID.String() + " " + l.object(st.ObjID)
			}
		case x86.ClassWord, x86.ClassDev:
			if st.OpID.Writes() {
				key = st.OpID.String() + " " + l.object(st.ObjID) + " " + st.After
			}
		}
		if key != "" && (len(out) == 0 || out[len(out)-1].key != key) {
			out = append(out, effect{st, key})
		}
	}
	return out
}

// matched is how many of the effects, from the first on, are among others in the same order.
func matched(want, got []effect) int {
	n := 0
	for i := range got {
		if n < len(want) && got[i].key == want[n].key {
			n++
		}
	}
	return n
}

// findCloser finds the operation that made the difference.
func (n *NearMiss) findCloser() {
	n.Closed, n.Wrote, n.Instead, n.Path = nil, nil, nil, nil
	if n.closedByWaiting() {
		return
	}
	// Each task's shown steps are held against those it made in the witness. Steps
	// of the policy may come in between; where the paths part, the policy's steps
	// since the last common one hold the decision. The parting that counts is the one
	// that is first in the witness: others follow from it.
	first := 0
	for _, task := range tasksOf(n.Near) {
		closed, instead, path, at := part(taskSteps(n.Witness, task), taskSteps(n.Near, task))
		if closed != nil && (n.Closed == nil || at < first) {
			n.Closed, n.Instead, n.Path, first = closed, instead, path, at
		}
	}
	if n.Closed != nil {
		if w := n.writer(n.Closed); w != nil && (w.TaskID != n.Closed.TaskID || w.Hook != n.Closed.Hook) {
			n.Wrote = w
		}
	}
}

// closedByWaiting reports whether the policy made somebody wait for a lock.
func (n *NearMiss) closedByWaiting() bool {
	for i := range n.Near.Steps {
		s := &n.Near.Steps[i]
		if s.Hook == "" || !s.Waits || s.OpID != x86.OpLock && s.OpID != x86.OpReadLock {
			continue
		}
		n.Closed = s
		for j := i - 1; j >= 0 && n.Wrote == nil; j-- { // who has it
			w := &n.Near.Steps[j]
			if w.ObjID == s.ObjID && w.TaskID != s.TaskID && (w.OpID == x86.OpLock || w.OpID == x86.OpReadLock) && !n.released(w, i) {
				n.Wrote = w
			}
		}
		return true
	}
	return false
}

// released reports whether whoever took a lock at step s releases it before index end.
func (n *NearMiss) released(s *Step, end int) bool {
	for i := s.N; i < end; i++ {
		if u := &n.Near.Steps[i]; u.ObjID == s.ObjID && u.OpID == x86.OpUnlock && u.TaskID == s.TaskID {
			return true
		}
	}
	return false
}

// writer returns the step that last wrote the object of s before: the last one of the
// policy if it ever did, for it is its own marks that a policy looks for; nil if nobody did.
func (n *NearMiss) writer(s *Step) *Step {
	var last *Step
	for i := s.N - 2; i >= 0; i-- {
		w := &n.Near.Steps[i]
		if w.ObjID != s.ObjID || !w.OpID.Writes() || w.Before == w.After && w.After != "" {
			continue
		}
		if w.Hook != "" {
			return w
		}
		if last == nil {
			last = w
		}
	}
	return last
}

// tasksOf lists the names of the tasks with shown steps.
func tasksOf(s *Story) []string {
	var names []string
	seen := map[string]bool{}
	for i := range s.Steps {
		if st := &s.Steps[i]; st.Shown && !st.IRQ && st.CPU >= 0 && !seen[st.Task] {
			seen[st.Task] = true
			names = append(names, st.Task)
		}
	}
	return names
}

// pathStep is a step with its name for comparing.
type pathStep struct {
	step *Step
	key  string
}

func taskSteps(s *Story, task string) []pathStep {
	l := letters{}
	var out []pathStep
	for i := range s.Steps {
		st := &s.Steps[i]
		if !st.Shown {
			continue
		}
		key := st.OpID.String() + " " + l.object(st.ObjID) // names frames in the order of the whole run
		if st.Task == task && !st.IRQ && st.CPU >= 0 {
			out = append(out, pathStep{st, key})
		}
	}
	return out
}

// part finds where a task's path leaves that of the witness: the policy's step that
// decided, the task's first step on its new way, and the witness' at that place, nil if
// there is none. at is where that is in the witness: the number of that step, or of
// the last one that both make.
func part(want, got []pathStep) (closed, instead, path *Step, at int) {
	var hooks []*Step // the policy's own since the last common step
	w := 0
	for _, g := range got {
		if w < len(want) && g.key == want[w].key {
			at = want[w].step.N
			w++
			hooks = hooks[:0]
			if g.step.Hook != "" {
				hooks = append(hooks, g.step) // what was read there may be what decides
			}
			continue
		}
		if g.step.Hook == "" {
			instead = g.step
			break
		}
		hooks = append(hooks, g.step)
	}
	if len(hooks) == 0 || instead == nil && w == len(want) {
		return nil, nil, nil, 0 // the same way, or another one without the policy: a change of timing
	}
	if w < len(want) {
		path, at = want[w].step, want[w].step.N
	}
	return decision(hooks), instead, path, at
}

// decision is the first of the policy's steps that reads without writing, or else the first.
// Bytes that it copies decide nothing.
func decision(hooks []*Step) *Step {
	for _, s := range hooks {
		if !s.OpID.Writes() && s.ObjID.Class() != x86.ClassFrame {
			return s
		}
	}
	return hooks[0]
}

// Write explains the near miss in words.
func (n *NearMiss) Write(w io.Writer) {
	n.Witness.fillText()
	n.Near.fillText()
	detail, _, _ := strings.Cut(n.Witness.Detail, "\n")
	fmt.Fprintf(w, "What goes wrong under %s: %s\n", n.Witness.Policy, strings.TrimSuffix(n.Witness.Verdict+": "+detail, ": "))
	fmt.Fprintf(w, "  %s\n", n.Witness.Command())
	fmt.Fprintf(w, "\nThe nearest miss under %s:\n  %s\n", n.Near.Policy, n.Near.Command())
	switch {
	case n.Searched && n.Lost != nil:
		fmt.Fprintf(w, "  Only %d of the witness' %d switches can be made; this is the schedule, of %d others, that goes along with it farthest.\n", n.Found, n.Switches, fallbackSchedules)
	case n.Searched:
		fmt.Fprintf(w, "  With the witness' switches the policy is not seen to decide anything; this is another schedule, of %d, in which it is.\n", fallbackSchedules)
	case n.Lost != nil:
		fmt.Fprintf(w, "  It makes %d of the witness' %d switches; where the next was, the program does not come.\n", n.Found, n.Switches)
	case n.Switches == 0:
		fmt.Fprintf(w, "  The witness needs no switches: it is the schedule by the default rule, and so is this.\n")
	default:
		fmt.Fprintf(w, "  It makes all %d switches of the witness, at the places where the same happens.\n", n.Switches)
	}
	fmt.Fprintf(w, "  Of the %d critical steps of the witness it makes the first %d.", n.Critical, n.Matched)
	if n.Missing != nil {
		fmt.Fprintf(w, " Not this one:\n    %s", n.Missing.line(n.Witness.Policy))
	}
	fmt.Fprintln(w)
	if n.Closed == nil {
		fmt.Fprintf(w, "\nWhat closed it: no method of the policy is seen to decide it; compare the two runs.\n")
	} else {
		fmt.Fprintf(w, "\nWhat closed it: %s in %s, called from %s\n    %s\n", n.Closed.Hook, n.Closed.Func, n.Closed.caller(), n.Closed.line(n.Near.Policy))
		if n.Closed.Waits {
			fmt.Fprintf(w, "  It makes the task wait.\n")
		}
		switch {
		case n.Wrote != nil && n.Closed.Waits:
			fmt.Fprintf(w, "  The lock is held by:\n    %s\n", n.Wrote.line(n.Near.Policy))
		case n.Wrote != nil:
			who := ""
			if n.Wrote.Hook != "" {
				who = " by the policy"
			}
			fmt.Fprintf(w, "  What it found there had last been written%s at:\n    %s\n", who, n.Wrote.line(n.Near.Policy))
		}
		if n.Instead != nil || n.Path != nil {
			fmt.Fprintf(w, "  After which the ways part:\n")
		}
		if n.Path != nil {
			fmt.Fprintf(w, "    %s\n", n.Path.line(n.Witness.Policy))
		}
		if n.Instead != nil {
			fmt.Fprintf(w, "    %s\n", n.Instead.line(n.Near.Policy))
		}
	}
	fmt.Fprintf(w, "\nThis explains one schedule and proves nothing about others; how far those were searched, matrix says.\n")
}

// line is the step in a line, with whose run it is of.
func (s *Step) line(policy string) string {
	lane := fmt.Sprintf("CPU %d", s.CPU)
	if s.CPU == DeviceLane {
		lane = "device"
	}
	hook := ""
	if s.Hook != "" {
		hook = " [" + s.Hook + "]"
	}
	return fmt.Sprintf("%-12s step %-4d %s %s: %s: %s%s", policy, s.N, lane, s.Task, s.Func, s.Text, hook)
}

// caller is the innermost function on the stack that is another one than the step's.
func (s *Step) caller() string {
	for _, f := range s.Stack {
		if f != s.Func {
			return f
		}
	}
	return s.Func
}

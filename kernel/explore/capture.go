package explore

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// DeviceLane is the lane of device events.
const DeviceLane = -1

// Step is one visible operation of a captured run.
type Step struct {
	// N numbers the steps of the run from 1.
	N int `json:"n"`
	// At is the strategy's decision that led to the step, counted from 0.
	At uint64 `json:"at"`
	// CPU is the processor, or DeviceLane.
	CPU int `json:"cpu"`
	// Task is the task on whose stack the step is made; for an event, its name.
	Task string `json:"task"`
	// TaskID is the task's number; 0 for an event.
	TaskID int `json:"task_id"`
	// IRQ, User and Sched say that an interrupt handler, the user's code, or the
	// scheduler itself makes the step.
	IRQ   bool `json:"irq,omitempty"`
	User  bool `json:"user,omitempty"`
	Sched bool `json:"sched,omitempty"`
	// Func is the kernel function that makes the step, as the kernel spells it.
	// Stack lists it and its callers, innermost first.
	Func  string   `json:"func"`
	Stack []string `json:"stack,omitempty"`
	// Op and Object are the operation and what it is done to.
	Op     string `json:"op"`
	Object string `json:"object,omitempty"`
	// Before and After describe the object around the step, as far as the
	// capture's Describe does.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Preempts is set when the CPU of the previous step could have gone on.
	Preempts bool `json:"preempts,omitempty"`
	// Waits is set when the CPU then had to wait for the object, Resumes
	// when the step is the end of such a wait.
	Waits   bool `json:"waits,omitempty"`
	Resumes bool `json:"resumes,omitempty"`
	// Text is the step as diagrams put it: operation, object, and what it changed.
	Text string `json:"text,omitempty"`
	// Bytes says which bytes of memory the step changed, as far as the capture's Bytes
	// shows them.
	Bytes *ByteChange `json:"bytes,omitempty"`
	// Changes is what the step did to the story's panels, by panel and key.
	Changes []Change `json:"changes,omitempty"`
	// Hook is the policy's method that makes the step or is among its callers.
	Hook string `json:"hook,omitempty"`
	// Shown is set when the default rule of diagrams shows the step.
	Shown bool `json:"shown,omitempty"`
	// OpID and ObjID are the operation and the object as the machine knows them.
	OpID  x86.Op    `json:"op_id"`
	ObjID x86.ObjID `json:"obj_id,string"`
}

// ByteChange is a stretch of memory before and after a step.
type ByteChange struct {
	// At is the offset of the first byte that changed within its page, Count the number
	// of bytes from there to the last one that did.
	At    uint64 `json:"at"`
	Count int    `json:"count"`
	// Was and Now are the first of them, at most eight, in hexadecimal.
	Was string `json:"was"`
	Now string `json:"now"`
}

// String describes the change: "byte 0x200: 00 -> aa".
func (b *ByteChange) String() string {
	more, from := "", fmt.Sprintf("byte %#x", b.At)
	if b.Count > 1 {
		from = fmt.Sprintf("bytes %#x-%#x", b.At, b.At+uint64(b.Count)-1)
	}
	if b.Count > byteSample {
		more = " .."
	}
	return fmt.Sprintf("%s: %s -> %s", from, sample(b.Was, more), sample(b.Now, more))
}

// sample shortens bytes that are all the same.
func sample(hex, more string) string {
	if first, _, many := strings.Cut(hex, " "); many && strings.Count(hex+" ", first+" ")*3 == len(hex)+1 {
		return first + " .."
	}
	return hex + more
}

// and is a change followed by another one further on in the same page.
func (b *ByteChange) and(c *ByteChange) *ByteChange {
	switch {
	case c == nil:
		return b
	case b == nil || c.At < b.At:
		return c
	}
	sum := *b
	sum.Count = int(c.At-b.At) + c.Count
	return &sum
}

// byteSample is how many bytes of a change are kept.
const byteSample = 8

// Story is a captured run: what diagrams, the viewer and the stepper are made from. It
// marshals to JSON.
//
// The state of the machine at a step is a set of panels: tables of rows of text. Start
// holds the rows before the first step, each step's Changes those that it brought,
// changed or took away; Rows puts them together.
//
//	{"token": "cl1...", "verdict": "lost-read", ...,
//	 "panels": [{"id": "pt", "title": "Page tables", "columns": ["mm", "address", ...]}, ...],
//	 "start":  [{"p": 0, "k": "00000001.0000000000010003", "c": ["mm 1", "0x10000", ...]}, ...],
//	 "steps":  [{"n": 1, "cpu": 0, "func": "gup_pte_range", "op": "pte read", ...,
//	             "changes": [{"p": 1, "k": "...", "c": [...]}, {"p": 0, "k": "..."}]}, ...]}
//
// A change without "c" takes the row away. Keys sort as text.
type Story struct {
	Token   string `json:"token"`
	Target  string `json:"target"`
	Policy  string `json:"policy"`
	Verdict string `json:"verdict"`
	Detail  string `json:"detail,omitempty"`
	State   uint64 `json:"state,string"`
	// Legend explains names that the steps use, in a line or several.
	Legend string `json:"legend,omitempty"`
	// Focus is the address whose page the story follows, if whoever told it follows one.
	Focus uint64 `json:"focus,omitempty,string"`
	// CPUs is the machine's number of processors, as far as steps were made on them.
	CPUs int `json:"cpus"`
	// Panels are the tables of the state, Start their rows before the first step.
	Panels []Panel  `json:"panels,omitempty"`
	Start  []Change `json:"start,omitempty"`
	Steps  []Step   `json:"steps"`
	// Truncated is set when the run was longer than the capture's limit.
	Truncated bool `json:"truncated,omitempty"`
}

// JSON writes the story as one JSON object.
func (s *Story) JSON(w io.Writer) error {
	s.fillText()
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	return e.Encode(s)
}

// fillText puts every step into words. Names of objects may be changed until then.
func (s *Story) fillText() {
	for i := range s.Steps {
		st := &s.Steps[i]
		r := row{first: st, last: st, count: 1, bytes: st.Bytes}
		st.Text = r.words()
	}
}

// CaptureOptions say what a capture is to know of the program.
type CaptureOptions struct {
	// Describe describes an object's state in a word or a few ("RW dirty",
	// "count 3"), or returns "" if there is nothing to say. It is called before
	// and after each step, at a moment when nothing moves; it must pass no
	// schedule point. Nil describes nothing.
	Describe func(m *sched.Machine, o x86.ObjID) string
	// Name names an object; nil or "" leaves it to the machine's ObjName.
	Name func(m *sched.Machine, o x86.ObjID) string
	// Funcs are exceptions from KernelName.
	Funcs map[string]string
	// Hook names the policy's method that a Go function is, "" if it is none. Nil
	// knows of no policy.
	Hook func(pkg, typ, fn string) string
	// Bytes returns the memory that an object is and its offset within its page, nil
	// for objects that are no memory. Nil leaves Step.Bytes empty.
	Bytes func(m *sched.Machine, o x86.ObjID) (b []byte, at uint64)
	// Snapshot puts the machine's state into a sink, between two steps, when nothing
	// moves; it must pass no schedule point. Nil leaves the story without panels.
	Snapshot func(m *sched.Machine, to Sink)
	// MaxSteps bounds the steps kept; zero means 100,000.
	MaxSteps int
}

// Capture runs a target once under the strategy of spec and keeps every step.
// Steps before a Gate opens are left out.
func Capture(t Target, spec Spec, o CaptureOptions) *Story {
	s := capture1(t, spec.Strategy(), o)
	s.Token = t.Token(spec).String()
	return s
}

// capture1 runs a target once under a strategy and keeps every step.
func capture1(t Target, st sched.Strategy, o CaptureOptions) *Story {
	if o.MaxSteps == 0 {
		o.MaxSteps = 100_000
	}
	c := &capture{inner: st, o: &o, last: map[int]int{}, did: map[int]int{}, open: -1}
	if o.Snapshot != nil {
		c.state = &stateSink{}
	}
	obs := t.once(c, c)
	s := &c.story
	if c.state != nil {
		s.Panels = c.state.panels
	}
	s.Target, s.Policy = t.Name, t.Policy
	s.Verdict, s.Detail, s.State = obs.Verdict, obs.Detail, obs.State
	stuck := obs.Result != nil && obs.Result.Reason == sched.Deadlock
	if stuck {
		for _, i := range c.last {
			c.markWait(i)
		}
	}
	markShown(s.Steps, stuck)
	return s
}

// capture is strategy and observer in one: the strategy sees who could have
// acted and who comes back from a wait, the observer sees the stack.
type capture struct {
	inner sched.Strategy
	o     *CaptureOptions
	story Story
	m     *sched.Machine // from the latest step

	begun    bool
	picks    uint64      // decisions made
	ran      int         // CPU of the latest decision
	preempts bool        // for the next step
	open     int         // the step whose After is due, or -1
	before   []byte      // the bytes that it is about to change
	state    *stateSink  // nil without snapshots
	started  bool        // the state before the first step is taken
	last     map[int]int // CPU -> its latest step
	did      map[int]int // task -> its latest step that was not the scheduler's
}

// Begin implements sched.Strategy.
func (c *capture) Begin(cpus int) {
	c.ran = -1
	c.inner.Begin(cpus)
}

// Pick implements sched.Strategy.
func (c *capture) Pick(ch *sched.Choice) int {
	c.begun = true
	c.closeStep()
	i := c.inner.Pick(ch)
	c.picks++
	a := &ch.Enabled[i]
	if a.CPU < 0 {
		return i
	}
	if a.CPU != c.ran {
		for k := range ch.Enabled {
			c.preempts = c.preempts || c.ran >= 0 && ch.Enabled[k].CPU == c.ran && ch.Enabled[k].Op != x86.OpWait
		}
	}
	c.ran = a.CPU
	if a.Op == x86.OpWait {
		c.resume(a)
	}
	return i
}

// resume notes that a CPU goes on after spinning. There is no point at that
// moment: its operation succeeds between two points.
func (c *capture) resume(a *sched.Actor) {
	switch a.Obj.Class() {
	case x86.ClassCPU, x86.ClassWait, x86.ClassTask, x86.ClassTimer, x86.ClassNone:
		return // an idle CPU, or a point that announces a sleep
	}
	i, ok := c.last[a.CPU]
	if !ok || c.m == nil {
		return
	}
	p := &c.story.Steps[i]
	s := *p
	if p.ObjID == a.Obj {
		p.Waits = true
	} else {
		s.OpID, s.ObjID, s.Object = a.Op, a.Obj, c.name(a.Obj)
		s.Op = a.Op.String()
	}
	s.Waits, s.Resumes = false, true
	s.Before, s.After = c.describe(a.Obj), ""
	c.add(s)
}

// Step implements sched.Observer.
func (c *capture) Step(_ uint64, t *sched.Task, op x86.Op, obj x86.ObjID) {
	if !c.begun {
		return
	}
	c.m = t.M
	c.closeStep()
	if len(c.story.Steps) >= c.o.MaxSteps {
		c.story.Truncated, c.preempts = true, false
		return // nothing of it is kept: no need to look
	}
	c.snapshot()
	irq := t.InIRQ()
	st := stackAbove(irq)
	s := Step{
		CPU: t.C.ID, Task: t.Name, TaskID: t.ID, IRQ: irq, User: t.User && !irq, Sched: st.sched,
		Op: op.String(), Object: c.name(obj), OpID: op, ObjID: obj, Before: c.describe(obj),
	}
	for _, n := range st.names {
		s.Stack = append(s.Stack, KernelName(n, c.o.Funcs))
		if c.o.Hook != nil && s.Hook == "" && !irq {
			s.Hook = c.o.Hook(splitGoName(n))
		}
	}
	switch {
	case s.User:
		s.Func = "user"
	case s.Sched:
		s.Func = "schedule"
	case len(s.Stack) > 0:
		s.Func = s.Stack[0]
	default:
		s.Func = t.Name
	}
	if i, ok := c.did[t.ID]; ok && s.Sched && op == x86.OpSwitch && t.State() != sched.TaskRunning {
		c.markWait(i) // it goes to sleep
	}
	c.add(s)
	c.keepBytes(op, obj)
	c.last[s.CPU] = len(c.story.Steps) - 1
	if !s.Sched && !irq {
		c.did[t.ID] = c.last[s.CPU]
	}
}

// markWait notes that whoever made step i did not get the lock that it is about.
func (c *capture) markWait(i int) {
	if s := &c.story.Steps[i]; !s.Sched && (s.OpID == x86.OpLock || s.OpID == x86.OpReadLock) {
		s.Waits = true
	}
}

// Device implements sched.Observer.
func (c *capture) Device(_ uint64, ev sched.Event) {
	if !c.begun {
		return
	}
	c.closeStep()
	c.add(Step{
		CPU: DeviceLane, Task: ev.Name(), Func: ev.Name(), Op: ev.Op().String(), Object: c.name(ev.Obj()),
		OpID: ev.Op(), ObjID: ev.Obj(), Before: c.describe(ev.Obj()),
	})
	c.keepBytes(ev.Op(), ev.Obj())
}

func (c *capture) add(s Step) {
	if len(c.story.Steps) >= c.o.MaxSteps {
		c.story.Truncated = true
		c.preempts = false
		return
	}
	s.N = len(c.story.Steps) + 1
	s.At = c.picks - 1
	c.story.CPUs = max(c.story.CPUs, s.CPU+1)
	s.Preempts, c.preempts = c.preempts, false
	c.story.Steps = append(c.story.Steps, s)
	c.open = s.N - 1
}

// closeStep describes the object of the previous step again, and notes what the step did
// to the state. The last step of a run is not closed: its machine is gone by then.
func (c *capture) closeStep() {
	if c.open < 0 {
		return
	}
	s := &c.story.Steps[c.open]
	s.After = c.describe(s.ObjID)
	if c.before != nil {
		now, at := c.o.Bytes(c.m, s.ObjID)
		s.Bytes = byteChange(c.before, now, at)
		c.before = nil
	}
	c.open = -1
	if c.state != nil && c.started {
		s.Changes = c.takeState()
	}
}

// snapshot takes the state before the first step; steps note what changes.
func (c *capture) snapshot() {
	if c.state != nil && !c.started {
		c.started = true
		c.story.Start = c.takeState()
	}
}

// takeState returns what has changed since it was last called.
func (c *capture) takeState() []Change {
	c.state.begin()
	c.o.Snapshot(c.m, c.state)
	snapshotMachine(c.m, c.state)
	return c.state.end()
}

// keepBytes copies the memory that the step just added is about to write.
func (c *capture) keepBytes(op x86.Op, o x86.ObjID) {
	c.before = nil
	if c.o.Bytes == nil || c.m == nil || c.open < 0 || !op.Writes() {
		return
	}
	if b, _ := c.o.Bytes(c.m, o); b != nil {
		c.before = slices.Clone(b)
	}
}

// byteChange compares memory before and after a step; nil if it is the same. at is
// where it begins in its page.
func byteChange(was, now []byte, at uint64) *ByteChange {
	first, last := 0, len(was)-1
	for first < len(was) && was[first] == now[first] {
		first++
	}
	if first == len(was) {
		return nil
	}
	for was[last] == now[last] {
		last--
	}
	end := min(first+byteSample, last+1)
	return &ByteChange{At: at + uint64(first), Count: last + 1 - first,
		Was: fmt.Sprintf("% x", was[first:end]), Now: fmt.Sprintf("% x", now[first:end])}
}

func (c *capture) describe(o x86.ObjID) string {
	if c.o.Describe == nil || c.m == nil || o == 0 {
		return ""
	}
	return c.o.Describe(c.m, o)
}

func (c *capture) name(o x86.ObjID) string {
	if o == 0 {
		return ""
	}
	if c.m == nil {
		return objText(o)
	}
	if c.o.Name != nil {
		if s := c.o.Name(c.m, o); s != "" {
			return s
		}
	}
	return c.m.ObjName(o)
}

// markShown applies the default rule of diagrams: a step is shown if its object
// is touched by more than one task, handler or device, one of them writing.
// Locks are shown only if somebody waited for them; the scheduler's own steps not
// at all; wait queues and wake-ups only when the run ended in a deadlock; TLB
// flushes and the interrupts that ask for them always.
func markShown(steps []Step, deadlock bool) {
	type use struct {
		by                  string
		many, wrote, waited bool
	}
	uses := map[x86.ObjID]*use{}
	for i := range steps {
		s := &steps[i]
		if s.Sched {
			continue
		}
		by := fmt.Sprint(s.TaskID)
		if s.IRQ || s.CPU == DeviceLane {
			by = fmt.Sprint("irq ", s.CPU)
		}
		u := uses[s.ObjID]
		if u == nil {
			u = &use{by: by}
			uses[s.ObjID] = u
		}
		u.many = u.many || u.by != by
		u.wrote = u.wrote || s.OpID.Writes()
		u.waited = u.waited || s.Waits || s.Resumes
	}
	for i := range steps {
		s := &steps[i]
		if s.Sched {
			continue
		}
		u := uses[s.ObjID]
		switch s.ObjID.Class() {
		case x86.ClassLock:
			s.Shown = u.waited
		case x86.ClassWait:
			s.Shown = deadlock
		case x86.ClassTask, x86.ClassTimer, x86.ClassNone:
			s.Shown = s.CPU == DeviceLane
		case x86.ClassCPU:
			s.Shown = s.OpID == x86.OpFlushTLB || s.OpID == x86.OpIPI
		default:
			s.Shown = u.many && u.wrote || s.OpID == x86.OpIPIAck || s.CPU == DeviceLane
		}
	}
}

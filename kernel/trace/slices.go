package trace

import "strconv"

const (
	perfettoPID = 1
	// momentary is the longest a slice that stands for a moment may be, in ns.
	momentary = 1000
)

// item is one event of the output. Slices are put down when they open, so that
// an outer slice stands before an inner one that begins at the same time.
type item struct {
	name, cat  string
	phase      rune // X slice, i instant, s and f flow, C counter
	start, end micros
	tid        int
	arrow      uint64
	args       map[string]any
}

// open is a slice that a task has begun and not ended.
type open struct {
	kind EventKind // the begin
	item int       // the segment now on a track, -1 while the task does not run
	name string
	args map[string]any
}

// owner names a stack of open slices: a task's, or the idle loop's of a CPU.
type owner struct {
	task uint64
	cpu  int
}

// cpuTrack is the state of a CPU's track.
type cpuTrack struct {
	running bool
	owner   owner  // who runs
	run     int    // item of the slice with the task's name
	last    micros // time of the last event
	moment  int    // item of a momentary slice that is still open, or -1
}

// perfetto turns events into items.
type perfetto struct {
	view   View
	items  []item
	cpus   []cpuTrack
	stacks map[owner][]open
	on     map[owner]int // the CPU whose track shows the owner's slices
	arrows uint64        // so far
	ipis   []sent
	bios   map[uint64]bio // by flow id
	lanes  []lane
	pins   map[uint64][]uint64 // arrows of the pins of a frame, the oldest first
	pinned int64               // pages
	end    micros              // the latest time of all
}

func newPerfetto(events []Event, v View) *perfetto {
	p := &perfetto{view: v, cpus: make([]cpuTrack, v.cpus(events)), stacks: map[owner][]open{},
		on: map[owner]int{}, bios: map[uint64]bio{}, pins: map[uint64][]uint64{}}
	for i := range p.cpus {
		p.cpus[i].moment = -1
	}
	return p
}

func (p *perfetto) deviceTID() int { return len(p.cpus) }

func (p *perfetto) add(it item) int {
	p.items = append(p.items, it)
	return len(p.items) - 1
}

// args returns the event's arguments by name.
func (p *perfetto) args(e Event) map[string]any {
	m := map[string]any{}
	vals := [3]uint64{e.A, e.B, e.C}
	for i, a := range kinds[e.Kind].args {
		if a.how != fNone {
			m[a.name] = string(p.view.Names.value(nil, a.how, vals[i]))
		}
	}
	return m
}

// event adds one event. Events of a CPU come in the order of its clock.
func (p *perfetto) event(e Event) {
	now := micros(p.view.ns(e))
	p.end = max(p.end, now)
	if e.CPU == DeviceCPU {
		p.device(e, now)
		return
	}
	cpu := int(e.CPU)
	t := &p.cpus[cpu]
	if now < t.last {
		now = t.last // a clock does not go back; keep the track's slices in order
	}
	p.closeMoment(t, now)
	t.last = now

	if e.Kind == EvSchedSwitch {
		// The event's own task may be either of the two.
		p.suspend(cpu, now)
		p.resume(cpu, p.owner(e.B, cpu), now)
		return
	}
	p.resume(cpu, p.owner(e.Task, cpu), now)

	switch e.Kind.Phase() {
	case Begin:
		p.begin(cpu, e, now)
		return
	case End:
		if !p.endSlice(cpu, e, now) {
			p.instant(cpu, e, now, "unmatched")
		}
		return
	}
	switch e.Kind {
	case EvIPISend:
		p.ipiSend(cpu, e, now)
	case EvIPITake:
		p.ipiTake(cpu, e, now)
	case EvBioSubmit:
		p.bioSubmit(cpu, e, now)
	case EvBioComplete:
		p.bioComplete(cpu, e, now)
	case EvPin, EvUnpin:
		p.pin(cpu, e, now)
	default:
		p.instant(cpu, e, now, "event")
	}
}

// owner keys a task's stack; each CPU has its own idle loop.
func (p *perfetto) owner(task uint64, cpu int) owner {
	if task == 0 {
		return owner{0, cpu}
	}
	return owner{task, 0}
}

// resume makes o the one that runs on cpu and shows its open slices there.
func (p *perfetto) resume(cpu int, o owner, now micros) {
	t := &p.cpus[cpu]
	if t.running {
		if t.owner == o {
			return
		}
		p.suspend(cpu, now)
	}
	if other, shown := p.on[o]; shown {
		// Its switch away from there was lost, or comes later by another clock.
		p.closeMoment(&p.cpus[other], p.cpus[other].last)
		p.suspend(other, p.cpus[other].last)
	}
	name := p.view.Names.TaskName(o.task)
	t.running, t.owner = true, o
	p.on[o] = cpu
	t.run = p.add(item{name: name, cat: "task", phase: 'X', start: now, end: now, tid: cpu,
		args: map[string]any{"task": strconv.FormatUint(o.task, 10)}})
	for i := range p.stacks[o] {
		s := &p.stacks[o][i]
		args := map[string]any{"resumed": true}
		for k, a := range s.args {
			args[k] = a
		}
		s.item = p.add(item{name: s.name, cat: "slice", phase: 'X', start: now, end: now, tid: cpu, args: args})
	}
}

// suspend cuts what runs on cpu.
func (p *perfetto) suspend(cpu int, now micros) {
	t := &p.cpus[cpu]
	if !t.running {
		return
	}
	stack := p.stacks[t.owner]
	for i := range stack {
		p.items[stack[i].item].end = now
		stack[i].item = -1
	}
	p.items[t.run].end = now
	delete(p.on, t.owner)
	t.running = false
}

// begin opens a slice of the running task.
func (p *perfetto) begin(cpu int, e Event, now micros) {
	o := p.cpus[cpu].owner
	k := &kinds[e.Kind]
	name := k.slice
	if w := p.view.Names.name(k.args[0].how, e.A); w != "" && k.args[0].how != fHex {
		if e.Kind == EvSyscallEnter {
			name = w
		} else {
			name += " " + w
		}
	}
	args := p.args(e)
	it := p.add(item{name: name, cat: "slice", phase: 'X', start: now, end: now, tid: cpu, args: args})
	p.stacks[o] = append(p.stacks[o], open{kind: e.Kind, item: it, name: name, args: args})
}

// endSlice closes the innermost slice that e ends, and what stands inside it.
func (p *perfetto) endSlice(cpu int, e Event, now micros) bool {
	o := p.cpus[cpu].owner
	stack := p.stacks[o]
	i := len(stack) - 1
	for i >= 0 && stack[i].kind != e.Kind.Opens() {
		i--
	}
	if i < 0 {
		return false
	}
	for j := i; j < len(stack); j++ {
		p.items[stack[j].item].end = now
	}
	it := &p.items[stack[i].item]
	args := p.args(e)
	for k, a := range it.args { // the begin's and, if it was resumed, that
		if _, ok := args[k]; !ok {
			args[k] = a
		}
	}
	it.args = args
	p.stacks[o] = stack[:i]
	return true
}

// instant puts down a moment.
func (p *perfetto) instant(tid int, e Event, now micros, cat string) {
	p.add(item{name: p.momentName(e), cat: cat, phase: 'i', start: now, tid: tid, args: p.args(e)})
}

// momentName is the kind's name, or the word for a free-form event's code.
func (p *perfetto) momentName(e Event) string {
	switch e.Kind {
	case EvMark:
		if w := p.view.Names.name(kinds[e.Kind].args[0].how, e.A); w != "" {
			return w
		}
	case EvPageGet:
		return "get_page"
	case EvPagePut:
		return "put_page"
	}
	return e.Kind.String()
}

// moment puts down a slice that lasts until the CPU's next event, at most a
// microsecond: arrows want a slice to stand on.
func (p *perfetto) moment(cpu int, e Event, now micros, name string) {
	p.cpus[cpu].moment = p.add(item{name: name, cat: "moment", phase: 'X', start: now, end: now, tid: cpu, args: p.args(e)})
}

func (p *perfetto) closeMoment(t *cpuTrack, now micros) {
	if t.moment >= 0 {
		it := &p.items[t.moment]
		it.end = min(now, it.start+momentary)
		t.moment = -1
	}
}

// finish closes everything at the end of its track.
func (p *perfetto) finish() {
	for i := range p.cpus {
		t := &p.cpus[i]
		end := max(t.last, p.end)
		p.closeMoment(t, end)
		p.suspend(i, end)
	}
	for _, b := range p.bios {
		p.items[b.item].end = max(p.end, p.items[b.item].start)
		p.items[b.item].args["unfinished"] = true
	}
}

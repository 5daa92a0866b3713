package scenarios

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// runner is a scenario being run. The machine is deterministic, so one coroutine runs
// at a time and Go variables need no lock.
type runner struct {
	s      *Scenario
	m      *kernel.Machine
	dir    *director
	obj    x86.ObjID // of the counts of meeting points
	pinObj x86.ObjID // of the table of pins
	cols   map[*Column]*colState
	// procs are the processes by name, born those that exist, in order of birth.
	procs  map[string]*procState
	born   []*procState
	events map[string]*lock.Completion
	meets  map[int64]*meeting
	pins   map[string]*pinned
	pipes  map[string]*[2]int
	base   []uint64 // counters when the threads began
	broken string
	vals   map[string]value // of the final state, by the text of the term
	ready  meeting          // everybody stands before the first row
	start  lock.Completion  // the first row may begin
	fin    meeting          // everybody is past the last row
	seen   bool             // the final state has been looked at
	line   *line            // nil unless Tuning.Bare
	digest uint64           // of the memory as it was then; with line
}

// meeting is a place where n columns wait for each other.
type meeting struct {
	n    int32
	here x86.Word32
	all  lock.Completion
	line *line // where they wait in a bare run, instead of on all
}

// colState is a column being run.
type colState struct {
	*Column
	regs   map[string]value
	task   string // what reports call it; empty before it runs
	at     int    // row
	ended  bool   // its remaining rows are not done
	segv   bool
	aio    kernel.ContextID
	flight int // requests submitted and not fetched
}

// pinned is memory that a driver has registered.
type pinned struct {
	reg *kernel.Registration
	off uint64 // of the memory in its first page
}

// procState is a process being run.
type procState struct {
	*proc
	pid     int
	space   *mm.MM
	process *kernel.Process
	addrs   map[string]uint64 // of mappings
	fd      int               // of the disk
	gone    bool              // it has begun to end
	looking lock.Completion   // the process is to look at its memory
	looked  lock.Completion   // it has
	end     lock.Completion   // it is to end
}

// value is a number that may be unknown, or bytes that are not all the same.
type value struct {
	known, mixed bool
	n            int64
}

func number(n int64) value { return value{known: true, n: n} }

// truth is 1 or 0.
func truth(b bool) value {
	if b {
		return number(1)
	}
	return number(0)
}

func newRunner(s *Scenario) *runner {
	r := &runner{
		s: s, cols: map[*Column]*colState{}, procs: map[string]*procState{}, events: map[string]*lock.Completion{},
		meets: map[int64]*meeting{}, pins: map[string]*pinned{}, pipes: map[string]*[2]int{},
	}
	for _, c := range s.Columns {
		r.cols[c] = &colState{Column: c, regs: map[string]value{}}
		if c.proc != nil && r.procs[c.proc.name] == nil {
			r.procs[c.proc.name] = &procState{proc: c.proc, addrs: map[string]uint64{}, fd: -1}
		}
	}
	return r
}

// prepare makes what columns wait on; the machine has been booted.
func (r *runner) prepare() {
	m := r.m.Sched()
	r.obj, r.pinObj = m.NewObj(x86.ClassWord), m.NewObj(x86.ClassWord)
	r.start.Init(m)
	r.ready.all.Init(m)
	r.fin.all.Init(m)
	r.fin.n = int32(len(r.s.Columns))
	for _, c := range r.s.Columns {
		if p := c.proc; p != nil && p.columns[0] == c {
			ps := r.procs[p.name]
			ps.looking.Init(m)
			ps.looked.Init(m)
			ps.end.Init(m)
		}
		if c.Role == Thread || c.Role == Device {
			r.ready.n++
		}
		for _, op := range c.Rows {
			switch {
			case op == nil:
			case op.Verb == "set":
				e := new(lock.Completion)
				e.Init(m)
				r.events[op.Args[0].Word] = e
			case op.Verb == opBarrier:
				mt := r.meets[op.Value.N]
				if mt == nil {
					mt = new(meeting)
					mt.all.Init(m)
					if r.line != nil {
						mt.line = newLine(m)
					}
					r.meets[op.Value.N] = mt
				}
				mt.n++
			}
		}
	}
}

// arrive counts a column in; wait says whether it stays until all are there.
func (r *runner) arrive(t *sched.Task, m *meeting, wait bool) {
	last := m.here.AddReturn(t.C, r.obj, 1) == m.n
	switch {
	case last:
		m.line.end(t)
		m.all.CompleteAll(t)
	case wait && !m.line.finish(t):
		m.all.Wait(t)
	}
}

func (r *runner) fail(format string, args ...any) {
	if r.broken == "" {
		r.broken = fmt.Sprintf(format, args...)
	}
}

// must records a call of the set-up that failed.
func (r *runner) must(what string, err error) {
	if err != nil {
		r.fail("%s: %v", what, err)
	}
}

// lab is the process that all others descend from. It starts them, and looks at the state
// when every column is past its last row.
func (r *runner) lab(t *kernel.Thread) {
	var first *procState
	for _, c := range r.s.Columns {
		switch {
		case c.Role == Device:
			// A process of its own, without memory: what happens to the others does not
			// concern it.
			_, err := t.Fork(func(d *kernel.Thread) { r.column(d, c) })
			r.must("fork", err)
		case c.Role == Thread && first == nil:
			first = r.procs[c.proc.name]
		}
	}
	_, err := t.Fork(func(c *kernel.Thread) {
		r.setUp(c, first)
		r.process(c, first)
	})
	r.must("fork", err)
	_ = t.Kernel(func(task *sched.Task) error {
		r.fin.all.Wait(task)
		return nil
	})
	if len(r.s.Fails) > 0 {
		r.m.FailNever() // the last look at memory is no part of the program
	}
	// Time passes when nobody else can do anything: processes that were to end have.
	for n := 0; n < 1000 && r.ending(); n++ {
		_ = t.Nanosleep(1000)
	}
	r.look(t)
	for _, name := range keys(r.pins) {
		r.must("unpin", t.UnregisterMemory(r.pins[name].reg)) // a pin outlives processes, but not the machine
	}
	_ = t.Kernel(func(task *sched.Task) error {
		for _, p := range r.born {
			p.end.CompleteAll(task)
		}
		return nil
	})
}

// ending reports whether a process is on its way out.
func (r *runner) ending() bool {
	for _, p := range r.born {
		if _, ended := p.process.Status(); p.gone && !ended {
			return true
		}
	}
	return false
}

// process is the life of a process: its columns, then a look at its memory, then the end.
func (r *runner) process(t *kernel.Thread, p *procState) {
	r.bear(p, t.Process())
	for _, c := range p.columns[1:] {
		t.Go(c.Name.Text, func(th *kernel.Thread) { r.column(th, c) })
	}
	r.column(t, p.columns[0])
	if !p.gone {
		_ = t.Kernel(func(task *sched.Task) error {
			p.looking.Wait(task)
			return nil
		})
		r.lookAtMemory(t, p)
		_ = t.Kernel(func(task *sched.Task) error {
			p.looked.CompleteAll(task)
			p.end.Wait(task)
			return nil
		})
	}
	p.gone = true
	t.Exit(0)
}

// bear notes that a process exists: parent or child do, whoever comes first.
func (r *runner) bear(p *procState, k *kernel.Process) {
	if p.process == nil {
		p.pid, p.space, p.process = k.PID(), k.MM(), k
		r.born = append(r.born, p)
	}
}

// forked notes that a child exists, which may have got some way already.
func (r *runner) forked(p *procState, pid int) {
	for _, k := range r.m.Processes() {
		if k.PID() == pid && k.MM() != nil {
			r.bear(p, k)
		}
	}
}

// setUp makes the memory, the files and the pipes of the first process.
func (r *runner) setUp(t *kernel.Thread, p *procState) {
	s := r.s
	if s.Machine.Swap != 0 {
		r.must("swapon", t.Swapon("/dev/"+swapName, 0))
	}
	for _, m := range s.Maps {
		var addr uint64
		var err error
		if m.File {
			addr, err = mapFile(t, m.Pages)
		} else {
			rw := m // init writes it
			rw.ReadOnly = false
			addr, err = mapMemory(t, &rw)
		}
		r.must("mmap", err)
		p.addrs[m.Name.Text] = addr
	}
	for _, in := range s.Inits {
		if in.Place.Name != "disk" {
			t.Fill(p.addrs[in.Place.Name]+uint64(in.Place.Off), uint64(in.Place.Len), byte(in.Value.N))
		}
	}
	for _, m := range s.Maps {
		if m.ReadOnly {
			r.must("mprotect", t.Mprotect(p.addrs[m.Name.Text], uint64(m.Pages*m.pageBytes()), mm.ProtRead))
		}
	}
	if s.Machine.Disk != 0 {
		fd, err := t.Open("/dev/"+diskName, fs.ORdwr|fs.ODirect)
		r.must("open", err)
		p.fd = fd
	}
	for _, n := range s.Pipes {
		in, out, err := t.Pipe()
		r.must("pipe", err)
		r.pipes[n.Text] = &[2]int{in, out}
	}
	_ = t.Kernel(r.drainAll)
}

// drainAll empties the pagevecs, so that a page's references are those that the scenario
// makes.
func (r *runner) drainAll(task *sched.Task) error {
	for cpu := range r.m.Sched().CPUs() {
		r.m.Pages().LRUAddDrainCPU(task, cpu)
	}
	return nil
}

func mapMemory(t *kernel.Thread, m *Map) (uint64, error) {
	prot, flags := mm.ProtRead|mm.ProtWrite, mm.MapAnonymous|mm.MapPrivate
	if m.ReadOnly {
		prot = mm.ProtRead
	}
	if m.Shared {
		flags = mm.MapAnonymous | mm.MapShared
	}
	if m.Huge {
		flags |= mm.MapHugetlb | mm.MapHuge2M
	}
	return t.Mmap(0, uint64(m.Pages*m.pageBytes()), prot, flags, -1, 0)
}

// mapFile maps a new file privately. The machine's files of tmpfs cannot be opened twice, so
// the file is one that a shared mapping has made; that goes again.
func mapFile(t *kernel.Thread, pages int64) (addr uint64, err error) {
	const rw = mm.ProtRead | mm.ProtWrite
	n := uint64(pages) << x86.PageShift
	shared, err := t.Mmap(0, n, rw, mm.MapAnonymous|mm.MapShared, -1, 0)
	if err != nil {
		return 0, err
	}
	err = t.Kernel(func(task *sched.Task) (err error) {
		space := t.MM()
		space.MmapSem.DownRead(task)
		v := space.FindVMA(task, shared)
		req := mm.MmapRequest{Len: n, Prot: rw, Flags: mm.MapPrivate, File: v.File, Mapping: v.Mapping}
		space.MmapSem.UpRead(task)
		addr, err = mm.SysMmap(task, space, req, 0)
		return err
	})
	if err != nil {
		return 0, err
	}
	return addr, t.Munmap(shared, n)
}

// begin lets the threads of the first process and the devices meet before the first row;
// from the first row on the strategy decides.
func (r *runner) begin(t *kernel.Thread, c *Column) {
	if c.Role != Thread && c.Role != Device {
		return
	}
	_ = t.Kernel(func(task *sched.Task) error {
		if c.proc == nil || c != c.proc.columns[0] {
			r.arrive(task, &r.ready, false)
			if r.line == nil {
				r.start.Wait(task)
			}
			r.line.wait(task)
			return nil
		}
		r.arrive(task, &r.ready, true)
		r.base = r.m.Trace().Snapshot()
		for _, f := range r.s.Fails {
			site := f.Site.Text
			if site == "any" {
				site = ""
			}
			r.m.FailAt(site, int(f.Nth.N)) // one task runs, and it does not allocate
		}
		r.m.OfferReclaim()
		r.dir.gate.Open()
		if r.line != nil {
			r.line.pass(task)
		} else {
			r.start.CompleteAll(task)
		}
		return nil
	})
}

// exec is a column's thread.
type exec struct {
	*kernel.Thread
	r *runner
	c *colState
	p *procState // nil for a device
}

// column does what a column says.
func (r *runner) column(t *kernel.Thread, c *Column) {
	x := &exec{Thread: t, r: r, c: r.cols[c]}
	if c.proc != nil {
		x.p = r.procs[c.proc.name]
	}
	x.c.task = t.Task().Name
	defer x.killed()
	r.begin(t, c)
	for ; x.c.at < len(c.Rows) && !x.c.ended; x.c.at++ {
		if op := c.Rows[x.c.at]; op != nil {
			x.step(op)
		}
	}
	if x.c.ended {
		return // somebody has counted it in
	}
	if x.c.aio != 0 {
		x.finishAIO()
	}
	x.c.ended = true
	if c.proc != nil && c.proc.vfork {
		x.p.gone = true
	}
	_ = t.Kernel(func(task *sched.Task) error {
		r.finish(task)
		if c.proc == nil || !c.proc.vfork {
			r.line.finish(task)
			// Another thread of its process may exit; somebody may wait for that.
			return r.fin.all.WaitKillable(task)
		}
		return nil
	})
}

// killed counts the columns of a process that the kernel kills, because a fault of one of its
// threads found no memory, in wherever they would have come. The thread is on its way out, but
// can still wake others.
func (x *exec) killed() {
	if x.p == nil || !x.Exiting() {
		return
	}
	x.p.gone = true
	if x.c.ended {
		return
	}
	task := x.Task()
	task.User = false
	x.r.abandon(task, x.p, nil)
}

// finish counts a column as done. The search is over with the last one.
func (r *runner) finish(t *sched.Task) {
	if r.fin.here.AddReturn(t.C, r.obj, 1) == r.fin.n {
		r.m.AwaitReclaim()
		r.dir.over = true
		r.line.end(t)
		r.fin.all.CompleteAll(t)
	}
}

// die ends the process of a column by force: the rest of its columns is not done, but
// counts as having passed the places where others wait for it.
func (x *exec) die(code int) {
	x.p.gone = true // before anybody is woken
	_ = x.Kernel(func(task *sched.Task) error {
		x.r.abandon(task, x.p, x.c)
		return nil
	})
	x.Exit(code)
}

// abandon counts the columns of a process, and of children that now nobody forks, in
// wherever they would have come; by is the column that does the row at hand itself.
func (r *runner) abandon(t *sched.Task, p *procState, by *colState) {
	for _, col := range p.columns {
		c := r.cols[col]
		if c.ended {
			continue
		}
		c.ended = true
		for i := c.at; i < len(c.Rows); i++ {
			op := c.Rows[i]
			if op == nil || c == by && i == c.at {
				continue
			}
			switch op.Verb {
			case opBarrier:
				r.arrive(t, r.meets[op.Value.N], false)
			case "set":
				r.events[op.Args[0].Word].CompleteAll(t)
			case "fork", "vfork":
				if q := r.procs[op.Args[0].Word]; q.process == nil {
					r.abandon(t, q, nil)
				}
			}
		}
		r.finish(t)
	}
}

// counterNow returns how much a counter grew since the threads began.
func (r *runner) counterNow(c trace.Counter) int64 {
	n := r.m.Trace().Sum(c)
	if r.base != nil {
		n -= r.base[c]
	}
	return int64(n)
}

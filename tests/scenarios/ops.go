package scenarios

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// step does an operation. An error becomes the result, if a register takes it; otherwise
// the run is broken.
func (x *exec) step(op *Op) {
	v, err := x.do(op)
	var sig *kernel.SigError
	var no unix.Errno
	switch {
	case errors.As(err, &sig):
		x.c.segv = true
		x.die(int(kernel.Exited(128 + int(sig.Sig)).ExitCode()))
		return
	case errors.As(err, &no) && op.Dst.Text != "":
		v = number(-int64(no))
	case err != nil:
		x.r.fail("%s, line %d: %s: %v", x.c.Name.Text, op.Pos.Line, op, err)
	}
	if op.Dst.Text != "" {
		x.c.regs[op.Dst.Text] = v
	}
}

func (x *exec) do(op *Op) (value, error) {
	p := op.Place
	switch op.Verb {
	case opStore:
		return value{}, x.store(p, byte(op.Value.N))
	case opLoad:
		return x.load(p)
	case opDMAWrite, opDMARead:
		return x.dma(op)
	case opPeek:
		return x.peek(p)
	case opPoke:
		return value{}, x.poke(p, byte(op.Value.N))
	case opSample:
		return x.r.sample(op.Term, x.p), nil
	case opBarrier:
		_ = x.Kernel(func(task *sched.Task) error {
			x.r.arrive(task, x.r.meets[op.Value.N], true)
			return nil
		})
		return value{}, nil
	}
	n, err := op.verb.do(x, op)
	if n == mixedBytes {
		return value{known: true, mixed: true}, err
	}
	return number(n), err
}

// mixedBytes is the result of an operation whose bytes are not all the same.
const mixedBytes = -1 << 62

func bytesValue(b []byte) value {
	for _, c := range b {
		if c != b[0] {
			return value{known: true, mixed: true}
		}
	}
	return number(int64(b[0]))
}

// addr returns the address of memory in the column's process.
func (x *exec) addr(p *Place) (addr, length uint64) {
	return x.p.addrs[p.Name] + uint64(p.Off), uint64(p.Len)
}

// place returns the address of an operation's first PLACE.
func (x *exec) place(op *Op) (addr, length uint64) {
	for i := range op.Args {
		if p := op.Args[i].Place; p != nil {
			return x.addr(p)
		}
	}
	return 0, 0
}

func (op *Op) has(word string) bool {
	for i := range op.Args {
		if op.Args[i].Word == word {
			return true
		}
	}
	return false
}

func (x *exec) store(p *Place, v byte) error {
	addr, n := x.addr(p)
	if n == 1 {
		return x.TryStore8(addr, v)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = v
	}
	_, err := x.TryWrite(addr, b)
	return err
}

func (x *exec) load(p *Place) (value, error) {
	addr, n := x.addr(p)
	return loadBytes(x.Thread, addr, n)
}

func loadBytes(t *kernel.Thread, addr, n uint64) (value, error) {
	if n == 1 {
		b, err := t.TryLoad8(addr)
		return number(int64(b)), err
	}
	b := make([]byte, n)
	_, err := t.TryRead(addr, b)
	return bytesValue(b), err
}

// pin looks into the table of pins, which columns share: that is a step.
func (x *exec) pin(name string, what x86.Op) *pinned {
	_ = x.Kernel(func(task *sched.Task) error {
		task.Point(what, x.r.pinObj)
		return nil
	})
	return x.r.pins[name]
}

func (x *exec) dma(op *Op) (value, error) {
	pin := x.pin(op.Place.Name, x86.OpRead)
	if pin == nil {
		return value{}, unix.EINVAL
	}
	reg := pin.reg
	b := make([]byte, op.Place.Len)
	if op.Verb == opDMARead {
		err := x.DeviceRead(reg, uint64(op.Place.Off), b)
		return bytesValue(b), err
	}
	for i := range b {
		b[i] = byte(op.Value.N)
	}
	return number(0), x.DeviceWrite(reg, uint64(op.Place.Off), b)
}

// target returns the process that a debugger looks at, and the address there.
func (x *exec) target(p *Place) (pid int, addr uint64, err error) {
	q := x.r.procOf(p.Column)
	if q.process == nil {
		return 0, 0, unix.ESRCH
	}
	return q.pid, q.addrs[p.Name] + uint64(p.Off), nil
}

func (x *exec) peek(p *Place) (value, error) {
	pid, addr, err := x.target(p)
	if err != nil {
		return value{}, err
	}
	word, err := x.PtracePeek(pid, addr&^7)
	return number(int64(word >> (addr & 7 * 8) & 0xff)), err
}

func (x *exec) poke(p *Place, v byte) error {
	pid, addr, err := x.target(p)
	if err != nil {
		return err
	}
	word, err := x.PtracePeek(pid, addr&^7)
	if err != nil {
		return err
	}
	shift := addr & 7 * 8
	return x.PtracePoke(pid, addr&^7, word&^(0xff<<shift)|uint64(v)<<shift)
}

func doFork(x *exec, op *Op) (int64, error) {
	q := x.r.procs[op.Args[0].Word]
	for name, addr := range x.p.addrs {
		q.addrs[name] = addr
	}
	q.fd = x.p.fd
	fn := func(c *kernel.Thread) { x.r.process(c, q) }
	fork := x.Fork
	if q.vfork {
		fork = x.Vfork
	}
	pid, err := fork(fn)
	if err != nil {
		_ = x.Kernel(func(task *sched.Task) error {
			x.r.abandon(task, q, nil)
			return nil
		})
		return 0, err
	}
	x.r.forked(q, pid)
	return 0, nil
}

func doWait(x *exec, op *Op) (int64, error) {
	q := x.r.procs[op.Args[0].Word]
	_, _, err := x.Wait(q.pid)
	return 0, err
}

func doExit(x *exec, op *Op) (int64, error) {
	code := 0
	if len(op.Args) > 0 {
		code = int(op.Args[0].Num.N)
	}
	x.die(code)
	return 0, nil
}

func doSet(x *exec, op *Op) (int64, error) {
	return 0, x.Kernel(func(task *sched.Task) error {
		x.r.events[op.Args[0].Word].CompleteAll(task)
		return nil
	})
}

func doAwait(x *exec, op *Op) (int64, error) {
	return 0, x.Kernel(func(task *sched.Task) error {
		x.r.events[op.Args[0].Word].Wait(task)
		return nil
	})
}

// pauseNS is what Compute does between two schedule points.
const pauseNS = 10_000

// doPause passes points and touches nothing.
func doPause(x *exec, op *Op) (int64, error) {
	x.Compute(uint64(op.Args[0].Num.N) * pauseNS)
	return 0, nil
}

func doDirect(x *exec, op *Op) (int64, error) {
	addr, n := x.place(op)
	off := op.Args[2].Num.N
	var got int
	var err error
	if op.Verb == "pread" {
		got, err = x.Pread(x.p.fd, addr, int(n), off)
	} else {
		got, err = x.Pwrite(x.p.fd, addr, int(n), off)
	}
	return int64(got), err
}

func doSubmit(x *exec, op *Op) (int64, error) {
	if x.c.aio == 0 {
		id, err := x.IoSetup(8)
		if err != nil {
			return 0, err
		}
		x.c.aio = id
	}
	addr, n := x.place(op)
	req := kernel.IOCB{Op: kernel.IOCBCmdPread, FD: x.p.fd, Buf: addr, Len: n, Off: op.Args[2].Num.N}
	if op.Verb == "io_write" {
		req.Op = kernel.IOCBCmdPwrite
	}
	k, err := x.IoSubmit(x.c.aio, []kernel.IOCB{req})
	x.c.flight += k
	return int64(k), err
}

func doIOWait(x *exec, op *Op) (int64, error) {
	n := x.c.flight
	if len(op.Args) > 0 {
		n = min(n, int(op.Args[0].Num.N))
	}
	if n <= 0 {
		return 0, nil
	}
	ev, err := x.IoGetevents(x.c.aio, n, n, -1)
	x.c.flight -= len(ev)
	if err != nil || len(ev) == 0 {
		return 0, err
	}
	last := ev[len(ev)-1].Res
	if last < 0 {
		return 0, unix.Errno(-last)
	}
	return last, nil
}

// finishAIO waits for what a column has submitted and not waited for.
func (x *exec) finishAIO() {
	if x.c.flight > 0 {
		_, err := x.IoGetevents(x.c.aio, x.c.flight, x.c.flight, -1)
		x.r.must("io_getevents", err)
	}
	x.r.must("io_destroy", x.IoDestroy(x.c.aio))
}

func doHold(x *exec, _ *Op) (int64, error) {
	x.r.dir.held = true
	return 0, nil
}

func doRelease(x *exec, _ *Op) (int64, error) {
	x.r.dir.held = false
	return 0, nil
}

func doPin(x *exec, op *Op) (int64, error) {
	addr, n := x.place(op)
	o := kernel.RegisterOptions{Write: op.has("write"), Fast: op.has("fast"), Umem: op.has("umem")}
	switch {
	case op.has("pin"):
		o.Kind = mm.PinPin
	case op.has("longterm"):
		o.Kind = mm.PinLongterm
	}
	reg, err := x.RegisterMemory(addr, n, o)
	if err == nil {
		x.pin("", x86.OpWrite)
		x.r.pins[op.Args[0].Word] = &pinned{reg, addr &^ x86.PageMask}
	}
	return 0, err
}

func doUnpin(x *exec, op *Op) (int64, error) {
	pin := x.pin(op.Args[0].Word, x86.OpWrite)
	if pin == nil {
		return 0, unix.EINVAL
	}
	delete(x.r.pins, op.Args[0].Word)
	return 0, x.UnregisterMemory(pin.reg)
}

func doVmsplice(x *exec, op *Op) (int64, error) {
	addr, n := x.place(op)
	got, err := x.Vmsplice(x.r.pipes[op.Args[0].Word][1], addr, int(n), 0)
	return int64(got), err
}

// doPipeRead reads into memory that it maps for that and unmaps again.
func doPipeRead(x *exec, op *Op) (int64, error) {
	n := uint64(op.Args[1].Num.N)
	into, err := x.MmapAnon(n)
	if err != nil {
		return 0, err
	}
	for got := uint64(0); got < n; {
		k, err := x.ReadFD(x.r.pipes[op.Args[0].Word][0], into+got, int(n-got))
		if err != nil {
			return 0, err
		}
		if k == 0 {
			return 0, unix.EPIPE
		}
		got += uint64(k)
	}
	v := bytesValue(x.Bytes(into, int(n)))
	if err := x.Munmap(into, n); err != nil {
		return 0, err
	}
	if v.mixed {
		return mixedBytes, nil
	}
	return v.n, nil
}

func doMmap(x *exec, op *Op) (int64, error) {
	addr, err := mapMemory(x.Thread, &Map{Pages: op.Args[1].Num.N, Shared: op.has("shared"), ReadOnly: op.has("ro")})
	x.p.addrs[op.Args[0].Word] = addr
	return 0, err
}

func doMunmap(x *exec, op *Op) (int64, error) {
	addr, n := x.place(op)
	return 0, x.Munmap(addr, n)
}

func doMprotect(x *exec, op *Op) (int64, error) {
	addr, n := x.place(op)
	prot := mm.ProtNone
	switch {
	case op.has("r"):
		prot = mm.ProtRead
	case op.has("rw"):
		prot = mm.ProtRead | mm.ProtWrite
	}
	return 0, x.Mprotect(addr, n, prot)
}

// doMremap moves a whole mapping to where mmap finds room.
func doMremap(x *exec, op *Op) (int64, error) {
	name := op.Args[0].Word
	n := x.r.s.mapBytes(name)
	to, err := x.MmapAnon(n)
	if err != nil {
		return 0, err
	}
	at, err := x.Mremap(x.p.addrs[name], n, n, mm.MremapMayMove|mm.MremapFixed, to)
	if err == nil {
		x.p.addrs[name] = at
	}
	return 0, err
}

// mapBytes returns the length of a mapping.
func (s *Scenario) mapBytes(name string) uint64 {
	for _, m := range s.Maps {
		if m.Name.Text == name {
			return uint64(m.Pages * m.pageBytes())
		}
	}
	for _, c := range s.Columns {
		for _, op := range c.Rows {
			if op != nil && op.Verb == "mmap" && op.Args[0].Word == name {
				return uint64(op.Args[1].Num.N) << x86.PageShift
			}
		}
	}
	return 0
}

func doMadvise(x *exec, op *Op) (int64, error) {
	addr, n := x.place(op)
	advice := map[string]mm.Advice{
		"dontfork": mm.MadvDontFork, "dofork": mm.MadvDoFork, "dontcow": mm.MadvDontCOW,
		"dontneed": mm.MadvDontNeed, "pageout": mm.MadvPageout, "mergeable": mm.MadvMergeable,
	}[op.Args[1].Word]
	return 0, x.Madvise(addr, n, advice)
}

func doMlock(x *exec, op *Op) (int64, error) {
	addr, n := x.place(op)
	if op.Verb == "munlock" {
		return 0, x.Munlock(addr, n)
	}
	return 0, x.Mlock(addr, n)
}

// doSwapout reclaims a page: a single attempt may find it young or locked.
func doSwapout(x *exec, op *Op) (int64, error) {
	addr, n := x.place(op)
	for range 4 {
		if err := x.Madvise(addr&x86.PageMask, n, mm.MadvPageout); err != nil {
			return 0, err
		}
		if x.p.space.PeekPTE(addr).IsSwap() {
			return 1, nil
		}
	}
	return 0, nil
}

func doReclaim(x *exec, _ *Op) (int64, error) {
	return 0, x.Kernel(func(task *sched.Task) error {
		x.r.m.MM().DropClean(task)
		return nil
	})
}

func doKSM(x *exec, op *Op) (int64, error) { return 0, x.KSMScan(int(op.Args[0].Num.N)) }

func doFence(x *exec, _ *Op) (int64, error) {
	return 0, x.Kernel(func(task *sched.Task) error {
		task.C.Fence()
		return nil
	})
}

func doDrain(x *exec, _ *Op) (int64, error) { return 0, x.Kernel(x.r.drainAll) }

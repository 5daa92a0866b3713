package fs

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// witness is a policy that notes what it is told and counts pins by kind.
type witness struct {
	mm.Stock
	lock   x86.RawSpin
	log    []string
	users  map[*mm.PinUser]int
	fail   error
	inIRQ  int
	pinned int // references of the kind, taken less put
}

func newWitness() *witness { return &witness{users: map[*mm.PinUser]int{}} }

func (w *witness) Name() string            { return "witness" }
func (w *witness) Hooks() mm.HookSet       { return mm.HookPin | mm.HookPut }
func (w *witness) DirectIOPin() mm.PinKind { return mm.PinPin }

func (w *witness) note(t *sched.Task, what string, u *mm.PinUser) {
	w.lock.Lock()
	w.log = append(w.log, what)
	w.users[u]++
	if t.InIRQ() {
		w.inIRQ++
	}
	w.lock.Unlock()
}

func (w *witness) PinBegin(u *mm.PinUser) error {
	w.note(u.T, "begin", u)
	return w.fail
}
func (w *witness) PinEnd(t *sched.Task, u *mm.PinUser)       { w.note(t, "end", u) }
func (w *witness) PinSubmitted(t *sched.Task, u *mm.PinUser) { w.note(t, "submitted", u) }
func (w *witness) PinReleased(t *sched.Task, u *mm.PinUser)  { w.note(t, "released", u) }

func (w *witness) Take(t *sched.Task, p *page.Page, kind mm.PinKind, n int) {
	w.count(t, kind, n)
	w.Stock.Take(t, p, kind, n)
}

func (w *witness) Put(t *sched.Task, p *page.Page, kind mm.PinKind, n int) {
	w.count(t, kind, -n)
	w.Stock.Put(t, p, kind, n)
}

func (w *witness) count(t *sched.Task, kind mm.PinKind, n int) {
	if kind != mm.PinPin {
		t.Oops("pin of kind %d", kind)
	}
	w.lock.Lock()
	w.pinned += n
	w.lock.Unlock()
}

// TestPolicySeesPins: the order of the hooks, and that pins balance.
func TestPolicySeesPins(t *testing.T) {
	regimes(t, 2, 20, func(t *testing.T, cfg config) {
		w := newWitness()
		cfg.policy = w
		r := newRig(t, cfg)
		r.dev.Inject.Add(blk.Fault{First: 500, Last: 500, Reads: true, Writes: true})
		r.run(func(u *user) {
			f := u.open(ORdwr | ODirect)
			a := u.mmap(8)
			check := func(what string, want ...string) {
				w.lock.Lock()
				log, inIRQ := w.log, w.inIRQ
				w.log, w.inIRQ = nil, 0
				w.lock.Unlock()
				if !assert.ObjectsAreEqual(want, log) || inIRQ != 0 {
					u.t.Oops("%s: %v, %d in interrupts", what, log, inIRQ)
				}
			}
			n, err := f.Pread(u.t, a+512, 3*4096, 0)
			u.want("pread", n, err, 3*4096, nil)
			check("read", "begin", "end", "released", "submitted")
			n, err = f.Pwrite(u.t, a, 4096, 500*512)
			u.want("pwrite", n, err, 0, unix.EIO)
			check("failed write", "begin", "end", "released", "submitted")
			n, err = f.Pread(u.t, 0x5000, 4096, 0)
			u.want("pread", n, err, 0, unix.EFAULT)
			check("unmapped", "begin", "end", "released", "submitted")
			n, err = f.Pread(u.t, 0x5000, 4096, 1)
			u.want("pread", n, err, 0, unix.EINVAL)
			check("misaligned")
			w.fail = unix.EINTR
			n, err = f.Pread(u.t, a, 4096, 0)
			u.want("pread", n, err, 0, unix.EINTR)
			check("refused", "begin") // and nothing else
			w.fail = nil
			id := u.setup(1)
			u.submit(id, &IOCB{File: f, Buf: a, Nbytes: 4096})
			u.events(id, 1)
			u.destroy(id)
			f.Put(u.t)
		})
		// "submitted" may come at any place after "begin", "released" after "end".
		var rest []string
		for _, s := range w.log {
			if s != "submitted" {
				rest = append(rest, s)
			}
		}
		assert.Equal(t, []string{"begin", "end", "released"}, rest)
		assert.Len(t, w.log, 4)
		assert.Zero(t, w.pinned)
		if cfg.Regime == sched.Timed {
			assert.Equal(t, []string{"begin", "submitted", "end", "released"}, w.log)
			assert.Equal(t, 2, w.inIRQ, "end and release happen in the interrupt")
		}
	})
}

// rangesOf keeps the buffers that PinBegin is told of.
type rangesOf struct {
	mm.Stock
	got mm.PinUser
}

func (p *rangesOf) Hooks() mm.HookSet { return mm.HookPin }
func (p *rangesOf) PinBegin(u *mm.PinUser) error {
	p.got = *u
	p.got.Ranges = append([]mm.Range(nil), u.Ranges...)
	return nil
}

func TestPinUser(t *testing.T) {
	p := &rangesOf{}
	cfg := one()
	cfg.policy = p
	r := newRig(t, cfg)
	r.run(func(u *user) {
		f := u.open(ORdwr | ODirect)
		a := u.mmap(4)
		for range 2 { // the second time with a DIO that has been used
			_, err := f.Preadv(u.t, []IOVec{{a, 512}, {a + 8192, 1024}}, 0)
			u.must(err)
			want := []mm.Range{{Addr: a, Len: 512}, {Addr: a + 8192, Len: 1024}}
			if !assert.ObjectsAreEqual(want, p.got.Ranges) || p.got.MM != u.m || p.got.Kind != mm.UserDirectIO ||
				!p.got.Write || p.got.Async || p.got.T != u.t {
				u.t.Oops("%+v", p.got)
			}
		}
		id := u.setup(1)
		u.submit(id, &IOCB{File: f, Opcode: IOCBCmdPwrite, Buf: a, Nbytes: 4096})
		u.events(id, 1)
		if p.got.Write || !p.got.Async {
			u.t.Oops("%+v", p.got)
		}
		u.destroy(id)
		f.Put(u.t)
	})
}

// pinnedSem is the lock of KOSAKI's second patch, without its other half: fork waits
// until every direct request has completed, asynchronous ones included.
type pinnedSem struct {
	mm.Stock
	sem lock.RWSem
}

func (p *pinnedSem) Hooks() mm.HookSet { return mm.HookPin | mm.HookForkLock }
func (p *pinnedSem) PinBegin(u *mm.PinUser) error {
	p.sem.DownReadNonOwner(u.T)
	return nil
}
func (p *pinnedSem) PinEnd(t *sched.Task, _ *mm.PinUser) { p.sem.UpReadNonOwner(t) }
func (p *pinnedSem) ForkLock(t *sched.Task, _ *mm.MM) error {
	p.sem.DownWrite(t)
	return nil
}
func (p *pinnedSem) ForkUnlock(t *sched.Task, _ *mm.MM) { p.sem.UpWrite(t) }

// TestPinnedSem: with fork held off until dio_complete, no read is lost.
func TestPinnedSem(t *testing.T) {
	regimes(t, 2, 20, func(t *testing.T, cfg config) {
		p := &pinnedSem{}
		cfg.policy = p
		r := newRig(t, cfg)
		p.sem.Init(r.m, lock.PinnedSem)
		r.run(func(u *user) {
			f := u.open(ORdonly | ODirect)
			a := u.mmap(1)
			u.put(a, make([]byte, 4096))
			id := u.setup(1)
			u.submit(id, &IOCB{File: f, Buf: a, Nbytes: 1024})
			child, err := u.r.mm.DupMM(u.t, u.m)
			u.must(err)
			done := u.r.spawn(u.t, 1, child, func(c *user) {})
			u.put(a+2048, []byte{1})
			u.want("read", u.events(id, 1)[0], nil, 1024, nil)
			u.holds(a, 1024, 0)
			done.Wait(u.t)
			u.destroy(id)
			f.Put(u.t)
		})
		if !p.sem.Idle() {
			t.Error("the semaphore is still held")
		}
	})
}

// TestPinHooksAskedForOnly: direct I/O calls nothing of a policy that does not ask for HookPin, and
// nothing but PinBegin if that ends the operation.
func TestPinHooksAskedForOnly(t *testing.T) {
	for _, c := range []struct {
		hooks mm.HookSet
		n     int64
		err   error
		log   []string
	}{{0, 4096, nil, nil}, {mm.HookPin, 0, unix.EINTR, []string{"begin"}}} {
		w := newWitness()
		w.fail = unix.EINTR
		cfg := one()
		cfg.policy = hooked{w, c.hooks}
		r := newRig(t, cfg)
		r.run(func(u *user) {
			f := u.open(ORdonly | ODirect)
			n, err := f.Pread(u.t, u.mmap(1), 4096, 0)
			u.want("pread", n, err, c.n, c.err)
			f.Put(u.t)
		})
		assert.Equal(t, c.log, w.log)
	}
}

// hooked is a policy that asks for certain hooks.
type hooked struct {
	*witness
	hooks mm.HookSet
}

func (h hooked) Hooks() mm.HookSet { return h.hooks }

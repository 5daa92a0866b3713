package mm

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// ksmRace is the smallest program of the race between gup-fast and write_protect_page: a
// thread pins one of two equal pages for a device to write to, while a pass of KSM that will
// merge them goes on. What the device wrote must be there afterwards.
type ksmRace struct {
	s       *System
	m       *MM
	target  uint64 // the page that is pinned
	scanned lock.Completion
	verdict string
	detail  string
	merged  bool // the page was pinned and merged at the same time
	store   bool // the other thread stores to the page, and pins nothing
}

const ksmRaceAddr = 0x10000

// access is a load or store with its faults.
func (c *ksmRace) access(t *sched.Task, fn func() x86.FaultCode) {
	for {
		ec := fn()
		if ec == x86.NoFault {
			return
		}
		if sig, ok := DoPageFault(t, c.m, t.C.CR2, ec); !ok {
			t.Oops("signal %v at %#x", sig.Signo, sig.Addr)
		}
	}
}

func (c *ksmRace) directIO(t *sched.Task) {
	pages := make([]*page.Page, 1)
	n, err := GetUserPagesFast(t, c.target, 1, true /* write */, PinGet, pages)
	if n != 1 || err != nil {
		t.Oops("get_user_pages_fast: %d, %v", n, err)
	}
	c.scanned.Wait(t)
	if e := c.m.PeekPTE(c.target); e.PFN() != c.s.Pages.PFN(pages[0]) {
		c.merged = c.s.Pages.Page(e.PFN()).KSM()
	}
	c.s.Mem.DMAWrite(c.s.Pages.PFN(pages[0]), 512, []byte{0xaa})
	c.s.PutUserPage(t, pages[0], PinGet)
	var got uint64
	c.access(t, func() (ec x86.FaultCode) {
		got, ec = t.C.Load(c.target+512, 1)
		return ec
	})
	if got != 0xaa || c.merged {
		c.verdict = "lost-read"
		c.detail = fmt.Sprintf("want 0xaa, found %#x; merged %v", got, c.merged)
	}
	ExitMM(t)
}

// storing is the other program: a store while the page is about to be merged.
func (c *ksmRace) storing(t *sched.Task) {
	var got uint64
	c.access(t, func() x86.FaultCode { return t.C.Store(c.target+512, 8, 0xaa) })
	c.scanned.Wait(t)
	c.access(t, func() (ec x86.FaultCode) {
		got, ec = t.C.Load(c.target+512, 1)
		return ec
	})
	if got != 0xaa {
		c.verdict, c.detail = "lost-store", fmt.Sprintf("want 0xaa, found %#x", got)
	}
	ExitMM(t)
}

func (c *ksmRace) setUp(t *sched.Task) {
	var err error
	if c.m, err = c.s.NewMM(t); err != nil {
		t.Oops("%v", err)
	}
	c.m.MMGet(t)
	c.m.ActivateMM(t)
	if err := c.s.KSMRun(t, KSMRunStop); err != nil {
		t.Oops("KSMRun: %v", err)
	}
	c.m.MmapSem.DownWrite(t)
	_, err = DoMmap(t, c.m, MmapRequest{Addr: ksmRaceAddr, Len: 2 * x86.PageSize, Prot: ProtRead | ProtWrite,
		Flags: MapPrivate | MapAnonymous | MapFixed})
	c.m.MmapSem.UpWrite(t)
	if err == nil {
		err = SysMadvise(t, c.m, ksmRaceAddr, 2*x86.PageSize, MadvMergeable)
	}
	if err != nil {
		t.Oops("set-up: %v", err)
	}
	for i := range uint64(2) {
		c.access(t, func() x86.FaultCode { return t.C.Store(ksmRaceAddr+i*x86.PageSize, 8, 1) })
	}
	if err := c.s.KSMScan(t, 1); err != nil { // now their checksums are known
		t.Oops("KSMScan: %v", err)
	}
}

// ksmRaceTarget makes the program a target; target is the page that is pinned, countFirst
// has the counts compared too early.
func ksmRaceTarget(target uint64, countFirst, store bool) explore.Target {
	return explore.Target{Name: "ksm", Policy: "stock", Run: func(st sched.Strategy, o sched.Observer) explore.Observation {
		mem, err := testHost.NewMemory(x86.MemoryOptions{Bytes: 1 << 20})
		if err != nil {
			panic(err)
		}
		defer mem.Release()
		gate := explore.NewGate(st)
		m, err := sched.New(sched.Options{CPUs: 2, Regime: sched.Free, Strategy: gate, Mem: mem, Host: schedHost, StepLimit: 20000})
		if err != nil {
			panic(err)
		}
		defer m.Shutdown()
		m.RegisterNamer(x86.ClassLock, lock.Namer)
		s, err := NewSystem(m, page.NewMap(m, mem), Options{KSM: true})
		if err != nil {
			panic(err)
		}
		s.ksm.countFirst = countFirst
		m.SetObserver(o)
		c := &ksmRace{s: s, target: target, store: store, verdict: explore.Safe}
		c.scanned.Init(m)
		m.Start(nil, m.NewTask(sched.TaskOptions{Name: "init", CPU: 1}, func(t *sched.Task) {
			c.setUp(t)
			scan := m.NewTask(sched.TaskOptions{Name: "ksm", CPU: 2}, func(t *sched.Task) {
				if err := s.KSMScan(t, 1); err != nil {
					t.Oops("KSMScan: %v", err)
				}
				c.scanned.Complete(t)
			})
			s.InitTask(scan, nil)
			other := c.directIO
			if store {
				other = c.storing
			}
			dio := m.NewTask(sched.TaskOptions{Name: "dio", CPU: 1}, other)
			c.m.MMGet(t)
			s.InitTask(dio, c.m)
			m.Start(t, scan)
			m.Start(t, dio)
			gate.Open()
			c.m.MMPut(t)
			ExitMM(t)
		}))
		r := m.Run()
		obs := explore.Observation{Verdict: c.verdict, Detail: c.detail, Steps: r.Steps, Result: r}
		if v := explore.VerdictOf(r); v != "" {
			obs.Verdict, obs.Detail = v, r.Detail
		} else if errs := s.CheckRest(); len(errs) > 0 {
			obs.Verdict, obs.Detail = "bug", errs[0].Error()
		}
		var h explore.StateHash
		h.PutString("verdict", obs.Verdict)
		h.PutUint("steps", r.Steps)
		h.PutUint("ns", r.NS)
		obs.State = h.Sum()
		return obs
	}}
}

var schedHost = &sched.Host{}

// KSM does not merge a page that gup-fast has pinned, whenever it came (schedule S10): the
// entry is cleared and flushed before the counts are compared, and the flush waits for whoever
// is inside gup-fast. If the counts are compared first, one switch at the wrong moment has the page
// merged and pinned. The first page needs three: the flush for the second comes before.
func TestKSMAgainstGUPFast(t *testing.T) {
	const first, second = ksmRaceAddr, ksmRaceAddr + x86.PageSize
	two, others := 2, uint64(500)
	if race { // searches run on one goroutine at a time: the detector has nothing to see
		two, others = 1, 30
	}
	for _, c := range []struct {
		target      uint64
		countFirst  bool
		preemptions int
	}{
		{first, false, 1}, {second, false, two}, {second, true, 1},
	} {
		target := ksmRaceTarget(c.target, c.countFirst, false /* store */)
		r, err := explore.Exhaust(context.Background(), target, explore.ExhaustOptions{Preemptions: c.preemptions})
		require.NoError(t, err)
		require.True(t, r.Complete)
		t.Logf("%+v: all %d schedules: %v, %d final states", c, r.Schedules, r.ByVerdict, r.States)
		s, err := explore.Search(context.Background(), target, explore.Options{Schedules: others, Seed: 1})
		require.NoError(t, err)
		t.Logf("%d others: %v", s.Schedules, s.ByVerdict)
		if c.countFirst {
			assert.NotZero(t, r.ByVerdict["lost-read"])
			continue
		}
		assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe])
		assert.Equal(t, s.Schedules, s.ByVerdict[explore.Safe])
	}
}

// A store to a page that is being merged is not lost: until the pte is write-protected it is in
// both pages' comparison, afterwards it is a fault, and the pte is not what it was.
func TestKSMAgainstAStore(t *testing.T) {
	others := uint64(1000)
	if race {
		others = 30
	}
	for _, target := range []uint64{ksmRaceAddr, ksmRaceAddr + x86.PageSize} {
		r, err := explore.Exhaust(context.Background(), ksmRaceTarget(target, false, true), explore.ExhaustOptions{Preemptions: 1})
		require.NoError(t, err)
		require.True(t, r.Complete)
		s, err := explore.Search(context.Background(), ksmRaceTarget(target, false, true), explore.Options{Schedules: others, Seed: 1})
		require.NoError(t, err)
		t.Logf("%#x: all %d schedules with at most one preemption: %v; %d others: %v", target, r.Schedules, r.ByVerdict, s.Schedules, s.ByVerdict)
		assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe])
		assert.Equal(t, s.Schedules, s.ByVerdict[explore.Safe])
	}
}

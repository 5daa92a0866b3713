package mm

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

const pg = x86.PageSize

func TestAnonymousMemory(t *testing.T) {
	regimes(t, 1, func(t *testing.T, o rigOptions) {
		r := boot(t, o)
		r.run(func(u *user) {
			a := u.mmap(10)
			assert.Zero(t, u.load(a+8))
			// Even a read fault gives a page of its own, writable and dirty.
			pte := u.mm.PeekPTE(a)
			assert.True(t, pte.Write() && pte.Dirty(), "%v", pte)
			for i := range uint64(10) {
				u.store(a+i*pg, i+1)
			}
			for i := range uint64(10) {
				assert.Equal(t, i+1, u.load(a+i*pg))
			}
			assert.EqualValues(t, 10, u.mm.AnonRSS.Peek())
			u.munmap(a+2*pg, 3)
			assert.EqualValues(t, 7, u.mm.AnonRSS.Peek())
			_, sig, ok := u.tryLoad(a+3*pg, 8)
			assert.False(t, ok)
			assert.Equal(t, SigInfo{11, SegvMapErr, a + 3*pg}, sig)
			assert.EqualValues(t, 6, u.load(a+5*pg))
		})
		assert.EqualValues(t, 10, r.sum(trace.PGFault))
		r.end()
	})
}

func TestSegv(t *testing.T) {
	r := boot(t, rigOptions{Options: sched.Options{Regime: sched.Timed}})
	r.run(func(u *user) {
		ro := u.mmap(1, MmapRequest{Prot: ProtRead, Flags: MapPrivate | MapAnonymous})
		none := u.mmap(1, MmapRequest{Prot: ProtNone, Flags: MapPrivate | MapAnonymous})
		stack := u.mmap(2, MmapRequest{Addr: 1 << 32, Prot: ProtRead | ProtWrite, Flags: MapPrivate | MapAnonymous | MapGrowsDown | MapFixed})
		for _, c := range []struct {
			name  string
			addr  uint64
			write bool
			code  int
		}{
			{"hole", 0x5000, false, SegvMapErr},
			{"kernel", 0xffff800000000000, true, SegvMapErr},
			{"last page", x86.TaskSize, false, SegvMapErr},
			{"read-only", ro, true, SegvAccErr},
			{"no permission, read", none, false, SegvAccErr},
			{"no permission, write", none, true, SegvAccErr},
			{"stack too far", stack - 9<<20, true, SegvMapErr},
		} {
			var sig SigInfo
			var ok bool
			if c.write {
				sig, ok = u.tryStore(c.addr, 8, 1)
			} else {
				_, sig, ok = u.tryLoad(c.addr, 8)
			}
			assert.False(t, ok, c.name)
			assert.Equal(t, SigInfo{11, c.code, c.addr}, sig, c.name)
		}
		assert.Zero(t, u.load(ro))
		u.store(stack-5*pg, 7)
		assert.EqualValues(t, 7, u.load(stack-5*pg))
		assert.Zero(t, u.load(stack-pg))
	})
	r.end()
}

// Two threads fault in the same page at once: one of them finds it there.
func TestFaultRace(t *testing.T) {
	for seed := range uint64(60) {
		o := rigOptions{}
		o.CPUs, o.Regime, o.Strategy = 3, sched.Free, sched.NewRandom(seed)
		r := boot(t, o)
		r.run(func(u *user) {
			a := u.mmap(3)
			th := u.thread("second", func(u *user) {
				for i := range uint64(3) {
					u.store(a+i*pg+8, 1)
				}
			})
			for i := range uint64(3) {
				u.store(a+i*pg, 2)
			}
			u.wait(th)
			for i := range uint64(3) {
				assert.EqualValues(t, 2, u.load(a+i*pg))
				assert.EqualValues(t, 1, u.load(a+i*pg+8))
			}
			assert.EqualValues(t, 3, u.mm.AnonRSS.Peek())
		})
		r.end()
		r.close()
	}
}

func TestOutOfMemory(t *testing.T) {
	for _, site := range []string{"pud_alloc_one", "pmd_alloc_one", "pte_alloc_one", "do_anonymous_page"} {
		t.Run(site, func(t *testing.T) {
			r := boot(t, rigOptions{Options: sched.Options{Regime: sched.Timed}})
			r.s.Pages.FailAt(site, 1)
			r.run(func(u *user) {
				a := u.mmap(1)
				sig, ok := u.tryStore(a, 8, 1)
				require.False(t, ok)
				assert.EqualValues(t, 9, sig.Signo)
				u.store(a, 3)
				assert.EqualValues(t, 3, u.load(a))
			})
			r.end()
		})
	}
}

// A write fault on an entry that permits the write already sets D and flushes the
// address, and one that would change nothing flushes all the same: the TLB of the CPU
// that faulted must have been wrong.
func TestSpuriousWriteFault(t *testing.T) {
	r := boot(t, rigOptions{Options: sched.Options{Regime: sched.Timed}})
	r.run(func(u *user) {
		a := u.mmap(1)
		u.store(a, 1)
		u.kernel(func(t *sched.Task) {
			u.mm.MmapSem.DownRead(t)
			ref, ptl, _ := u.mm.LockPTE(t, a)
			ref.Set(t.C, ref.Load(t.C).MkClean())
			ptl.Unlock(t)
			HandleMMFault(t, u.mm.findVMA(t, a), a, true)
			u.mm.MmapSem.UpRead(t)
		})
		assert.True(t, u.mm.PeekPTE(a).Dirty())
		one := r.sum(trace.EmuTLBFlushOne)
		u.kernel(func(t *sched.Task) {
			u.mm.MmapSem.DownRead(t)
			HandleMMFault(t, u.mm.findVMA(t, a), a, true)
			u.mm.MmapSem.UpRead(t)
		})
		assert.EqualValues(t, 1, r.sum(trace.EmuTLBFlushOne)-one)
	})
	r.end()
}

// A preemptible kernel lets go after every 8 pages it unmaps, another one after 1024.
func TestZapLetsGo(t *testing.T) {
	for preempt, flushes := range map[sched.Preempt]int64{sched.PreemptFull: 8 + 1, sched.PreemptNone: 1} {
		o := rigOptions{}
		o.CPUs, o.Regime, o.Preempt = 2, sched.Timed, preempt
		r := boot(t, o)
		r.run(func(u *user) {
			a := u.mmap(64)
			for i := range uint64(64) {
				u.store(a+i*pg, i)
			}
			all := r.sum(trace.EmuTLBFlushAll)
			u.munmap(a, 64)
			assert.Equal(t, flushes, r.sum(trace.EmuTLBFlushAll)-all)
		})
		r.end()
	}
}

package policy_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

// laterRows are what is known of the rows that came after the thread: want is what each
// leaves open, "" what it promises and holds.
func laterRows() []rowCase {
	return []rowCase{
		{"kosaki_v3", "forkscrew", "", ""},
		{"kosaki_v3", "forkscrewreverse", "", ""},
		{"kosaki_v3", "vmsplice", "side=0", ""}, // no lock, but who stores gets the copy
		{"kosaki_v3", "vmsplice", "side=1", ""},
		{"kosaki_v3", "swap_pin", "", ""},
		{"kosaki_v3", "mprotect_pin", "aio=0", workload.WrongCopy},
		{"kosaki_v3", "swap_pin", "race=1", workload.LostRead}, // compared before the pte is cleared
		{"kosaki_v3", "late_dma", "", workload.LostRead},
		{"gup_cow_break", "forkscrewreverse", "", ""},
		{"gup_cow_break", "forkscrew", "", workload.LostRead},
		{"gup_cow_break", "vmsplice", "side=0", ""},                   // the pipe was filled after the fork
		{"gup_cow_break", "vmsplice", "side=1", workload.LeakToChild}, // and before it
		{"wp_copy", "forkscrewreverse", "", ""},
		{"wp_copy", "vmsplice", "side=1", ""},
		{"wp_copy", "forkscrew", "", workload.LostRead},
		{"pin_copy", "late_dma", "", ""},
		{"pin_copy", "pin_fork", "", ""},
		{"pin_copy", "late_dma", "get=1", workload.LostRead}, // not converted to FOLL_PIN
		{"pin_copy", "forkscrew", "", workload.LostRead},     // nor was O_DIRECT
		{"anon_exclusive", "late_dma", "", ""},
		{"anon_exclusive", "pin_fork", "", ""},
		{"anon_exclusive", "forkscrew", "", workload.LostRead},
		{"dio_pin", "forkscrew", "", ""},
		{"dio_pin", "dma_thread", "", ""},
		{"dio_pin", "forkscrewreverse", "", ""},
		{"dio_pin", "pin_fork", "", ""},
		{"dio_pin", "late_dma", "get=1", workload.LostRead},
		{"mapcount_unshare", "vmsplice", "side=0", ""},
		{"mapcount_unshare", "vmsplice", "side=1", workload.LeakToChild},
		{"mapcount_unshare", "late_dma", "", ""},
		{"mapcount_unshare", "forkscrew", "", workload.LostRead},
		{"vm_nocow", "forkscrew", "", ""},
		{"vm_nocow", "late_dma", "", ""},
		{"vm_nocow", "forkscrewreverse", "", workload.LeakToDisk},
		{"sentry_pin_copy", "forkscrew", "", ""},
		{"sentry_pin_copy", "forkscrewreverse", "", ""},
		{"sentry_pin_copy", "late_dma", "", ""},
		{"sentry_pin_copy", "swap_pin", "fork=1", workload.LostRead},
		{"sentry_pin_copy", "late_dma", "huge=1", workload.LostRead},
		{"dio_pin", "swap_pin", "fork=1", ""},
		{"dio_pin", "vmsplice", "huge=1", workload.LeakToChild},   // plain references to this day
		{"dio_pin", "forkscrew", "huge=1,a=0", workload.LostRead}, // not its own: hugetlb_cow of 2.6.29 does not flush
		{"pin_copy", "swap_pin", "race=1", workload.LostRead},
		{"anon_exclusive", "swap_pin", "fork=1,race=1", ""},
		{"anon_exclusive", "forkscrewreverse", "huge=1", workload.LeakToDisk}, // a huge page is reused by its map count
	}
}

// TestLaterRows holds the rows that came after the thread against what is known of them:
// what each leaves open is found, and what it promises holds.
func TestLaterRows(t *testing.T) {
	for _, c := range laterRows() {
		t.Run(c.policy+" on "+c.workload+" "+c.params, func(t *testing.T) {
			n := uint64(300)
			if policy.Race {
				if strings.HasPrefix(c.params, "huge=1") {
					t.Skip("huge pages are slow under the race detector, and this is of one goroutine")
				}
				n = 40
			}
			p := policy.Lookup(c.policy)
			if c.want == "" {
				r := search(t, c.workload, c.params, p, n)
				assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe])
				return
			}
			r := explores(t, c.workload, c.params, p, explore.Options{Schedules: 3000, Seed: 1, StopAtFirst: true,
				Bad: func(v string) bool { return v == string(c.want) }})
			assert.NotZero(t, r.ByVerdict[string(c.want)])
		})
	}
}

// swapMachine boots a machine with a swap area, on which fn runs.
func swapMachine(t *testing.T, p mm.Policy, o kernel.Options, fn func(th *kernel.Thread)) *kernel.Machine {
	t.Helper()
	o.Policy, o.Memory = p, 4<<20
	o.Disks = []kernel.Disk{{Name: "swap", Size: 1 << 20, Swap: true}}
	m, err := kernel.Boot(o)
	require.NoError(t, err)
	t.Cleanup(m.Shutdown)
	if o.Regime != sched.Parallel {
		m.CheckSteps(50, nil)
	}
	require.NoError(t, m.Run(func(th *kernel.Thread) {
		require.NoError(t, th.Swapon("/dev/swap", 0))
		fn(th)
	}).Err())
	assert.Empty(t, m.Check())
	assert.Empty(t, m.Leaks())
	return m
}

// TestPinnedPageAndSwap pins a page, sends it out, stores to another part of it, and lets
// the device write: with no fork at all (thread line 7972). Who asks only for references
// when a write fault comes loses the page; who asks whether it is exclusive does not.
func TestPinnedPageAndSwap(t *testing.T) {
	lost := map[string]bool{"wp_copy": true}
	for _, p := range []mm.Policy{
		policy.Stock{}, policy.WPCopy{}, policy.PinCopy{}, policy.AnonExclusive{}, policy.NewDIOPin(), policy.MapcountUnshare{},
	} {
		t.Run(p.Name(), func(t *testing.T) {
			swapMachine(t, p, kernel.Options{Regime: sched.Timed}, func(th *kernel.Thread) {
				a := th.MustMmap(x86.PageSize)
				th.Store8(a, 1)
				r, err := th.RegisterMemory(a, x86.PageSize, kernel.RegisterOptions{Write: true, Kind: mm.PinLongterm})
				require.NoError(t, err)
				require.NoError(t, th.Madvise(a, x86.PageSize, mm.MadvPageout))
				_ = th.Load8(a) // a read brings it back, read-only
				th.Store8(a, 2)
				require.NoError(t, th.DeviceWrite(r, 512, []byte{7}))
				assert.Equal(t, lost[p.Name()], th.Load8(a+512) != 7, "the device's byte is lost")
				require.NoError(t, th.UnregisterMemory(r))
			})
		})
	}
}

// TestExclusiveSurvivesSwap: the entry carries the mark, so that a page that comes back
// by a read is reused by the write that follows, whoever else has a reference.
func TestExclusiveSurvivesSwap(t *testing.T) {
	for _, forked := range []bool{false, true} {
		swapMachine(t, policy.AnonExclusive{}, kernel.Options{Regime: sched.Timed}, func(th *kernel.Thread) {
			a := th.MustMmap(x86.PageSize)
			th.Store8(a, 1)
			require.NoError(t, th.Madvise(a, x86.PageSize, mm.MadvPageout))
			require.True(t, th.MM().PeekPTE(a).SwpExclusive())
			if forked {
				pid, err := th.Fork(func(c *kernel.Thread) {
					assert.False(t, c.MM().PeekPTE(a).SwpExclusive())
					assert.EqualValues(t, 1, c.Load8(a))
				})
				require.NoError(t, err)
				assert.False(t, th.MM().PeekPTE(a).SwpExclusive(), "both sides lose the mark")
				_, _, err = th.Wait(pid)
				require.NoError(t, err)
			}
			_ = th.Load8(a)
			pfn := th.MM().PeekPTE(a).PFN()
			// A plain reference, such as a pagevec's.
			r, err := th.RegisterMemory(a, x86.PageSize, kernel.RegisterOptions{})
			require.NoError(t, err)
			th.Store8(a, 2)
			assert.Equal(t, forked, th.MM().PeekPTE(a).PFN() != pfn, "forked: the counts decide, and there is a reference more")
			require.NoError(t, th.UnregisterMemory(r))
		})
	}
}

// TestExclusiveSurvivesSwapoff: so does a page that swapoff brings back.
func TestExclusiveSurvivesSwapoff(t *testing.T) {
	swapMachine(t, policy.AnonExclusive{}, kernel.Options{Regime: sched.Timed}, func(th *kernel.Thread) {
		a := th.MustMmap(x86.PageSize)
		th.Store8(a, 1)
		require.NoError(t, th.Madvise(a, x86.PageSize, mm.MadvPageout))
		require.True(t, th.MM().PeekPTE(a).SwpExclusive())
		require.NoError(t, th.Swapoff("/dev/swap"))
		pfn := th.MM().PeekPTE(a).PFN()
		require.True(t, th.MM().PeekPTE(a).Present())
		r, err := th.RegisterMemory(a, x86.PageSize, kernel.RegisterOptions{}) // a plain reference
		require.NoError(t, err)
		th.Store8(a, 2)
		assert.Equal(t, pfn, th.MM().PeekPTE(a).PFN())
		require.NoError(t, th.UnregisterMemory(r))
	})
}

// TestReadPinUnshares: a long-term pin for reading of a page that fork shared goes on
// showing what the process stores; without the unsharing fault it keeps the old page.
func TestReadPinUnshares(t *testing.T) {
	for _, fast := range []bool{false, true} {
		for _, c := range []struct {
			p        mm.Policy
			coherent bool
			huge     int // pages of the pool; the page is one of them
		}{
			{p: policy.AnonExclusive{}, coherent: true},
			{p: policy.AnonExclusive{}, coherent: true, huge: 2},
			{p: policy.NewDIOPin(), coherent: true},
			{p: policy.Mutants["anon_exclusive without unsharing"]},
			{p: policy.MapcountUnshare{}, coherent: true},
			{p: policy.MapcountUnshare{}, coherent: true, huge: 2},
			{p: policy.Mutants["mapcount_unshare without unsharing"]},
			{p: policy.PinCopy{}},
		} {
			m, err := kernel.Boot(kernel.Options{Regime: sched.Timed, Memory: 4<<20 + uint64(c.huge)*mm.HugePage2M, HugePages: c.huge, Policy: c.p})
			require.NoError(t, err)
			require.NoError(t, m.Run(func(th *kernel.Thread) {
				var a uint64
				if c.huge > 0 {
					a = th.MustMmapHuge(1, mm.HugePage2M, mm.MapPrivate)
				} else {
					a = th.MustMmap(x86.PageSize)
				}
				event := th.MustMmapShared(x86.PageSize)
				th.Store8(a, 1)
				pid, err := th.Fork(func(c *kernel.Thread) {
					for c.Load32(event) == 0 {
						_ = c.FutexWait(event, 0, 0, kernel.FutexShared)
					}
				})
				require.NoError(t, err)
				r, err := th.RegisterMemory(a, x86.PageSize, kernel.RegisterOptions{Fast: fast, Kind: mm.PinLongterm})
				require.NoError(t, err)
				th.Store8(a, 2)
				var got [1]byte
				require.NoError(t, th.DeviceRead(r, 0, got[:]))
				assert.Equal(t, c.coherent, got[0] == 2, "%s fast=%v", c.p.Name(), fast)
				require.NoError(t, th.UnregisterMemory(r))
				th.Store32(event, 1)
				_, _ = th.FutexWake(event, 1, kernel.FutexShared)
				_, _, err = th.Wait(pid)
				require.NoError(t, err)
			}).Err())
			if assert.Empty(t, m.Leaks()); c.coherent {
				assert.EqualValues(t, 1, m.Trace().Sum(trace.EmuUnshare), "%s fast=%v", c.p.Name(), fast)
			} else {
				assert.Zero(t, m.Trace().Sum(trace.EmuUnshare), "%s fast=%v", c.p.Name(), fast)
			}
			m.Shutdown()
		}
	}
}

// TestLongtermReadPinOfNothing: since 6.2 memory that nobody has touched gets a page of
// its own when it is pinned for long, and before that the zero page.
func TestLongtermReadPinOfNothing(t *testing.T) {
	for _, c := range []struct {
		p        mm.Policy
		coherent bool
	}{{policy.AnonExclusive{}, false}, {policy.NewDIOPin(), true}} {
		m, err := kernel.Boot(kernel.Options{Regime: sched.Timed, Memory: 4 << 20, Policy: c.p})
		require.NoError(t, err)
		require.NoError(t, m.Run(func(th *kernel.Thread) {
			a := th.MustMmap(x86.PageSize)
			r, err := th.RegisterMemory(a, x86.PageSize, kernel.RegisterOptions{Kind: mm.PinLongterm})
			require.NoError(t, err)
			th.Store8(a, 2)
			var got [1]byte
			require.NoError(t, th.DeviceRead(r, 0, got[:]))
			assert.Equal(t, c.coherent, got[0] == 2, c.p.Name())
			require.NoError(t, th.UnregisterMemory(r))
		}).Err())
		assert.Empty(t, m.Leaks())
		m.Shutdown()
	}
}

// swapTarget is a target with a page that holds 1 and a swap disk. Prog opens the gate, and says what
// it has seen.
func swapTarget(t *testing.T, name string, p mm.Policy, prog func(th *kernel.Thread, a uint64, open func(), must func(error)) string) explore.Target {
	hosts := kernel.NewHosts()
	t.Cleanup(hosts.Close)
	return explore.Target{Name: name, Policy: p.Name(), Run: func(st sched.Strategy, o sched.Observer) explore.Observation {
		gate := explore.NewGate(st)
		m, err := kernel.Boot(kernel.Options{CPUs: 2, Memory: 2 << 20, Regime: sched.Free, Strategy: gate, Policy: p, Hosts: hosts, NoStack: true,
			Disks: []kernel.Disk{{Name: "swap", Size: 64 << 12, Swap: true}}})
		require.NoError(t, err)
		defer m.Shutdown()
		m.CheckSteps(64, o)
		obs := explore.Observation{}
		out := m.Run(func(th *kernel.Thread) {
			must := func(err error) {
				if err != nil {
					panic(err)
				}
			}
			must(th.Swapon("/dev/swap", 0))
			a := th.MustMmap(x86.PageSize)
			th.Store8(a, 1)
			obs.Verdict = prog(th, a, gate.Open, must)
		})
		obs.Steps, obs.Result = out.Result.Steps, out.Result
		if err := out.Err(); err != nil {
			obs.Verdict, obs.Detail = "bug", err.Error()
		}
		return obs
	}}
}

// pinAgainstSwap is a target: one thread pins a page by gup-fast while another sends it
// out; then comes a fork, a store, and the device's write, which must not be lost.
func pinAgainstSwap(t *testing.T, p mm.Policy) explore.Target {
	return swapTarget(t, "pin_against_swap", p, func(th *kernel.Thread, a uint64, open func(), must func(error)) string {
		open()
		var r *kernel.Registration
		driver := th.Go("driver", func(c *kernel.Thread) {
			var err error
			r, err = c.RegisterMemory(a, x86.PageSize, kernel.RegisterOptions{Write: true, Fast: true, Kind: mm.PinPin})
			must(err)
		})
		must(th.Madvise(a, x86.PageSize, mm.MadvPageout))
		must(th.Join(driver))
		pid, err := th.Fork(func(c *kernel.Thread) { _ = c.Load8(a) })
		must(err)
		th.Store8(a, 2)
		must(th.DeviceWrite(r, 512, []byte{7}))
		verdict := explore.Safe
		if th.Load8(a+512) != 7 {
			verdict = "lost-read"
		}
		must(th.UnregisterMemory(r))
		_, _, err = th.Wait(pid)
		must(err)
		return verdict
	})
}

// TestPinAgainstSwap: gup-fast may pin a page after reclaim asked whether it is pinned and
// before its pte is gone. Reclaim asks again when the pte is cleared and flushed.
func TestPinAgainstSwap(t *testing.T) {
	if policy.Race {
		t.Skip("searches of one goroutine")
	}
	for _, c := range []struct {
		p    mm.Policy
		lost bool
	}{
		{policy.AnonExclusive{}, false},
		{policy.Mutants["anon_exclusive without the test when unmapping"], true},
		{policy.PinCopy{}, true}, // 5.11 does not ask again
	} {
		r, err := explore.Exhaust(t.Context(), pinAgainstSwap(t, c.p), explore.ExhaustOptions{Preemptions: 1})
		require.NoError(t, err)
		require.True(t, r.Complete)
		t.Logf("%s: all %d schedules with at most one preemption: %v", c.p.Name(), r.Schedules, r.ByVerdict)
		assert.Zero(t, r.ByVerdict["bug"])
		if c.lost {
			assert.NotZero(t, r.ByVerdict["lost-read"])
		} else {
			assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe])
		}
	}
}

// TestReadPinBesideReuse: a read pin through a read-only pte asks how often the page is mapped
// and swapped while another thread's store takes it out of the swap cache. gup-fast holds no
// lock, and may find the page between the two.
func TestReadPinBesideReuse(t *testing.T) {
	target := swapTarget(t, "read_pin_beside_reuse", policy.MapcountUnshare{}, func(th *kernel.Thread, a uint64, open func(), must func(error)) string {
		must(th.Madvise(a, x86.PageSize, mm.MadvPageout))
		_ = th.Load8(a) // back, read-only, and still in the swap cache
		for th.Machine().Pages().Page(th.MM().PeekPTE(a).PFN()).Has(page.Writeback) {
			th.Usleep(10)
		}
		open()
		driver := th.Go("driver", func(c *kernel.Thread) {
			r, err := c.RegisterMemory(a, x86.PageSize, kernel.RegisterOptions{Fast: true})
			must(err)
			must(c.UnregisterMemory(r))
		})
		th.Store8(a, 2)
		must(th.Join(driver))
		return explore.Safe
	})
	r, err := explore.Exhaust(t.Context(), target, explore.ExhaustOptions{Preemptions: 1})
	require.NoError(t, err)
	require.True(t, r.Complete)
	for _, w := range r.Witnesses {
		t.Log(w.Verdict, w.Detail)
	}
	assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe], "%v", r.ByVerdict)
}

// TestSentryCopiesReadOnlyPins: mprotect takes a pinned page's write permission, which makes
// it no more COW than it was (gVisor's pma.needCOW): fork copies it all the same.
func TestSentryCopiesReadOnlyPins(t *testing.T) {
	for name, lost := range map[string]bool{"stock": true, "sentry_pin_copy": false} {
		m, out := run(t, name, kernel.Options{}, func(th *kernel.Thread) {
			a, word := th.MustMmap(pg), th.MustMmapShared(pg)
			th.Store8(a, 1)
			th.Store32(word, 0)
			r := register(t, th, a, kernel.RegisterOptions{Write: true})
			require.NoError(t, th.Mprotect(a, pg, mm.ProtRead))
			pid, err := th.Fork(func(c *kernel.Thread) { await(c, word) })
			require.NoError(t, err)
			require.NoError(t, th.Mprotect(a, pg, mm.ProtRead|mm.ProtWrite))
			th.Store8(a, 2)
			require.NoError(t, th.DeviceWrite(r, 512, []byte{7}))
			assert.Equal(t, lost, th.Load8(a+512) != 7, "%s: the device's byte is lost", name)
			require.NoError(t, th.UnregisterMemory(r))
			set(th, word)
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
		})
		require.NoError(t, out.Err())
		assert.Empty(t, m.Leaks())
	}
}

// TestSequenceAndHugePages: write_protect_seq is odd while fork copies small pages; of huge
// pages only since 5.12, which copies them if they are pinned. A gup-fast of a huge page that is
// under fork goes the slow way then, and takes it before.
func TestSequenceAndHugePages(t *testing.T) {
	if policy.Race {
		t.Skip("searches of one goroutine")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for name, slow := range map[string]bool{"pin_copy": false, "anon_exclusive": true} {
		p := policy.Lookup(name)
		target := explore.Target{Name: "huge_pin_beside_fork", Policy: name, Run: func(st sched.Strategy, o sched.Observer) explore.Observation {
			gate := explore.NewGate(st)
			m, err := kernel.Boot(kernel.Options{CPUs: 2, Memory: 8 << 20, HugePages: 2, Regime: sched.Free, Strategy: gate, Policy: p, Hosts: hosts, NoStack: true})
			require.NoError(t, err)
			defer m.Shutdown()
			m.CheckSteps(64, o)
			verdict := explore.Safe
			out := m.Run(func(th *kernel.Thread) {
				a := th.MustMmapHuge(1, huge, mm.MapPrivate)
				th.Store8(a, 1)
				gate.Open()
				driver := th.Go("driver", func(c *kernel.Thread) {
					if r, err := c.RegisterMemory(a, pg, kernel.RegisterOptions{Fast: true, Kind: mm.PinPin}); err == nil {
						_ = c.UnregisterMemory(r)
					}
				})
				pid, err := th.Fork(func(c *kernel.Thread) {})
				if err == nil {
					_, _, _ = th.Wait(pid)
				}
				_ = th.Join(driver)
				if sum(m, trace.EmuGUPFastPages) == 0 {
					verdict = "slow"
				}
			})
			obs := explore.Observation{Verdict: verdict, Steps: out.Result.Steps, Result: out.Result}
			if err := out.Err(); err != nil {
				obs.Verdict, obs.Detail = "bug", err.Error()
			}
			return obs
		}}
		r, err := explore.Exhaust(t.Context(), target, explore.ExhaustOptions{Preemptions: 1})
		require.NoError(t, err)
		require.True(t, r.Complete)
		t.Logf("%s: %d schedules: %v", name, r.Schedules, r.ByVerdict)
		assert.Zero(t, r.ByVerdict["bug"], name)
		assert.Equal(t, slow, r.ByVerdict["slow"] > 0, "%s: %v", name, r.ByVerdict)
	}
}

// TestKSMCountsReferencesOfExclusivePages: Linux 5.19's write_protect_page looks at the
// references of an exclusive page though its pte is read-only, and leaves one that somebody
// holds alone, whatever the reference is. 2.6.32's asks where the pte is writable only.
func TestKSMCountsReferencesOfExclusivePages(t *testing.T) {
	for name, lost := range map[string]bool{"stock": true, "anon_exclusive": false, "dio_pin": false} {
		for _, pinned := range []bool{true, false} {
			m, out := run(t, name, kernel.Options{Regime: sched.Timed, Memory: 4 << 20, KSM: true}, func(th *kernel.Thread) {
				a := th.MustMmap(2 * pg)
				th.Fill(a, 2*pg, 1)
				require.NoError(t, th.Madvise(a, 2*pg, mm.MadvMergeable))
				var r *kernel.Registration
				if pinned {
					r = register(t, th, a, kernel.RegisterOptions{Write: true, Fast: true}) // a plain reference
				}
				require.NoError(t, th.Mprotect(a, 2*pg, mm.ProtRead))
				require.NoError(t, th.KSMScan(3))
				assert.Equal(t, !pinned || lost, th.MM().PeekPTE(a).PFN() == th.MM().PeekPTE(a+pg).PFN(), "%s: merged, pinned %v", name, pinned)
				if pinned {
					require.NoError(t, th.DeviceWrite(r, 512, []byte{7}))
					assert.Equal(t, lost, th.Load8(a+512) != 7, "%s: the device's byte is lost", name)
					require.NoError(t, th.UnregisterMemory(r))
				}
			})
			require.NoError(t, out.Err())
			assert.Empty(t, m.Check())
			assert.Empty(t, m.Leaks())
		}
	}
}

// TestVMNoCOWMarksDriversReads: a driver's pin marks the VMA though the device only reads ("an
// O_DIRECT read or RDMA pin"): it goes on reading what the process stores after a fork.
func TestVMNoCOWMarksDriversReads(t *testing.T) {
	for name, want := range map[string]byte{"stock": 1, "vm_nocow": 2} {
		m, out := run(t, name, kernel.Options{}, func(th *kernel.Thread) {
			a, word := th.MustMmap(pg), th.MustMmapShared(pg)
			th.Store8(a, 1)
			th.Store32(word, 0)
			r := register(t, th, a, kernel.RegisterOptions{})
			pid, err := th.Fork(func(c *kernel.Thread) { await(c, word) })
			require.NoError(t, err)
			th.Store8(a, 2)
			var got [1]byte
			require.NoError(t, th.DeviceRead(r, 0, got[:]))
			assert.Equal(t, want, got[0], name)
			require.NoError(t, th.UnregisterMemory(r))
			set(th, word)
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
		})
		require.NoError(t, out.Err())
		assert.Empty(t, m.Leaks())
	}
}

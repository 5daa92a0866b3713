package policy_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/vmtest"
	"github.com/cowlab/cowlab/tests/workload"
)

const huge = mm.HugePage2M

func hugeOptions(p mm.Policy, pages int) kernel.Options {
	return kernel.Options{CPUs: 2, Memory: uint64(pages+3) * huge, HugePages: pages, Regime: sched.Timed, Policy: p,
		StepLimit: 4_000_000, Disks: []kernel.Disk{{Name: "vda", Size: 1 << 20}}}
}

// hugeForward pins a huge page for a device, forks, stores, and has the device write. It
// reports whether the process that asked sees what the device wrote, and whether the child,
// which lives on, sees it too.
func hugeForward(t *testing.T, p mm.Policy, fast bool) (lost, childSees bool) {
	t.Helper()
	m, err := kernel.Boot(hugeOptions(p, 4))
	require.NoError(t, err)
	defer m.Shutdown()
	out := m.Run(func(th *kernel.Thread) {
		a := th.MustMmapHuge(1, huge, mm.MapPrivate)
		sync := th.MustMmapShared(4096)
		th.Store64(a, 1)
		r, err := th.RegisterMemory(a+8192, 512, kernel.RegisterOptions{Write: true, Fast: fast})
		require.NoError(t, err)
		pid, err := th.Fork(func(c *kernel.Thread) {
			for c.Load32(sync) == 0 {
				c.Usleep(10)
			}
			childSees = c.Load8(a+8192) == 0xaa
		})
		require.NoError(t, err)
		th.Store64(a, 2)
		require.NoError(t, th.DeviceWrite(r, 0, bytes.Repeat([]byte{0xaa}, 512)))
		lost = th.Load8(a+8192) != 0xaa
		th.Store32(sync, 1)
		_, _, err = th.Wait(pid)
		require.NoError(t, err)
		require.NoError(t, th.UnregisterMemory(r))
	})
	require.NoError(t, out.Err())
	require.Empty(t, m.Check())
	require.Empty(t, m.Leaks())
	return lost, childSees
}

// Of the three fixes only pg_gup knows of huge pages.
func TestHugePinAndFork(t *testing.T) {
	for _, c := range []struct {
		p    mm.Policy
		lost bool
	}{
		{policy.Lookup("stock"), true}, {policy.Lookup("pg_dontcow"), true}, {policy.Lookup("directio_sem"), true},
		{policy.Lookup("pg_gup"), false}, {policy.Mutants["pg_gup without the copy at fork"], true},
	} {
		for _, fast := range []bool{false, true} {
			lost, child := hugeForward(t, c.p, fast)
			assert.Equal(t, c.lost, lost, "%s, fast %v", c.p.Name(), fast)
			assert.Equal(t, c.lost, child, "%s, fast %v: the child has the page", c.p.Name(), fast)
		}
	}
}

// PG_gup alone decides: a page that nobody has pinned any more is copied all the same, and
// the mark goes with the last reference.
func TestPGGUPMarksHugePages(t *testing.T) {
	m, err := kernel.Boot(hugeOptions(policy.Lookup("pg_gup"), 3))
	require.NoError(t, err)
	defer m.Shutdown()
	out := m.Run(func(th *kernel.Thread) {
		copies := func() uint64 { return m.Trace().Sum(trace.EmuForkCopies) }
		fork := func() {
			pid, err := th.Fork(func(*kernel.Thread) {})
			require.NoError(t, err)
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
		}
		a := th.MustMmapHuge(1, huge, mm.MapPrivate)
		th.Store64(a, 1)
		fork()
		assert.Zero(t, copies())
		th.Store64(a, 2)
		r, err := th.RegisterMemory(a, 3*4096, kernel.RegisterOptions{Fast: true})
		require.NoError(t, err)
		head := m.Pages().Head(r.Pages()[1])
		assert.True(t, head.Has(page.Policy0))
		assert.False(t, r.Pages()[1].Has(page.Policy0))
		assert.EqualValues(t, 3, m.Trace().Sum(trace.EmuGUPFastPages), "a read of a writable huge page, unlike one of a small page")
		require.NoError(t, th.UnregisterMemory(r))
		fork()
		assert.EqualValues(t, 1, copies())
		require.NoError(t, th.Munmap(a, huge))
		assert.False(t, head.Has(page.Policy0))

		// A pin for reading is one for writing: no zero page, and a copy of what is shared.
		a = th.MustMmapHuge(1, huge, mm.MapPrivate)
		r, err = th.RegisterMemory(a, 4096, kernel.RegisterOptions{})
		require.NoError(t, err)
		assert.True(t, m.Pages().Head(r.Pages()[0]).Has(page.Policy0))
		e, _ := th.MM().PeekHugePTE(a)
		assert.True(t, e.Write())
		require.NoError(t, th.UnregisterMemory(r))
	})
	require.NoError(t, out.Err())
	require.Empty(t, m.Check())
	require.Empty(t, m.Leaks())
}

// TestForkLockLookupNeedsNoBarriers: the lock is in their place, for huge pages too, and what
// gup-fast took is copied.
func TestForkLockLookupNeedsNoBarriers(t *testing.T) {
	for name, none := range map[string]bool{"pg_gup": false, "fork_lock_lookup": true} {
		m, err := kernel.Boot(hugeOptions(policy.Lookup(name), 4))
		require.NoError(t, err)
		defer m.Shutdown()
		var gup, fork uint64
		out := m.Run(func(th *kernel.Thread) {
			a, b := th.MustMmapHuge(1, huge, mm.MapPrivate), th.MustMmap(4096)
			th.Store64(a, 1)
			th.Store64(b, 1)
			fences := func() uint64 { return m.Trace().Sum(trace.EmuFences) }
			before := fences()
			big, err := th.RegisterMemory(a, 8*4096, kernel.RegisterOptions{Write: true, Fast: true})
			require.NoError(t, err)
			small, err := th.RegisterMemory(b, 4096, kernel.RegisterOptions{Write: true, Fast: true})
			require.NoError(t, err)
			gup = fences() - before
			assert.EqualValues(t, 9, m.Trace().Sum(trace.EmuGUPFastPages), name)
			before = fences()
			pid, err := th.Fork(func(*kernel.Thread) {})
			require.NoError(t, err)
			fork = fences() - before
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
			assert.EqualValues(t, 2, m.Trace().Sum(trace.EmuForkCopies), name)
			require.NoError(t, th.UnregisterMemory(big))
			require.NoError(t, th.UnregisterMemory(small))
		})
		require.NoError(t, out.Err())
		assert.Equal(t, none, gup == 0, "%s: %d in gup-fast", name, gup)
		assert.Equal(t, none, fork == 0, "%s: %d in fork", name, fork)
		assert.Empty(t, m.Leaks())
	}
}

// TestPGGUPLeavesCachedHugePageLocked pins what the patch's copy_hugetlb_page_range forgets:
// the file's page, which it looks up while it copies a private one, stays locked and
// referenced. Whoever touches the file's page next sleeps for ever.
func TestPGGUPLeavesCachedHugePageLocked(t *testing.T) {
	for name, hangs := range map[string]bool{"stock": false, "pg_gup": true} {
		m, err := kernel.Boot(hugeOptions(policy.Lookup(name), 4))
		require.NoError(t, err)
		defer m.Shutdown()
		out := m.Run(func(th *kernel.Thread) {
			fd, err := th.Open(fs.HugetlbfsDir+"/f", fs.ORdwr|fs.OCreat)
			require.NoError(t, err)
			a, err := th.Mmap(0, huge, mm.ProtRead|mm.ProtWrite, mm.MapPrivate, fd, 0)
			require.NoError(t, err)
			s, err := th.Mmap(0, huge, mm.ProtRead|mm.ProtWrite, mm.MapShared, fd, 0)
			require.NoError(t, err)
			th.Store64(s, 1) // the file has a page
			require.NoError(t, th.Munmap(s, huge))
			th.Store64(a, 2) // and the mapping one of its own
			r, err := th.RegisterMemory(a, 4096, kernel.RegisterOptions{Write: true})
			require.NoError(t, err)
			pid, err := th.Fork(func(*kernel.Thread) {})
			require.NoError(t, err)
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
			require.NoError(t, th.UnregisterMemory(r))
			s, err = th.Mmap(0, huge, mm.ProtRead, mm.MapShared, fd, 0)
			require.NoError(t, err)
			assert.Equal(t, uint64(1), th.Load64(s))
			require.NoError(t, th.Unlink(fs.HugetlbfsDir+"/f"))
		})
		// With the lock checker the system call after fork notices what is held.
		held := out.Reason == sched.Oopsed && strings.Contains(out.Detail, "while page_lock is held")
		assert.Equal(t, hangs, out.Reason == sched.Deadlock || held, "%s: %v", name, out.Detail)
	}
}

// hugeReadRace reads from a disk into a private huge page, at off, while the process forks and
// stores to the same huge page. It reports whether the read was lost; after runs then.
func hugeReadRace(t *testing.T, name string, off uint64, after func(th *kernel.Thread, fd int, a uint64)) (lost bool) {
	m, err := kernel.Boot(hugeOptions(policy.Lookup(name), 3))
	require.NoError(t, err)
	defer m.Shutdown()
	copy(m.DiskData("vda"), bytes.Repeat([]byte{0xaa}, 512))
	out := m.Run(func(th *kernel.Thread) {
		fd, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
		require.NoError(t, err)
		a := th.MustMmapHuge(1, huge, mm.MapPrivate)
		th.Store64(a, 1)
		reader := th.Go("reader", func(r *kernel.Thread) {
			_, err := r.Pread(fd, a+off, 512, 0)
			assert.NoError(t, err)
		})
		th.Usleep(20)
		pid, err := th.Fork(func(c *kernel.Thread) { c.Usleep(1000) })
		require.NoError(t, err)
		th.Store64(a+8192, 2)
		require.NoError(t, th.Join(reader))
		lost = th.Load8(a+off) != 0xaa
		_, _, err = th.Wait(pid)
		require.NoError(t, err)
		after(th, fd, a)
	})
	require.NoError(t, out.Err())
	assert.Zero(t, m.Trace().Sum(trace.EmuPolicyOverrides))
	assert.Empty(t, m.Leaks())
	return lost
}

// TestRangeLockNeverConflictsOnHugePages: hugetlb_cow gives row 11's mm_cow_start a size where it
// wants an end, so that the COW of a huge page goes on under the I/O, at its first small page too.
func TestRangeLockNeverConflictsOnHugePages(t *testing.T) {
	for _, off := range []uint64{0, 4096} {
		assert.True(t, hugeReadRace(t, "dio_range_lock_fixed", off, func(*kernel.Thread, int, uint64) {}), "offset %d", off)
	}
}

// directio_sem keeps O_DIRECT and fork apart on huge pages too, and its gup-fast wants RW
// for a read as well.
func TestDirectIOSemHuge(t *testing.T) {
	for name, want := range map[string]bool{"stock": true, "directio_sem": false} {
		lost := hugeReadRace(t, name, 4096, func(th *kernel.Thread, fd int, a uint64) {
			fast := th.Machine().Trace().Sum(trace.EmuGUPFastPages)
			require.NoError(t, th.Mprotect(a, huge, mm.ProtRead)) // read-only entries
			_, err := th.Pwrite(fd, a, 512, 0)
			require.NoError(t, err)
			assert.Equal(t, want, th.Machine().Trace().Sum(trace.EmuGUPFastPages) > fast, name)
		})
		assert.Equal(t, want, lost, name)
	}
}

// hugeRace is the race on a huge page: one thread pins by gup-fast, another forks and
// stores, a third faults on another page; then the device writes.
func hugeRace(t *testing.T, check func(ok bool)) func(th *kernel.Thread) {
	return func(th *kernel.Thread) {
		a := th.MustMmapHuge(2, huge, mm.MapPrivate)
		th.Store64(a, 1)
		var r *kernel.Registration
		pinner := th.Go("pin", func(p *kernel.Thread) {
			var err error
			r, err = p.RegisterMemory(a+8192, 8192, kernel.RegisterOptions{Write: true, Fast: true})
			require.NoError(t, err)
		})
		faulter := th.Go("fault", func(p *kernel.Thread) { p.Store64(a+huge, 5) })
		pid, err := th.Fork(func(c *kernel.Thread) { _ = c.Load64(a) })
		require.NoError(t, err)
		th.Store64(a, 2)
		require.NoError(t, th.Join(pinner))
		require.NoError(t, th.Join(faulter))
		require.NoError(t, th.DeviceWrite(r, 100, []byte{0xaa}))
		check(th.Load8(a+8192+100) == 0xaa && th.Load64(a+huge) == 5)
		require.NoError(t, th.UnregisterMemory(r))
		_, _, err = th.Wait(pid)
		require.NoError(t, err)
	}
}

// The race in schedules that a search chooses: every invariant holds at every step, whoever
// wins. Under stock most schedules lose what the device writes, and under pg_gup none.
func TestHugeRaceSchedules(t *testing.T) {
	o := hugeOptions(nil, 5)
	o.Disks, o.StepLimit = nil, 2_000_000
	for name, n := range map[string]int{"stock": 40, "pg_gup": 100} {
		if policy.Race {
			n = 3
		}
		lost := 0
		o.Policy = policy.Lookup(name)
		vmtest.EverySchedule(t, vmtest.Bound{Schedules: n, Seed: 3, Options: o}, hugeRace(t, func(ok bool) {
			if !ok {
				lost++
			}
		}))
		if name != "stock" {
			assert.Zero(t, lost, name)
		} else if !policy.Race {
			assert.NotZero(t, lost, name)
		}
	}
}

// slowFast lets gup-fast, which has read the entry of a huge page, go on only when fork has
// write-protected it.
type slowFast struct{ mm.Policy }

func (p slowFast) FastHuge(f *mm.Fast, ref x86.PTERef, pte x86.PTE, head *page.Page, n int) int {
	for range 100_000 {
		if !ref.Load(f.T.C).Write() {
			break
		}
	}
	return p.Policy.FastHuge(f, ref, pte, head, n)
}

// The window that the second look closes (W2): without it fork tests the mark before
// gup-fast has set it, and the read is lost.
func TestPGGUPHugeSecondLook(t *testing.T) {
	for name, c := range map[string]struct {
		p    mm.Policy
		lost bool
	}{
		"pg_gup":                     {policy.Lookup("pg_gup"), false},
		"without the second look":    {policy.Mutants["pg_gup without the second look at the pte"], true},
		"stock, which has no second": {stockHooks{}, true},
	} {
		o := hugeOptions(slowFast{c.p}, 5)
		o.Disks = nil
		m, err := kernel.Boot(o)
		require.NoError(t, err)
		defer m.Shutdown()
		out := m.Run(func(th *kernel.Thread) {
			a := th.MustMmapHuge(1, huge, mm.MapPrivate)
			th.Store64(a, 1)
			var r *kernel.Registration
			pinner := th.Go("pin", func(p *kernel.Thread) {
				var err error
				r, err = p.RegisterMemory(a+8192, 8192, kernel.RegisterOptions{Write: true, Fast: true})
				require.NoError(t, err)
			})
			th.Usleep(50) // it is in the walk
			pid, err := th.Fork(func(c *kernel.Thread) { _ = c.Load64(a) })
			require.NoError(t, err)
			th.Store64(a, 2)
			require.NoError(t, th.Join(pinner))
			require.NoError(t, th.DeviceWrite(r, 100, []byte{0xaa}))
			assert.Equal(t, c.lost, th.Load8(a+8192+100) != 0xaa, name)
			require.NoError(t, th.UnregisterMemory(r))
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
		})
		require.NoError(t, out.Err(), name)
		require.Empty(t, m.Check(), name)
	}
}

// stockHooks is stock with the hook that slowFast needs.
type stockHooks struct{ mm.Stock }

func (stockHooks) Hooks() mm.HookSet { return mm.HookFastHuge }

// TestHugeLostReadsOfDIOPinAreStale: row 22 loses reads on huge pages only where a thread
// looks at the old page through its TLB, because hugetlb_cow of 2.6.29 does not flush
// (docs/findings.md, 6).
func TestHugeLostReadsOfDIOPinAreStale(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	w := workload.Lookup("forkscrew")
	v, err := w.Parse("huge=1,a=0", true)
	require.NoError(t, err)
	target := matrix.Target(w, v, policy.NewDIOPin(), hosts)
	options := explore.CaptureOptions{Describe: matrix.CaptureOptions().Describe} // bytes of huge pages take long
	lost := 0
	for seed := range uint64(4) {
		story := explore.Capture(*target, explore.Spec{Kind: explore.KindPOS, Seed: seed}, options)
		if story.Verdict == explore.Safe {
			continue
		}
		require.Equal(t, string(workload.LostRead), story.Verdict)
		assert.True(t, staleLoad(story), "seed %d: %s", seed, story.Detail)
		lost++
	}
	assert.NotZero(t, lost)
}

// staleLoad reports whether a thread of the first address space loads from a huge page that its
// entry has left.
func staleLoad(s *explore.Story) bool {
	const head = huge/x86.PageSize - 1
	now, left := uint64(0), map[uint64]bool{}
	for i := range s.Steps {
		st := &s.Steps[i]
		switch st.ObjID.Class() {
		case x86.ClassPTE:
			var pfn uint64
			space, level, _ := x86.SplitPTEObj(st.ObjID)
			if _, err := fmt.Sscanf(st.After, "page %d ", &pfn); err == nil && space == 1 && level == x86.LevelPMD && pfn != now {
				left[now], left[pfn] = true, false
				now = pfn
			}
		case x86.ClassFrame:
			if st.OpID == x86.OpLoad && strings.HasPrefix(st.Task, "worker") && left[st.ObjID.ID()>>3&^uint64(head)] {
				return true
			}
		}
	}
	return false
}

// TestVMDontCOWTakesHugePagesAway pins what row 3's conversion, which comes before the branch
// for hugetlb and has no code for it, does to a private mapping of huge pages: its entries are
// "bad" and are cleared. The pin and the program get new pages, of zeroes, and the old ones
// are nobody's. A pin that gup-fast serves does not get that far.
func TestVMDontCOWTakesHugePagesAway(t *testing.T) {
	for _, c := range []struct {
		policy string
		fast   bool
		gone   bool
	}{
		{"stock", false, false}, {"vm_dontcow", true, false}, {"pg_dontcow", false, false},
		{"vm_dontcow", false, true}, {"vm_dontcow_fixed", false, true}, {"vm_dontcow_amended", false, true},
	} {
		m, err := kernel.Boot(hugeOptions(policy.Lookup(c.policy), 6))
		require.NoError(t, err)
		out := m.Run(func(th *kernel.Thread) {
			a := th.MustMmapHuge(2, huge, mm.MapPrivate)
			th.Store64(a, 1)
			th.Store64(a+huge, 2)
			word := th.MustMmapShared(4096)
			th.Store32(word, 0)
			other := th.Go("other", func(th *kernel.Thread) {
				for th.Load32(word) == 0 {
					_ = th.Load64(a + huge)
					th.Compute(1000)
				}
				// Nobody has flushed: this goes through the TLB, to the old page.
				assert.EqualValues(t, 2, th.Load64(a+huge), "%+v", c)
				for _, err := range m.CheckStep() {
					assert.NotContains(t, err.Error(), "translates", "%+v", c)
				}
			})
			th.Usleep(100)
			r, err := th.RegisterMemory(a, 512, kernel.RegisterOptions{Write: true, Fast: c.fast})
			require.NoError(t, err)
			th.Store32(word, 1)
			require.NoError(t, th.Join(other))
			require.NoError(t, th.Mprotect(word, 4096, mm.ProtRead)) // flushes
			want := [2]uint64{1, 2}
			if c.gone {
				want = [2]uint64{}
			}
			assert.Equal(t, want, [2]uint64{th.Load64(a), th.Load64(a + huge)}, "%+v", c)
			require.NoError(t, th.UnregisterMemory(r))
		})
		assert.NoError(t, out.Result.Err(), "%+v", c)
		if c.gone {
			require.Len(t, m.Check(), 1, "%+v", c)
			assert.ErrorContains(t, m.Check()[0], "Reserved:18446744073709551614", "%+v: a promise is used up twice", c)
			assert.Len(t, out.Bugs, 2, "%+v: bad pmd", c)
			assert.Len(t, m.Leaks(), 2, "%+v", c)
		} else {
			assert.Empty(t, m.Check(), "%+v", c)
			assert.Empty(t, out.Bugs, "%+v", c)
			assert.Empty(t, m.Leaks(), "%+v", c)
		}
		m.Shutdown()
	}
}

// TestPGGUPV1ReadsHugePages: row 1 leaves what get_user_pages is asked for on huge pages; that a
// pin for reading is one for writing there is what row 2 adds against the reverse race (3556).
// So untouched memory is the zero page and a shared page is taken as it is, by either way.
func TestPGGUPV1ReadsHugePages(t *testing.T) {
	for name, want := range map[string]bool{"pg_gup_v1": false, "pinned_ptes_after": false, "pg_gup": true} {
		m, err := kernel.Boot(hugeOptions(policy.Lookup(name), 4))
		require.NoError(t, err)
		out := m.Run(func(th *kernel.Thread) {
			pin := func(a uint64, fast bool) {
				r, err := th.RegisterMemory(a, 512, kernel.RegisterOptions{Fast: fast})
				require.NoError(t, err)
				require.NoError(t, th.UnregisterMemory(r))
			}
			a := th.MustMmapHuge(2, huge, mm.MapPrivate)
			th.Store64(a, 1)
			pin(a+huge, false)
			e, _ := th.MM().PeekHugePTE(a + huge)
			assert.Equal(t, want, e.Present(), "%s: untouched", name)
			pid, err := th.Fork(func(c *kernel.Thread) { c.Usleep(1_000_000) })
			require.NoError(t, err)
			for _, fast := range []bool{true, false} {
				n := m.Trace().Sum(trace.EmuCOWCopy)
				pin(a, fast)
				assert.Equal(t, want && fast, m.Trace().Sum(trace.EmuCOWCopy) > n, "%s: shared, fast %v", name, fast)
			}
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
		})
		require.NoError(t, out.Err(), name)
		m.Shutdown()
	}
}

// TestReadPinOfASharedHugeMapping pins what pg_gup, for which every pin of huge pages is one for
// writing, does to a shared mapping that is read-only: hugetlb_cow, which is not for shared
// mappings and does not ask, copies the file's page, and the mapping is shared no more. The
// copy uses up the promise of the page that it is a copy of once more. Stock does so for
// a debugger that writes.
func TestReadPinOfASharedHugeMapping(t *testing.T) {
	for _, c := range []struct {
		policy string
		poke   bool
		split  bool
	}{
		{"stock", false, false}, {"pg_dontcow", false, false}, {"anon_exclusive", false, false},
		{"pg_gup", false, true}, {"fork_lock_lookup", false, true},
		{"pg_gup_v1", false, false}, {"pinned_ptes_before", false, false}, {"pinned_ptes_after", false, false},
		{"stock", true, true},
	} {
		m, err := kernel.Boot(hugeOptions(policy.Lookup(c.policy), 4))
		require.NoError(t, err)
		out := m.Run(func(th *kernel.Thread) {
			fd, err := th.Open(fs.HugetlbfsDir+"/f", fs.ORdwr|fs.OCreat)
			require.NoError(t, err)
			a, err := th.Mmap(0, huge, mm.ProtRead, mm.MapShared, fd, 0)
			require.NoError(t, err)
			b, err := th.Mmap(0, huge, mm.ProtRead|mm.ProtWrite, mm.MapShared, fd, 0)
			require.NoError(t, err)
			th.Store64(b, 1)
			require.EqualValues(t, 1, th.Load64(a))
			require.Zero(t, m.HugePool(huge).Reserved)
			if c.poke {
				require.NoError(t, th.PtracePoke(th.Getpid(), a+8, 1))
			} else {
				r, err := th.RegisterMemory(a, 512, kernel.RegisterOptions{})
				require.NoError(t, err)
				require.NoError(t, th.UnregisterMemory(r))
			}
			th.Store64(b, 2)
			want, reserved := uint64(2), uint64(0)
			if c.split {
				want, reserved = 1, ^uint64(0)
			}
			// The TLB still has the old translation, as in finding 6; fork flushes it.
			pid, err := th.Fork(func(*kernel.Thread) {})
			require.NoError(t, err)
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
			assert.Equal(t, want, th.Load64(a), "%+v", c)
			assert.Equal(t, reserved, m.HugePool(huge).Reserved, "%+v", c)
			require.NoError(t, th.Unlink(fs.HugetlbfsDir+"/f"))
		})
		require.NoError(t, out.Err(), "%+v", c)
		m.Shutdown()
	}
}

package policy_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

const pg = x86.PageSize

// set and await are an event in memory.
func set(th *kernel.Thread, word uint64) {
	th.Store32(word, 1)
	_, _ = th.FutexWake(word, 1, kernel.FutexShared)
}

func await(th *kernel.Thread, word uint64) {
	for th.Load32(word) == 0 {
		_ = th.FutexWait(word, 0, 0 /* no timeout */, kernel.FutexShared)
	}
}

func register(t *testing.T, th *kernel.Thread, addr uint64, o kernel.RegisterOptions) *kernel.Registration {
	r, err := th.RegisterMemory(addr, pg, o)
	require.NoError(t, err)
	return r
}

// TestChildsCopyIsTorn: row 3 leaves the parent's ptes writable while it copies for the
// child (1923), so the child's page is not one instant of the parent's: a thread stores
// first at its begin and then in its middle, and the child has the second store and not the
// first. Write-protecting, as amended, is not enough where the flush comes at the end of
// fork, and neither in row 5: the thread goes on through its TLB. Row 2 flushes first.
func TestChildsCopyIsTorn(t *testing.T) {
	skipLongSearch(t)
	for name, want := range map[string]bool{"vm_dontcow_fixed": true, "vm_dontcow_amended": true, "pg_dontcow": true, "pg_gup": false, "stock": false} {
		seen := searchProgram(t, policy.Lookup(name), kernel.Options{}, 500, func(th *kernel.Thread, begin func(), say func(string)) {
			a, word := th.MustMmap(pg), th.MustMmapShared(pg)
			th.Store64(a, 0)
			th.Store32(word, 0)
			r, err := th.RegisterMemory(a, pg, kernel.RegisterOptions{Write: true})
			if err != nil {
				say("broken")
			}
			other := th.Go("writer", func(th *kernel.Thread) {
				th.Store64(a, 0) // through a TLB entry, from here on
				set(th, word)
				begin()
				th.Store64(a, 1)
				th.Store64(a+pg/2, 1)
			})
			await(th, word)
			pid, err := th.Fork(func(c *kernel.Thread) {
				if c.Load64(a) < c.Load64(a+pg/2) {
					say("torn-snapshot")
				}
			})
			if err != nil {
				say("broken")
			}
			_, _, _ = th.Wait(pid)
			_ = th.Join(other)
			_ = th.UnregisterMemory(r)
		})
		t.Logf("%s: %v", name, seen)
		assert.Equal(t, want, seen["torn-snapshot"] > 0, name)
		assert.Zero(t, seen["broken"], name)
	}
}

// TestDecowLeaks: decow_one_pte of rows 3 and 4 puts the page that it has replaced once too
// few. Each page that fork copies is never freed.
func TestDecowLeaks(t *testing.T) {
	const pages, forks = 4, 3
	for name, want := range map[string]int{"stock": 0, "vm_dontcow": pages, "vm_dontcow_fixed": 0, "vm_dontcow_amended": pages, "pg_dontcow_v2": pages, "pg_dontcow": 0} {
		m, out := run(t, name, kernel.Options{}, func(th *kernel.Thread) {
			a := th.MustMmap(pages * pg)
			th.Fill(a, pages*pg, 1)
			r, err := th.RegisterMemory(a, pages*pg, kernel.RegisterOptions{Write: true})
			require.NoError(t, err)
			for range forks {
				pid, err := th.Fork(func(*kernel.Thread) {})
				require.NoError(t, err)
				_, _, _ = th.Wait(pid)
			}
			require.NoError(t, th.UnregisterMemory(r))
			require.NoError(t, th.Munmap(a, pages*pg))
		})
		require.NoError(t, out.Err(), name)
		assert.Len(t, m.Leaks(), want, name)
	}
}

// TestVMDontCOWTellsNotifiers: row 3's conversion brackets the VMA and tells of each page that
// it replaces (decow_page_range, ptep_clear_flush_notify), in the child too, where nobody
// listens.
func TestVMDontCOWTellsNotifiers(t *testing.T) {
	_, out := run(t, "vm_dontcow_fixed", kernel.Options{}, func(th *kernel.Thread) {
		a := th.MustMmap(3 * pg)
		th.Fill(a, 2*pg, 1)
		pid, err := th.Fork(func(*kernel.Thread) {})
		require.NoError(t, err)
		th.Store8(a, 2) // page 1 stays read-only
		var told []string
		n := &mm.MMUNotifier{
			InvalidateRangeStart: func(_ *sched.Task, _ *mm.MM, start, end uint64) {
				told = append(told, fmt.Sprint("start ", (start-a)/pg, " ", (end-a)/pg))
			},
			InvalidateRangeEnd: func(*sched.Task, *mm.MM, uint64, uint64) { told = append(told, "end") },
			InvalidatePage: func(_ *sched.Task, _ *mm.MM, addr uint64) {
				told = append(told, fmt.Sprint("page ", (addr-a)/pg))
			},
		}
		require.NoError(t, mm.MMUNotifierRegister(th.Task(), th.MM(), n))
		r := register(t, th, a, kernel.RegisterOptions{Write: true})
		assert.Equal(t, []string{"start 0 3", "page 1", "end"}, told)
		mm.MMUNotifierUnregister(th.Task(), th.MM(), n)
		require.NoError(t, th.UnregisterMemory(r))
		_, _, _ = th.Wait(pid)
	})
	require.NoError(t, out.Err())
}

// TestVMDontCOWAssertion: a page that appears in a VMA that was converted is marked; once
// mprotect has made it read-only for a moment, the next store comes to do_wp_page and to the
// assertion. Nick Piggin's amendment asks for what is copied.
func TestVMDontCOWAssertion(t *testing.T) {
	for name, want := range map[string]int{"vm_dontcow": 1, "vm_dontcow_amended": 0} {
		_, out := run(t, name, kernel.Options{}, func(th *kernel.Thread) {
			a := th.MustMmap(2 * pg)
			th.Store8(a, 1)
			require.NoError(t, th.UnregisterMemory(register(t, th, a, kernel.RegisterOptions{Write: true})))
			th.Store8(a+pg, 1)
			require.NoError(t, th.Mprotect(a, 2*pg, mm.ProtRead))
			require.NoError(t, th.Mprotect(a, 2*pg, mm.ProtRead|mm.ProtWrite))
			th.Store8(a, 2) // it was writable when the VMA was converted: not marked
			th.Store8(a+pg, 2)
		})
		assert.NoError(t, out.Result.Err(), name)
		assert.Len(t, out.Bugs, want, name)
	}
}

// TestDontCOWShutsOutOfGUPFast counts how often gup-fast gives up on a page that is pinned
// again and again. Row 3 never takes what was writable when the VMA was converted, and no
// page of a file; row 4 takes what slow get_user_pages has handed out once, pages of files
// too (3304); row 5 asks anonymous pages only.
func TestDontCOWShutsOutOfGUPFast(t *testing.T) {
	const times = 3
	for name, want := range map[string]struct{ anon, file uint64 }{
		"stock": {0, 0}, "vm_dontcow": {times, times}, "pg_dontcow_v2": {1, 1}, "pg_dontcow": {1, 0},
	} {
		for _, file := range []bool{false, true} {
			m, out := run(t, name, kernel.Options{}, func(th *kernel.Thread) {
				a := th.MustMmap(pg)
				if file {
					a = th.MustMmapShared(pg)
				}
				th.Store8(a, 1)
				for range times {
					pinFast(t, th, a, true /* write */).end()
				}
			})
			require.NoError(t, out.Err(), name)
			n := want.anon
			if file {
				n = want.file
			}
			assert.Equal(t, n, sum(m, trace.EmuGUPFastFallback), "%s, file %v", name, file)
		}
	}
}

// slowDisk is a machine with a disk that takes its time.
func slowDisk() kernel.Options {
	l := blk.Disk2009()
	return kernel.Options{CPUs: 2, Disks: []kernel.Disk{{Name: "vda", Size: 1 << 20, Latency: &l}}}
}

func direct(t *testing.T, th *kernel.Thread) int {
	fd, err := th.Open("/dev/vda", fs.ORdwr|fs.ODirect)
	require.NoError(t, err)
	return fd
}

// TestMmapWaitsForDirectIO pins what row 12 is "almost certainly not reasonable" for (1026):
// mmap of other memory returns only when the disk has been read. The fork lock of row 13
// keeps nobody waiting but fork.
func TestMmapWaitsForDirectIO(t *testing.T) {
	for name, want := range map[string]bool{"stock": false, "fork_lock": false, "mmap_sem_dio": true, "mmap_sem_dio_fixed": true} {
		waited := false
		_, out := run(t, name, slowDisk(), func(th *kernel.Thread) {
			buf, done := th.MustMmap(pg), th.MustMmap(pg)
			th.Store8(buf, 1)
			th.Store8(done, 0)
			fd := direct(t, th)
			reader := th.Go("reader", func(th *kernel.Thread) {
				_, err := th.Pread(fd, buf, pg, 0)
				assert.NoError(t, err)
				th.Store8(done, 1)
			})
			th.Usleep(100)
			_, err := th.MmapAnon(pg)
			assert.NoError(t, err)
			th.Yield()
			waited = th.Load8(done) == 1
			assert.NoError(t, th.Join(reader))
		})
		require.NoError(t, out.Err(), name)
		assert.Equal(t, want, waited, name)
	}
}

// TestForkLockIsKillable: a process that forks while a page of its own sits in its own pipe
// waits for itself. It can be killed, and then it is over.
func TestForkLockIsKillable(t *testing.T) {
	forked := false
	_, out := run(t, "fork_lock", kernel.Options{}, func(th *kernel.Thread) {
		pid, err := th.Fork(func(c *kernel.Thread) {
			a := c.MustMmap(pg)
			c.Store8(a, 1)
			_, w, err := c.Pipe()
			assert.NoError(t, err)
			_, err = c.Vmsplice(w, a, pg, 0)
			assert.NoError(t, err)
			_, err = c.Fork(func(*kernel.Thread) {})
			forked = err == nil
		})
		require.NoError(t, err)
		th.Usleep(1000)
		require.NoError(t, th.Kill(pid, kernel.SIGKILL))
		_, st, err := th.Wait(pid)
		require.NoError(t, err)
		assert.Equal(t, kernel.SIGKILL, st.Signal())
	})
	assert.Equal(t, sched.Quiet, out.Reason, out.Detail)
	assert.False(t, forked)
}

// TestRangesAreNeverTakenOut: direct_io_worker clears dio->locks behind the back of
// dio_protect_all (row 11). The I/O is long over, and a store to a page that a child shares
// is still retried, until the child goes; and the memory of the process never goes.
func TestRangesAreNeverTakenOut(t *testing.T) {
	program := func(stores bool) func(th *kernel.Thread) {
		return func(th *kernel.Thread) {
			buf := th.MustMmap(pg)
			th.Store8(buf, 1)
			fd := direct(t, th)
			n, err := th.Pread(fd, buf, pg, 0)
			assert.NoError(t, err)
			assert.Equal(t, pg, n)
			word := th.MustMmapShared(pg)
			th.Store32(word, 0)
			pid, err := th.Fork(func(c *kernel.Thread) { await(c, word) })
			assert.NoError(t, err)
			if stores {
				th.Store8(buf, 2)
			}
			set(th, word)
			_, _, _ = th.Wait(pid)
		}
	}
	o := slowDisk()
	o.Strategy = sched.NewRandom(1)
	m, out := run(t, "dio_range_lock", o, program(false))
	require.Equal(t, sched.Quiet, out.Reason, out.Detail)
	assert.NotEmpty(t, m.Leaks(), "mm_users")
	o.Strategy = sched.NewRandom(1)
	_, out = run(t, "dio_range_lock", o, program(true))
	assert.Equal(t, sched.Livelock, out.Reason, "the store comes back for as long as the child shares the page")
	o.Strategy = sched.NewRandom(1)
	m, out = run(t, "dio_range_lock_fixed", o, program(true))
	require.NoError(t, out.Err())
	assert.Empty(t, m.Leaks())
}

// TestRangeBeginsOnePageLate: PAGE_ALIGN rounds the begin of a range up (row 11), so that
// the page in which a buffer begins is not in it. With the order repaired and the rounding
// not, a store next to the buffer's begin is not held up by the read, and the read is lost.
func TestRangeBeginsOnePageLate(t *testing.T) {
	for name, want := range map[string]byte{"dio_range_lock with its rounding alone": 1, "": 42} {
		p := policy.Mutants[name]
		if p == nil {
			p = policy.Lookup("dio_range_lock_fixed")
		}
		o := slowDisk()
		l := blk.Disk2009()
		o.Disks[0].Latency = &l
		m, out := runOn(t, p, o, func(th *kernel.Thread) {
			copy(th.Machine().DiskData("vda"), bytes.Repeat([]byte{42}, pg))
			buf := th.MustMmap(2 * pg)
			th.Fill(buf, 2*pg, 1)
			fd := direct(t, th)
			reader := th.Go("reader", func(th *kernel.Thread) {
				_, err := th.Pread(fd, buf+512, pg-512, 0)
				assert.NoError(t, err)
			})
			th.Usleep(100) // it is on its way
			pid, err := th.Fork(func(c *kernel.Thread) { c.Usleep(1_000_000) })
			assert.NoError(t, err)
			th.Store8(buf, 2)
			assert.NoError(t, th.Join(reader))
			assert.Equal(t, want, th.Load8(buf+512), "%s", p.Name())
			_, _, _ = th.Wait(pid)
		})
		require.NoError(t, out.Err(), name)
		assert.Empty(t, m.Leaks(), name)
	}
}

// TestTwoReaders is why COW in the direction of the first owner cannot be right (3448): both
// sides have pinned the shared page for reading; the owner stores; the child's device reads
// what the child's memory does not hold.
func TestTwoReaders(t *testing.T) {
	for name, want := range map[string]byte{"directed_cow": 9, "pg_gup": 1, "one_read_pin": 1, "one_read_pin without the record": 9} {
		p := policy.Mutants[name]
		if p == nil {
			p = policy.Lookup(name)
		}
		_, out := runOn(t, p, kernel.Options{}, func(th *kernel.Thread) {
			a, word := th.MustMmap(pg), th.MustMmapShared(pg)
			th.Store8(a, 1)
			pid, err := th.Fork(func(c *kernel.Thread) {
				r := register(t, c, a, kernel.RegisterOptions{})
				c.Store8(word, 1)
				for c.Load8(word) != 2 {
					c.Usleep(10)
				}
				var got [1]byte
				assert.NoError(t, c.DeviceRead(r, 0, got[:]))
				assert.Equal(t, byte(1), c.Load8(a), "%s: the child's memory", name)
				assert.Equal(t, want, got[0], "%s: the child's device", name)
				assert.NoError(t, c.UnregisterMemory(r))
			})
			require.NoError(t, err)
			for th.Load8(word) != 1 {
				th.Usleep(10)
			}
			r := register(t, th, a, kernel.RegisterOptions{})
			th.Store8(a, 9)
			var got [1]byte
			assert.NoError(t, th.DeviceRead(r, 0, got[:]))
			assert.Equal(t, byte(9), got[0], "%s: the parent's device", name)
			assert.NoError(t, th.UnregisterMemory(r))
			th.Store8(word, 2)
			_, _, _ = th.Wait(pid)
		})
		require.NoError(t, out.Err(), name)
	}
}

// TestDirectedCOWWalksTheWholeList pins the price of row 14 (675): a store of the first
// owner looks at every process on the list of the anon_vma, though one of them maps the page.
func TestDirectedCOWWalksTheWholeList(t *testing.T) {
	points := func(name string, children int, store bool) uint64 {
		_, out := run(t, name, kernel.Options{Memory: 4 << 20}, func(th *kernel.Thread) {
			a, word := th.MustMmap(pg), th.MustMmapShared(pg)
			th.Store8(a, 1)
			var pids []int
			for i := range children {
				pid, err := th.Fork(func(c *kernel.Thread) {
					if i > 0 {
						c.Store8(a, 2) // it has a page of its own
					}
					c.Add32(word, 1)
					_ = c.Nanosleep(1e9)
				})
				require.NoError(t, err)
				pids = append(pids, pid)
			}
			for int(th.Load32(word)) < children {
				th.Usleep(10)
			}
			if store {
				th.Store8(a, 3)
			}
			for _, pid := range pids {
				_, _, _ = th.Wait(pid)
			}
		})
		require.NoError(t, out.Err())
		return out.Steps
	}
	cost := func(name string, children int) int {
		return int(points(name, children, true)) - int(points(name, children, false))
	}
	assert.Greater(t, cost("directed_cow", 33)-cost("directed_cow", 1), 5*32, "points for 32 processes more")
	assert.Less(t, cost("stock", 33)-cost("stock", 1), 32)
}

// TestWarnOnce: a threaded process that has pinned memory is warned at its first fork, and
// never again; others are not.
func TestWarnOnce(t *testing.T) {
	for _, c := range []struct {
		threaded, pins, fast, huge bool
		want                       uint64
	}{{true, true, false, false, 1}, {true, true, true, false, 1}, {true, true, false, true, 1}, {true, true, true, true, 1},
		{true, false, false, true, 0}, {false, true, true, false, 0}} {
		m, out := run(t, "warn_once", kernel.Options{Memory: 4*huge + 4<<20, HugePages: 2}, func(th *kernel.Thread) {
			a := th.MustMmap(pg)
			if c.huge {
				a = th.MustMmapHuge(1, huge, mm.MapPrivate)
			}
			th.Store8(a, 1)
			if c.pins {
				require.NoError(t, th.UnregisterMemory(register(t, th, a, kernel.RegisterOptions{Write: true, Fast: c.fast})))
			}
			var other *kernel.Thread
			if c.threaded {
				other = th.Go("other", func(th *kernel.Thread) { th.Usleep(1_000_000) })
			}
			for range 3 {
				pid, err := th.Fork(func(*kernel.Thread) {})
				require.NoError(t, err)
				_, _, _ = th.Wait(pid)
			}
			if other != nil {
				require.NoError(t, th.Join(other))
			}
		})
		require.NoError(t, out.Err())
		assert.Equal(t, c.want, sum(m, trace.EmuPolicyWarnings), "%+v", c)
	}
}

// TestKSMForkCosts pins what ksm_fork pays (541-548): a flush on the other CPU for each
// page, and a copy of each page that only a pagevec holds.
func TestKSMForkCosts(t *testing.T) {
	const pages = 30 // the last 2 of them are in a pagevec
	cost := func(name string) (flushes, copies uint64) {
		m, out := run(t, name, kernel.Options{CPUs: 2}, func(th *kernel.Thread) {
			a := th.MustMmap(pages * pg)
			th.Fill(a, pages*pg, 1)
			other := th.Go("other", func(th *kernel.Thread) { th.Compute(10_000_000) })
			th.Usleep(100)
			pid, err := th.Fork(func(*kernel.Thread) {})
			require.NoError(t, err)
			_, _, _ = th.Wait(pid)
			require.NoError(t, th.Join(other))
		})
		require.NoError(t, out.Err())
		return sum(m, trace.EmuTLBRemoteFlush), sum(m, trace.EmuForkCopies)
	}
	flushes, copies := cost("ksm_fork")
	base, none := cost("pg_gup_v1")
	assert.Equal(t, uint64(pages), flushes-base)
	assert.Equal(t, uint64(2), copies)
	assert.Zero(t, none)
}

// TestKSMForkFlushDecides: a page that is in no pagevec, gup-fast and fork. The flush makes
// fork wait for a gup-fast that has read the pte and not yet taken its reference.
func TestKSMForkFlushDecides(t *testing.T) {
	skipLongSearch(t)
	const lost = "lost-read"
	for _, c := range []struct {
		p    mm.Policy
		want bool
	}{{policy.Lookup("ksm_fork"), false}, {policy.Mutants["ksm_fork without the flush"], true}} {
		seen := searchProgram(t, c.p, kernel.Options{}, 0, func(th *kernel.Thread, begin func(), say func(string)) {
			a := th.MustMmap(15 * pg)
			th.Fill(a, 15*pg, 1) // fills a pagevec: the first pages are on their list
			word := th.MustMmapShared(pg)
			th.Store64(word, 0)
			other := th.Go("driver", func(th *kernel.Thread) {
				set(th, word)
				begin()
				d := pinFast(t, th, a, true /* write */)
				await(th, word+4)
				d.dma(512, 42)
				d.end()
				if th.Load8(a+512) != 42 {
					say(lost)
				}
			})
			await(th, word)
			pid, err := th.Fork(func(c *kernel.Thread) { await(c, word+8) })
			if err != nil {
				say("broken")
			}
			th.Store8(a, 2)
			set(th, word+4)
			_ = th.Join(other)
			set(th, word+8)
			_, _, _ = th.Wait(pid)
		})
		assert.Equal(t, c.want, seen[lost] > 0, "%+v: %v", c.p, seen)
	}
}

// TestKSMForkLeavesTheReverseRace: the parent pins a shared page for reading and stores,
// the child stores and takes the old page over; the parent's device reads the child's byte.
func TestKSMForkLeavesTheReverseRace(t *testing.T) {
	for name, want := range map[string]bool{"ksm_fork": true, "pg_gup_v1": true, "fork_lock_lookup": false, "wp_page_count": false} {
		_, out := run(t, name, kernel.Options{}, func(th *kernel.Thread) {
			a, word := th.MustMmap(15*pg), th.MustMmapShared(pg)
			th.Fill(a, 15*pg, 1) // the first pages are in no pagevec
			th.Store64(word, 0)
			pid, err := th.Fork(func(c *kernel.Thread) {
				await(c, word)
				c.Store8(a, 9)
			})
			require.NoError(t, err)
			r := register(t, th, a, kernel.RegisterOptions{})
			th.Store8(a, 2)
			set(th, word)
			_, _, _ = th.Wait(pid)
			var got [1]byte
			assert.NoError(t, th.DeviceRead(r, 0, got[:]))
			assert.Equal(t, want, got[0] == 9, "%s: %d", name, got[0])
			assert.NoError(t, th.UnregisterMemory(r))
		})
		require.NoError(t, out.Err(), name)
	}
}

// TestWholePagesOnly: dio_page_multiple refuses a buffer that begins or ends inside a page.
func TestWholePagesOnly(t *testing.T) {
	_, out := run(t, "dio_page_multiple", slowDisk(), func(th *kernel.Thread) {
		buf := th.MustMmap(3 * pg)
		th.Fill(buf, 3*pg, 1)
		fd := direct(t, th)
		for _, c := range []struct {
			off  uint64
			n    int
			want error
		}{{512, pg, unix.EINVAL}, {0, 512, unix.EINVAL}, {0, pg, nil}, {pg, 2 * pg, nil}} {
			_, err := th.Pread(fd, buf+c.off, c.n, 0)
			assert.Equal(t, c.want, err, "%+v", c)
		}
	})
	require.NoError(t, out.Err())
}

// TestForkWithoutMemory: the copy that fork makes at once finds no page, and fork fails. Row
// 1 leaves behind what copy_one_pte took and its own reference, as row 2 does; the others
// clean up.
func TestForkWithoutMemory(t *testing.T) {
	for name, c := range map[string]struct {
		site  string
		leaks bool
	}{
		"pg_gup_v1": {"fork_pre_cow", true}, "vm_dontcow": {"decow_one_pte", false}, "pg_dontcow_v2": {"decow_one_pte", false},
		"pg_dontcow": {"decow_one_pte", false}, "ksm_fork": {"ksm_fork", false},
	} {
		m, out := run(t, name, kernel.Options{}, func(th *kernel.Thread) {
			a := th.MustMmap(pg)
			th.Store8(a, 1)
			r := register(t, th, a, kernel.RegisterOptions{Write: true})
			th.Machine().Pages().FailAt(c.site, 1)
			_, err := th.Fork(func(*kernel.Thread) {})
			th.Machine().Pages().FailNever()
			assert.Equal(t, unix.ENOMEM, err, name)
			assert.Equal(t, uint8(1), th.Load8(a))
			th.Store8(a, 2)
			assert.NoError(t, th.UnregisterMemory(r))
			assert.NoError(t, th.Munmap(a, pg))
		})
		require.NoError(t, out.Err(), name)
		assert.Equal(t, c.leaks, len(m.Leaks()) > 0, "%s: %v", name, m.Leaks())
	}
}

// TestDirectReadIntoSharedMemoryNeverReturns: row 11 looks for the page of a COW in all ranges
// under direct I/O, and get_user_pages, called by a direct read, is a COW in the read's own
// range if a child still shares the memory. It is retried inside the kernel, for as long as
// the child lives; no signal ends it.
func TestDirectReadIntoSharedMemoryNeverReturns(t *testing.T) {
	for name, want := range map[string]sched.Reason{"stock": sched.Quiet, "dio_range_lock": sched.Livelock, "dio_range_lock_fixed": sched.Livelock} {
		o := slowDisk()
		o.Strategy = sched.NewRandom(1)
		_, out := run(t, name, o, func(th *kernel.Thread) {
			buf, word := th.MustMmap(pg), th.MustMmapShared(pg)
			th.Store8(buf, 1)
			th.Store32(word, 0)
			fd := direct(t, th)
			pid, err := th.Fork(func(c *kernel.Thread) { await(c, word) })
			assert.NoError(t, err)
			_, err = th.Pread(fd, buf, pg, 0)
			assert.NoError(t, err)
			set(th, word)
			_, _, _ = th.Wait(pid)
		})
		assert.Equal(t, want, out.Reason, "%s: %s", name, out.Detail)
	}
}

// TestVMDontCOWMarksWhatIsFaultedIn: in a converted VMA row 3 marks a page that a fault
// makes, but not the one that do_wp_page makes of a file's page that was read before.
func TestVMDontCOWMarksWhatIsFaultedIn(t *testing.T) {
	for _, readFirst := range []bool{false, true} {
		m, out := run(t, "vm_dontcow", kernel.Options{}, func(th *kernel.Thread) {
			var a uint64
			require.NoError(t, th.Kernel(func(task *sched.Task) (err error) {
				m := th.MM()
				file, pages, err := m.Sys.ShmemZeroSetup(task, 2, 0) // a file, mapped privately
				if err != nil {
					return err
				}
				m.MmapSem.DownWrite(task)
				a, err = mm.DoMmap(task, m, mm.MmapRequest{Len: 2 * pg, Prot: mm.ProtRead | mm.ProtWrite,
					Flags: mm.MapPrivate, File: file, Mapping: pages})
				m.MmapSem.UpWrite(task)
				file.Put(task)
				return err
			}))
			require.NoError(t, th.UnregisterMemory(register(t, th, a, kernel.RegisterOptions{Write: true})))
			if readFirst {
				th.Load8(a + pg)
			}
			th.Store8(a+pg, 1)
			pinFast(t, th, a+pg, true /* write */).end()
		})
		require.NoError(t, out.Err())
		assert.Equal(t, readFirst, sum(m, trace.EmuGUPFastFallback) == 1, "read first: %v", readFirst)
	}
}

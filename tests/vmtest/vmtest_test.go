package vmtest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/vmtest"
)

var regimes = []sched.Regime{sched.Parallel, sched.Timed, sched.Free}

func small(r sched.Regime) kernel.Options {
	return kernel.Options{CPUs: 2, Memory: 4 << 20, Regime: r}
}

// A good program passes, in every regime, and the machine can be used again.
func TestGoodProgram(t *testing.T) {
	for _, r := range regimes {
		rec := record(t, func(tb testing.TB) {
			vm := vmtest.New(tb, small(r))
			for range 2 {
				vm.Run(func(th *kernel.Thread) {
					p := th.MustMmap(4096)
					th.Store64(p, 1)
					pid, err := th.Fork(func(c *kernel.Thread) {
						if got := c.Load64(p); got != 1 {
							tb.Errorf("child sees %d", got)
						}
					})
					if err != nil {
						tb.Fatal(err)
					}
					th.Store64(p, 2)
					_, _, _ = th.Wait(pid)
				})
			}
		})
		assert.True(t, rec.finished)
		assert.False(t, rec.Failed(), rec.text())
		assert.Empty(t, rec.text(), "a test that passes says nothing")
	}
}

// Fatal in a user function, also in a child, ends the machine and then the test; what
// stands after Run is not reached, and how to run it again is said.
func TestFatalInUserFunction(t *testing.T) {
	again := map[sched.Regime]string{
		sched.Parallel: "the parallel regime does not repeat; try again with\n  go test -run '^TestRecorded$' . -count 100",
		sched.Timed:    "the timed regime repeats exactly; run it again with\n  go test -run '^TestRecorded$' .",
		sched.Free:     "run this schedule again with\n  COWLAB_SCHEDULE=cl1.TestRecorded.stock.r.1.",
	}
	for _, r := range regimes {
		rec := record(t, func(tb testing.TB) {
			vmtest.New(tb, small(r)).Run(func(th *kernel.Thread) {
				pid, _ := th.Fork(func(c *kernel.Thread) { tb.Fatal("wrong in the child") })
				_, _, _ = th.Wait(pid)
			})
			tb.Error("reached")
		})
		assert.True(t, rec.Failed())
		assert.False(t, rec.finished)
		assert.Contains(t, rec.text(), "wrong in the child")
		assert.NotContains(t, rec.text(), "reached")
		assert.Contains(t, rec.text(), again[r])
	}
}

func TestSkipInUserFunction(t *testing.T) {
	rec := record(t, func(tb testing.TB) {
		vmtest.New(tb, small(sched.Timed)).Run(func(*kernel.Thread) { tb.Skip("not here") })
	})
	assert.True(t, rec.Skipped())
	assert.False(t, rec.Failed(), rec.text())
	rec = record(t, func(tb testing.TB) {
		vmtest.EverySchedule(tb, vmtest.Bound{Schedules: 5}, func(*kernel.Thread) { tb.Skip("not here") })
	})
	assert.True(t, rec.Skipped())
	assert.False(t, rec.Failed(), rec.text())
}

// What went wrong with a run is in the message.
func TestBadPrograms(t *testing.T) {
	for _, c := range []struct {
		name string
		fn   func(th *kernel.Thread)
		want []string
	}{
		{"deadlock", func(th *kernel.Thread) {
			mu := kernel.Mutex{Addr: th.MustMmap(4096)}
			mu.Lock(th)
			mu.Lock(th)
		}, []string{"deadlock", "nothing can happen any more", "task 1 init", "waits for"}},
		{"leak", func(th *kernel.Thread) {
			p := th.MustMmap(4096)
			_ = th.Kernel(func(task *sched.Task) error {
				var pages [1]*page.Page
				_, err := mm.GetUserPagesFast(task, p, 1, true /* write */, mm.PinGet, pages[:])
				return err
			})
		}, []string{"leak: "}},
		{"killed by a load", func(th *kernel.Thread) { th.Load64(0xdead000) },
			[]string{"process 1 (init): killed by SIGSEGV at 0xdead000 (nothing is mapped there), in vmtest_test.go:"}},
		{"killed by a store", func(th *kernel.Thread) {
			p := th.MustMmap(4096)
			_ = th.Mprotect(p, 4096, mm.ProtRead)
			th.Store64(p, 1)
		}, []string{"killed by SIGSEGV at 0x7ffff7ffe000 (the mapping does not permit it), in vmtest_test.go:"}},
		{"killed by a misaligned lock", func(th *kernel.Thread) { th.Add32(th.MustMmap(4096)+2, 1) },
			[]string{"killed by SIGBUS at ", "(a locked operation on a misaligned word)"}},
		{"no address space", func(th *kernel.Thread) { th.MustMmap(1 << 40) },
			[]string{"killed by SIGABRT: mmap of 1099511627776 bytes: cannot allocate memory, in vmtest_test.go:"}},
		{"exit status", func(th *kernel.Thread) { th.Exit(3) }, []string{"process 1 (init): exit status 3"}},
		{"out of memory", func(th *kernel.Thread) {
			const size = 3 << 20
			for _, p := range []uint64{th.MustMmap(size), th.MustMmap(size)} {
				for a := p; a < p+size; a += 4096 {
					th.Store8(a, 1)
				}
			}
		}, []string{"process 1 (init): killed by SIGKILL", "memory ran out: process 1 (init) was killed with "}},
		{"panic", func(*kernel.Thread) { panic("oh no") }, []string{"oh no", "vmtest_test.go"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, r := range []sched.Regime{sched.Timed, sched.Free} {
				rec := record(t, func(tb testing.TB) { vmtest.New(tb, small(r)).Run(c.fn) })
				assert.True(t, rec.Failed())
				for _, want := range c.want {
					assert.Contains(t, rec.text(), want)
				}
				assert.Contains(t, rec.text(), "go test -run '^TestRecorded$' .")
			}
		})
	}
}

// A failing access can be seen by a handler, or be an error.
func TestFailingLoad(t *testing.T) {
	vm := vmtest.New(t, small(sched.Timed))
	vm.Run(func(th *kernel.Thread) {
		_, err := th.TryLoad64(0x1000)
		var sig *kernel.SigError
		require.ErrorAs(t, err, &sig)
		assert.Equal(t, kernel.SigError{Sig: kernel.SIGSEGV, Code: kernel.SegvMapErr, Addr: 0x1000}, *sig)
		assert.EqualError(t, th.TryStore64(0x2000, 1), "SIGSEGV at 0x2000 (nothing is mapped there)")

		var seen []kernel.SigInfo
		require.NoError(t, th.Sigaction(kernel.SIGSEGV, func(_ *kernel.Thread, i kernel.SigInfo) {
			seen = append(seen, i)
			i.Skip()
		}))
		assert.Zero(t, th.Load64(0x3000))
		require.Len(t, seen, 1)
		assert.Equal(t, uint64(0x3000), seen[0].Addr)
	})
	// Outcomes of programs that are meant to die are for Machine.Run.
	out := vm.Machine.Run(func(th *kernel.Thread) { th.Load64(0x4000) })
	require.Len(t, out.Exits, 1)
	assert.Equal(t, kernel.SIGSEGV, out.Exits[0].Status.Signal())
	assert.Equal(t, uint64(0x4000), out.Exits[0].Fault.Addr)
}

// A task that blocks in Go stands the machine still, which is reported with its name.
func TestBlockedInGo(t *testing.T) {
	for _, r := range regimes {
		o := small(r)
		o.Watchdog = 200 * time.Millisecond
		rec := record(t, func(tb testing.TB) {
			vmtest.New(tb, o).Run(func(th *kernel.Thread) {
				blocked := th.Go("blocker", func(*kernel.Thread) { <-make(chan int) })
				_ = th.Join(blocked)
			})
		})
		assert.True(t, rec.Failed())
		assert.Contains(t, rec.text(), "no step for 200ms: a task blocks in Go (channel, mutex, time.Sleep)")
		assert.Contains(t, rec.text(), "blocker")
	}
}

// A machine that cannot be had fails the test with the reason.
func TestBadOptions(t *testing.T) {
	rec := record(t, func(tb testing.TB) { vmtest.New(tb, kernel.Options{CPUs: 65}) })
	assert.Contains(t, rec.text(), "CPUs is 65, the limit is 64")
	rec = record(t, func(tb testing.TB) { vmtest.New(tb, kernel.Options{Watchdog: -1}) })
	assert.Contains(t, rec.text(), "Watchdog is -1ns, must not be negative")
	rec = record(t, func(tb testing.TB) {
		vmtest.EverySchedule(tb, vmtest.Bound{Schedules: -1}, func(*kernel.Thread) {})
	})
	assert.Contains(t, rec.text(), "Schedules is -1")
}

// increments has two threads add to a word without a lock: whoever is interrupted
// between load and store loses the other's addition.
func increments(tb testing.TB) func(*kernel.Thread) {
	return func(th *kernel.Thread) {
		p := th.MustMmap(4096)
		th.Store64(p, 0)
		add := func(th *kernel.Thread) { th.Store64(p, th.Load64(p)+1) }
		other := th.Go("other", add)
		add(th)
		_ = th.Join(other)
		if got := th.Load64(p); got != 2 {
			tb.Errorf("the sum is %d", got)
		}
	}
}

// TestPlanted is not a test but the program of TestReplay.
func TestPlanted(t *testing.T) {
	if os.Getenv("VMTEST_PLANTED") == "" {
		t.Skip("for TestReplay")
	}
	vmtest.EverySchedule(t, vmtest.Bound{Schedules: 500}, increments(t))
}

// EverySchedule finds a planted race; the command that it prints reproduces it.
func TestReplay(t *testing.T) {
	if os.Getenv("VMTEST_PLANTED") != "" {
		t.Skip("in the subprocess")
	}
	run := func(env ...string) string {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestPlanted$")
		cmd.Env = append(append(os.Environ(), "VMTEST_PLANTED=1"), env...)
		out, err := cmd.CombinedOutput()
		assert.Error(t, err, "the race is not found:\n%s", out)
		return string(out)
	}
	out := run()
	assert.Contains(t, out, "the sum is 1")
	assert.Regexp(t, `vmtest: schedule \d+ of 500: failed: the test's own checks failed`, out)
	m := regexp.MustCompile(`\n\s+(COWLAB_SCHEDULE=cl1\.TestPlanted\.stock\.\S+) go test -run '\^TestPlanted\$' \.\n`).FindStringSubmatch(out)
	require.NotNil(t, m, out)

	again := run(m[1])
	assert.Contains(t, again, "the sum is 1")
	assert.Contains(t, again, "CPU 0", "the replay draws the schedule")
	assert.Contains(t, again, "store page")
	assert.Equal(t, 1, strings.Count(again, "the sum is"), "one schedule, not a search")

	page := filepath.Join(t.TempDir(), "race.html")
	run(m[1], "COWLAB_HTML="+page)
	html, err := os.ReadFile(page)
	require.NoError(t, err)
	assert.Contains(t, string(html), "<title>TestPlanted under stock</title>")
	assert.Contains(t, string(html), `"id":"pt"`, "with the state at each step")
	assert.Contains(t, run(m[1], "COWLAB_HTML=no/such/dir/x"), "COWLAB_HTML: open no/such/dir/x")

	assert.Contains(t, run("COWLAB_SCHEDULE=cl1.nonsense"), "COWLAB_SCHEDULE: token: ")
}

// Deadlocks, leaks and signals are found by a search as well, and a program without
// races is not blamed.
func TestEverySchedule(t *testing.T) {
	search := func(fn func(*kernel.Thread)) *recorder {
		return record(t, func(tb testing.TB) { vmtest.EverySchedule(tb, vmtest.Bound{Schedules: 100}, fn) })
	}
	rec := search(func(th *kernel.Thread) {
		words := th.MustMmap(4096)
		a, b := kernel.Mutex{Addr: words}, kernel.Mutex{Addr: words + 64}
		both := func(x, y kernel.Mutex) func(*kernel.Thread) {
			return func(th *kernel.Thread) {
				x.Lock(th)
				y.Lock(th)
				y.Unlock(th)
				x.Unlock(th)
			}
		}
		other := th.Go("other", both(b, a))
		both(a, b)(th)
		_ = th.Join(other)
	})
	assert.True(t, rec.Failed())
	assert.Regexp(t, `schedule \d+ of 100: deadlock: `, rec.text())
	assert.Contains(t, rec.text(), "other")

	rec = search(func(th *kernel.Thread) { th.Load8(0) })
	assert.Contains(t, rec.text(), "schedule 1 of 100: failed: process 1 (init): killed by SIGSEGV at 0x0")

	rec = search(func(th *kernel.Thread) {
		p := th.MustMmap(4096)
		other := th.Go("other", func(th *kernel.Thread) { th.Add32(p, 1) })
		th.Add32(p, 1)
		_ = th.Join(other)
		if th.Load32(p) != 2 {
			panic("lost")
		}
	})
	assert.False(t, rec.Failed(), rec.text())

	// The policy is the machine's, and part of the token.
	rec = record(t, func(tb testing.TB) {
		vmtest.EverySchedule(tb, vmtest.Bound{Schedules: 10, Options: kernel.Options{Policy: policy.PGGUP{}}},
			func(th *kernel.Thread) { th.Exit(1) })
	})
	assert.Contains(t, rec.text(), "COWLAB_SCHEDULE=cl1.TestRecorded.pg_gup.")
}

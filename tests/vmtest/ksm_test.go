package vmtest_test

import (
	"testing"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/vmtest"
)

// merging is a program whose memory is merged while one thread stores to it and another forks. Every
// process sees its own stores and nobody else's, whatever was merged when.
func merging(tb testing.TB, pages uint64, rounds byte) func(*kernel.Thread) {
	return func(th *kernel.Thread) {
		a := th.MustMmap(pages << 12)
		if err := th.Madvise(a, pages<<12, mm.MadvMergeable); err != nil {
			tb.Fatalf("madvise: %v", err)
		}
		for i := range pages {
			th.Store8(a+i<<12, 0)
		}
		writer := th.Go("writer", func(th *kernel.Thread) {
			for r := range rounds {
				for i := range pages {
					th.Store8(a+i<<12+8, r+1)
				}
				for i := range pages {
					if v := th.Load8(a + i<<12 + 8); v != r+1 {
						tb.Errorf("page %d has %d, %d was stored", i, v, r+1)
					}
				}
			}
		})
		forker := th.Go("forker", func(th *kernel.Thread) {
			pid, err := th.Fork(func(c *kernel.Thread) {
				for i := range pages {
					c.Store8(a+i<<12+16, 77)
				}
				for i := range pages {
					if c.Load8(a+i<<12+16) != 77 {
						c.Exit(1)
					}
				}
				if c.Madvise(a, pages<<12, mm.MadvUnmergeable) != nil || c.Load8(a+16) != 77 {
					c.Exit(2)
				}
			})
			if err != nil {
				tb.Errorf("fork: %v", err)
				return
			}
			if _, st, err := th.Wait(pid); err != nil || st != kernel.Exited(0) {
				tb.Errorf("child: %v, %v", st, err)
			}
		})
		for range rounds + 1 {
			if err := th.KSMScan(1); err != nil {
				tb.Errorf("KSMScan: %v", err)
			}
		}
		_, _ = th.Join(writer), th.Join(forker)
		for i := range pages {
			if v := th.Load8(a + i<<12 + 16); v != 0 {
				tb.Errorf("page %d has %d, which the child stored", i, v)
			}
		}
	}
}

func TestMergingWhileOthersStoreAndFork(t *testing.T) {
	vmtest.EverySchedule(t, vmtest.Bound{Schedules: 300, Options: kernel.Options{KSM: true, NoStack: true}}, merging(t, 2, 2))
}

func TestMergingInParallel(t *testing.T) {
	vm := vmtest.New(t, kernel.Options{CPUs: 3, KSM: true})
	vm.SetKSMTunables(mm.KSMTunables{SleepMillisecs: 1})
	vm.Run(func(th *kernel.Thread) {
		if err := th.KSMRun(mm.KSMRunMerge); err != nil {
			t.Fatal(err)
		}
		merging(t, 40, 20)(th)
	})
}

// A process ends while its memory is scanned, merged and forgotten.
func TestExitWhileOthersMerge(t *testing.T) {
	vmtest.EverySchedule(t, vmtest.Bound{Schedules: 300, Options: kernel.Options{KSM: true, NoStack: true}}, func(th *kernel.Thread) {
		a := th.MustMmap(2 << 12)
		if err := th.Madvise(a, 2<<12, mm.MadvMergeable); err != nil {
			t.Fatalf("madvise: %v", err)
		}
		th.Store8(a, 1)
		pid, err := th.Fork(func(c *kernel.Thread) {
			c.Store8(a, 1)
			c.Store8(a+4096, 1)
			_ = c.KSMScan(1)
		})
		if err != nil {
			t.Fatalf("fork: %v", err)
		}
		for range 3 {
			if err := th.KSMScan(1); err != nil {
				t.Errorf("KSMScan: %v", err)
			}
		}
		if _, _, err := th.Wait(pid); err != nil || th.Load8(a) != 1 || th.Load8(a+4096) != 0 {
			t.Errorf("%v, %d, %d", err, th.Load8(a), th.Load8(a+4096))
		}
	})
}

package policy_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/mm/policy"
)

// runOn runs a program under a policy in the timed regime, where a run is always the same,
// on a machine of 1 MiB, unless o says otherwise; in the free one if o has a strategy.
func runOn(t *testing.T, p mm.Policy, o kernel.Options, fn func(th *kernel.Thread)) (*kernel.Machine, *kernel.Outcome) {
	t.Helper()
	o.Policy, o.Regime, o.NoStack, o.CheckLocks = p, sched.Timed, true, true
	if o.Strategy != nil {
		o.Regime = sched.Free
	}
	if o.CPUs == 0 {
		o.CPUs = 1
	}
	if o.Memory == 0 {
		o.Memory = 1 << 20
	}
	if o.StepLimit == 0 {
		o.StepLimit = 50_000
	}
	m, err := kernel.Boot(o)
	require.NoError(t, err)
	t.Cleanup(m.Shutdown)
	return m, m.Run(fn)
}

// run is runOn for a row by its name.
func run(t *testing.T, name string, o kernel.Options, fn func(th *kernel.Thread)) (*kernel.Machine, *kernel.Outcome) {
	t.Helper()
	p := policy.Lookup(name)
	require.NotNil(t, p, name)
	return runOn(t, p, o, fn)
}

// searchProgram searches schedules of a program on two CPUs: n of them, or all that have no
// more than one preemption if n is 0. The program calls begin when its set-up is done, and
// say with what it saw.
func searchProgram(t *testing.T, p mm.Policy, o kernel.Options, n uint64, fn func(th *kernel.Thread, begin func(), say func(string))) map[string]uint64 {
	t.Helper()
	hosts := kernel.NewHosts()
	defer hosts.Close()
	o.Policy, o.Regime, o.NoStack, o.Hosts, o.Watchdog = p, sched.Free, true, hosts, sched.NoWatchdog
	o.CPUs, o.Memory, o.StepLimit = 2, 1<<20, 100_000
	target := explore.Target{Name: t.Name(), Policy: p.Name(), Run: func(s sched.Strategy, ob sched.Observer) explore.Observation {
		gate := explore.NewGate(s)
		o := o
		o.Strategy = gate
		m, err := kernel.Boot(o)
		if err != nil {
			return explore.Observation{Verdict: explore.Panicked, Detail: err.Error()}
		}
		defer m.Shutdown()
		if ob != nil {
			m.Sched().SetObserver(ob)
		}
		obs := explore.Observation{Verdict: explore.Safe}
		out := m.Run(func(th *kernel.Thread) { fn(th, gate.Open, func(v string) { obs.Verdict = v }) })
		obs.Steps, obs.Result = out.Steps, out.Result
		if v := explore.VerdictOf(out.Result); v != "" {
			obs.Verdict, obs.Detail = v, out.Detail
		}
		return obs
	}}
	var r *explore.Report
	if n == 0 {
		all, err := explore.Exhaust(context.Background(), target, explore.ExhaustOptions{Preemptions: 1})
		require.NoError(t, err)
		r = &all.Report
	} else {
		var err error
		r, err = explore.Search(context.Background(), target, explore.Options{Schedules: n, Seed: 1})
		require.NoError(t, err)
	}
	for _, w := range r.Witnesses {
		if w.Verdict != explore.Safe {
			what, _, _ := strings.Cut(w.Detail, "\n")
			t.Logf("%s: %s in %d of %d schedules: %s", p.Name(), w.Verdict, r.ByVerdict[w.Verdict], r.Schedules, what)
		}
	}
	return r.ByVerdict
}

// skipLongSearch: see race_on_test.go.
func skipLongSearch(t *testing.T) {
	t.Helper()
	if policy.Race {
		t.Skip("a long search of one goroutine; builds without the race detector run it")
	}
}

// withSwap has a disk to swap to.
func withSwap() kernel.Options {
	return kernel.Options{Disks: []kernel.Disk{{Name: "swap", Size: 4 << 20, Swap: true}}}
}

func swapOn(t *testing.T, th *kernel.Thread) { require.NoError(t, th.Swapon("/dev/swap", 0)) }

// pin is one page that gup-fast took for a device.
type pin struct {
	th *kernel.Thread
	p  *page.Page
}

func pinFast(t *testing.T, th *kernel.Thread, addr uint64, write bool) *pin {
	d := &pin{th: th}
	require.NoError(t, th.Kernel(func(task *sched.Task) error {
		var pages [1]*page.Page
		_, err := mm.GetUserPagesFast(task, addr, 1, write, mm.PinGet, pages[:])
		d.p = pages[0]
		return err
	}))
	return d
}

// dma stores a byte as the device would.
func (d *pin) dma(off uint64, b byte) {
	s := d.th.MM().Sys
	s.Mem.DMAWrite(s.Pages.PFN(d.p), off, []byte{b})
}

// end is the completion: the page is dirty, and put.
func (d *pin) end() {
	_ = d.th.Kernel(func(task *sched.Task) error {
		s := d.th.MM().Sys
		s.SetPageDirtyLock(task, d.p)
		s.PutUserPage(task, d.p, mm.PinGet)
		return nil
	})
}

// pageOut has reclaim look at a page a few times and reports whether it unmapped it.
func pageOut(th *kernel.Thread, addr uint64, times int) bool {
	for range times {
		if th.Madvise(addr, x86.PageSize, mm.MadvPageout) != nil {
			return false
		}
		if th.MM().Sys.PeekPTEOf(th.MM().ID, addr).IsSwap() {
			return true
		}
	}
	return false
}

func sum(m *kernel.Machine, c trace.Counter) uint64 { return m.Trace().Sum(c) }

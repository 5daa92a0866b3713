package conformance

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/vmtest"
)

// LTP's cases of memory, direct I/O, pipes and processes, in our own words, as far as they
// touch what is modelled: ltp_memory_test.go and so on. What is left out, and why, is in
// ltp_scope_test.go.

const pg = 4096

// ltpCase is a case, under its LTP name: "mmap05: what it is about", or several names with
// commas between them.
type ltpCase struct {
	name string
	run  func(t *testing.T, th *kernel.Thread)
}

// names are the names before the colon.
func (c *ltpCase) names() []string {
	list, _, _ := strings.Cut(c.name, ":")
	return strings.Split(list, ", ")
}

// ltp are all cases that can run: on a large machine, on one that is short of memory, on
// one with huge pages, if there are such, and on one with KSM.
func ltp() (plenty, short, huge, ksm []ltpCase) {
	if _, ok := registered("hugetlb2M"); ok {
		huge = slices.Concat(ltpHuge, ltpHugeFile)
	}
	return slices.Concat(ltpMemory, ltpLocked, ltpDirect, ltpProcess), ltpSwap, huge, ltpKSM
}

// dies runs fn in a child and wants it to be killed by the signal.
func dies(t *testing.T, th *kernel.Thread, s kernel.Signal, fn func(c *kernel.Thread)) {
	t.Helper()
	pid, err := th.Fork(func(c *kernel.Thread) {
		fn(c)
		c.Exit(0)
	})
	require.NoError(t, err)
	_, st, err := th.Wait(pid)
	require.NoError(t, err)
	assert.Equal(t, s, st.Signal())
}

// children runs fn in n children at once and wants all to exit with 0.
func children(t *testing.T, th *kernel.Thread, n int, fn func(c *kernel.Thread, i int)) {
	t.Helper()
	for i := range n {
		_, err := th.Fork(func(c *kernel.Thread) { fn(c, i) })
		require.NoError(t, err)
	}
	for range n {
		_, st, err := th.Wait(-1)
		require.NoError(t, err)
		assert.Equal(t, kernel.Exited(0), st)
	}
}

// threads runs fn in n threads at once.
func threads(t *testing.T, th *kernel.Thread, n int, fn func(w *kernel.Thread, i int)) {
	t.Helper()
	var ws []*kernel.Thread
	for i := range n {
		ws = append(ws, th.Go("worker", func(w *kernel.Thread) { fn(w, i) }))
	}
	for _, w := range ws {
		require.NoError(t, th.Join(w))
	}
}

func mapped(t *testing.T, th *kernel.Thread, pages uint64, prot mm.Prot, flags mm.MapFlags) uint64 {
	t.Helper()
	a, err := th.Mmap(0, pages*pg, prot, flags, -1, 0)
	require.NoError(t, err)
	return a
}

// again maps the object behind the shared mapping at src once more.
func again(t *testing.T, th *kernel.Thread, src, at, pages uint64, prot mm.Prot, flags mm.MapFlags) (uint64, error) {
	t.Helper()
	var a uint64
	err := th.Kernel(func(task *sched.Task) (err error) {
		m := th.MM()
		m.MmapSem.DownRead(task)
		v := m.FindVMA(task, src)
		req := mm.MmapRequest{Addr: at, Len: pages * pg, Prot: prot, Flags: flags, File: v.File, Mapping: v.Mapping}
		m.MmapSem.UpRead(task)
		a, err = mm.SysMmap(task, m, req, 0)
		return err
	})
	return a, err
}

// TestLTP runs every case in every regime; under the race detector in that which has more than one
// goroutine.
func TestLTP(t *testing.T) {
	regimes := []kernel.Options{
		{CPUs: 2, CheckLocks: true},
		{CPUs: 2, Regime: sched.Timed, CheckLocks: true},
		{CPUs: 2, Regime: sched.Free, CheckLocks: true},
	}
	if race {
		regimes = regimes[:1]
	}
	plenty, short, huge, ksm := ltp()
	for i, c := range slices.Concat(plenty, short, huge, ksm) {
		t.Run(c.name, func(t *testing.T) {
			for _, o := range regimes {
				o.Memory = 16 << 20
				o.Disks = []kernel.Disk{{Name: "vda", Size: 64 << 10}, {Name: "vdb", Size: 64 << 10}, {Name: "swap", Size: 2 << 20, Swap: true}}
				switch {
				case i >= len(plenty)+len(short)+len(huge):
					o.KSM = true
				case i >= len(plenty)+len(short):
					hugePool(&o, 0)
				case i >= len(plenty):
					o.Memory = 2 << 20
				}
				if o.Regime == sched.Free {
					o.Strategy = sched.NewRandom(1)
				}
				vmtest.New(t, o).Run(func(th *kernel.Thread) { c.run(t, th) })
			}
		})
	}
}

// errno is assert.ErrorIs, short.
func errno(t *testing.T, want unix.Errno, err error, msg ...any) {
	t.Helper()
	assert.ErrorIs(t, err, want, msg...)
}

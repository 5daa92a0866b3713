package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// Pagemap tells pages that are in memory, in swap and nowhere apart, with 2.6.29's bits.
func TestPagemap(t *testing.T) {
	run(t, small(Options{CPUs: 1, Regime: sched.Timed}), func(th *Thread) {
		require.NoError(t, th.Swapon(swapDev, 0))
		a := th.MustMmap(4 * 4096)
		th.Fill(a, 2*4096, 7)
		require.NoError(t, th.Madvise(a, 4096, mm.MadvPageout))
		es, err := th.Pagemap(a, 3*4096+1)
		require.NoError(t, err)
		require.Len(t, es, 4, "rounded up to whole pages")

		pte := th.m.sys.PeekPTEOf(th.p.space.ID, a)
		require.True(t, pte.IsSwap())
		assert.True(t, es[0].Swapped() && !es[0].Present())
		assert.Equal(t, uint64(1)<<62|12<<55|pte.Swap().Offset<<5|uint64(pte.Swap().Type), uint64(es[0]))
		assert.True(t, es[1].Present() && !es[1].Swapped())
		assert.Equal(t, th.m.sys.PeekPTEOf(th.p.space.ID, a+4096).PFN(), es[1].PFN())
		assert.Equal(t, uint64(1)<<63|12<<55|uint64(es[1].PFN()), uint64(es[1]))
		assert.Equal(t, uint64(12)<<55, uint64(es[2]), "nothing there")

		far, err := th.Pagemap(0x40_0000_0000, 3*4096) // not even a page table
		require.NoError(t, err)
		assert.Equal(t, []PagemapEntry{12 << 55, 12 << 55, 12 << 55}, far)
		_, err = th.Pagemap(a+1, 4096)
		assert.Equal(t, unix.EINVAL, err)
		beyond, err := th.Pagemap(1<<47, 4096)
		assert.NoError(t, err)
		assert.Empty(t, beyond)
		all, err := th.Pagemap(0, ^uint64(0))
		assert.NoError(t, err)
		assert.Len(t, all, maxPagemap)
		th.Fill(a, 4*4096, 8)
	})
}

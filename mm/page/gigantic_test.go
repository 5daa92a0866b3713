package page

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// A page too large for the free lists is cut out of the wilderness; what lies below and
// above it is handed out, and nothing of the page is.
func TestBootPageBeyondMaxOrder(t *testing.T) {
	for _, o := range []sched.Options{{}, {Regime: sched.Timed}, {Regime: sched.Free, CPUs: 2}} {
		r := newRig(t, 64<<20+5<<20, o) // whole blocks of 8 MiB, and 5 MiB above
		const order = MaxOrder
		a, b := r.p.AllocBoot(order, "test"), r.p.AllocBoot(order, "test")
		require.NotNil(t, a)
		require.NotNil(t, b)
		small := r.p.AllocBoot(9, "test")
		require.NotNil(t, small)
		require.Equal(t, []int{order, order, 9}, []int{a.Order(), b.Order(), small.Order()})
		for _, head := range []*Page{a, b, small} {
			r.p.SetDtor(head, DtorHuge)
			require.True(t, head.Pooled())
		}
		r.ok()
		require.Empty(t, r.p.Leaks())
		taken := map[x86.PFN]bool{}
		for _, head := range []*Page{a, b, small} {
			require.Zero(t, uint64(r.p.PFN(head))&(1<<head.Order()-1))
			for i := range 1 << head.Order() {
				taken[r.p.PFN(head)+x86.PFN(i)] = true
			}
		}
		require.Len(t, taken, 2<<order+512)
		r.run(func(k *sched.Task) {
			var pages []*Page
			for p := r.p.Alloc(k, GFPAtomic|GFPHigh, 0, "test"); p != nil; p = r.p.Alloc(k, GFPAtomic|GFPHigh, 0, "test") {
				require.False(t, taken[r.p.PFN(p)])
				pages = append(pages, p)
			}
			reserve, _, _ := r.p.Watermarks()
			require.GreaterOrEqual(t, uint64(len(pages))+reserve, r.p.Frames()-1-uint64(len(taken)))
			for _, p := range pages {
				r.p.Put(k, p)
			}
			r.p.DrainAll(k)
		})
		r.ok()
		require.Empty(t, r.p.Leaks())
		require.Equal(t, r.p.Frames()-1-uint64(len(taken)), r.p.FreePages())
	}
	r := newRig(t, 4<<20, sched.Options{})
	require.Nil(t, r.p.AllocBoot(MaxOrder, "test"))
	require.Nil(t, r.p.AllocBoot(10, "test"), "nothing would be left")
	r.ok()
}

package mm

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// inOrder lists the tree's items from left to right and checks the links on the way.
func inOrder(t *testing.T, it, up *ksmItem) (out []uint64, depth int) {
	if it == nil {
		return nil, 0
	}
	require.Same(t, up, it.tree.up)
	l, dl := inOrder(t, it.tree.left, it)
	r, dr := inOrder(t, it.tree.right, it)
	return append(append(l, it.addr), r...), max(dl, dr) + 1
}

// The tree keeps the order that its users give it, through any sequence of changes, and
// stays shallow.
func TestKSMTree(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var tr ksmTree
	have := map[uint64]*ksmItem{}
	deepest := 0
	for step := range uint64(4000) {
		switch addr := step % 1000; {
		case have[addr] == nil: // ascending: the worst case of an unbalanced tree
			it := &ksmItem{addr: addr}
			var parent *ksmItem
			left := false
			for n := tr.root; n != nil; {
				parent, left = n, addr < n.addr
				if n = parent.tree.right; left {
					n = parent.tree.left
				}
			}
			tr.insert(it, parent, left)
			have[addr] = it
		case rng.IntN(3) == 0:
			it := &ksmItem{addr: addr}
			tr.replace(have[addr], it)
			have[addr] = it
		default:
			tr.erase(have[addr])
			delete(have, addr)
		}
		if step%100 != 0 {
			continue
		}
		got, depth := inOrder(t, tr.root, nil)
		deepest = max(deepest, depth)
		require.Len(t, got, len(have))
		for i, addr := range got {
			require.True(t, i == 0 || got[i-1] < addr)
		}
	}
	assert.Less(t, deepest, 40)
}

// scannedMM makes an address space with pages that KSM may merge, and scans it once.
func scannedMM(t *testing.T, r *pinRig, k *sched.Task, mm *MM, pages int) uint64 {
	a := r.mmap(k, mm, pages, protRW, 0)
	require.NoError(t, SysMadvise(k, mm, a, uint64(pages)*pgSize, MadvMergeable))
	for i := range uint64(pages) {
		r.store(k, a+i*pgSize, 1)
	}
	require.NoError(t, r.s.KSMScan(k, 1))
	return a
}

// The end of an address space waits for whoever scans it, with mmap_sem held for reading:
// its page tables do not go under his feet.
func TestKSMExitWaitsForTheScan(t *testing.T) {
	r := newPinRig(t, pinOptions{cpus: 2, regime: sched.Timed, ksm: true})
	r.run(func(k *sched.Task, mm *MM) {
		a := scannedMM(t, r, k, mm, 2)
		p := r.pageAt(mm, a)
		mm.MMGrab(k)
		mm.MmapSem.DownRead(k) // as nextToScan does
		mm.MMGet(k)
		r.start(k, "last user", 1, mm, func(*sched.Task) {})
		DropMM(k).MMPut(k)
		for mm.Users.Load(k.C, mm.usersObj()) != 0 {
			k.SleepFor(1000)
		}
		for range 100 {
			k.SleepFor(1000)
			require.NotZero(t, mm.MapCount)
			require.NotZero(t, p.MapCount.Peek())
		}
		mm.MmapSem.UpRead(k)
		for mm.MapCount != 0 {
			k.SleepFor(1000)
		}
		mm.MMDrop(k)
		r.s.DropKSM(k)
	})
}

// An address space that ends in the middle of a pass takes its items out of the unstable
// tree of that pass.
func TestKSMItemsLeaveTheUnstableTree(t *testing.T) {
	r := newPinRig(t, pinOptions{cpus: 1, regime: sched.Timed, ksm: true})
	r.run(func(k *sched.Task, mm *MM) {
		a := scannedMM(t, r, k, mm, 3)
		for i := range uint64(3) {
			r.store(k, a+i*pgSize, 10+i)
		}
		require.NoError(t, r.s.KSMScan(k, 1)) // new checksums
		sys := &r.s.ksm
		sys.thread.DownWrite(k)
		for range 2 {
			require.True(t, r.s.ksmDoScan(k, 1))
		}
		nodes, _ := sys.unstable.count(sys.unstable.root)
		require.Equal(t, uint64(2), nodes)
		slot := sys.scan.slot
		sys.dropTrailing(k, &slot.items)
		sys.scan.list = &slot.items
		sys.thread.UpWrite(k)
		require.Nil(t, sys.unstable.root)
		r.sound()
		require.NoError(t, SysMunmap(k, mm, a, 3*x86.PageSize))
		require.NoError(t, r.s.KSMScan(k, 2))
	})
}

// The invariants notice what they are there for.
func TestKSMInvariantsNotice(t *testing.T) {
	r := newPinRig(t, pinOptions{cpus: 1, regime: sched.Timed, ksm: true})
	r.run(func(k *sched.Task, mm *MM) {
		a := scannedMM(t, r, k, mm, 20)
		require.NoError(t, r.s.KSMScan(k, 1))
		require.True(t, r.pageAt(mm, a).KSM())
		r.sound()
		notice := func(text string, spoil, mend func()) {
			t.Helper()
			spoil()
			errs := r.s.Check()
			mend()
			require.NotEmpty(t, errs)
			assert.ErrorContains(t, errs[0], text)
			r.sound()
		}
		ref, _, _ := mm.lookupPTE(k.C, a)
		e := ref.Peek()
		notice("maps a KSM page", func() { ref.Set(k.C, e.MkWrite()) }, func() { ref.Set(k.C, e) })
		v := mm.lookupVMA(a)
		notice("a KSM page at", func() { v.Flags &^= VMMergeable }, func() { v.Flags |= VMMergeable })
		p := r.pageAt(mm, a)
		notice("20 ptes map it", func() { p.Count.RawAdd(1); p.MapCount.RawAdd(1) }, func() { p.Count.RawAdd(-1); p.MapCount.RawAdd(-1) })
		st := &r.s.ksm
		notice("pages_sharing is 20, there are 19", func() { st.sharing.RawAdd(1) }, func() { st.sharing.RawAdd(^uint64(0)) })
		notice("the slot of address space", func() { mm.ksm.slot = nil }, func() { mm.ksm.slot = st.head.next })
		require.NoError(t, SysMunmap(k, mm, a, 20*pgSize))
		require.NoError(t, r.s.KSMScan(k, 2))
	})
}

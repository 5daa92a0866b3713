package mm

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// cacheOps is an owner that says no: it has no pages of its own.
type cacheOps struct {
	shmemOps
	released *int
}

func (o cacheOps) Release(*sched.Task, *AddressSpace) { *o.released++ }

// AccountDirty implements DirtyAccounter.
func (cacheOps) AccountDirty() bool { return true }

// PageMkwrite implements Mkwriter.
func (cacheOps) PageMkwrite(*sched.Task, *AddressSpace, *VMA, *page.Page) error { return unix.ENOSPC }

func TestPageCache(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed})
	released := 0
	r.run(func(k *sched.Task, _ *MM) {
		pm := r.s.Pages
		as := r.s.NewAddressSpace(cacheOps{released: &released}, nil, 100)
		require.Same(t, as, r.s.spaces.of(as.handle()))
		require.True(t, as.HasMkwrite())
		require.True(t, as.accountDirty())
		require.Nil(t, as.FindGetPage(k, 3))
		for _, i := range []uint64{3, 70, 99} {
			p, ret := as.Fault(k, nil, i, false)
			require.Equal(t, VMFaultLocked, ret)
			require.True(t, p.Has(page.Locked))
			require.Equal(t, i, p.Index)
			require.Equal(t, unix.EEXIST, as.AddToPageCache(k, p, 3))
			p.Mapping, p.Index = as.handle(), i
			pm.UnlockPage(k, p)
			pm.Put(k, p)
		}
		_, ret := as.Fault(k, nil, 100, false)
		require.Equal(t, VMFaultSigbus, ret)
		pm.FailAt("shmem", 1)
		_, ret = as.Fault(k, nil, 4, false)
		require.Equal(t, VMFaultOOM, ret)
		pm.FailNever()
		require.Equal(t, 3, as.NrPages())
		require.Equal(t, uint64(3), r.m.Trace().Sum(trace.NrFilePages))

		var buf [4]*page.Page
		require.Equal(t, 2, as.FindGetPages(k, 4, buf[:]))
		require.Equal(t, uint64(70), buf[0].Index)
		require.Equal(t, uint64(99), buf[1].Index)
		require.False(t, r.s.SetPageDirtyLock(k, buf[0]))
		require.True(t, buf[0].Has(page.Dirty))
		pm.Put(k, buf[0])

		as.TruncatePages(k, 71)
		require.Equal(t, 2, as.NrPages())
		require.Zero(t, buf[1].Mapping, "a reference keeps the page, not its place")
		require.Nil(t, as.FindLockPage(k, 99))
		pm.Put(k, buf[1])

		as.Get(k)
		as.Put(k)
		require.Zero(t, released)
		as.Put(k)
		require.Equal(t, 1, released)
		require.Nil(t, r.s.spaces.of(as.handle()))
		again := r.s.NewAddressSpace(shmemOps{}, nil, 1)
		require.Equal(t, as.slot, again.slot, "numbers are re-used")
		again.Put(k)
	})
}

func TestManyAddressSpaces(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed})
	r.run(func(k *sched.Task, _ *MM) {
		var all []*AddressSpace
		for range 200 {
			all = append(all, r.s.NewAddressSpace(shmemOps{}, nil, 1))
		}
		for _, as := range all {
			require.Same(t, as, r.s.spaces.of(as.handle()))
		}
		n := 0
		r.s.spaces.each(func(*AddressSpace) { n++ })
		require.Equal(t, 200, n)
		require.Len(t, r.s.Leaks(), 200+2, "the pgd and its address space")
		for _, as := range all {
			as.Put(k)
		}
	})
}

// A page that was found and then locked is still in the cache, or is looked up again.
func TestFindLockPageAgainstTruncate(t *testing.T) {
	for seed := range uint64(100) {
		r := newPinRig(t, pinOptions{cpus: 2, regime: sched.Free, seed: seed})
		r.run(func(k *sched.Task, _ *MM) {
			as := r.s.NewAddressSpace(shmemOps{}, nil, 2)
			as.Get(k)
			r.start(k, "truncate", 1, nil, func(k *sched.Task) {
				for range 3 {
					as.TruncatePages(k, 0)
				}
				as.Put(k)
			})
			for range 6 {
				p, ret := as.Fault(k, nil, 1, false)
				require.Equal(t, VMFaultLocked, ret)
				require.Equal(t, as.handle(), p.Mapping)
				r.s.Pages.UnlockPage(k, p)
				r.s.Pages.Put(k, p)
			}
			as.Put(k)
		})
	}
}

func TestAddressSpaceReleasedWhileMapped(t *testing.T) {
	r := newPinRig(t, pinOptions{regime: sched.Timed})
	r.oops("released while VMA", func(k *sched.Task, mm *MM) {
		addr := r.mmap(k, mm, 1, protRW, MapShared)
		mm.lookupVMA(addr).Mapping.Put(k)
	})
}

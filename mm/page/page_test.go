package page

import (
	"reflect"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

func TestPageIsOneCacheLine(t *testing.T) {
	require.EqualValues(t, 64, unsafe.Sizeof(Page{}))
	require.EqualValues(t, Size, unsafe.Sizeof(Page{}))
	require.EqualValues(t, 1<<shift, Size)
}

func TestPageHoldsNoPointers(t *testing.T) {
	var visit func(ty reflect.Type)
	visit = func(ty reflect.Type) {
		switch ty.Kind() {
		case reflect.Struct:
			for i := range ty.NumField() {
				visit(ty.Field(i).Type)
			}
		case reflect.Array:
			if ty.Len() > 0 {
				visit(ty.Elem())
			}
		case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Int32:
		default:
			t.Errorf("%v in struct Page", ty)
		}
	}
	visit(reflect.TypeFor[Page]())
}

func TestFlagNames(t *testing.T) {
	seen := map[string]bool{}
	for f := range NumFlags {
		require.NotEmpty(t, f.String())
		require.False(t, seen[f.String()], "%v twice", f)
		seen[f.String()] = true
	}
	require.Equal(t, "locked|lru|policy3", FlagNames(1<<Locked|1<<LRU|1<<Policy3))
	require.Equal(t, "-", FlagNames(0))
	require.Equal(t, "wait|io|fs|hardwall", (GFPUser).String())
}

func TestLRUGaugesFollowTheLists(t *testing.T) {
	require.Equal(t, trace.NrInactiveAnon, InactiveAnon.counter())
	require.Equal(t, trace.NrActiveAnon, ActiveAnon.counter())
	require.Equal(t, trace.NrInactiveFile, InactiveFile.counter())
	require.Equal(t, trace.NrActiveFile, ActiveFile.counter())
	require.Equal(t, trace.NrUnevictable, UnevictableList.counter())
	require.Equal(t, ActiveAnon, InactiveAnon+lruActive)
	require.Equal(t, InactiveFile, InactiveAnon+lruFile)
}

func TestPFN(t *testing.T) {
	r := newRig(t, 1<<20, sched.Options{})
	for pfn := range x86.PFN(256) {
		require.Equal(t, pfn, r.p.PFN(r.p.Page(pfn)))
	}
	require.Panics(t, func() { r.p.Page(256) })
	require.Panics(t, func() { r.p.Page(1 << 31) })
}

func TestFlags(t *testing.T) {
	r := newRig(t, 1<<20, sched.Options{Regime: sched.Timed})
	r.run(func(k *sched.Task) {
		m := r.p
		p := m.Alloc(k, GFPKernel, 0, "test")
		steps := r.m.Steps()
		assert.False(t, m.TestFlag(k, p, Dirty))
		assert.False(t, m.TestAndSet(k, p, Dirty))
		assert.True(t, m.TestAndSet(k, p, Dirty))
		assert.True(t, m.TestAndClear(k, p, Dirty))
		assert.False(t, m.TestAndClear(k, p, Dirty))
		m.SetFlag(k, p, Policy2)
		m.ClearFlag(k, p, Policy2)
		assert.EqualValues(t, 7, r.m.Steps()-steps, "one point for each visible operation")
		steps = r.m.Steps()
		p.PokeSet(Uptodate)
		assert.True(t, m.Test(p, Uptodate))
		assert.True(t, p.Has(Uptodate))
		p.PokeClear(Uptodate)
		assert.Zero(t, p.Flags.Peek())
		assert.Equal(t, steps, r.m.Steps())
		m.Put(k, p)
	})
	r.empty()
}

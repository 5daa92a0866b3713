package mm

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// mremap and mincore among random calls: see mmap_model_test.go.

func vecString(vec []byte) string {
	var b strings.Builder
	for _, v := range vec {
		b.WriteByte('0' + v&1)
	}
	return b.String()
}

// emulateRemap executes mremap and mincore on the emulator.
func (u *user) emulateRemap(op mapOp) (r mapResult) {
	var err error
	u.kernel(func(t *sched.Task) {
		if op.Call == "mremap" {
			_, err = SysMremap(t, u.mm, op.Addr, op.Size, op.NewSize, op.Remap, op.NewAddr)
			return
		}
		var vec []byte
		if vec, err = SysMincore(t, u.mm, op.Addr, op.Size); err == nil {
			r.Vec = vecString(vec)
		}
	})
	if err != nil {
		return failed(err)
	}
	return r
}

// remap is mremap of a range within one VMA, on the model.
func (m *mapModel) remap(op mapOp) mapResult {
	einval := mapResult{Errno: int(unix.EINVAL)}
	fixed := op.Remap&MremapFixed != 0
	if op.Remap&^(MremapFixed|MremapMayMove) != 0 || op.Addr%pg != 0 || op.NewSize == 0 {
		return einval
	}
	from, old, size := int(op.Addr-window)/pg, int(op.Size+pg-1)/pg, int(op.NewSize+pg-1)/pg
	to := int(op.NewAddr-window) / pg
	if fixed && (op.NewAddr%pg != 0 || op.Remap&MremapMayMove == 0 || to < from+old && from < to+size) {
		return einval
	}
	last := m.pages[from+old-1]
	grown := make([]modelPage, max(0, size-old))
	for i := range grown {
		p := last
		p.private, p.contents = false, 0
		p.index = last.index + 1 + i
		grown[i] = p
	}
	switch {
	case fixed:
		clear(m.pages[to : to+size])
		moved := append(append([]modelPage(nil), m.pages[from:from+min(old, size)]...), grown...)
		clear(m.pages[from : from+old])
		copy(m.pages[to:], moved)
	case size <= old:
		clear(m.pages[from+size : from+old])
	default:
		for _, p := range m.pages[from+old : from+size] {
			if p.mapped {
				return mapResult{Errno: int(unix.ENOMEM)}
			}
		}
		copy(m.pages[from+old:], grown)
	}
	return mapResult{}
}

// remapRand makes up calls, one in six of them mremap or mincore.
type remapRand struct {
	*mapRand
	mm *MM
	// gap keeps growing mappings away from their neighbours: later kernels merge then.
	gap bool
}

func (r *remapRand) next() mapOp {
	if r.IntN(6) != 0 {
		return r.mapRand.next()
	}
	page := r.IntN(windowPages)
	v := r.mm.lookupVMA(at(page))
	if v == nil || v.Start >= at(windowPages) {
		return r.mapRand.next()
	}
	start := max(int(v.Start-window)/pg, page)
	end := int(v.End-window) / pg
	if r.IntN(3) == 0 {
		return mapOp{Call: "mincore", Addr: at(start), Size: uint64(1+r.IntN(end-start)) * pg}
	}
	n := 1 + r.IntN(end-start)
	op := mapOp{Call: "mremap", Addr: at(start), Size: uint64(n) * pg}
	switch size := n; r.IntN(4) {
	case 0: // shorter
		op.NewSize = uint64(1+r.IntN(size)) * pg
	case 1: // longer, in place
		op.Size = at(end) - op.Addr
		n = end - start
		op.NewSize = uint64(min(n+1+r.IntN(8), windowPages-start)) * pg
		if next := r.mm.lookupVMA(at(end)); r.gap && next != nil && next.Start <= op.Addr+op.NewSize && next.Start > at(end) {
			op.NewSize = op.Size
		}
	default: // somewhere else
		op.Remap = MremapMayMove | MremapFixed
		size = min(n+r.IntN(8)*r.IntN(2), windowPages)
		op.NewSize, op.NewAddr = uint64(size)*pg, at(r.IntN(windowPages-size+1))
	}
	if r.IntN(12) == 0 {
		switch r.IntN(5) {
		case 0:
			op.Addr++
		case 1:
			op.NewSize = 0
		case 2:
			op.Remap = 8
		case 3:
			op.Remap, op.NewAddr = MremapMayMove|MremapFixed, op.Addr
		case 4:
			op.Remap = MremapFixed
		}
	}
	return op
}

func TestRandomRemapsAgainstModel(t *testing.T) {
	seeds, calls := 8, 400
	if testing.Short() {
		seeds = 2
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("again: go test ./mm -run '^TestRandomRemapsAgainstModel$/^%d$'", seed)
				}
			}()
			r := boot(t, rigOptions{Options: sched.Options{Regime: sched.Timed, CheckLocks: true}})
			r.run(func(u *user) {
				f, model := newMemfd(u.s, u.t), newMapModel()
				u.mm.MmapBase = window
				rnd := &remapRand{mm: u.mm, mapRand: &mapRand{Rand: rand.New(rand.NewPCG(seed, 3)), wrong: 20,
					prots:  []Prot{0, ProtRead, ProtRead | ProtWrite, ProtRead | ProtWrite, ProtRead | ProtWrite, 7},
					advice: []Advice{0, 1, 2, 4, 10, 11}}}
				for i := range calls {
					op := rnd.next()
					before := u.mm.DebugString()
					got := u.emulate(f, op)
					if op.Call == "mincore" {
						continue
					}
					want := model.do(op)
					require.Equal(t, want, got, "call %d: %+v\n%s", i, op, before)
					err := u.mm.validateMM()
					if err == nil {
						err = model.compare(u.mm)
					}
					require.NoError(t, err, "call %d: %+v\nbefore: %safter: %s", i, op, before, u.mm.DebugString())
					if i%25 == 0 {
						require.Empty(t, u.s.Check())
					}
				}
				for i := range model.pages {
					if op := (mapOp{Call: "read", Addr: at(i)}); model.pages[i].mapped {
						assert.Equal(t, model.do(op), u.emulate(f, op), "page %d", i)
					}
				}
				total := uint64(0)
				u.mm.EachVMA(0, func(v *VMA) bool { total += v.Pages(); return true })
				assert.Equal(t, total, u.mm.TotalVM)
				assert.NoError(t, u.tryMunmap(0, x86.TaskSize))
				f.Put(u.t)
			})
			assert.Zero(t, r.s.CommittedPages())
			r.end()
		})
	}
}

package mm

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/sched"
)

// mremap and mincore among the random calls that the host executes too: see
// mmap_host_linux_test.go. Scripts keep away from what later kernels do differently on
// purpose: a mapping that grows up to its neighbour merges with it (5.18), and a range
// may span VMAs (6.17).
func TestRandomRemapsAgainstHost(t *testing.T) {
	seeds, calls := 4, 200
	if testing.Short() {
		seeds = 1
	}
	if a, err := startHost(t).do(mapOp{Call: "munmap", Addr: window, Size: windowPages * pg}); err != nil {
		t.Skipf("the host cannot be asked: %v", err)
	} else if a.Result.Errno != 0 || len(a.Maps) != 0 {
		t.Skipf("the host's window is not free: %v %v", a.Result, a.Maps)
	}
	for _, style := range hostStyles {
		for seed := range uint64(seeds) {
			t.Run(fmt.Sprintf("%s/%d", style.name, seed), func(t *testing.T) {
				defer func() {
					if t.Failed() {
						t.Logf("again: go test ./mm -run '^TestRandomRemapsAgainstHost$/^%s$/^%d$'", style.name, seed)
					}
				}()
				host := startHost(t)
				r := boot(t, rigOptions{Options: sched.Options{Regime: sched.Timed}})
				r.run(func(u *user) {
					f := newMemfd(u.s, u.t)
					rnd := &remapRand{mm: u.mm, gap: true, mapRand: &mapRand{Rand: rand.New(rand.NewPCG(seed, 4)), wrong: 20,
						prots: style.prots, extra: style.extra,
						advice: []Advice{0, 1, 2, 4, 10, 11},
						isAnon: func(page int) bool {
							v := u.mm.lookupVMA(at(page))
							return v != nil && v.Mapping == nil && v.AnonVMA == nil
						}}}
					var log strings.Builder
					for i := range calls {
						op := rnd.next()
						before := u.mm.DebugString()
						got := hostAnswer{Result: u.emulate(f, op), Maps: windowMaps(u.mm.Maps())}
						want, err := host.do(op)
						require.NoError(t, err)
						// mincore(2) is of a moment: a page of the page cache that the host is just
						// migrating reads as absent, since the new one is in the tree before it is up to
						// date. What the host says again and again counts.
						for again := 0; op.Call == "mincore" && want.Result.Vec != got.Result.Vec && again < 100; again++ {
							time.Sleep(time.Millisecond)
							want, err = host.do(op)
							require.NoError(t, err)
						}
						fmt.Fprintf(&log, "%d: %+v = %v\n", i, op, want.Result)
						require.Equal(t, want, got, "%s\nbefore the last call: %s", &log, before)
					}
					require.NoError(t, u.tryMunmap(window, windowPages*pg))
					f.Put(u.t)
				})
				r.end()
			})
		}
	}
}

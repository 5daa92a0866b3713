package mm

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// A page moves to and fro while another thread has it pinned again and again, by
// gup-fast, for a device that writes to it. The walk without locks may find the page at
// the one place or the other, or nothing; what it finds is the process's page, and what
// the device writes there is never lost.
func TestMremapAgainstGupFast(t *testing.T) {
	seeds := uint64(150)
	if testing.Short() {
		seeds = 20
	}
	pinned := 0
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			o := rigOptions{}
			o.CPUs, o.Regime, o.CheckLocks = 2, sched.Free, true
			o.Strategy = sched.NewRandom(seed)
			if seed%2 == 1 {
				o.Strategy = sched.NewPCT(seed, 3, 800)
			}
			r := boot(t, o)
			r.run(func(u *user) {
				a, b := at(0), at(1<<10)
				u.mmap(1, MmapRequest{Addr: a, Prot: ProtRead | ProtWrite, Flags: MapPrivate | MapAnonymous | MapFixed})
				u.store(a, 0)
				wrote := uint64(0)
				dma := u.threadOn(u.otherCPU(), "device", func(c *user) {
					c.kernel(func(t *sched.Task) {
						var p [1]*page.Page
						for i := range 6 {
							from := a
							if i%2 == 1 {
								from = b
							}
							if n, _ := GetUserPagesFast(t, from, 1, true, PinGet, p[:]); n == 0 {
								continue
							}
							wrote++
							c.s.Mem.WriteFrame(t.C, c.s.Pages.PFN(p[0]), 8*wrote, []byte{byte(wrote)})
							c.s.PutUserPage(t, p[0], PinGet)
						}
					})
				})
				for range 2 {
					_, err := u.mremap(a, 1, 1, MremapMayMove|MremapFixed, b)
					require.NoError(t, err)
					_, err = u.mremap(b, 1, 1, MremapMayMove|MremapFixed, a)
					require.NoError(t, err)
				}
				u.wait(dma)
				for i := uint64(1); i <= wrote; i++ {
					assert.Equal(t, i, u.load(a+8*i))
				}
				pinned += int(wrote)
			})
			r.end()
			if t.Failed() {
				t.Logf("again: go test ./mm -run '^TestMremapAgainstGupFast$/^%d$'", seed)
			}
		})
	}
	assert.Positive(t, pinned)
}

package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// reads counts what steps look at besides their operations.
type reads map[x86.ObjID]int

func (reads) Begin(int) {}

func (r reads) Pick(ch *sched.Choice) int {
	for _, t := range ch.Foot.Touches {
		if t.How == x86.AccRead {
			r[t.Obj]++
		}
	}
	return explore.Default(ch)
}

// TestPolicyLooksAreTouched: what a policy looks at without a point, while others may change it without the
// lock that is held, is part of the step: who has pinned a page, and the conflicts of direct I/O.
func TestPolicyLooksAreTouched(t *testing.T) {
	looks := func(name string, is func(x86.ObjID) bool) (n int) {
		r := reads{}
		_, out := run(t, name, kernel.Options{Strategy: r, Disks: []kernel.Disk{{Name: "disk", Size: 1 << 16}}}, func(th *kernel.Thread) {
			at := th.MustMmap(x86.PageSize)
			th.Store64(at, 1)
			pid, err := th.Fork(func(th *kernel.Thread) { th.Store64(at, 2) })
			require.NoError(t, err)
			_, _, err = th.Wait(pid)
			require.NoError(t, err)
			fd, err := th.Open("/dev/disk", fs.ORdonly|fs.ODirect)
			require.NoError(t, err)
			_, err = th.Pread(fd, at, x86.PageSize, 0)
			require.NoError(t, err)
		})
		require.NoError(t, out.Err(), name)
		for obj, k := range r {
			if is(obj) {
				n += k
			}
		}
		return n
	}
	flags := func(o x86.ObjID) bool { return o.Class() == x86.ClassPage }
	assert.Zero(t, looks("stock", flags))
	assert.Positive(t, looks("one_read_pin", flags))
	words := func(o x86.ObjID) bool { return o.Class() == x86.ClassWord && o.ID()>>40 == 0 }
	assert.Zero(t, looks("stock", words))
	assert.Positive(t, looks("dio_range_lock_fixed", words))
}

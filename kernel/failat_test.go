package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// A program learns its sites from one run, and has one of them fail in the next.
func TestFailAt(t *testing.T) {
	prog := func(th *Thread) (errs []error) {
		_, err := th.MmapAnon(4096)
		errs = append(errs, err)
		_, _, err = th.Pipe()
		errs = append(errs, err)
		_, err = th.Open("/dev/vda", fs.ORdwr)
		errs = append(errs, err)
		_, err = th.IoSetup(1)
		errs = append(errs, err)
		pid, err := th.Fork(func(*Thread) {})
		errs = append(errs, err)
		if err == nil {
			_, _, _ = th.Wait(pid)
		}
		return errs
	}
	for _, c := range []struct {
		site string
		nth  int
		want []error
	}{
		{"", 0, []error{nil, nil, nil, nil, nil}},
		{"vm_area_struct", 1, []error{unix.ENOMEM, nil, nil, nil, nil}},
		{"vm_area_struct", 2, []error{nil, nil, nil, nil, unix.ENOMEM}},
		{"vm_area_struct", -1, []error{unix.ENOMEM, nil, nil, nil, nil}}, // nothing for fork to copy
		{"pipe_inode_info", 1, []error{nil, unix.ENFILE, nil, nil, nil}},
		{"file", 2, []error{nil, unix.ENFILE, nil, nil, nil}},
		{"file", 3, []error{nil, nil, unix.ENFILE, nil, nil}},
		{"aio_setup_ring", 1, []error{nil, nil, nil, unix.ENOMEM, nil}},
		{"signal_struct", 1, []error{nil, nil, nil, nil, unix.ENOMEM}},
		{"pid", 1, []error{nil, nil, nil, nil, unix.ENOMEM}},
	} {
		o := withDisk(Options{CPUs: 1, Regime: sched.Timed, NoStack: true})
		m := boot(t, o)
		m.CountAllocs()
		if c.site != "" {
			m.FailAt(c.site, c.nth)
		}
		var got []error
		out := m.Run(func(th *Thread) { got = prog(th) })
		require.NoError(t, out.Err())
		assert.Equal(t, c.want, got, "%s %d", c.site, c.nth)
		names, calls := m.AllocSites()
		assert.Contains(t, names, "kioctx")
		assert.NotContains(t, names, "")
		assert.Equal(t, 1, calls["kioctx"])
		atRest(t, m)
	}
}

// eager lets whatever is on offer happen as soon as it is, and counts the steps that say they
// have used a failure up: two allocations that race for one do not commute.
type eager struct{ met *int }

func (eager) Begin(int) {}

func (e eager) Pick(ch *sched.Choice) int {
	for _, t := range ch.Foot.Touches {
		if t.Obj.Class() == x86.ClassInject && t.How == x86.AccWrite {
			*e.met++
		}
	}
	for i := range ch.Enabled {
		if ch.Enabled[i].Op == x86.OpFail {
			return i
		}
	}
	return explore.Default(ch)
}

// What a search makes fail is the next allocation, of any site or of the one named; each
// failure is met once.
func TestFailEvents(t *testing.T) {
	for _, c := range []struct {
		n    int
		site string
		mmap []error
		pipe error
		met  int
	}{
		{1, "vm_area_struct", []error{unix.ENOMEM, nil}, nil, 1},
		{2, "vm_area_struct", []error{unix.ENOMEM, unix.ENOMEM}, nil, 2},
		{1, "pipe_inode_info", []error{nil, nil}, unix.ENFILE, 1},
		{1, "no_such_site", []error{nil, nil}, nil, 0},
	} {
		met := 0
		m := boot(t, Options{CPUs: 1, Regime: sched.Free, NoStack: true, Strategy: eager{&met}, FailEvents: c.n, FailSite: c.site})
		var got []error
		var pipe error
		out := m.Run(func(th *Thread) {
			for range 2 {
				_, err := th.MmapAnon(4096)
				got = append(got, err)
			}
			_, _, pipe = th.Pipe()
		})
		require.NoError(t, out.Err())
		assert.Equal(t, c.mmap, got, "%+v", c)
		assert.Equal(t, c.pipe, pipe, "%+v", c)
		assert.Equal(t, c.met, met, "%+v", c)
		atRest(t, m)
	}
	for _, c := range []struct {
		o   Options
		err string
	}{
		{Options{FailEvents: 1}, "FailEvents only makes sense in the free regime"},
		{Options{FailEvents: -1, Regime: sched.Free}, "FailEvents is -1, must be 0 to"},
		{Options{FailSite: "x", Regime: sched.Free}, "no failure is asked for"},
	} {
		_, err := Boot(c.o)
		assert.ErrorContains(t, err, c.err)
	}
}

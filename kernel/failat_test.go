package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/fs"
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

package kernel

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

func TestOptionsAreRefusedWithTheLimit(t *testing.T) {
	for _, tc := range []struct {
		o    Options
		says string
	}{
		{Options{CPUs: 65}, "CPUs is 65, the limit is 64"},
		{Options{CPUs: -1}, "CPUs is -1"},
		{Options{Regime: 9}, "regime"},
		{Options{Preempt: 9}, "preemption"},
		{Options{Ring: -1}, "Ring"},
		{Options{Regime: sched.Timed, Strategy: sched.NewRandom(1)}, "free regime"},
		{Options{Memory: 4096}, "smallest"},
		{Options{Memory: 1<<20 + 1}, "multiples of 4 KiB"},
		{Options{Memory: 1 << 62}, "limit is"},
		{Options{Disks: []Disk{{Size: 512}}}, "no name"},
		{Options{Disks: []Disk{{Name: "a"}}}, "neither"},
		{Options{Disks: []Disk{{Name: "a", Size: 512, ImagePath: "x"}}}, "both"},
		{Options{Disks: []Disk{{Name: "a", Size: 100}}}, "multiple of 512"},
		{Options{Disks: []Disk{{Name: "a", Size: 512}, {Name: "a", Size: 512}}}, "two disks"},
		{Options{Disks: []Disk{{Name: "a", ImagePath: "/nonexistent/x"}}}, "no such file"},
		{Options{Disks: []Disk{{Name: "a", Size: 4096, SectorSize: 1000}}}, "SectorSize"},
	} {
		tc.o.Hosts = testHosts
		_, err := Boot(tc.o)
		assert.ErrorContains(t, err, tc.says)
	}
	var limit *LimitError
	_, err := Boot(Options{CPUs: 100})
	require.True(t, errors.As(err, &limit))
	assert.Equal(t, uint64(64), limit.Limit)
	var size *x86.SizeError
	_, err = Boot(Options{Hosts: &Hosts{}})
	assert.ErrorContains(t, err, "NewHosts")
	o := Options{Memory: 1 << 62}
	require.True(t, errors.As(o.Validate(), &size))
}

func TestPrefaultMustFitTheHost(t *testing.T) {
	h := NewHosts()
	defer h.Close()
	budget, _ := h.Mem.Budget()
	o := Options{Memory: (budget + 1) << x86.PageShift, Prefault: true, Hosts: h}
	var limit *LimitError
	err := o.Validate()
	var size *x86.SizeError
	if errors.As(err, &size) {
		return // in race-detector builds the cap on memory comes first
	}
	require.True(t, errors.As(err, &limit), "%v", err)
	assert.Contains(t, err.Error(), "control group")
	m, err := Boot(Options{Memory: 1 << 20, Prefault: true, Hosts: h})
	require.NoError(t, err)
	m.Shutdown()
}

func TestZeroOptions(t *testing.T) {
	m, err := Boot(Options{})
	require.NoError(t, err)
	o := m.Options()
	assert.Equal(t, 1, o.CPUs)
	assert.Equal(t, uint64(DefaultMemory), o.Memory)
	require.NoError(t, m.Run(func(th *Thread) { th.Store8(th.MustMmap(1), 1) }).Err())
	m.Shutdown()
	m.Shutdown()
	assert.Nil(t, m.Check())
	assert.Nil(t, m.Leaks())
}

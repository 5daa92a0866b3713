package page

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// rig is a machine with memory and nothing else.
type rig struct {
	t testing.TB
	m *sched.Machine
	p *Map
}

func newRig(t testing.TB, bytes uint64, o sched.Options) *rig {
	host := x86.NewHost()
	mem, err := host.NewMemory(x86.MemoryOptions{Bytes: bytes})
	require.NoError(t, err)
	o.Mem = mem
	m, err := sched.New(o)
	require.NoError(t, err)
	t.Cleanup(func() {
		m.Shutdown()
		mem.Release()
		host.Close()
	})
	return &rig{t: t, m: m, p: NewMap(m, mem)}
}

// start makes a task on CPU cpu.
func (r *rig) start(cpu int, name string, fn func(*sched.Task)) {
	r.m.Start(nil, r.m.NewTask(sched.TaskOptions{Name: name, CPU: cpu + 1}, fn))
}

// run executes fn as the only task, on CPU 0.
func (r *rig) run(fn func(*sched.Task)) {
	r.t.Helper()
	r.start(0, "test", fn)
	require.NoError(r.t, r.m.Run().Err())
}

// oops executes fn, which must end with an oops that contains text.
func (r *rig) oops(text string, fn func(*sched.Task)) {
	r.t.Helper()
	r.start(0, "test", fn)
	res := r.m.Run()
	require.Equal(r.t, sched.Oopsed, res.Reason, "result: %v", res.Err())
	require.Contains(r.t, res.Detail, text)
}

// empty drains all per-CPU state and wants nothing allocated.
func (r *rig) empty() {
	r.t.Helper()
	r.run(r.p.DrainAll)
	r.ok()
	require.Empty(r.t, r.p.Leaks())
	require.Equal(r.t, r.p.Frames()-1, r.p.FreePages())
}

// ok wants all invariants to hold.
func (r *rig) ok() {
	r.t.Helper()
	require.Empty(r.t, r.p.Check())
}

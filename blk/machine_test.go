package blk

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// rig is a machine with memory, the block layer and one disk.
type rig struct {
	t     testing.TB
	m     *sched.Machine
	pages *page.Map
	sys   *System
	disk  *RAMDisk
	dev   *Device
}

func newRig(t testing.TB, o sched.Options, d DeviceOptions) *rig {
	t.Helper()
	host := x86.NewHost()
	mem, err := host.NewMemory(x86.MemoryOptions{Bytes: 8 << 20})
	require.NoError(t, err)
	o.Mem = mem
	m, err := sched.New(o)
	require.NoError(t, err)
	t.Cleanup(func() {
		m.Shutdown()
		mem.Release()
		host.Close()
	})
	r := &rig{t: t, m: m, pages: page.NewMap(m, mem)}
	r.sys = NewSystem(m, r.pages)
	if d.Backing == nil {
		r.disk, err = NewRAMDisk(1 << 20)
		require.NoError(t, err)
		for i := range r.disk.data {
			r.disk.data[i] = pattern(int64(i))
		}
		d.Backing = r.disk
	}
	r.dev, err = r.sys.AddDevice(d)
	require.NoError(t, err)
	return r
}

// pattern is what byte i of the disk holds.
func pattern(i int64) byte { return byte(i*7 + i>>9*13 + 1) }

func (r *rig) start(cpu int, name string, fn func(*sched.Task)) {
	r.m.Start(nil, r.m.NewTask(sched.TaskOptions{Name: name, CPU: cpu + 1}, fn))
}

func (r *rig) run(fn func(*sched.Task)) {
	r.t.Helper()
	r.start(0, "test", fn)
	r.finish()
}

// finish runs the machine and checks that nothing is left behind.
func (r *rig) finish() *sched.Result {
	r.t.Helper()
	res := r.m.Run()
	require.NoError(r.t, res.Err(), "%s", res.Detail)
	served, waiting := r.dev.InFlight()
	require.Zero(r.t, served+waiting, "requests left")
	return res
}

// bio builds a bio of whole sectors in page p.
func (r *rig) bio(t *sched.Task, d Dir, sector uint64, p *page.Page, off, n uint32, end func(*sched.Task, *Bio, error)) *Bio {
	b := r.sys.AllocBio(t, r.dev, d, sector, 1)
	if b.AddPage(p, off, n) != n {
		t.Oops("bio is full")
	}
	b.EndIO = end
	return b
}

func (r *rig) alloc(t *sched.Task) *page.Page {
	p := r.pages.Alloc(t, page.GFPKernel|page.GFPZero, 0, "test")
	if p == nil {
		t.Oops("no memory")
	}
	return p
}

func (r *rig) bytes(p *page.Page) []byte { return r.m.Mem().Bytes(r.pages.PFN(p)) }

// holds checks that bytes [off, off+n) of p are those of the disk from sector on.
func (r *rig) holds(p *page.Page, off, n int, sector uint64) {
	r.t.Helper()
	for i, b := range r.bytes(p)[off : off+n] {
		if want := pattern(int64(sector)<<SectorShift + int64(i)); b != want {
			require.Fail(r.t, "wrong byte", "at %d: %#x, want %#x", off+i, b, want)
		}
	}
}

// regimes are the machines that most tests run on.
func regimes(t *testing.T, cpus int, fn func(t *testing.T, o sched.Options)) {
	for _, reg := range []sched.Regime{sched.Parallel, sched.Timed, sched.Free} {
		seeds := 1
		if reg == sched.Free {
			seeds = 20
		}
		for seed := range seeds {
			t.Run(fmt.Sprintf("%v/seed=%d", reg, seed), func(t *testing.T) {
				o := sched.Options{CPUs: cpus, Regime: reg, CheckLocks: true}
				if reg == sched.Free {
					o.Strategy = sched.NewRandom(uint64(seed))
					if seed%2 == 1 { // long delays of one side
						o.Strategy = sched.NewPCT(uint64(seed), 4, 1000)
					}
				}
				fn(t, o)
			})
		}
	}
}

package blk

import (
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// System is the block layer of one machine.
type System struct {
	m       *sched.Machine // immutable
	pages   *page.Map      // immutable
	mem     *x86.Memory    // immutable
	cpus    []cpuState     // by CPU number; each is its CPU's, but for what is said there
	devices []*Device      // boot time only
}

// cpuState is what the block layer keeps for each CPU. Free lists are touched
// by whoever runs the CPU, and no point is passed meanwhile.
type cpuState struct {
	bios     *Bio
	requests *request
	flows    uint64    // bios submitted here
	sectors  [2]uint64 // submitted here, by direction

	// The done list: requests that devices have finished and the interrupt
	// handler has not seen. doneLock is a host-level lock, and protects both.
	doneLock           x86.RawSpin
	doneHead, doneTail *request

	_ [64]byte
}

// NewSystem makes the block layer and takes the block-device vector. Boot time only.
func NewSystem(m *sched.Machine, pages *page.Map) *System {
	s := &System{m: m, pages: pages, mem: m.Mem(), cpus: make([]cpuState, m.CPUs())}
	m.RegisterIRQ(x86.VecBlock, s.interrupt)
	return s
}

// DeviceOptions describe a block device. Backing is required; the zero value
// of everything else means what 2.6.29 has for a SATA disk, or what is said.
type DeviceOptions struct {
	// Name is what reports call the device, such as "vda"; empty means vda,
	// vdb and so on.
	Name string
	// Backing holds the sectors. Its size must be a multiple of SectorSize and not zero.
	Backing Backing
	// SectorSize is the logical sector size in bytes (bdev_hardsect_size): a power
	// of two from 512 to 4096; zero means 512.
	SectorSize int
	// Latency is the time model; nil means FastDevice(). It only matters where time
	// does: in the Free regime chunks come when the strategy says.
	Latency *Latency
	// Depth is how many requests the device serves at once; zero means Latency.Depth.
	Depth int
	// MaxSectors is the longest request in units of 512 bytes; zero means 1024.
	MaxSectors int
	// MaxSegments is how many physically contiguous pieces a request may have;
	// zero means 128.
	MaxSegments int
	// MaxRequests is how many requests of one direction the queue holds before
	// submitters wait; zero means 128.
	MaxRequests int
	// ReadOnly makes the device read-only; one with a read-only backing always is.
	ReadOnly bool
	// Affinity is the mask of CPUs that the device interrupts (/proc/irq/N/smp_affinity):
	// the lowest of them takes all interrupts. Zero: each request ends where its first bio
	// was submitted, as with rq_affinity.
	Affinity uint64
}

// Validate reports what is wrong with the options, naming the field and its limits.
func (o *DeviceOptions) Validate() error {
	if o.Backing == nil {
		return fmt.Errorf("blk: Backing is required")
	}
	if ss := o.SectorSize; ss != 0 && (ss < SectorSize || ss > x86.PageSize || ss&(ss-1) != 0) {
		return fmt.Errorf("blk: SectorSize is %d, must be a power of two from 512 to 4096", ss)
	}
	size, ss := o.Backing.Bytes(), int64(max(o.SectorSize, SectorSize))
	if size <= 0 || size%ss != 0 {
		return fmt.Errorf("blk: size of %d bytes, must be a multiple of the sector size %d and not zero", size, ss)
	}
	for _, f := range []struct {
		name      string
		v, lo, hi int
	}{
		{"Depth", o.Depth, 1, 1 << 16}, {"MaxSectors", o.MaxSectors, x86.PageSize / SectorSize, 1 << 16},
		{"MaxSegments", o.MaxSegments, 1, MaxVecs}, {"MaxRequests", o.MaxRequests, 4, 1 << 16},
	} {
		if f.v != 0 && (f.v < f.lo || f.v > f.hi) {
			return fmt.Errorf("blk: %s is %d, must be %d to %d", f.name, f.v, f.lo, f.hi)
		}
	}
	if o.Latency != nil {
		return o.Latency.Validate()
	}
	return nil
}

// irqCPU returns the CPU that an affinity mask means, -1 for each request's own.
func irqCPU(mask uint64) int {
	if mask == 0 {
		return -1
	}
	return bits.TrailingZeros64(mask)
}

// Device is a disk.
type Device struct {
	sys        *System // immutable
	name       string  // immutable
	backing    Backing // immutable
	mem        slicer  // backing, if its sectors can be had in place; immutable
	sectors    uint64  // capacity in units of 512 bytes; immutable
	sectorSize int     // immutable
	readOnly   bool    // immutable
	step       bool    // chunks are events of their own; immutable
	timed      bool    // events are spaced by the latency model; immutable
	irqCPU     int     // who is interrupted; -1: the CPU that submitted; immutable

	q     requestQueue
	clock clock // protected by the queue lock

	// Inject makes sectors fail.
	Inject Injector
}

// AddDevice makes a device. Boot time only.
func (s *System) AddDevice(o DeviceOptions) (*Device, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if cpus := s.m.CPUs(); o.Affinity != 0 && irqCPU(o.Affinity) >= cpus {
		return nil, fmt.Errorf("blk: Affinity is %#x, must have one of the %d CPUs there are", o.Affinity, cpus)
	}
	lat := FastDevice()
	if o.Latency != nil {
		lat = *o.Latency
	}
	if o.Name == "" {
		o.Name = "vd" + string(rune('a'+len(s.devices)%26))
	}
	d := &Device{
		sys: s, name: o.Name, backing: o.Backing, sectors: uint64(o.Backing.Bytes()) >> SectorShift,
		sectorSize: orDefault(o.SectorSize, SectorSize), readOnly: o.ReadOnly || o.Backing.ReadOnly(),
		step: s.m.Det(), timed: s.m.Regime() != sched.Free,
		irqCPU: irqCPU(o.Affinity),
	}
	d.mem, _ = o.Backing.(slicer)
	d.clock.init(lat)
	d.q.init(d)
	d.q.maxSectors = orDefault(o.MaxSectors, 1024)
	d.q.maxSegments = orDefault(o.MaxSegments, 128)
	d.q.maxRequests = orDefault(o.MaxRequests, 128)
	d.q.depth = orDefault(o.Depth, max(lat.Depth, 1))
	d.q.nonrot = !lat.Rotational
	s.devices = append(s.devices, d)
	return d, nil
}

func orDefault(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

// Name returns the device's name, without a directory.
func (d *Device) Name() string { return d.name }

// Sectors returns the capacity in units of 512 bytes.
func (d *Device) Sectors() uint64 { return d.sectors }

// Bytes returns the capacity in bytes.
func (d *Device) Bytes() int64 { return int64(d.sectors) << SectorShift }

// SectorSize returns the logical sector size in bytes (bdev_hardsect_size).
func (d *Device) SectorSize() int { return d.sectorSize }

// SectorBits returns log2 of SectorSize.
func (d *Device) SectorBits() uint { return uint(bits.TrailingZeros(uint(d.sectorSize))) }

// ReadOnly reports whether the device refuses writes (bdev_read_only).
func (d *Device) ReadOnly() bool { return d.readOnly }

// System returns the block layer the device belongs to.
func (d *Device) System() *System { return d.sys }

// InFlight returns how many requests are being served and how many wait: for
// invariants at quiet points.
func (d *Device) InFlight() (served, waiting int) { return d.q.inFlight, d.q.queued }

// Devices returns the machine's devices in the order they were added.
func (s *System) Devices() []*Device { return s.devices }

// SubmitBio hands a bio to its device (submit_bio). The transfer begins when the
// device is unplugged or its queue decides to; EndIO says that it is over.
//
// Preconditions:
//   - the caller may sleep: when too many requests are outstanding it does
//   - the frames of the bio are kept alive by references until EndIO, if anybody
//     cares; the device does not check
func (s *System) SubmitBio(t *sched.Task, b *Bio) {
	b.check(t)
	b.Err = nil
	c := &s.cpus[t.C.ID]
	n := b.Sectors()
	b.flow = c.flows*uint64(len(s.cpus)) + uint64(t.C.ID) + 1
	c.flows++
	// vmstat counts KiB; sectors that are half of one are carried over.
	old := c.sectors[b.Dir]
	c.sectors[b.Dir] += n
	kib := c.sectors[b.Dir]>>1 - old>>1
	flag := uint64(0)
	if b.Dir == Write {
		t.C.Trace.Add(trace.PGPgOut, kib)
		flag = trace.BioWrite
	} else {
		t.C.Trace.Add(trace.PGPgIn, kib)
	}
	t.C.Trace.Inc(trace.EmuBios)
	t.C.Trace.Event(trace.EvBioSubmit, t.C.Now(), b.flow, b.Sector, uint64(b.Size)|flag)
	if b.Sector >= b.Dev.sectors || n > b.Dev.sectors-b.Sector || b.Dir == Write && b.Dev.readOnly {
		b.end(t, unix.EIO) // handle_bad_sector; bio_check_eod
		return
	}
	b.Dev.q.makeRequest(t, b)
}

// end calls EndIO (bio_endio).
func (b *Bio) end(t *sched.Task, err error) {
	c := uint64(b.Size)
	if b.Dir == Write {
		c |= trace.BioWrite
	}
	if err != nil {
		c |= trace.BioError
		t.C.Trace.Inc(trace.EmuBioErrors)
	}
	t.C.Trace.Event(trace.EvBioComplete, t.C.Now(), b.flow, b.Sector, c)
	b.Err = err
	b.EndIO(t, b, err)
}

// SubmitBioWait submits a bio, unplugs its device and sleeps until the transfer is
// over. It uses EndIO itself. The bio still belongs to the caller afterwards.
func (s *System) SubmitBioWait(t *sched.Task, b *Bio) error {
	if !b.waitInit {
		b.wait.Init(s.m)
		b.waitInit = true
	}
	b.EndIO = endBioWait
	s.SubmitBio(t, b)
	s.Unplug(t, b.Dev)
	b.wait.Wait(t)
	return b.Err
}

func endBioWait(t *sched.Task, b *Bio, _ error) { b.wait.Complete(t) }

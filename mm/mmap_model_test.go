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

// Random sequences of calls in a window of 256 pages, on the emulator and on a model
// that knows nothing of VMAs: a page is mapped or not, has permissions and flags, and
// a byte.

const windowPages = 256

// mapOp is one call with its raw arguments, so that a host can execute it too.
type mapOp struct {
	Call   string // mmap, munmap, mprotect, madvise, write, read, mremap, mincore
	Addr   uint64
	Size   uint64
	Prot   Prot
	Flags  MapFlags
	Advice Advice
	File   bool   // mmap: the file
	PgOff  uint64 // mmap
	Byte   byte   // write

	NewSize, NewAddr uint64      // mremap
	Remap            MremapFlags // mremap
}

// mapResult is what a call returns.
type mapResult struct {
	Errno int
	Byte  byte   // read
	Vec   string // mincore
}

func (r mapResult) String() string {
	if r.Errno != 0 {
		return unix.ErrnoName(unix.Errno(r.Errno))
	}
	return fmt.Sprintf("ok %d%s", r.Byte, r.Vec)
}

func failed(err error) mapResult {
	if err == nil {
		return mapResult{}
	}
	return mapResult{Errno: int(err.(unix.Errno))}
}

const efault = int(unix.EFAULT)

// memfd is the file that scripts map: shared memory under another name.
type memfd struct {
	VMFile
	as *AddressSpace
}

func (memfd) Name() string { return "/memfd:cowlab (deleted)" }

func newMemfd(s *System, t *sched.Task) *memfd {
	f, as, err := s.ShmemZeroSetup(t, windowPages, 0)
	if err != nil {
		panic(err)
	}
	return &memfd{f, as}
}

// emulate executes a call on the emulator.
func (u *user) emulate(f *memfd, op mapOp) mapResult {
	switch op.Call {
	case "mmap":
		req := MmapRequest{Addr: op.Addr, Len: op.Size, Prot: op.Prot, Flags: op.Flags}
		if op.File {
			req.File, req.Mapping = f, f.as
		}
		_, err := u.tryMmap(req, op.PgOff*pg)
		return failed(err)
	case "munmap":
		return failed(u.tryMunmap(op.Addr, op.Size))
	case "mprotect":
		return failed(u.mprotect(op.Addr, op.Size, op.Prot))
	case "madvise":
		return failed(u.madvise(op.Addr, op.Size, op.Advice))
	case "mremap", "mincore":
		return u.emulateRemap(op)
	case "write":
		if _, ok := u.tryStore(op.Addr, 1, uint64(op.Byte)); !ok {
			return mapResult{Errno: efault}
		}
		return mapResult{}
	case "read":
		v, _, ok := u.tryLoad(op.Addr, 1)
		if !ok {
			return mapResult{Errno: efault}
		}
		return mapResult{Byte: byte(v)}
	}
	panic(op.Call)
}

// modelPage is what the model knows of a page.
type modelPage struct {
	mapped   bool
	prot     Prot
	advice   VMFlags // VMSeqRead, VMRandRead, VMDontCopy
	obj      *modelObj
	index    int
	shared   bool
	private  bool // has a byte of its own
	contents byte
}

// modelObj is a file or a shared anonymous mapping.
type modelObj struct {
	bytes map[int]byte
	size  int // in pages; beyond it there is SIGBUS
}

// mapModel is an address space without VMAs.
type mapModel struct {
	pages [windowPages]modelPage
	file  *modelObj
}

func newMapModel() *mapModel { return &mapModel{file: &modelObj{map[int]byte{}, windowPages}} }

// do executes a call on the model.
func (m *mapModel) do(op mapOp) mapResult {
	const einval, enomem = int(unix.EINVAL), int(unix.ENOMEM)
	page := int(op.Addr-window) / pg
	n := int(op.Size+pg-1) / pg
	unaligned := op.Addr%pg != 0
	end := min(page+n, windowPages)
	switch op.Call {
	case "mmap":
		if op.Size == 0 || unaligned || op.Flags&MapType != MapShared && op.Flags&MapType != MapPrivate {
			return mapResult{Errno: einval}
		}
		p := modelPage{mapped: true, prot: op.Prot, shared: op.Flags&MapType == MapShared}
		switch {
		case op.File:
			p.obj = m.file
		case p.shared:
			p.obj = &modelObj{map[int]byte{}, end - page}
		}
		for i := page; i < end; i++ {
			p.index = i - page + int(op.PgOff)
			m.pages[i] = p
		}
	case "munmap":
		if op.Size == 0 || unaligned {
			return mapResult{Errno: einval}
		}
		clear(m.pages[page:end])
	case "mprotect":
		if unaligned {
			return mapResult{Errno: einval}
		}
		if op.Size == 0 {
			return mapResult{}
		}
		if op.Prot > 15 {
			return mapResult{Errno: einval}
		}
		for i := page; i < page+n; i++ {
			if i >= windowPages || !m.pages[i].mapped {
				return mapResult{Errno: enomem}
			}
			m.pages[i].prot = op.Prot &^ ProtSem
		}
	case "madvise":
		if unaligned {
			return mapResult{Errno: einval}
		}
		var r mapResult
		for i := page; i < page+n; i++ {
			if i >= windowPages || !m.pages[i].mapped {
				r.Errno = enomem
			} else if e := m.pages[i].advise(op.Advice); e != 0 {
				return mapResult{Errno: e}
			}
		}
		return r
	case "mremap":
		return m.remap(op)
	case "write":
		p := &m.pages[page]
		if !p.mapped || p.prot&ProtWrite == 0 || p.beyond() {
			return mapResult{Errno: efault}
		}
		if p.shared {
			p.obj.bytes[p.index] = op.Byte
		} else {
			p.private, p.contents = true, op.Byte
		}
	case "read":
		p := &m.pages[page]
		if !p.mapped || p.prot == ProtNone || p.beyond() {
			return mapResult{Errno: efault}
		}
		return mapResult{Byte: p.read()}
	}
	return mapResult{}
}

// beyond reports whether there is nothing behind the page but the end of its object.
func (p *modelPage) beyond() bool { return !p.private && p.obj != nil && p.index >= p.obj.size }

func (p *modelPage) read() byte {
	if p.private {
		return p.contents
	}
	if p.obj != nil {
		return p.obj.bytes[p.index]
	}
	return 0
}

func (p *modelPage) advise(a Advice) int {
	switch a {
	case MadvNormal:
		p.advice &^= VMSeqRead | VMRandRead
	case MadvSequential:
		p.advice = p.advice&^VMRandRead | VMSeqRead
	case MadvRandom:
		p.advice = p.advice&^VMSeqRead | VMRandRead
	case MadvDontFork:
		p.advice |= VMDontCopy
	case MadvDoFork:
		p.advice &^= VMDontCopy
	case MadvDontNeed:
		p.private = false
	case MadvWillNeed:
		if p.obj == nil {
			return int(unix.EBADF)
		}
	default:
		return int(unix.EINVAL)
	}
	return 0
}

// compare looks for pages of which model and emulator disagree.
func (m *mapModel) compare(mm *MM) error {
	for i := range m.pages {
		p := &m.pages[i]
		v := mm.lookupVMA(at(i))
		if v != nil && v.Start > at(i) {
			v = nil
		}
		if p.mapped != (v != nil) {
			return fmt.Errorf("page %d: mapped: model %v, VMA %v", i, p.mapped, v)
		}
		if v == nil {
			continue
		}
		want := calcVMProtBits(p.prot) | p.advice
		if got := v.Flags & (VMRead | VMWrite | VMExec | VMSeqRead | VMRandRead | VMDontCopy); got != want {
			return fmt.Errorf("page %d: flags %#x, the model has %#x", i, uint64(got), uint64(want))
		}
		if (v.Flags&VMShared != 0) != p.shared || (v.Mapping != nil) != (p.obj != nil) {
			return fmt.Errorf("page %d: %v is not what was mapped", i, v)
		}
		if p.obj != nil && v.Index(at(i)) != uint64(p.index) {
			return fmt.Errorf("page %d: index %d, the model has %d", i, v.Index(at(i)), p.index)
		}
		e := mm.PeekPTE(at(i))
		if e.HWPresent() && p.prot == ProtNone || e.Write() && (p.prot&ProtWrite == 0) {
			return fmt.Errorf("page %d: entry %v, permissions %v", i, e, v.Flags)
		}
	}
	return nil
}

// mapRand makes up calls.
type mapRand struct {
	*rand.Rand
	prots  []Prot              // permissions to choose from
	extra  MapFlags            // of every private anonymous mapping
	advice []Advice            // to choose from
	wrong  int                 // one call in so many has a wrong argument
	isAnon func(page int) bool // a read would be the VMA's first access
}

func (r *mapRand) next() mapOp {
	page := r.IntN(windowPages)
	n := 1 + r.IntN(1<<r.IntN(8))
	n = min(n, windowPages-page)
	op := mapOp{Addr: at(page), Size: uint64(n) * pg, Prot: r.prots[r.IntN(len(r.prots))]}
	if r.IntN(4) == 0 {
		op.Size -= uint64(r.IntN(pg))
	}
	switch k := r.IntN(100); {
	case k < 20:
		op.Call, op.Flags = "mmap", MapAnonymous|MapPrivate|MapFixed|r.extra
	case k < 24:
		op.Call, op.Flags = "mmap", MapAnonymous|MapShared|MapFixed
	case k < 34:
		op.Call, op.Flags, op.File = "mmap", MapPrivate|MapFixed|r.extra, true
		if k < 28 {
			op.Flags = MapShared | MapFixed
		}
		op.PgOff = uint64(r.IntN(windowPages - n + 1))
		if r.IntN(2) == 0 && page+n <= windowPages {
			op.PgOff = uint64(page) // so that neighbours go on
		}
	case k < 44:
		op.Call = "munmap"
	case k < 64:
		op.Call = "mprotect"
	case k < 80:
		op.Call, op.Advice = "madvise", r.advice[r.IntN(len(r.advice))]
	case k < 94:
		op.Call, op.Byte = "write", byte(1+r.IntN(255))
	default:
		op.Call = "read"
		if r.isAnon != nil && r.isAnon(page) {
			op.Call, op.Byte = "write", 1
		}
	}
	if r.wrong > 0 && r.IntN(r.wrong) == 0 {
		switch r.IntN(4) {
		case 0:
			if op.Call != "write" && op.Call != "read" {
				op.Addr += 1 + uint64(r.IntN(pg-1))
			}
		case 1:
			if op.Call != "madvise" {
				op.Size = 0
			}
		case 2:
			op.Flags &^= MapType
		case 3:
			if op.Call == "mprotect" {
				op.Prot |= 0x40
			}
		}
	}
	return op
}

func TestRandomCallsAgainstModel(t *testing.T) {
	seeds, calls := 12, 400
	if testing.Short() {
		seeds = 3
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := boot(t, rigOptions{Options: sched.Options{Regime: sched.Timed, CheckLocks: true}})
			rnd := &mapRand{Rand: rand.New(rand.NewPCG(seed, 1)), wrong: 20,
				prots:  []Prot{0, ProtRead, ProtRead | ProtWrite, ProtRead | ProtWrite, ProtRead | ProtExec, ProtExec, ProtWrite, 7},
				advice: []Advice{0, 1, 2, 4, 4, 4, 10, 11, 3, 99}}
			r.run(func(u *user) {
				f, model, k := newMemfd(u.s, u.t), newMapModel(), &vmaScript{u: u}
				u.mm.MmapBase = window
				for i := range calls {
					op := rnd.next()
					before := u.mm.DebugString()
					got, want := u.emulate(f, op), model.do(op)
					require.Equal(t, want, got, "call %d: %+v\n%s", i, op, before)
					err := u.mm.validateMM()
					if err == nil {
						err = k.unmerged()
					}
					if err == nil {
						err = model.compare(u.mm)
					}
					require.NoError(t, err, "call %d: %+v\nbefore: %safter: %s", i, op, before, u.mm.DebugString())
					if i%50 == 0 {
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

// windowMaps returns the part of /proc/pid/maps, text, that lies in the window, as
// "page-page perms offset name".
func windowMaps(text string) (out []string) {
	for line := range strings.Lines(text) {
		var start, end, off uint64
		var perms, dev, name string
		var ino uint64
		n, _ := fmt.Sscanf(line, "%x-%x %s %x %s %d", &start, &end, &perms, &off, &dev, &ino)
		if n != 6 || end <= window || start >= at(windowPages) {
			continue
		}
		if i := strings.IndexByte(line, '/'); i >= 0 {
			name = " " + strings.TrimSpace(line[i:])
		}
		out = append(out, fmt.Sprintf("%d-%d %s %x%s", (start-window)/pg, (end-window)/pg, perms, off, name))
	}
	return out
}

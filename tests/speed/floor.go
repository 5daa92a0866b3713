package speed

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"syscall"
	"time"
	"unsafe"
)

// Order says in which order a batch meets its frames.
type Order uint8

// The orders. A fresh machine hands out frames almost in sequence; one that has
// run for a while does not, and every table look-up by frame number is dearer.
const (
	Sequential Order = iota
	Shuffled
)

// String returns the order's name.
func (o Order) String() string {
	if o == Shuffled {
		return "shuffled"
	}
	return "sequential"
}

// Sizes of the floors' memory, and the address sequence that the hit rows share
// with native/memory.c and should share with the emulated side: each step goes
// to another page, and in the end to every line of the span.
const (
	pageSize   = 4096
	megabyte   = 1 << 20
	frameBytes = 64 // one struct page

	HitStride = 4160      // bytes between two loads of the load-hit and store-hit rows
	HitSpan   = 256 << 10 // and the span they stay in; addresses are taken modulo it
)

// FloorOptions sizes the memory of the floors. The zero value is right for
// Catalog's batches.
type FloorOptions struct {
	Frames int   // 4 KiB frames that are cleared and copied; 0 means 16,384 (64 MiB), at least 1,024
	PTEs   int   // entries (and struct pages) of fork and its like; 0 means 131,072, at least 1,024
	Order  Order // of the frames
}

// Validate reports sizes out of range.
func (o FloorOptions) Validate() error {
	for _, n := range []int{o.Frames, o.PTEs} {
		if n != 0 && (n < 1024 || n > 1<<20) {
			return fmt.Errorf("speed: floor size %d is not within 1,024 and 1,048,576", n)
		}
	}
	return nil
}

// Floors owns the memory of the floors. Its methods are the floors: each does n
// units and returns the time they took. They are not safe for concurrent use.
type Floors struct {
	mem    []byte         // the mapping, written once before use
	frames unsafe.Pointer // nframes x 4 KiB
	descs  unsafe.Pointer // nptes x frameBytes
	parent []uint64       // page-table entries, in the chosen order of frames
	child  []uint64       // entries that a fork fills
	pages  []uint64       // frame numbers that gup fills in
	order  []uint32       // frame numbers below nframes in the chosen order
	tables [4]uint64      // frames of one page table of each level, root first
	next   int            // frame that the next copy starts with
	tlb    *floorTLB      // of load and store
	rss    uint64         // the counter a fork keeps
	sink   uint64         // keeps results alive
}

// A page-table entry's bits in the floors; the frame number starts at bit 12.
const (
	ptePresent = 1 << 0
	pteRW      = 1 << 1
)

// NewFloors maps and writes the memory: with the zero options about 76 MiB. The
// caller closes it.
func NewFloors(o FloorOptions) (*Floors, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Frames == 0 {
		o.Frames = 16384
	}
	if o.PTEs == 0 {
		o.PTEs = 131072
	}
	size := (o.Frames+8)*pageSize + o.PTEs*(frameBytes+4*8)
	mem, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("speed: memory of the floors: %w", err)
	}
	for i := 0; i < len(mem); i += pageSize {
		mem[i] = 1
	}
	clear(mem)
	f := &Floors{mem: mem, frames: unsafe.Pointer(unsafe.SliceData(mem))}
	at := (o.Frames + 8) * pageSize
	f.descs = unsafe.Pointer(&mem[at])
	at += o.PTEs * frameBytes
	words := func() []uint64 {
		w := unsafe.Slice((*uint64)(unsafe.Pointer(&mem[at])), o.PTEs)
		at += o.PTEs * 8
		return w
	}
	f.parent, f.child, f.pages = words(), words(), words()
	f.order = make([]uint32, o.Frames)
	for i := range f.order {
		f.order[i] = uint32(i)
	}
	numbers := make([]uint32, o.PTEs)
	for i := range numbers {
		numbers[i] = uint32(i)
	}
	if o.Order == Shuffled {
		r := rand.New(rand.NewPCG(1, 2))
		r.Shuffle(len(numbers), func(i, j int) { numbers[i], numbers[j] = numbers[j], numbers[i] })
		r.Shuffle(len(f.order), func(i, j int) { f.order[i], f.order[j] = f.order[j], f.order[i] })
	}
	for i, pfn := range numbers {
		f.parent[i] = uint64(pfn)<<12 | ptePresent | pteRW
	}
	f.buildTables(o.Frames)
	f.buildTLB()
	return f, nil
}

// Close gives the memory back. No floor may run then or later.
func (f *Floors) Close() error {
	if f.mem == nil {
		return errors.New("speed: floors closed twice")
	}
	mem := f.mem
	f.mem, f.frames, f.descs, f.parent, f.child, f.pages, f.tlb = nil, nil, nil, nil, nil, nil, nil
	return syscall.Munmap(mem)
}

// frame returns the 4 KiB of a frame.
func (f *Floors) frame(pfn uint32) *[pageSize]byte {
	return (*[pageSize]byte)(unsafe.Add(f.frames, uintptr(pfn)*pageSize))
}

// desc returns the struct page of a frame.
func (f *Floors) desc(pte uint64) *frameDesc {
	return (*frameDesc)(unsafe.Add(f.descs, uintptr(pte>>12)*frameBytes))
}

// frameDesc is what a struct page needs for the floors: 64 bytes, the two
// counters in one word's neighbourhood as in Linux.
type frameDesc struct {
	flags    uint64
	count    uint32
	mapcount uint32
	next     uint64 // link of the free list
	_        [40]byte
}

// floorTLB is the smallest translation table that can serve a load: a tag and
// what has to be added to the address.
type floorTLB struct {
	entry [1024]struct{ tag, addend uint64 }
	base  unsafe.Pointer
	miss  uint64
}

// buildTLB maps HitSpan bytes at address 0x7f0000000000 to the first frames of
// the order.
func (f *Floors) buildTLB() {
	t := &floorTLB{base: f.frames}
	for i := range uint64(HitSpan / pageSize) {
		va := uint64(hitBase) + i*pageSize
		e := &t.entry[va>>12&1023]
		e.tag = va >> 12
		e.addend = uint64(f.order[i])*pageSize - va
	}
	f.tlb = t
}

const hitBase = 0x7f0000000000

// load is what an access cannot do without: the call itself (the miss path keeps
// it from being inlined), tag, addend, move.
//
//go:noinline
func (t *floorTLB) load(va uint64) uint64 {
	e := &t.entry[va>>12&1023]
	if e.tag != va>>12 {
		t.miss++
		return 0
	}
	return *(*uint64)(unsafe.Add(t.base, uintptr(e.addend+va)))
}

//go:noinline
func (t *floorTLB) store(va, v uint64) {
	e := &t.entry[va>>12&1023]
	if e.tag != va>>12 {
		t.miss++
		return
	}
	*(*uint64)(unsafe.Add(t.base, uintptr(e.addend+va))) = v
}

// Load does n loads of 8 bytes through the translation table.
func (f *Floors) Load(n int) time.Duration {
	t, off, sum := f.tlb, uint64(0), uint64(0)
	start := time.Now()
	for range n {
		sum += t.load(hitBase + off)
		off = (off + HitStride) & (HitSpan - 1)
	}
	d := time.Since(start)
	f.sink += sum
	return d
}

// Store does n stores of 8 bytes through the translation table.
func (f *Floors) Store(n int) time.Duration {
	t, off := f.tlb, uint64(0)
	start := time.Now()
	for i := range n {
		t.store(hitBase+off, uint64(i))
		off = (off + HitStride) & (HitSpan - 1)
	}
	return time.Since(start)
}

// loadInlined is Load without the call: what the benchmarks show beside it.
func (f *Floors) loadInlined(n int) time.Duration {
	t, off, sum := f.tlb, uint64(0), uint64(0)
	start := time.Now()
	for range n {
		va := hitBase + off
		e := &t.entry[va>>12&1023]
		if e.tag != va>>12 {
			break
		}
		sum += *(*uint64)(unsafe.Add(t.base, uintptr(e.addend+va)))
		off = (off + HitStride) & (HitSpan - 1)
	}
	d := time.Since(start)
	f.sink += sum
	return d
}

// CopyMiB does n copies of 1 MiB between the same two places.
func (f *Floors) CopyMiB(n int) time.Duration {
	src, dst := f.mem[:megabyte], f.mem[megabyte:2*megabyte]
	start := time.Now()
	for range n {
		copy(dst, src)
	}
	return time.Since(start)
}

// buildTables makes one table of each level behind the last frame, the lowest
// one mapping 512 pages.
func (f *Floors) buildTables(frames int) {
	for level := range f.tables {
		f.tables[level] = uint64(frames + level)
	}
	for level, pfn := range f.tables {
		for i := range uint64(512) {
			to := i
			if level < len(f.tables)-1 {
				to = f.tables[level+1]
			}
			*f.word(pfn<<12, i) = to<<12 | ptePresent | pteRW
		}
	}
}

// word returns entry i of the table in the frame that an entry points to.
func (f *Floors) word(entry, i uint64) *uint64 {
	return (*uint64)(unsafe.Add(f.frames, uintptr(entry&^(pageSize-1)+i*8)))
}

// Walk does n walks of four levels, tables warm in the caches.
func (f *Floors) Walk(n int) time.Duration {
	root, va, sum := f.tables[0]<<12, uint64(hitBase), uint64(0)
	start := time.Now()
	for range n {
		entry := root | ptePresent
		for shift := 39; shift >= 12 && entry&ptePresent != 0; shift -= 9 {
			entry = *f.word(entry, va>>shift&511)
		}
		sum += entry
		va = hitBase + (va+HitStride)&(512*pageSize-1)
	}
	d := time.Since(start)
	f.sink += sum
	return d
}

// Clear clears n pages, round and round through all frames.
func (f *Floors) Clear(n int) time.Duration {
	start := time.Now()
	for done := 0; done < n; {
		part := f.order[:min(n-done, len(f.order))]
		for _, pfn := range part {
			clear(f.frame(pfn)[:])
		}
		done += len(part)
	}
	return time.Since(start)
}

// Copy copies n pages from one half of the frames to the other; each call goes
// on where the last one ended, so that short batches are as cold as long ones.
func (f *Floors) Copy(n int) time.Duration {
	half := len(f.order) / 2
	at := f.next
	start := time.Now()
	for range n {
		copy(f.frame(f.order[half+at])[:], f.frame(f.order[at])[:])
		if at++; at == half {
			at = 0
		}
	}
	d := time.Since(start)
	f.next = at
	return d
}

// Switch does n round trips into a coroutine and back: two switches each.
func (f *Floors) Switch(n int) time.Duration {
	next, stop := iter.Pull(func(yield func(uint64) bool) {
		for i := uint64(0); yield(i); i++ {
		}
	})
	defer stop()
	next()
	start := time.Now()
	for range n {
		v, _ := next()
		f.sink += v
	}
	return time.Since(start)
}

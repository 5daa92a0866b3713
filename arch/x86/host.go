package x86

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Limits on what a host is asked for.
const (
	minMemory = 1 << 20
	// maxMemory is what frame numbers of 32 bits can name, less the last frame,
	// whose number is NoPFN.
	maxMemory = 1<<44 - PageSize
	// everyHost is a size no host refuses, because only what is touched costs.
	everyHost = 64 << 30
	// overcommit is how far beyond its own memory a larger host goes.
	overcommit = 16
	// budgetPercent of the memory that is free when the Host is made may be
	// touched by all its machines together.
	budgetPercent = 80
)

// SizeError says that a machine's memory cannot be had, and what the limit is.
type SizeError struct {
	Bytes uint64 // asked for
	Limit uint64 // the limit it violates
	Why   string // where the limit comes from
}

// Error describes the refusal.
func (e *SizeError) Error() string {
	return fmt.Sprintf("x86: memory of %d bytes: limit is %d bytes (%s)", e.Bytes, e.Limit, e.Why)
}

// Host is where machines get their memory from, and leave it for the next: it
// keeps the backing of released machines, cleaned and still populated. Many
// machines may share a Host; its methods are safe for concurrent use.
type Host struct {
	total  uint64 // bytes of host memory; immutable
	budget uint64 // frames that may be touched; immutable
	keep   uint64 // frames that idle backings may hold populated; immutable

	resident atomic.Int64 // frames touched by machines, or kept populated. Atomic

	mu   sync.Mutex
	idle map[uint64][]*backing // by frames; protected by mu
	held uint64                // frames resident in idle backings; protected by mu
}

// NewHost looks at the host's memory and returns an empty pool.
func NewHost() *Host { return newHost(hostMemory()) }

func newHost(total, available uint64) *Host {
	h := &Host{total: total, idle: make(map[uint64][]*backing)}
	h.budget = available / 100 * budgetPercent / PageSize
	h.keep = h.budget / 2
	return h
}

// NewMemory returns zero memory of the given size. The error is a *SizeError
// when the size itself is refused.
func (h *Host) NewMemory(o MemoryOptions) (*Memory, error) {
	if err := h.check(o.Bytes); err != nil {
		return nil, err
	}
	frames := o.Bytes >> PageShift
	b := h.take(frames)
	if b == nil {
		ram, err := newArena(uintptr(o.Bytes))
		if err != nil {
			return nil, err
		}
		words := (frames + 63) / 64
		maps := make([]uint64, 2*words)
		b = &backing{frames: frames, ram: ram, touched: maps[:words:words], resident: maps[words:]}
		b.low.Store(words)
	}
	return &Memory{base: b.ram.base, nframes: frames, b: b, host: h}, nil
}

// Check returns the *SizeError that NewMemory would return for a machine of that
// size, without making anything.
func (h *Host) Check(bytes uint64) error { return h.check(bytes) }

func (h *Host) check(bytes uint64) error {
	limit, why := min(max(h.total*overcommit, everyHost), maxMemory), "16 times the host's memory, or 64 GiB"
	if h.total*overcommit > maxMemory {
		why = "frame numbers of 32 bits"
	}
	if arenaCap > 0 && limit > arenaCap {
		limit, why = arenaCap, "memory from the Go heap, as in race-detector builds"
	}
	switch {
	case bytes > limit:
		return &SizeError{Bytes: bytes, Limit: limit, Why: why}
	case bytes < minMemory:
		return &SizeError{Bytes: bytes, Limit: minMemory, Why: "the smallest machine"}
	case bytes%PageSize != 0:
		return &SizeError{Bytes: bytes, Limit: bytes &^ (PageSize - 1), Why: "sizes are multiples of 4 KiB"}
	}
	return nil
}

// Budget returns how many frames all machines of the host may touch, and how
// many are touched or kept now.
func (h *Host) Budget() (limit, used uint64) { return h.budget, uint64(max(h.resident.Load(), 0)) }

// Close gives the idle backings to the operating system. Machines in use are
// not affected.
func (h *Host) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropIdle()
}

// reserve accounts n frames that are about to become resident. Idle backings
// are given up before it refuses.
func (h *Host) reserve(n uint64) bool {
	if uint64(h.resident.Add(int64(n))) <= h.budget {
		return true
	}
	h.mu.Lock()
	h.dropIdle()
	h.mu.Unlock()
	if uint64(h.resident.Load()) <= h.budget {
		return true
	}
	h.resident.Add(-int64(n))
	return false
}

func (h *Host) dropIdle() {
	for size, list := range h.idle {
		for _, b := range list {
			h.resident.Add(-int64(b.nresident))
			b.ram.free()
			b.pages.free()
		}
		delete(h.idle, size)
	}
	h.held = 0
}

// take returns an idle backing of the size, or nil.
func (h *Host) take(frames uint64) *backing {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.idle[frames]
	if len(list) == 0 {
		return nil
	}
	b := list[len(list)-1]
	list[len(list)-1] = nil
	h.idle[frames] = list[:len(list)-1]
	h.held -= b.nresident
	return b
}

// recycle cleans a backing and keeps it.
func (h *Host) recycle(b *backing) {
	before := b.nresident
	b.clean(h.keep)
	h.resident.Add(int64(b.nresident) - int64(before))
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held+b.nresident > h.keep {
		h.dropIdle()
	}
	h.held += b.nresident
	h.idle[b.frames] = append(h.idle[b.frames], b)
}

// backing is the host memory behind one machine at a time.
type backing struct {
	frames    uint64
	ram       arena
	pages     arena   // the page array, absent before the first use
	pageBytes uintptr // size of its records

	// touched has a bit for each frame this machine may have written. Atomic.
	touched []uint64
	// resident has a bit for each frame the host has had to populate since the
	// backing was mapped; it outlives machines. Atomic.
	resident []uint64
	// nresident counts its bits. Atomic while a machine runs.
	nresident uint64
	// low and high bound the words of touched that are not zero. Atomic.
	low, high atomic.Uint64
}

// eachWord calls fn with the words and masks that cover frames [pfn, pfn+n).
func eachWord(pfn, n uint64, fn func(w, mask uint64)) {
	for end := pfn + n; pfn < end; {
		bit := pfn & 63
		k := min(64-bit, end-pfn)
		fn(pfn>>6, (1<<k-1)<<bit) // k == 64 gives all ones: the shift is 0 then
		pfn += k
	}
}

func (b *backing) countFresh(pfn, n uint64) (fresh uint64) {
	eachWord(pfn, n, func(w, mask uint64) {
		fresh += uint64(bits.OnesCount64(mask &^ atomic.LoadUint64(&b.resident[w])))
	})
	return fresh
}

// mark notes that frames may be written, and returns how many of them the host
// did not hold before.
func (b *backing) mark(pfn, n uint64) (fresh uint64) {
	eachWord(pfn, n, func(w, mask uint64) {
		atomic.OrUint64(&b.touched[w], mask)
		if old := atomic.OrUint64(&b.resident[w], mask); old&mask != mask {
			fresh += uint64(bits.OnesCount64(mask &^ old))
		}
	})
	if fresh > 0 {
		atomic.AddUint64(&b.nresident, fresh)
	}
	first, last := pfn>>6, (pfn+n-1)>>6
	for l := b.low.Load(); first < l && !b.low.CompareAndSwap(l, first); l = b.low.Load() {
	}
	for h := b.high.Load(); last >= h && !b.high.CompareAndSwap(h, last+1); h = b.high.Load() {
	}
	return fresh
}

// pageArray returns the zero page array.
func (b *backing) pageArray(frames uint64, size uintptr) unsafe.Pointer {
	if b.pageBytes != size {
		b.pages.free()
		a, err := newArena(uintptr(frames) * size)
		if err != nil {
			panic(err) // address space for a 64th of what has just been mapped
		}
		b.pages, b.pageBytes = a, size
	}
	return b.pages.base
}

// clean makes everything zero again that a machine may have written. If more
// than keep frames are populated, the host gets them all back.
func (b *backing) clean(keep uint64) {
	drop := b.nresident > keep
	low, high := b.low.Load(), b.high.Load()
	for w := low; w < high; {
		if b.touched[w] == 0 {
			w++
			continue
		}
		// A run of set bits, across words.
		start := w<<6 + uint64(bits.TrailingZeros64(b.touched[w]))
		end := start
		for end < b.frames && end>>6 < high {
			rest := ^b.touched[end>>6] >> (end & 63)
			if k := uint64(bits.TrailingZeros64(rest)); k < 64-end&63 {
				end += k
				break
			}
			end = (end>>6 + 1) << 6
		}
		if !drop {
			zero(unsafe.Add(b.ram.base, uintptr(start)<<PageShift), int((end-start)<<PageShift))
		}
		if b.pageBytes != 0 {
			zero(unsafe.Add(b.pages.base, uintptr(start)*b.pageBytes), int(uintptr(end-start)*b.pageBytes))
		}
		for ; w < end>>6; w++ {
			b.touched[w] = 0
		}
		if end&63 != 0 && w < high {
			b.touched[w] &^= 1<<(end&63) - 1
		}
	}
	b.low.Store(uint64(len(b.touched)))
	b.high.Store(0)
	if drop {
		b.ram.drop(0, b.ram.size)
		clear(b.resident)
		b.nresident = 0
	}
}

//go:build linux && !race

package x86

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// arenaCap is zero where the backing puts no limit of its own on a machine.
const arenaCap = 0

// hugeMin is the arena size from which host huge pages are asked for: a
// populated 2 MiB at a time costs a fraction of 512 single faults, and the
// emulator's own address translation gets cheaper too. Small machines stay on
// small host pages, so that they cost what they touch.
const hugeMin = 64 << 20

// arena is a stretch of demand-zero host memory outside the Go heap.
type arena struct {
	raw  []byte         // the mapping as the host gave it
	base unsafe.Pointer // aligned start of the usable part
	size uintptr        // usable bytes
}

// newArena reserves size bytes, zero and not populated, aligned to 2 MiB when
// large and to a page otherwise.
func newArena(size uintptr) (arena, error) {
	align := uintptr(PageSize)
	if size >= hugeMin {
		align = PMDSize
	}
	raw, err := unix.Mmap(-1, 0, int(size+align-PageSize), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return arena{}, fmt.Errorf("x86: reserving %d bytes of host address space: %w", size, err)
	}
	p := unsafe.Pointer(unsafe.SliceData(raw))
	p = unsafe.Add(p, -uintptr(p)&(align-1))
	if size >= hugeMin {
		// Only advice: a host without huge pages is merely slower.
		_ = unix.Madvise(unsafe.Slice((*byte)(p), size), unix.MADV_HUGEPAGE)
	}
	return arena{raw: raw, base: p, size: size}, nil
}

// free returns the reservation to the host.
func (a *arena) free() {
	if a.raw != nil {
		_ = unix.Munmap(a.raw)
		*a = arena{}
	}
}

// drop makes [off, off+n) zero and gives the host its pages back.
func (a *arena) drop(off, n uintptr) {
	p := unsafe.Add(a.base, off)
	if unix.Madvise(unsafe.Slice((*byte)(p), n), unix.MADV_DONTNEED) != nil {
		zero(p, int(n))
	}
}

// populate makes the host allocate [off, off+n) now.
func (a *arena) populate(off, n uintptr) {
	p := unsafe.Add(a.base, off)
	if unix.Madvise(unsafe.Slice((*byte)(p), n), unix.MADV_POPULATE_WRITE) == nil {
		return
	}
	for i := uintptr(0); i < n; i += PageSize { // hosts older than Linux 5.14
		q := unsafe.Add(p, i)
		store8(q, load8(q))
	}
}

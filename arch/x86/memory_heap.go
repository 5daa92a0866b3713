//go:build !linux || race

package x86

import "unsafe"

// arena is a stretch of zero host memory from the Go heap. Memory the runtime
// did not allocate has no shadow in the race detector and makes false reports.
type arena struct {
	raw  []byte
	base unsafe.Pointer
	size uintptr
}

// newArena allocates size zero bytes aligned to a page.
func newArena(size uintptr) (arena, error) {
	raw := make([]byte, size+PageSize)
	p := unsafe.Pointer(unsafe.SliceData(raw))
	p = unsafe.Add(p, -uintptr(p)&(PageSize-1))
	return arena{raw: raw, base: p, size: size}, nil
}

// free leaves the memory to the garbage collector.
func (a *arena) free() { *a = arena{} }

// drop makes [off, off+n) zero.
func (a *arena) drop(off, n uintptr) { zero(unsafe.Add(a.base, off), int(n)) }

// populate makes the host allocate [off, off+n) now.
func (a *arena) populate(off, n uintptr) {
	for i := uintptr(0); i < n; i += PageSize {
		q := unsafe.Add(a.base, off+i)
		store8(q, load8(q))
	}
}

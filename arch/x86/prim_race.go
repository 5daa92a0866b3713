//go:build race

package x86

import "unsafe"

// Under the race detector the same moves are hidden from it: races on emulated
// memory are what the machine models, not mistakes of this program. Functions
// marked norace are neither instrumented nor inlined into code that is.

//go:norace
//go:nocheckptr
func load1(p unsafe.Pointer) uint64 { return uint64(*(*uint8)(p)) }

//go:norace
//go:nocheckptr
func load2(p unsafe.Pointer) uint64 { return uint64(*(*uint16)(p)) }

//go:norace
//go:nocheckptr
func load4(p unsafe.Pointer) uint64 { return uint64(*(*uint32)(p)) }

//go:norace
//go:nocheckptr
func load8(p unsafe.Pointer) uint64 { return *(*uint64)(p) }

//go:norace
//go:nocheckptr
func store1(p unsafe.Pointer, v uint64) { *(*uint8)(p) = uint8(v) }

//go:norace
//go:nocheckptr
func store2(p unsafe.Pointer, v uint64) { *(*uint16)(p) = uint16(v) }

//go:norace
//go:nocheckptr
func store4(p unsafe.Pointer, v uint64) { *(*uint32)(p) = uint32(v) }

//go:norace
//go:nocheckptr
func store8(p unsafe.Pointer, v uint64) { *(*uint64)(p) = v }

// move copies n bytes; the ranges do not overlap. The copy built-in is no use:
// under the detector it reports its operands even from here. Assignments of
// arrays do not.
//
//go:norace
//go:nocheckptr
func move(dst, src unsafe.Pointer, n int) {
	for ; n >= PageSize; n -= PageSize {
		*(*[PageSize]byte)(dst) = *(*[PageSize]byte)(src)
		dst, src = unsafe.Add(dst, PageSize), unsafe.Add(src, PageSize)
	}
	for ; n >= 64; n -= 64 {
		*(*[64]byte)(dst) = *(*[64]byte)(src)
		dst, src = unsafe.Add(dst, 64), unsafe.Add(src, 64)
	}
	for i := range n {
		*(*byte)(unsafe.Add(dst, i)) = *(*byte)(unsafe.Add(src, i))
	}
}

// zero clears n bytes.
//
//go:norace
//go:nocheckptr
func zero(p unsafe.Pointer, n int) { clear(unsafe.Slice((*byte)(p), n)) }

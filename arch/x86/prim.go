//go:build !race

package x86

import "unsafe"

// The moves of this file are what a processor's load and store units and a
// device's bus master do: plain, with no ordering beyond the host's own. An
// aligned access of at most eight bytes is one host instruction and therefore
// not torn; nothing is promised about anything wider.

func load1(p unsafe.Pointer) uint64 { return uint64(*(*uint8)(p)) }
func load2(p unsafe.Pointer) uint64 { return uint64(*(*uint16)(p)) }
func load4(p unsafe.Pointer) uint64 { return uint64(*(*uint32)(p)) }
func load8(p unsafe.Pointer) uint64 { return *(*uint64)(p) }

func store1(p unsafe.Pointer, v uint64) { *(*uint8)(p) = uint8(v) }
func store2(p unsafe.Pointer, v uint64) { *(*uint16)(p) = uint16(v) }
func store4(p unsafe.Pointer, v uint64) { *(*uint32)(p) = uint32(v) }
func store8(p unsafe.Pointer, v uint64) { *(*uint64)(p) = v }

// move copies n bytes; the ranges do not overlap.
func move(dst, src unsafe.Pointer, n int) {
	copy(unsafe.Slice((*byte)(dst), n), unsafe.Slice((*byte)(src), n))
}

// zero clears n bytes.
func zero(p unsafe.Pointer, n int) { clear(unsafe.Slice((*byte)(p), n)) }

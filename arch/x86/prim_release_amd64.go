//go:build amd64 && !race

package x86

import (
	"sync/atomic"
	"unsafe"
)

// The stores of this file are releases: what the CPU did before is visible to
// whoever sees the new value. On x86 every plain store is one. The package
// sync/atomic makes an exchange of it, which waits until all earlier stores have
// left the store buffer, and a page just cleared is 64 lines of them. They do not
// order a later load of another word; who needs that uses a locked operation.

func releaseInt32(w *atomic.Int32, v int32)    { *(*int32)(unsafe.Pointer(w)) = v }
func releaseUint32(w *atomic.Uint32, v uint32) { *(*uint32)(unsafe.Pointer(w)) = v }
func releaseUint64(w *atomic.Uint64, v uint64) { *(*uint64)(unsafe.Pointer(w)) = v }

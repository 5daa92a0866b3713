//go:build !amd64 || race

package x86

import "sync/atomic"

// Elsewhere a release is what sync/atomic makes of it, and the race detector
// needs to see it.

func releaseInt32(w *atomic.Int32, v int32)    { w.Store(v) }
func releaseUint32(w *atomic.Uint32, v uint32) { w.Store(v) }
func releaseUint64(w *atomic.Uint64, v uint64) { w.Store(v) }

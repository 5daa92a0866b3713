//go:build !amd64 || race

package x86

import "sync/atomic"

// storePTEWord is set_pte. Other hosts need the release ordering that x86
// gives for nothing, and the race detector needs to see the synchronisation.
func storePTEWord(p *uint64, v uint64) { atomic.StoreUint64(p, v) }

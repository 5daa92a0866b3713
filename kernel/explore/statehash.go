package explore

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
)

// StateHash sums up a final state: values under canonical names. A name must
// mean the same in every schedule ("mm 1 at 0x4000", "file 0 byte 512"), so it is
// never made of a frame number or a host address; what can only be told apart by
// such a number goes through a Canon first.
//
// The order in which values are put in does not matter, so a target may walk its
// maps. The same name may be used more than once. The zero value is ready to use.
type StateHash struct {
	d   xxhash.Digest
	sum uint64
}

// PutUint adds a number.
func (h *StateHash) PutUint(name string, v uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	h.Put(name, b[:])
}

// PutString adds a text.
func (h *StateHash) PutString(name, v string) {
	h.begin(name)
	h.d.WriteString(v) // a digest's writes do not fail
	h.sum += h.d.Sum64()
}

// Put adds bytes.
func (h *StateHash) Put(name string, v []byte) {
	h.begin(name)
	h.d.Write(v)
	h.sum += h.d.Sum64()
}

func (h *StateHash) begin(name string) {
	h.d.ResetWithSeed(uint64(len(name)))
	h.d.WriteString(name)
}

// Sum returns the hash.
func (h *StateHash) Sum() uint64 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], h.sum)
	return xxhash.Sum64(b[:])
}

// Canon gives canonical numbers to things whose own numbers depend on the
// schedule, such as frames: the first one met is 1, the next 2. The walk that
// meets them must be in a canonical order, such as that of addresses. Zero stays
// zero. The zero Canon is ready to use.
type Canon struct{ seen map[uint64]uint64 }

// Number returns the canonical number of raw.
func (c *Canon) Number(raw uint64) uint64 {
	if raw == 0 {
		return 0
	}
	n, ok := c.seen[raw]
	if !ok {
		if c.seen == nil {
			c.seen = make(map[uint64]uint64)
		}
		n = uint64(len(c.seen)) + 1
		c.seen[raw] = n
	}
	return n
}

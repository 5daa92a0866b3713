package spec

import (
	"fmt"
	"math/bits"
	"strings"
)

// Set is a set of values that a byte may have.
type Set [4]uint64

// all is every value: nothing is known.
var all = Set{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}

// only returns the set of one value.
func only(v byte) (s Set) {
	s[v>>6] = 1 << (v & 63)
	return s
}

// Has reports whether a value is in the set.
func (s Set) Has(v byte) bool { return s[v>>6]>>(v&63)&1 != 0 }

// Len is how many values there are.
func (s Set) Len() int {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// or returns the union.
func (s Set) or(o Set) Set {
	for i := range s {
		s[i] |= o[i]
	}
	return s
}

// Values lists the set in ascending order.
func (s Set) Values() []byte {
	var out []byte
	for v := range 256 {
		if s.Has(byte(v)) {
			out = append(out, byte(v))
		}
	}
	return out
}

// String lists the values as scenarios write them.
func (s Set) String() string {
	if s == all {
		return "anything"
	}
	var parts []string
	for _, v := range s.Values() {
		parts = append(parts, fmt.Sprintf("%#x", v))
	}
	return strings.Join(parts, " or ")
}

// order says of events which of two happens first, if either does.
type order struct {
	n    int
	bits []uint64 // n rows of events that come after
	row  int      // words in a row
}

func newOrder(n int) *order {
	row := (n + 63) / 64
	return &order{n: n, row: row, bits: make([]uint64, n*row)}
}

// edge says that a comes before b.
func (o *order) edge(a, b int) {
	if a != b {
		o.bits[a*o.row+b>>6] |= 1 << (b & 63)
	}
}

// before reports whether a comes before b.
func (o *order) before(a, b int) bool { return o.bits[a*o.row+b>>6]>>(b&63)&1 != 0 }

// close adds what follows from the edges.
func (o *order) close() {
	for k := range o.n {
		for i := range o.n {
			if i == k || !o.before(i, k) {
				continue
			}
			for w := range o.row {
				o.bits[i*o.row+w] |= o.bits[k*o.row+w]
			}
		}
	}
}

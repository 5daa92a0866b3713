package mm

import "github.com/cowlab/cowlab/arch/x86"

// pageTree maps page indices to frames: a radix tree with six bits a level, as
// Linux' page cache has. The zero value is empty. Protected by its owner's lock.
//
//	height 2      [ | |*| | ... ]          index bits 6..11
//	                   |
//	height 1      [7|0|9|0| ... ]          index bits 0..5: pfns, 0 is none
type pageTree struct {
	root   *treeNode
	height int // levels; 0 is an empty tree
	n      int // pages

	spare  *treeNode // empty nodes kept for the next insertions, by next
	spares int
}

const (
	treeBits  = 6
	treeSlots = 1 << treeBits
)

// treeNode is an inner node or, at height 1, a leaf: only one of the arrays is used.
type treeNode struct {
	used int // slots in use
	kids *[treeSlots]*treeNode
	pfns *[treeSlots]x86.PFN
	next *treeNode // of the spare ones
}

// maxSpares is how many empty nodes a tree keeps, so that pages that come and go do
// not cost an allocation each time.
const maxSpares = 8

func (r *pageTree) newNode(height int) *treeNode {
	n := r.spare
	if n != nil {
		r.spare, n.next = n.next, nil
		r.spares--
	} else {
		n = &treeNode{}
	}
	if height == 1 && n.pfns == nil {
		n.pfns = new([treeSlots]x86.PFN)
	} else if height > 1 && n.kids == nil {
		n.kids = new([treeSlots]*treeNode)
	}
	return n
}

// freeNode keeps an empty node, whose slots are all empty.
func (r *pageTree) freeNode(n *treeNode) {
	if r.spares < maxSpares {
		n.next = r.spare
		r.spare = n
		r.spares++
	}
}

// covers reports whether a tree of the given height has a place for index.
func covers(height int, index uint64) bool {
	return height*treeBits >= 64 || index>>(height*treeBits) == 0
}

func treeSlot(index uint64, height int) int {
	return int(index>>((height-1)*treeBits)) & (treeSlots - 1)
}

// get returns the frame at index, 0 if there is none.
func (r *pageTree) get(index uint64) x86.PFN {
	if r.height == 0 || !covers(r.height, index) {
		return 0
	}
	n := r.root
	for h := r.height; h > 1; h-- {
		if n = n.kids[treeSlot(index, h)]; n == nil {
			return 0
		}
	}
	return n.pfns[treeSlot(index, 1)]
}

// insert puts pfn, which is not 0, at index, and reports whether the place was free.
func (r *pageTree) insert(index uint64, pfn x86.PFN) bool {
	for r.height == 0 || !covers(r.height, index) {
		r.height++
		up := r.newNode(r.height)
		if r.root != nil {
			up.kids[0], up.used = r.root, 1
		}
		r.root = up
	}
	n := r.root
	for h := r.height; h > 1; h-- {
		p := &n.kids[treeSlot(index, h)]
		if *p == nil {
			*p = r.newNode(h - 1)
			n.used++
		}
		n = *p
	}
	p := &n.pfns[treeSlot(index, 1)]
	if *p != 0 {
		return false
	}
	*p = pfn
	n.used++
	r.n++
	return true
}

// remove empties the place at index and returns what was there, 0 if nothing.
func (r *pageTree) remove(index uint64) x86.PFN {
	if r.height == 0 || !covers(r.height, index) {
		return 0
	}
	var path [64/treeBits + 2]*treeNode
	n := r.root
	for h := r.height; h > 1; h-- {
		path[h] = n
		if n = n.kids[treeSlot(index, h)]; n == nil {
			return 0
		}
	}
	i := treeSlot(index, 1)
	pfn := n.pfns[i]
	if pfn == 0 {
		return 0
	}
	n.pfns[i] = 0
	n.used--
	r.n--
	for h := 2; h <= r.height && n.used == 0; h++ {
		r.freeNode(n)
		n = path[h]
		n.kids[treeSlot(index, h)] = nil
		n.used--
	}
	if r.root.used == 0 {
		r.freeNode(r.root)
		r.root, r.height = nil, 0
	}
	return pfn
}

// gang stores the frames at indices from on, in order, in buf, and returns how
// many there were room for (radix_tree_gang_lookup). last is the index of the
// last one.
func (r *pageTree) gang(from uint64, buf []x86.PFN) (n int, last uint64) {
	if r.height == 0 || !covers(r.height, from) || len(buf) == 0 {
		return 0, 0
	}
	g := gangScan{from: from, buf: buf}
	g.scan(r.root, r.height, 0)
	return g.n, g.last
}

type gangScan struct {
	from, last uint64
	buf        []x86.PFN
	n          int
}

// scan visits a node whose first index is base; it reports whether to go on.
func (g *gangScan) scan(n *treeNode, height int, base uint64) bool {
	size := uint64(1) << ((height - 1) * treeBits)
	i := uint64(0)
	if g.from > base {
		i = (g.from - base) / size
	}
	for ; i < treeSlots; i++ {
		at := base + i*size
		if height > 1 {
			if k := n.kids[i]; k != nil && !g.scan(k, height-1, at) {
				return false
			}
			continue
		}
		if n.pfns[i] == 0 {
			continue
		}
		g.buf[g.n], g.last = n.pfns[i], at
		if g.n++; g.n == len(g.buf) {
			return false
		}
	}
	return true
}

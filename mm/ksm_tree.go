package mm

// ksmTree is a search tree whose order is only known to whoever walks it, by comparing
// pages: its keys may change while they are in the tree. As with Linux' red-black
// trees the shape depends on the history of insertions and not on the contents, so a walk stays
// short whatever they become. It is a treap: each node is above those of lower
// priority, and priorities come from a fixed sequence of random numbers.
type ksmTree struct {
	root *ksmItem
	seed uint32
}

// ksmNode is an item's place in a tree (rb_node).
type ksmNode struct {
	up, left, right *ksmItem
	prio            uint32
}

// insert puts it where a walk has ended: below parent on the given side, or at the root
// if parent is nil (rb_link_node, rb_insert_color).
func (tr *ksmTree) insert(it, parent *ksmItem, left bool) {
	if tr.seed == 0 {
		tr.seed = 2463534242
	}
	tr.seed ^= tr.seed << 13 // xorshift
	tr.seed ^= tr.seed >> 17
	tr.seed ^= tr.seed << 5
	it.tree = ksmNode{up: parent, prio: tr.seed}
	switch {
	case parent == nil:
		tr.root = it
	case left:
		parent.tree.left = it
	default:
		parent.tree.right = it
	}
	for it.tree.up != nil && it.tree.up.tree.prio < it.tree.prio {
		tr.rotate(it)
	}
}

// rotate puts it in its parent's place, and the parent below it.
func (tr *ksmTree) rotate(it *ksmItem) {
	p := it.tree.up
	tr.put(p.tree.up, p, it)
	if p.tree.left == it {
		tr.adoptLeft(p, it.tree.right)
		it.tree.right = p
	} else {
		tr.adoptRight(p, it.tree.left)
		it.tree.left = p
	}
	p.tree.up = it
}

// put makes it the child of up in old's place.
func (tr *ksmTree) put(up, old, it *ksmItem) {
	switch {
	case up == nil:
		tr.root = it
	case up.tree.left == old:
		up.tree.left = it
	default:
		up.tree.right = it
	}
	if it != nil {
		it.tree.up = up
	}
}

func (tr *ksmTree) adoptLeft(p, child *ksmItem) {
	if p.tree.left = child; child != nil {
		child.tree.up = p
	}
}

func (tr *ksmTree) adoptRight(p, child *ksmItem) {
	if p.tree.right = child; child != nil {
		child.tree.up = p
	}
}

// erase takes it out (rb_erase).
func (tr *ksmTree) erase(it *ksmItem) {
	for {
		l, r := it.tree.left, it.tree.right
		if l == nil || r == nil {
			child := l
			if l == nil {
				child = r
			}
			tr.put(it.tree.up, it, child)
			it.tree = ksmNode{}
			return
		}
		if l.tree.prio > r.tree.prio {
			tr.rotate(l)
		} else {
			tr.rotate(r)
		}
	}
}

// replace puts it in old's place (rb_replace_node).
func (tr *ksmTree) replace(old, it *ksmItem) {
	it.tree = old.tree
	tr.put(old.tree.up, old, it)
	tr.adoptLeft(it, it.tree.left)
	tr.adoptRight(it, it.tree.right)
	old.tree = ksmNode{}
}

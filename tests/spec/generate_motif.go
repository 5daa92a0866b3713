package spec

import "fmt"

// Programs in which every operation is drawn alone seldom get as far as a race: a pin, a fork, a
// store and a transfer have to come in this order. Half of the programs are built around a
// motif, the skeleton of something that is known to be hard, with other operations in
// between.

// motif returns the steps of a skeleton.
func (g *generator) motif() []func() {
	p := g.threads[0]
	other := g.threads[g.n(len(g.threads))]
	a := g.maps[0]
	child := func() *thread {
		for _, t := range g.threads {
			if t.name == "C" {
				return t
			}
		}
		return p
	}
	fork := func() { g.born(other, g.n(2)) }
	store := func(t *thread, sector int) {
		if !a.ro {
			t.add("A[%d] = %d", sector*512, g.value())
		}
	}
	disturb := []func(){
		func() { g.swapoutIf(p) }, func() { g.protect(p) }, func() { g.remap(p) }, func() { g.op(p) }, func() { g.advise(p) },
		func() { g.op(other) },
	}
	var steps []func()
	then := func(f ...func()) { steps = append(steps, f...) }
	maybe := func(percent int, f func()) {
		if g.chance(percent) {
			then(f)
		}
	}
	between := func() { maybe(30, disturb[g.n(len(disturb))]); maybe(15, g.meet) }
	switch g.n(6) {
	case 0: // the forward race: pin, fork, store, transfer
		then(func() { g.pinAt(p, !a.ro) })
		between()
		then(fork)
		between()
		then(func() { store(other, 0) })
		maybe(40, func() { store(child(), g.n(2)) })
	case 1: // the same with direct I/O
		verb := []string{"pread", "io_read"}[g.n(2)]
		then(func() { g.io(other, verb, "A[512:1K]") })
		between()
		then(func() { g.born(p, g.n(2)) })
		between()
		then(func() { store(p, 0) })
		maybe(40, func() { store(child(), g.n(2)) })
	case 2: // the reverse race: fork, a transfer out of memory, a store of each side
		then(fork)
		between()
		by := func() *thread { return []*thread{other, child()}[g.n(2)] }
		out := by
		then(func() { g.io(out(), []string{"pwrite", "io_write"}[g.n(2)], "A[0:512]") })
		between()
		then(func() { store(p, g.n(2)) }, func() { store(child(), g.n(2)) })
	case 3: // with a pin for reading, or a pipe
		pipe := g.chance(40) && !g.fails && g.pipes == 0
		before := g.chance(40)
		if !before {
			then(fork)
		}
		then(func() {
			switch t := []*thread{other, child()}[g.n(2)]; {
			case pipe:
				g.spliceAt(t)
			default:
				g.pinAt(t, false)
			}
		})
		if before {
			then(fork)
		}
		between()
		then(func() { store(p, 0) }, func() { store(child(), 0) })
		if pipe {
			then(func() { g.threads[g.n(len(g.threads))].add("%s = pipe_read p1 1", g.reg()) })
		}
	case 4: // two threads' transfers into one page, and a fork
		then(func() { g.io(p, []string{"pread", "io_read"}[g.n(2)], "A[0:512]") })
		between()
		then(func() { g.io(other, []string{"pread", "io_read", "io_write", "pwrite"}[g.n(4)], "A[512:1K]") })
		between()
		then(fork)
		between()
	case 5: // a pinned page, and no fork
		then(func() { g.pinAt(p, !a.ro) })
		between()
		then(disturb[g.n(len(disturb))])
		then(func() { store(other, 0) })
		maybe(30, fork)
	}
	return steps
}

// weave gives the threads the steps of a motif, and other operations in between.
func (g *generator) weave() {
	for _, step := range g.motif() {
		step()
		if g.chance(25) {
			g.op(g.threads[g.n(len(g.threads))])
		}
	}
	for _, t := range g.threads {
		t.left = g.n(2)
	}
}

// born forks C from a thread, unless it is there.
func (g *generator) born(by *thread, ops int) {
	if g.hasChild {
		return
	}
	g.hasChild = true
	by.add("%sfork C", g.result())
	by.forked = true
	c := &thread{name: "C", role: " child", proc: "C", maps: by.maps, child: true, left: ops}
	g.threads = append(g.threads, c)
}

// pinAt pins the first two sectors, by which the pin's first sector is the second half of the story: the
// thread stores to one, the device to the other.
func (g *generator) pinAt(t *thread, write bool) {
	if g.pins >= 2 {
		return
	}
	g.pins++
	h := held{name: fmt.Sprintf("h%d", g.pins), mem: g.maps[0], write: write, len: 1024}
	how := "read"
	if write {
		how = "write"
	}
	how += []string{"", " fast"}[g.n(2)] + []string{"", "", " pin", " longterm"}[g.n(4)]
	t.add("%spin %s A[0:1K] %s", g.result(), h.name, how)
	t.held = append(t.held, h)
}

// io is direct I/O of a place.
func (g *generator) io(t *thread, verb, place string) {
	if g.maps[0].ro && (verb == "pread" || verb == "io_read") {
		verb = "pwrite"
	}
	t.add("%s%s %s at %d", g.result(), verb, place, int64(g.n(int(g.disk)))*512)
	if verb == "io_read" || verb == "io_write" {
		t.flight++
	}
}

// spliceAt puts the first byte into a pipe.
func (g *generator) spliceAt(t *thread) {
	g.pipes++
	t.add("vmsplice p%d A[0]", g.pipes)
}

func (g *generator) swapoutIf(t *thread) {
	if g.swap {
		g.swapout(t)
	} else {
		g.op(t)
	}
}

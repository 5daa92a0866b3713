package spec

import (
	"fmt"
	"slices"
)

// choice is an operation that the generator can choose, and how often it does.
type choice struct {
	weight int
	do     func(g *generator, t *thread)
	// if, if not nil, says whether it makes sense here.
	ok func(g *generator, t *thread) bool
}

// choices are the operations of random programs.
func choices() []choice {
	swap := func(g *generator, _ *thread) bool { return g.swap }
	return []choice{
		{26, (*generator).store, nil},
		{8, (*generator).load, nil},
		{10, (*generator).direct, nil},
		{12, (*generator).submit, nil},
		{8, (*generator).wait, func(_ *generator, t *thread) bool { return t.flight > 0 }},
		{14, (*generator).pin, func(g *generator, _ *thread) bool { return g.pins < 2 }},
		{6, (*generator).dma, func(_ *generator, t *thread) bool { return len(t.held) > 0 }},
		{3, (*generator).unpin, func(g *generator, t *thread) bool { return len(t.held) > 0 && g.device == nil }},
		{4, (*generator).splice, func(g *generator, _ *thread) bool { return g.pipes == 0 && !g.fails }},
		{3, (*generator).protect, nil},
		{3, (*generator).advise, nil},
		{2, (*generator).remap, nil},
		{1, (*generator).unmap, func(_ *generator, t *thread) bool { return len(t.maps) > 1 }},
		{2, (*generator).lock, nil},
		{12, (*generator).swapout, swap},
		{3, func(_ *generator, t *thread) { t.add("reclaim") }, swap},
		{3, (*generator).debug, func(_ *generator, t *thread) bool { return t.forked || t.proc != "P0" }},
		{1, (*generator).mmap, func(_ *generator, t *thread) bool { return len(t.maps) < 3 && t.name == "P0" }},
	}
}

// op gives a thread one more operation.
func (g *generator) op(t *thread) {
	if t.dead {
		return
	}
	all := choices()
	sum := 0
	for _, c := range all {
		if c.ok == nil || c.ok(g, t) {
			sum += c.weight
		}
	}
	n := g.n(sum)
	for _, c := range all {
		if c.ok != nil && !c.ok(g, t) {
			continue
		}
		if n -= c.weight; n < 0 {
			c.do(g, t)
			return
		}
	}
}

// mem chooses memory that the thread may write; most of the time the first.
func (g *generator) mem(t *thread) *memory {
	if g.chance(70) || len(t.maps) == 1 {
		return t.maps[0]
	}
	return t.maps[g.n(len(t.maps))]
}

// at chooses a byte: the first of one of the first two sectors of a page.
func (g *generator) at(m *memory) int64 {
	return int64(g.n(int(m.pages)))*4096 + int64(g.n(2))*512
}

// place chooses sectors: the whole mapping, a page, or one or two sectors of it.
func (g *generator) place(m *memory) (text string, off, length int64) {
	switch page := int64(g.n(int(m.pages))) * 4096; {
	case g.chance(25):
		return m.name, 0, m.pages * 4096
	case g.chance(30):
		off, length = page, 4096
	default:
		off, length = page+int64(g.n(2))*512, 512
	}
	return fmt.Sprintf("%s[%d:%d]", m.name, off, off+length), off, length
}

func (g *generator) store(t *thread) {
	if m := g.mem(t); !m.ro && m != t.off {
		t.add("%s[%d] = %d", m.name, g.at(m), g.value())
	}
}

func (g *generator) load(t *thread) {
	m := g.mem(t)
	t.add("%s = %s[%d]", g.reg(), m.name, g.at(m))
}

// diskAt chooses where on the disk n bytes are.
func (g *generator) diskAt(n int64) int64 {
	if n >= g.disk*512 {
		return 0
	}
	return int64(g.n(int(g.disk-n/512)+1)) * 512
}

func (g *generator) direct(t *thread) {
	m := g.mem(t)
	verb := "pwrite"
	if !m.ro && g.chance(60) {
		verb = "pread"
	}
	text, _, n := g.place(m)
	n = min(n, g.disk*512)
	if m.pages*512*8 > g.disk*512 && text == m.name {
		text = fmt.Sprintf("%s[0:%d]", m.name, n)
	}
	t.add("%s%s %s at %d", g.result(), verb, text, g.diskAt(n))
}

func (g *generator) submit(t *thread) {
	m := g.mem(t)
	verb := "io_write"
	if !m.ro && g.chance(60) {
		verb = "io_read"
	}
	text, _, n := g.place(m)
	n = min(n, g.disk*512)
	if text == m.name {
		text = fmt.Sprintf("%s[0:%d]", m.name, n)
	}
	t.add("%s%s %s at %d", g.result(), verb, text, g.diskAt(n))
	t.flight++
}

func (g *generator) wait(t *thread) {
	t.add("%sio_wait", g.result())
	t.flight = 0
}

func (g *generator) pin(t *thread) {
	m := g.mem(t)
	g.pins++
	h := held{name: fmt.Sprintf("h%d", g.pins), mem: m, write: !m.ro && g.chance(65)}
	var text string
	text, h.off, h.len = g.place(m)
	how := "read"
	if h.write {
		how = "write"
	}
	if g.chance(50) {
		how += " fast"
	}
	switch g.n(4) {
	case 0:
		how += " pin"
	case 1:
		how += " longterm"
	}
	t.add("%spin %s %s %s", g.result(), h.name, text, how)
	t.held = append(t.held, h)
	if g.device == nil && g.chance(60) {
		// A device of its own, which waits until the pin is there.
		g.events++
		t.add("set e%d", g.events)
		g.device = &thread{name: "D", role: " device"}
		g.device.add("await e%d", g.events)
		for range g.n(2) {
			g.transfer(g.device, h)
		}
		g.device.held = append(g.device.held, h)
	}
}

// dma lets the device, if there is one that knows the pin, or the thread transfer.
func (g *generator) dma(t *thread) {
	h := t.held[g.n(len(t.held))]
	if d := g.device; d != nil && slices.Contains(d.held, h) {
		t = d
	}
	g.transfer(t, h)
}

func (g *generator) transfer(t *thread, h held) {
	off := int64(0)
	if h.len > 512 {
		off = int64(g.n(2)) * 512
	}
	if h.write && g.chance(80) {
		t.add("dma %s[%d] = %d", h.name, off, g.value())
	} else {
		t.add("%s = dma %s[%d]", g.reg(), h.name, off)
	}
}

func (g *generator) unpin(t *thread) {
	t.add("%sunpin %s", g.result(), t.held[0].name)
	t.held = t.held[1:]
}

// splice puts a byte into a pipe; somebody takes it out later.
func (g *generator) splice(t *thread) {
	m := g.mem(t)
	g.pipes++
	t.add("vmsplice p%d %s[%d]", g.pipes, m.name, g.at(m))
	by := g.threads[g.n(len(g.threads))]
	if by.dead {
		by = t
	}
	for range g.n(2) {
		g.op(by)
	}
	by.add("%s = pipe_read p%d 1", g.reg(), g.pipes)
}

// protect takes write permission away and gives it back.
func (g *generator) protect(t *thread) {
	m := g.mem(t)
	if m.ro {
		return
	}
	t.add("%smprotect %s r", g.result(), m.name)
	if g.chance(25) {
		was := t.off
		t.off = m
		g.load(t)
		t.off = was
	}
	t.add("%smprotect %s rw", g.result(), m.name)
}

func (g *generator) advise(t *thread) {
	m := g.mem(t)
	what := []string{"dontneed", "dontneed", "dontcow", "dontfork", "dofork", "pageout"}[g.n(6)]
	if what == "pageout" && !g.swap {
		what = "dontneed"
	}
	t.add("%smadvise %s %s", g.result(), m.name, what)
}

func (g *generator) remap(t *thread) { t.add("%smremap %s", g.result(), g.mem(t).name) }

func (g *generator) unmap(t *thread) {
	last := len(t.maps) - 1
	t.add("%smunmap %s", g.result(), t.maps[last].name)
	t.maps = slices.Clone(t.maps[:last])
	g.forget(t)
}

// forget lets the other threads of a process know what is mapped.
func (g *generator) forget(t *thread) {
	for _, o := range g.threads {
		if o.proc == t.proc {
			o.maps = t.maps
		}
	}
}

func (g *generator) lock(t *thread) {
	m := g.mem(t)
	t.add("%smlock %s", g.result(), m.name)
	if g.chance(50) {
		t.add("%smunlock %s", g.result(), m.name)
	}
}

func (g *generator) swapout(t *thread) {
	m := g.mem(t)
	t.add("swapout %s[%d]", m.name, int64(g.n(int(m.pages)))*4096)
}

// debug looks at, or changes, the memory of another process.
func (g *generator) debug(t *thread) {
	of := "P0"
	if t.proc == "P0" {
		of = "C"
	}
	m := g.maps[0]
	if m.ro || g.chance(60) || g.fails {
		t.add("%s = peek %s:%s[%d]", g.reg(), of, m.name, g.at(m))
	} else {
		t.add("poke %s:%s[%d] = %d", of, m.name, g.at(m), g.value())
	}
}

func (g *generator) mmap(t *thread) {
	m := &memory{name: fmt.Sprintf("M%d", g.regs+1), pages: 1}
	g.regs++
	t.add("%smmap %s 1 page private", g.result(), m.name)
	t.add("%s[0] = %d", m.name, g.value())
}

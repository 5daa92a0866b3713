package spec

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/cowlab/cowlab/tests/scenarios"
)

// Generate makes the program of a seed: the text of a scenario whose condition asks only for
// bugs. The same seed makes the same program. The model tells what else must hold.
func Generate(seed uint64) (*scenarios.Scenario, error) {
	g := &generator{rng: rand.New(rand.NewPCG(seed, 0x5bec)), next: 0x10}
	text := g.program(seed)
	s, err := scenarios.Parse(Name(seed), text)
	if err != nil {
		return nil, fmt.Errorf("the program of seed %d: %w\n%s", seed, err, text)
	}
	return s, nil
}

// Name is what the program of a seed is called.
func Name(seed uint64) string { return fmt.Sprintf("spec-%d", seed) }

// Seed returns the seed of the program that is called so, if there can be one.
func Seed(name string) (seed uint64, ok bool) {
	text, ok := strings.CutPrefix(name, "spec-")
	if !ok {
		return 0, false
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	return seed, err == nil && Name(seed) == name
}

// sites are allocations that can fail while the threads run.
var sites = []string{
	"any", "any", "any", "decow_one_pte", "fork_pre_cow", "fork_pre_cow", "fork_pre_cow", "do_wp_page", "do_wp_page", "do_anonymous_page", "anon_vma",
	"vm_area_struct", "mm_struct", "dio", "kiocb", "driver_pages", "add_to_swap_cache", "get_swap_page", "pgd_alloc", "madv_dontcow", "zero_page",
	"sentry_pin_copy", "ksm_fork", "vm_nocow",
}

// generator makes a program. Threads get operations of which most make sense at their place;
// what does not is the model's business.
type generator struct {
	rng      *rand.Rand
	next     int // the next value to store: each is stored once
	regs     int
	disk     int64 // sectors
	swap     bool
	fails    bool
	maps     []*memory
	threads  []*thread
	device   *thread
	pins     int
	pipes    int
	meets    int
	hasChild bool
	events   int
}

// memory is a mapping.
type memory struct {
	name   string
	pages  int64
	shared bool
	file   bool
	ro     bool
	init   bool
}

// thread is a column being written.
type thread struct {
	name, role string
	proc       string
	ops        []string
	left       int // operations to come
	maps       []*memory
	child      bool
	forked     bool // it has a child that lives
	flight     int
	held       []held  // its pins
	dead       bool    // it has exited
	off        *memory // protected for the moment
}

// held is a pin that a thread has made.
type held struct {
	name  string
	mem   *memory
	off   int64
	len   int64
	write bool
}

func (g *generator) n(n int) int         { return g.rng.IntN(n) }
func (g *generator) chance(p int) bool   { return g.rng.IntN(100) < p }
func (g *generator) value() int          { v := g.next; g.next++; return v }
func (g *generator) reg() string         { g.regs++; return fmt.Sprintf("r%d", g.regs) }
func (t *thread) add(f string, a ...any) { t.ops = append(t.ops, fmt.Sprintf(f, a...)) }

// result is the register for a call that may fail; without failures there is none, and a
// call that fails breaks the run.
func (g *generator) result() string {
	if g.fails {
		return g.reg() + " = "
	}
	return ""
}

// program writes the text.
func (g *generator) program(seed uint64) string {
	g.swap, g.fails = g.chance(40), g.chance(20)
	g.disk = 8
	for i := range 1 + g.n(2) {
		m := &memory{name: string(rune('A' + i)), pages: 1, init: g.chance(80)}
		switch {
		case g.chance(20):
			m.pages = 2
		case g.chance(8):
			m.shared = true
		case g.chance(10):
			m.file = true
		case g.chance(4):
			m.ro = true
		}
		g.maps = append(g.maps, m)
	}
	p0 := &thread{name: "P0", proc: "P0", maps: g.maps}
	g.threads = append(g.threads, p0)
	if g.chance(50) {
		g.threads = append(g.threads, &thread{name: "P1", proc: "P0", maps: g.maps})
	}
	for _, t := range g.threads {
		t.left = 1 + g.n(5)
	}
	switch {
	case g.chance(50):
		g.weave()
	case g.chance(88):
		g.fork()
	}
	// In turn, so that what one does can build on what the other has done.
	for {
		var live []*thread
		for _, t := range g.threads {
			if t.left > 0 {
				live = append(live, t)
			}
		}
		if len(live) == 0 {
			break
		}
		t := live[g.n(len(live))]
		t.left--
		g.op(t)
		if g.chance(12) {
			g.meet()
		}
	}
	g.late()
	return g.text(seed)
}

// fork gives a thread that there is a child, at the place where it stands. The child's operations
// come in turn with the others'.
func (g *generator) fork() {
	by := g.threads[g.n(len(g.threads))]
	for range g.n(3) {
		g.op(by)
	}
	g.born(by, g.n(4))
	c := g.threads[len(g.threads)-1]
	if g.chance(10) {
		g.threads = append(g.threads, &thread{name: "T", role: " in C", proc: "C", maps: by.maps, left: 1 + g.n(2)})
	}
	if g.chance(12) {
		for range g.n(2) {
			g.op(c)
		}
		c.add("%sfork G", g.result())
		g.threads = append(g.threads, &thread{name: "G", role: " child", proc: "G", maps: by.maps, child: true, left: g.n(3)})
	}
}

// meet lets all threads meet that have not exited.
func (g *generator) meet() {
	var all []*thread
	for _, t := range g.threads {
		if !t.dead {
			all = append(all, t)
		}
	}
	if g.device != nil {
		all = append(all, g.device)
	}
	if len(all) < 2 {
		return
	}
	g.meets++
	for _, t := range all {
		t.add("@%d", g.meets)
	}
}

// late lets a device transfer when all is said and done, and the threads look.
func (g *generator) late() {
	if g.chance(50) {
		g.meet()
	}
	for _, t := range g.threads {
		if t.flight > 0 && g.chance(70) {
			g.wait(t)
		}
		if t.dead || len(t.held) == 0 || !g.chance(70) {
			continue
		}
		g.dma(t)
	}
	if g.device != nil && g.chance(50) {
		g.meet()
	}
	for _, t := range g.threads {
		if !t.dead && g.chance(30) {
			g.load(t)
		}
		if t.child && !t.dead && g.chance(15) && t.name == "C" && len(g.threads) < 4 {
			t.add("exit")
			t.dead = true
			for _, p := range g.threads {
				if p.forked && g.chance(50) {
					p.add("%swait C", g.result())
				}
			}
		}
	}
}

// text puts the columns side by side.
func (g *generator) text(seed uint64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cowlab %s\n\"a random program\"\n", Name(seed))
	fmt.Fprintf(&b, "machine disk=%d", g.disk*512)
	if g.swap {
		fmt.Fprint(&b, " swap=64K")
	}
	fmt.Fprintln(&b)
	for _, m := range g.maps {
		kind := "private"
		switch {
		case m.shared:
			kind = "shared"
		case m.file:
			kind = "private file"
		case m.ro:
			kind = "private ro"
		}
		fmt.Fprintf(&b, "map %s %d page %s\n", m.name, m.pages, kind)
	}
	for i := range g.pipes {
		fmt.Fprintf(&b, "pipe p%d\n", i+1)
	}
	for i, m := range g.maps {
		if m.init {
			fmt.Fprintf(&b, "init %s = %d\n", m.name, i+1)
		}
	}
	for i := range g.disk {
		fmt.Fprintf(&b, "init disk[%d:%d] = %d\n", i*512, (i+1)*512, 0xd0+i)
	}
	if g.fails {
		fmt.Fprintf(&b, "fail %s %d\n", sites[g.n(len(sites))], 1+g.n(4))
	}
	cols := g.threads
	if g.device != nil {
		cols = append(cols, g.device)
	}
	rows := 0
	var heads []string
	for _, t := range cols {
		heads = append(heads, t.name+t.role)
		rows = max(rows, len(t.ops))
	}
	fmt.Fprintf(&b, "%s ;\n", strings.Join(heads, " | "))
	for r := range rows {
		var cells []string
		for _, t := range cols {
			cell := ""
			if r < len(t.ops) {
				cell = t.ops[r]
			}
			cells = append(cells, cell)
		}
		fmt.Fprintf(&b, "%s ;\n", strings.Join(cells, " | "))
	}
	fmt.Fprint(&b, "never bug\n")
	return b.String()
}

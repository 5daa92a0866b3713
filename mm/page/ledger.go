package page

import (
	"fmt"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// RefKind says who holds a reference. The kernel does not know, it only
// counts; the Ledger does, where it is kept.
type RefKind uint8

// The kinds of holders.
const (
	RefTemp    RefKind = iota // a task, for a moment: allocation, look-up, fault, isolation
	RefMap                    // a page-table entry
	RefCache                  // the page cache or the swap cache
	RefPagevec                // a pagevec
	RefPin                    // get_user_pages, for I/O
	RefBuffers                // a file system's buffers (PG_private)
	RefPipe                   // a pipe buffer
	RefKernel                 // page tables, pools, kernel objects
	RefPolicy                 // a policy
	NumRefKinds
)

var refNames = [NumRefKinds]string{"temp", "map", "cache", "pagevec", "pin", "buffers", "pipe", "kernel", "policy"}

// String returns the holder's name.
func (k RefKind) String() string {
	if k < NumRefKinds {
		return refNames[k]
	}
	return "ref?"
}

// Ledger records who holds each page's references, so that a wrong count comes
// with a name. It sees every Get, Put and Alloc of the Map; code that knows its
// references better than "temporary" uses GetAs, PutAs and Relabel. It belongs
// to the tool, not to the machine: it passes no points and charges nothing.
type Ledger struct {
	m        *Map
	lock     x86.RawSpin
	chunks   []*chunk // by pfn / chunkPages, made when first needed; protected by lock
	findings []string // what did not add up, in order; protected by lock
	dropped  int      // findings beyond maxFindings; protected by lock
}

const (
	chunkPages  = 64
	maxFindings = 100
)

type chunk [chunkPages]holders

// holders is the record of one page.
type holders struct {
	n      [NumRefKinds]int32 // references by kind
	task   [NumRefKinds]int32 // who took the last one of the kind
	site   string             // who allocated the page
	live   bool               // allocated
	frozen bool               // FreezeRefs has hidden the references
}

func newLedger(m *Map) *Ledger {
	return &Ledger{m: m, chunks: make([]*chunk, (m.frames+chunkPages-1)/chunkPages)}
}

// of returns the record of a page. The caller holds the lock.
func (l *Ledger) of(pfn x86.PFN) *holders {
	c := l.chunks[pfn/chunkPages]
	if c == nil {
		c = new(chunk)
		l.chunks[pfn/chunkPages] = c
	}
	return &c[pfn%chunkPages]
}

func (l *Ledger) finding(format string, args ...any) {
	if len(l.findings) == maxFindings {
		l.dropped++
		return
	}
	l.findings = append(l.findings, fmt.Sprintf(format, args...))
}

func (l *Ledger) alloc(t *sched.Task, pfn x86.PFN, order int, site string) {
	l.lock.Lock()
	for i := range x86.PFN(1) << order {
		*l.of(pfn + i) = holders{site: site, live: true}
	}
	h := l.of(pfn)
	h.n[RefTemp], h.task[RefTemp] = 1, int32(t.ID)
	l.lock.Unlock()
}

// boot records a compound page that a pool got at boot, without holders. Its tails never
// have any.
func (l *Ledger) boot(pfn x86.PFN, site string) {
	l.lock.Lock()
	*l.of(pfn) = holders{site: site, live: true}
	l.lock.Unlock()
}

func (l *Ledger) take(t *sched.Task, pfn x86.PFN, kind RefKind, n int) {
	l.lock.Lock()
	h := l.of(pfn)
	h.n[kind] += int32(n)
	h.task[kind] = int32(t.ID)
	l.lock.Unlock()
}

func (l *Ledger) drop(t *sched.Task, pfn x86.PFN, kind RefKind, n int) {
	l.lock.Lock()
	h := l.of(pfn)
	if h.n[kind] < int32(n) {
		l.finding("pfn %#x: task %d drops %d %v reference(s)%s", pfn, t.ID, n, kind, h)
	}
	h.n[kind] -= int32(n)
	l.lock.Unlock()
}

func (l *Ledger) move(t *sched.Task, pfn x86.PFN, from, to RefKind, n int) {
	l.lock.Lock()
	h := l.of(pfn)
	if h.n[from] < int32(n) {
		l.finding("pfn %#x: task %d relabels %d %v reference(s) as %v%s", pfn, t.ID, n, from, to, h)
	}
	h.n[from] -= int32(n)
	h.n[to] += int32(n)
	h.task[to] = int32(t.ID)
	l.lock.Unlock()
}

func (l *Ledger) freeze(pfn x86.PFN, on bool) {
	l.lock.Lock()
	l.of(pfn).frozen = on
	l.lock.Unlock()
}

// forget drops whatever references a page has: their owner took them as a whole.
func (l *Ledger) forget(pfn x86.PFN) {
	l.lock.Lock()
	h := l.of(pfn)
	h.n, h.frozen = [NumRefKinds]int32{}, false
	l.lock.Unlock()
}

func (l *Ledger) free(t *sched.Task, pfn x86.PFN, order int) {
	l.lock.Lock()
	for i := range x86.PFN(1) << order {
		h := l.of(pfn + i)
		if h.n != [NumRefKinds]int32{} {
			l.finding("pfn %#x: freed by task %d%s", pfn+i, t.ID, h)
		}
		*h = holders{}
	}
	l.lock.Unlock()
}

// describe says who holds a page, for reports; "" without a ledger.
func (l *Ledger) describe(pfn x86.PFN) string {
	if l == nil {
		return ""
	}
	l.lock.Lock()
	s := l.of(pfn).String()
	l.lock.Unlock()
	return s
}

// Holders lists who holds a page's references, by kind: "map 2, pin 1"; "" if nobody does.
func (l *Ledger) Holders(p *Page) string {
	var b strings.Builder
	l.lock.Lock()
	h := l.of(l.m.PFN(l.m.Head(p)))
	for k, n := range h.n {
		if n != 0 {
			if b.Len() > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "%v %d", RefKind(k), n)
		}
	}
	l.lock.Unlock()
	return b.String()
}

// String lists the holders.
func (h *holders) String() string {
	var b strings.Builder
	for k, n := range h.n {
		if n != 0 {
			fmt.Fprintf(&b, ", %v %d (task %d)", RefKind(k), n, h.task[k])
		}
	}
	s := "; held by nobody"
	if b.Len() > 0 {
		s = "; held by" + b.String()[1:]
	}
	if h.site != "" {
		s += "; allocated by " + h.site
	}
	return s
}

// total returns the sum of the references.
func (h *holders) total() int32 {
	var sum int32
	for _, n := range h.n {
		sum += n
	}
	return sum
}

// Held returns how many references of a kind a page has. For a tail page it is
// the head that is asked.
func (l *Ledger) Held(p *Page, kind RefKind) int {
	l.lock.Lock()
	n := l.of(l.m.PFN(l.m.Head(p))).n[kind]
	l.lock.Unlock()
	return int(n)
}

// Describe says in words who holds a page's references.
func (l *Ledger) Describe(p *Page) string {
	return strings.TrimPrefix(l.describe(l.m.PFN(l.m.Head(p))), "; ")
}

// Findings returns what did not add up so far: references dropped as a kind
// that nobody held, pages freed with holders on record.
func (l *Ledger) Findings() []string {
	l.lock.Lock()
	out := append([]string(nil), l.findings...)
	if l.dropped > 0 {
		out = append(out, fmt.Sprintf("and %d more", l.dropped))
	}
	l.lock.Unlock()
	return out
}

// Relabel tells the ledger that n of a page's references changed hands, such as
// a fault's own that becomes the page-table entry's. Without a ledger it does
// nothing. The count stays as it is.
func (m *Map) Relabel(t *sched.Task, p *Page, from, to RefKind, n int) {
	if m.led != nil {
		m.led.move(t, m.PFN(m.Head(p)), from, to, n)
	}
}

package policy

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// DIOPin is row 22: Linux 6.5, with which the thread's corruption ends for O_DIRECT.
// Row 21, and direct I/O pins its pages (FOLL_PIN, through iov_iter_extract_pages);
// from 6.0, mprotect makes exclusive pages writable at once; from 6.2, a long-term pin
// for reading in a COW mapping is always of an anonymous page; from 6.5, the zero page
// is not counted. vmsplice takes plain references to this day. That shrink_folio_list turns
// pinned pages away before it writes them (6.4) makes no difference here: 2.6.29's pageout
// leaves alone whatever somebody else has a reference to.
type DIOPin struct{ AnonExclusive }

// NewDIOPin returns the row.
func NewDIOPin() DIOPin { return DIOPin{AnonExclusive{later: true}} }

// Name implements mm.Policy.
func (DIOPin) Name() string { return "dio_pin" }

// Hooks implements mm.Policy.
func (p DIOPin) Hooks() mm.HookSet { return p.AnonExclusive.Hooks() | mm.HookMprotect }

// Claims implements mm.Policy.
func (p DIOPin) Claims() mm.Guarantee { return p.AnonExclusive.Claims() | mm.Forward }

// About implements mm.Policy.
func (DIOPin) About() mm.About {
	return mm.About{
		Row: 22, Title: "direct I/O pins its pages: anon_exclusive, and O_DIRECT uses FOLL_PIN",
		Who: "David Howells, David Hildenbrand", When: "Linux 6.5, May 2023; 6.0 and 6.2 before it",
		Lines: "1ccf164ec866, 7d58fe731028, 84209e87c696, 64fe24a3e05e",
		Changes: []string{
			"direct I/O: FOLL_PIN for its pages, and for each bio that holds one",
			"get_user_pages: a long-term pin for reading in a COW mapping unshares also what is not anonymous; the zero page is not counted",
			"mprotect: an exclusive page becomes writable at once",
			"all else: as anon_exclusive",
		},
		Claims: "the forward race for O_DIRECT too, asynchronous I/O included",
		Open:   "vmsplice takes plain references: what it has in a pipe is not kept coherent, and of huge pages it discloses later stores",
	}
}

// DirectIOPin implements mm.Policy.
func (DIOPin) DirectIOPin() mm.PinKind { return mm.PinPin }

// Take implements mm.Policy: the zero page is for everybody and for ever.
func (p DIOPin) Take(t *sched.Task, pg *page.Page, kind mm.PinKind, n int) {
	if kind == mm.PinGet || !pg.Has(page.Reserved) {
		p.AnonExclusive.Take(t, pg, kind, n)
	}
}

// Put implements mm.Policy.
func (p DIOPin) Put(t *sched.Task, pg *page.Page, kind mm.PinKind, n int) {
	if kind == mm.PinGet || !pg.Has(page.Reserved) {
		p.AnonExclusive.Put(t, pg, kind, n)
	}
}

// Mprotect is can_change_pte_writable, for private mappings.
func (DIOPin) Mprotect(_ *mm.VMA, _ x86.PTE, pg *page.Page) bool {
	return pg.Anon() && pg.Has(pageExclusive)
}

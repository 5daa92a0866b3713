package mm

import (
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// SharedFutexKey says what a futex word that processes may share is known by: the object
// in the page cache and the page's index in it, with a reference on the object; or nil if
// the page at addr is anonymous, and the word is the address space's own. Linux 2.6.29
// kernel/futex.c:get_futex_key, which pins the page for the time of the look.
//
//   - EFAULT, or what get_user_pages says: nothing is mapped there
//
// Two things that 2.6.29 does are kept. The page decides, not the mapping: a word in a
// private mapping of a file has another key after the first store to its page. And where
// nobody has touched private anonymous memory, get_user_pages hands out the zero page,
// which belongs to nothing, now or later: the look is repeated for ever. 2.6.33 asks for
// write access instead. The same happens behind the first small page of a huge one, because
// only the head has a mapping (until 2.6.38).
//
// Preconditions:
//   - mmap_sem is not held, the task may sleep
func SharedFutexKey(t *sched.Task, addr uint64) (as *AddressSpace, index uint64, err error) {
	s := SystemOf(t)
	pm := s.Pages
	var pages [1]*page.Page
	for {
		n, err := GetUserPagesFast(t, addr, 1, false /* write */, PinGet, pages[:])
		if n != 1 {
			return nil, 0, err
		}
		p := pages[0]
		pm.LockPage(t, p)
		again := p.Mapping == 0 // truncated, or on its way to swap
		if !again && !p.Anon() {
			as, index = s.spaces.of(p.Mapping), p.Index
			as.Get(t)
		}
		pm.UnlockPage(t, p)
		s.PutUserPage(t, p, PinGet)
		if !again {
			return as, index, nil
		}
		t.CondResched()
	}
}

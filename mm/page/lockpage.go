package page

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// LockPage takes the page lock, sleeping while somebody else has it (lock_page).
// The page lock is the bit Locked; who waits for it queues in a hashed table.
//
// Preconditions:
//   - the caller has a reference and may sleep
func (m *Map) LockPage(t *sched.Task, p *Page) {
	m.waiters.Lock(t, &p.Flags, 1<<Locked, m.obj(p, x86.PageFlags))
}

// TrylockPage takes the page lock if it is free, and reports whether it did
// (trylock_page).
func (m *Map) TrylockPage(t *sched.Task, p *Page) bool {
	return m.waiters.TryLock(t, &p.Flags, 1<<Locked, m.obj(p, x86.PageFlags))
}

// UnlockPage releases the page lock and wakes who waits for it (unlock_page).
// Unlocking a page that is not locked is an oops.
func (m *Map) UnlockPage(t *sched.Task, p *Page) {
	m.waiters.Unlock(t, &p.Flags, 1<<Locked, m.obj(p, x86.PageFlags))
}

// LockPageNew locks a page that nobody else can see yet (__set_page_locked
// before the page enters a cache). It never waits.
func (m *Map) LockPageNew(t *sched.Task, p *Page) {
	if !m.TrylockPage(t, p) {
		m.badPage(t, p, "new page is locked")
	}
}

// DisownLock tells the lock checker that the completion of an I/O, and not
// this task, will unlock the page.
func (m *Map) DisownLock(t *sched.Task, p *Page) {
	m.waiters.Disown(t, m.obj(p, x86.PageFlags))
}

// WaitOnLocked sleeps until nobody has the page locked (wait_on_page_locked).
// Somebody may lock it again at once.
func (m *Map) WaitOnLocked(t *sched.Task, p *Page) {
	m.waiters.WaitClear(t, &p.Flags, 1<<Locked, m.obj(p, x86.PageFlags))
}

// WaitOnWriteback sleeps until the page is not being written
// (wait_on_page_writeback).
func (m *Map) WaitOnWriteback(t *sched.Task, p *Page) {
	m.waiters.WaitClear(t, &p.Flags, 1<<Writeback, m.obj(p, x86.PageFlags))
}

// TestSetWriteback marks the page as being written and reports whether it was
// marked before; it keeps nr_writeback. The tags of a mapping are the caller's
// business (the rest of test_set_page_writeback).
//
// Preconditions:
//   - the caller has the page locked
func (m *Map) TestSetWriteback(t *sched.Task, p *Page) bool {
	was := m.TestAndSet(t, p, Writeback)
	if !was {
		t.C.Trace.Inc(trace.NrWriteback)
	}
	return was
}

// TestClearWriteback is the opposite of TestSetWriteback. It wakes nobody.
func (m *Map) TestClearWriteback(t *sched.Task, p *Page) bool {
	was := m.TestAndClear(t, p, Writeback)
	if was {
		t.C.Trace.Dec(trace.NrWriteback)
	}
	return was
}

// EndPageWriteback says that the writing of a page has ended: it goes to the
// tail of its list if reclaim asked for the writing, and who waits for it wakes
// up (end_page_writeback). May be called in interrupts. A page that is not
// being written is an oops.
func (m *Map) EndPageWriteback(t *sched.Task, p *Page) {
	if m.TestAndClear(t, p, Reclaim) {
		m.RotateReclaimable(t, p)
	}
	if !m.TestClearWriteback(t, p) {
		m.badPage(t, p, "writing ended that never began")
	}
	m.WakePage(t, p)
}

// WakePage wakes who waits for Locked or Writeback of a page after the bit was
// cleared by other means (wake_up_page).
func (m *Map) WakePage(t *sched.Task, p *Page) {
	m.waiters.WakeBit(t, m.obj(p, x86.PageFlags))
}

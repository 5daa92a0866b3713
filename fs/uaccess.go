package fs

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// mmMemory is userMemory by the machine's memory manager.
type mmMemory struct{ s *mm.System }

func (mmMemory) currentMM(t *sched.Task) *mm.MM { return mm.CurrentMM(t) }

func (mmMemory) getUserPagesFast(t *sched.Task, start uint64, n int, write bool, kind mm.PinKind, pages []*page.Page) (int, error) {
	return mm.GetUserPagesFast(t, start, n, write, kind, pages)
}

// take is get_page as get_user_pages does it, so that a policy which counts pins
// sees as many of them go as come.
func (u mmMemory) take(t *sched.Task, p *page.Page, kind mm.PinKind) {
	u.s.TakeUserPage(t, p, kind)
}

func (u mmMemory) put(t *sched.Task, p *page.Page, kind mm.PinKind) { u.s.PutUserPage(t, p, kind) }

func (u mmMemory) zeroPage(t *sched.Task) *page.Page { return u.s.ZeroPage(t) }

func (u mmMemory) setPageDirtyLock(t *sched.Task, p *page.Page) { u.s.SetPageDirtyLock(t, p) }

func (u mmMemory) copyToUser(t *sched.Task, addr uint64, b []byte) int {
	return copyUser(t, addr, b, true /* write */)
}

func (u mmMemory) copyFromUser(t *sched.Task, addr uint64, b []byte) int {
	return copyUser(t, addr, b, false /* write */)
}

// copyUser copies between the current address space and b, resolving faults on the
// way, and returns how far it got.
func copyUser(t *sched.Task, addr uint64, b []byte, write bool) int {
	for done := 0; ; {
		var n int
		var ec x86.FaultCode
		if write {
			n, ec = t.C.WriteBytes(addr+uint64(done), b[done:])
		} else {
			n, ec = t.C.ReadBytes(addr+uint64(done), b[done:])
		}
		done += n
		if ec == x86.NoFault {
			return done
		}
		if _, ok := mm.DoPageFault(t, mm.CurrentMM(t), addr+uint64(done), ec); !ok {
			return done
		}
	}
}

package claims

import (
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

// huges are the claims about the races on huge pages.
func huges() []Claim {
	return []Claim{
		{
			ID: "C38", Who: "Arcangeli", Lines: "3556, 6850",
			Says:   "hugetlb needs the un-COWing in get_user_pages against the reverse race",
			Ran:    "reverse race and pages in a pipe on stock hugetlb, where a read pin un-COWs nothing; the same on small pages; and with a pool that has no page for a copy",
			Settle: settleC38,
		},
	}
}

func settleC38(l *Lab) Result {
	small := l.Search("stock", "forkscrewreverse", "")
	reverse := l.Search("stock", "forkscrewreverse", "huge=1")
	child, parent := l.Search("stock", "vmsplice", "huge=1"), l.Search("stock", "vmsplice", "huge=1,side=1")
	empty := l.Ask(workload.LeakToDisk, "stock", "claim-c38-empty")
	leaks := reverse.Found(workload.LeakToDisk) || empty.Found(workload.LeakToDisk) ||
		child.Found(workload.LeakToChild) || parent.Found(workload.LeakToChild)
	res := Result{Verdict: If(leaks), Evidence: Evidences(small, reverse, child, parent, empty)}
	if !leaks {
		res.On = "hugetlb_cow asks page_count, for want of a count of mappings: a page that is pinned is never taken over"
		if empty.Found(workload.Bug) {
			res.On += "; with an empty pool it takes the page from the children instead, and a BUG_ON stops the kernel because of the pin"
		}
	}
	return res
}

// hugeExperiments are programs on huge pages.
func hugeExperiments() []experiment {
	return []experiment{
		{name: "claim-c38-empty", options: kernel.Options{HugePages: 1, Memory: 3 * mm.HugePage2M}, run: reverseWithoutPool},
		{name: "claim-c32-huge", options: kernel.Options{HugePages: 3, Memory: 5 * mm.HugePage2M}, run: hugeWrongCopy},
	}
}

// reverseWithoutPool is the reverse race with a driver's pin, on the only huge page there is.
func reverseWithoutPool(t *kernel.Thread, p *play) {
	buf := t.MustMmapHuge(1, mm.HugePage2M, mm.MapPrivate)
	t.Store64(buf, 1)
	other, ok := newSharer(t, p, func(c *kernel.Thread, _ uint64) error {
		_ = c.TryStore64(buf, 3) // it may be gone
		return nil
	})
	if !ok {
		return
	}
	reg, err := t.RegisterMemory(buf, 512, kernel.RegisterOptions{})
	if !p.must(err, "register") {
		return
	}
	p.begin()
	other.tell(t)
	t.Store64(buf, 2)
	other.wait(t, p)
	var got [1]byte
	p.must(t.DeviceRead(reg, 0, got[:]), "device read")
	p.see(workload.LeakToDisk, got[0] == 3, "the device reads what the child stored")
	p.must(t.UnregisterMemory(reg), "unregister")
}

// hugeWrongCopy pins a huge page, makes it read-only and writable again, and stores: nobody
// shares it.
func hugeWrongCopy(t *kernel.Thread, p *play) {
	buf := t.MustMmapHuge(1, mm.HugePage2M, mm.MapPrivate)
	t.Store64(buf, 1)
	reg, err := t.RegisterMemory(buf, 4096, kernel.RegisterOptions{Write: true})
	if !p.must(err, "register") {
		return
	}
	p.begin()
	p.must(t.Mprotect(buf, mm.HugePage2M, mm.ProtRead), "mprotect")
	p.must(t.Mprotect(buf, mm.HugePage2M, mm.ProtRead|mm.ProtWrite), "mprotect")
	t.Store64(buf, 2)
	p.must(t.DeviceWrite(reg, 512, []byte{0x64}), "device write")
	p.see(workload.WrongCopy, t.Load8(buf+512) != 0x64, "the process does not see what the device wrote")
	p.must(t.UnregisterMemory(reg), "unregister")
}

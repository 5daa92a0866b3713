package claims

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/fs"
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
	small := l.Search(workload.LeakToDisk, "stock", "forkscrewreverse", "")
	huge := effort{slow: true}
	reverse := l.search(workload.LeakToDisk, "stock", "forkscrewreverse", "huge=1", huge)
	child := l.search(workload.LeakToChild, "stock", "vmsplice", "huge=1", huge)
	parent := l.search(workload.LeakToChild, "stock", "vmsplice", "huge=1,side=1", huge)
	empty := l.Ask(workload.LeakToDisk, "stock", "claim-c38-empty")
	leaks := reverse.Found(workload.LeakToDisk) || empty.Found(workload.LeakToDisk) ||
		child.Found(workload.LeakToChild) || parent.Found(workload.LeakToChild)
	res := Result{Verdict: Settle(Exists(leaks, reverse, child, parent, empty)), Evidence: Evidences(small, reverse, child, parent, empty)}
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
		{name: "claim-c32-locked", options: kernel.Options{HugePages: 4, Memory: 6 * mm.HugePage2M}, run: lockedForGood},
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

// lockedForGood has a private mapping of a file on huge pages with a page of its own where the
// file has one too; it is pinned, and the process forks. Then it looks at the file's page.
func lockedForGood(t *kernel.Thread, p *play) {
	const rw = mm.ProtRead | mm.ProtWrite
	fd, err := t.Open(fs.HugetlbfsDir+"/f", fs.ORdwr|fs.OCreat)
	if !p.must(err, "open") {
		return
	}
	shared, err := t.Mmap(0, mm.HugePage2M, rw, mm.MapShared, fd, 0)
	if !p.must(err, "mmap") {
		return
	}
	own, err := t.Mmap(0, mm.HugePage2M, rw, mm.MapPrivate, fd, 0)
	if !p.must(err, "mmap") {
		return
	}
	t.Store64(shared, 1)
	t.Store64(own, 2)
	p.must(t.Munmap(shared, mm.HugePage2M), "munmap")
	reg, err := t.RegisterMemory(own, x86.PageSize, kernel.RegisterOptions{Write: true})
	if !p.must(err, "register") {
		return
	}
	p.begin()
	pid, err := t.Fork(func(*kernel.Thread) {})
	if p.must(err, "fork") {
		_, _, err = t.Wait(pid)
		p.must(err, "wait")
	}
	shared, err = t.Mmap(0, mm.HugePage2M, mm.ProtRead, mm.MapShared, fd, 0)
	if p.must(err, "mmap") {
		_ = t.Load64(shared)
	}
	p.must(t.UnregisterMemory(reg), "unregister")
	p.must(t.Unlink(fs.HugetlbfsDir+"/f"), "unlink")
}

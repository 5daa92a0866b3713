package workload

import (
	"bytes"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// ksmPin: two pages with the same contents may be merged, and one of them is pinned for a
// device to write to. Nobody forks, and still there is somebody who write-protects the page
// and maps another in its place: ksmd, which was the thread's example of a user of the
// counts that fork could learn from (541-548, 619). What the device writes must arrive in
// the page that was pinned, and in no other; a merged page must come apart before it is
// pinned for writing.
func ksmPin() *Workload {
	w := pinProgram(Workload{
		Name: "ksm_pin", Title: "KSM merges two equal pages of which one is pinned; stores, and the device writes",
		Group: OtherUsers, Lines: "541-548, 619",
		Params: []Param{
			pinWay,
			{Name: "merged", Usage: "1: the pages are merged already when the pin comes", Max: 1},
			{Name: "race", Usage: "1: the pin comes while KSM is at work, by get_user_pages_fast", Max: 1},
			{Name: "fork", Usage: "1: a child comes before the store, and looks at the pages when the device has written", Max: 1},
		},
		Variants: []string{"", "aio=1", "race=1", "merged=1", "fork=1"},
		NeedsFor: func(v Values) mm.Guarantee {
			if v["fork"] == 1 {
				return mm.Forward | mm.OtherPins | mm.AIO
			}
			return 0
		},
		Main: repeat(ksmPinRound),
	})
	w.Tune = func(_ Values, o *kernel.Options) { o.KSM = true }
	return w
}

func ksmPinRound(t *kernel.Thread, r *Run) {
	const size = 2 * x86.PageSize
	buf := t.MustMmap(size)
	pinned, twin := buf, buf+x86.PageSize
	word := t.MustMmapShared(x86.PageSize)
	t.Fill(buf, size, publicByte)
	if r.failed(t.Madvise(buf, size, mm.MadvMergeable), "madvise") {
		return
	}
	scan := func(t *kernel.Thread) { r.failed(t.KSMScan(2), "ksm scan") }
	if r.Values["merged"] == 1 {
		scan(t)
	}
	pin, ok := inFlight{}, false
	if r.Values["race"] == 0 {
		if pin, ok = pinPage(t, r, pinned); !ok {
			return
		}
	}
	// The pages may be in this CPU's pagevec, with a reference that would keep another CPU's KSM
	// from merging them whether or not somebody has them pinned. A scan here empties it.
	r.failed(t.KSMScan(1), "ksm scan")
	r.begin()
	scanner := t.Go("scanner", scan)
	if r.Values["race"] == 1 {
		if pin, ok = pinPageFast(t, r, pinned); !ok {
			return
		}
	}
	pid, err := 0, error(nil)
	if r.Values["fork"] == 1 {
		pid, err = t.Fork(func(c *kernel.Thread) {
			before := c.Bytes(pinned+pinnedAt, 8)
			awaitWord(c, word)
			r.compare(ChildChanged, "child's page", pinnedAt, before, c.Bytes(pinned+pinnedAt, 8))
			c.Exit(0)
		})
		r.failed(err, "fork")
	}
	// A frame that KSM gave back would be this one's, and not what the store below copies to.
	other := t.MustMmap(x86.PageSize)
	t.Fill(other, x86.PageSize, publicByte)
	t.Store64(pinned, 2)
	pin.done(t)
	r.compare(LostRead, "pinned page", pinnedAt, pinnedData, t.Bytes(pinned+pinnedAt, x86.SectorSize))
	r.compareWord(LostRead, "word stored", 0, 2, t.Load64(pinned))
	r.failed(t.Join(scanner), "join")
	r.compare(LostRead, "pinned page after the scan", pinnedAt, pinnedData, t.Bytes(pinned+pinnedAt, x86.SectorSize))
	same := bytes.Repeat([]byte{publicByte}, x86.PageSize)
	r.compare(ChildChanged, "page with the same contents", 0, same, t.Bytes(twin, x86.PageSize))
	r.compare(ChildChanged, "page taken meanwhile", 0, same, t.Bytes(other, x86.PageSize))
	setWord(t, word)
	if pid != 0 {
		_, _, err = t.Wait(pid)
		r.failed(err, "wait")
	}
	r.failed(t.Munmap(buf, size), "munmap")
	r.failed(t.Munmap(other, x86.PageSize), "munmap")
	r.failed(t.Munmap(word, x86.PageSize), "munmap")
}

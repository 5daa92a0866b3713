package conformance

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// dirtyCOW is LTP's dirtyc0w: a process pokes its own read-only private mapping, as a
// debugger does, while another thread throws the pages away. The object behind it must not
// change.
func dirtyCOW(e *Env) {
	s := e.MustMmapShared(e.Size)
	e.Fill(s, e.Size, oldByte)
	p := e.privately(s, e.Size)
	e.must("mprotect", e.Mprotect(p, e.Size, mm.ProtRead))
	thrower := e.Go("thrower", func(t *kernel.Thread) {
		for range 40 {
			e.must("madvise", t.Madvise(p, e.Size, mm.MadvDontNeed))
		}
	})
	e.must("poke", e.PtracePoke(e.Getpid(), p, ^uint64(0)))
	e.must("join", e.Join(thrower))
	for i, b := range e.Bytes(s, 16) {
		if b != oldByte {
			e.fail("the object behind a private mapping holds %#x at %#x", b, i)
		}
	}
}

// TestDirtyCOW: 2.6.29 has CVE-2016-5195, and a search finds it. __get_user_pages drops
// FOLL_WRITE once the fault has said VM_FAULT_WRITE; if the copy is gone when follow_page
// looks, the page of the page cache is what it finds, and access_process_vm writes to it.
func TestDirtyCOW(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	seen := map[string]int{}
	const n = 100
	for seed := range uint64(n) {
		o := timed(policy.Lookup("stock"), hosts)
		o.Regime, o.Strategy = sched.Free, sched.NewRandom(seed)
		r, err := Execute(t.Context(), &Case{Name: "dirtyc0w: ", Run: dirtyCOW}, Kinds()[0], o)
		require.NoError(t, err)
		require.Contains(t, []string{"pass", "fail"}, string(r.Verdict), "seed %d: %s", seed, r.Detail)
		seen[string(r.Verdict)]++
	}
	t.Logf("%v", seen)
	assert.Positive(t, seen["fail"])
	assert.Positive(t, seen["pass"])
}

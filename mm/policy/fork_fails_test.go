package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm/policy"
)

// TestForkThatFailsSharesAMarkedPage is finding 37: when row 5 gets no page for the child's
// copy, fork returns ENOMEM, and until the child's address space has been taken down the marked
// page is mapped twice. Another thread's store then copies it away from the parent, with the
// patch's own assertion firing, and what the device writes into the pinned page is lost.
// Where the allocation succeeds nothing is.
func TestForkThatFailsSharesAMarkedPage(t *testing.T) {
	skipLongSearch(t)
	for _, fails := range []bool{true, false} {
		seen := searchProgram(t, policy.Lookup("pg_dontcow"), kernel.Options{}, 300, func(th *kernel.Thread, begin func(), say func(string)) {
			a := th.MustMmap(pg)
			th.Store64(a, 0)
			r, err := th.RegisterMemory(a, pg, kernel.RegisterOptions{Write: true})
			if err != nil {
				say("broken")
				return
			}
			if fails {
				th.Machine().FailAt("decow_one_pte", 1) // nobody else runs yet
			}
			begin()
			other := th.Go("writer", func(th *kernel.Thread) { th.Store64(a+8, 1) })
			pid, err := th.Fork(func(*kernel.Thread) {})
			if fails != (err != nil) {
				say("broken")
			}
			if err == nil {
				_, _, _ = th.Wait(pid)
			}
			_ = th.Join(other)
			if th.DeviceWrite(r, 16, []byte{42}) != nil {
				say("broken")
			}
			if th.Load8(a+16) != 42 {
				say("lost-read")
				if len(th.Machine().Sched().Bugs()) == 0 {
					say("lost without the assertion")
				}
			}
			_ = th.UnregisterMemory(r)
		})
		t.Logf("the copy fails %v: %v", fails, seen)
		assert.Equal(t, fails, seen["lost-read"] > 0)
		assert.Zero(t, seen["broken"]+seen["lost without the assertion"])
	}
}
